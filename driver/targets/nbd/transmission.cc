#include "driver/targets/nbd/transmission.h"

#include <algorithm>

namespace voltree::nbd {
namespace {

constexpr std::size_t kRequestsMax = 512;     // in flight on one connection
constexpr std::size_t kRequestsInATurn = 16;  // before others on this executor have theirs
constexpr std::uint64_t kZeroPieceBytes = std::uint64_t{1} << 30;  // of a long zeroing
constexpr std::uint64_t kHoleMinBytes =
    std::uint64_t{64} * 1024;  // shorter reads are not worth the question

alignas(kBlockBytes) constexpr std::byte kZeroPiece[64 * 1024]{};

}  // namespace

Transmission::Transmission(Store& store, Stream& stream, Session session, Share& share,
                           ChangeObserver* observer, const std::atomic<bool>& stopping)
    : store_(store),
      stream_(stream),
      session_(std::move(session)),
      device_(*session_.exported.device),
      share_(share),
      observer_(observer),
      stopping_(stopping),
      replies_(stream, session_.structured, session_.extended) {}

Task<Status> Transmission::run() {
  stream_.expect_much();
  Status status;
  std::size_t turn = 0;
  while (!stopping_.load() && !replies_.broken()) {
    Request request;
    status = co_await read_request(request);
    if (!status.ok() || request.command == Command::kDisconnect) break;
    requests_.fetch_add(1, std::memory_order_relaxed);
    co_await wait_for_fewer(kRequestsMax);
    const Status refused = check(request);
    const bool payload = request.command == Command::kWrite
                             ? !session_.extended || (request.flags & kPayloadLength) != 0
                             : session_.extended && (request.flags & kPayloadLength) != 0;
    if (request.command == Command::kWrite && payload) {
      status = co_await take_write(request, refused);
    } else if (request.command == Command::kBlockStatus && payload && refused.ok()) {
      status = co_await take_status_payload(request);
    } else if (!refused.ok()) {
      if (payload) status = co_await skip_payload(request.length_bytes);
      start(refuse(request, refused));
    } else {
      start(serve(request));
    }
    if (!status.ok()) break;
    if (++turn % kRequestsInATurn == 0) co_await ResumeOn{*Executor::current()};
  }
  peer_left_ = !status.ok();
  co_await wait_for_fewer(1);
  co_return status;
}

Task<Status> Transmission::read_request(Request& request) {
  std::byte bytes[kExtendedRequestBytes];
  const std::span<std::byte> header =
      std::span(bytes).first(session_.extended ? kExtendedRequestBytes : kRequestBytes);
  VT_CO_RETURN_IF_ERROR(co_await stream_.read(header));
  Reader fields(header);
  const auto magic = fields.number<std::uint32_t>();
  if (magic != (session_.extended ? kExtendedRequestMagic : kRequestMagic)) {
    // There is no telling where the next request begins.
    co_return error(Code::kInvalid, "not a request: {:#x}", magic);
  }
  request.flags = fields.number<std::uint16_t>();
  request.command = static_cast<Command>(fields.number<std::uint16_t>());
  request.cookie = fields.number<std::uint64_t>();
  request.offset_bytes = fields.number<std::uint64_t>();
  request.length_bytes = session_.extended ? fields.number<std::uint64_t>()
                                           : std::uint64_t{fields.number<std::uint32_t>()};
  co_return Status();
}

// --- What may be asked.

Status Transmission::check_range(const Request& request) const {
  // The size of now: the kernel is told when its device has grown.
  const std::uint64_t size = device_.size_bytes();
  if (request.offset_bytes <= size && request.length_bytes <= size - request.offset_bytes) {
    return {};
  }
  const bool writes =
      request.command == Command::kWrite || request.command == Command::kWriteZeroes;
  return error(writes ? Code::kNoSpace : Code::kInvalid, "beyond the end of the export");
}

Status Transmission::check(const Request& request) const {
  unsigned allowed = 0;
  bool writes = false;
  switch (request.command) {
    case Command::kRead:
      allowed = session_.structured ? kDontFragment : 0;
      break;
    case Command::kWrite:
      allowed = kFua | (session_.extended ? kPayloadLength : 0);
      writes = true;
      break;
    case Command::kTrim:
      allowed = kFua;
      writes = true;
      break;
    case Command::kWriteZeroes:
      allowed = kFua | kNoHole | kFastZero;
      writes = true;
      break;
    case Command::kBlockStatus:
      allowed = kReqOne | ((session_.flags & kBlockStatusPayload) != 0 ? kPayloadLength : 0);
      break;
    case Command::kFlush:
    case Command::kCache:
      break;
    default:
      return error(Code::kInvalid, "unknown request {}",
                   static_cast<std::uint16_t>(request.command));
  }
  // "Command flags": FUA is valid for all commands once it was advertised.
  allowed |= session_.exported.read_only ? 0 : kFua;
  if ((request.flags & ~allowed) != 0) {
    return error(Code::kInvalid, "flags {:#x} are not for this request", request.flags);
  }
  if (request.command == Command::kFlush) return {};
  if (writes && session_.exported.read_only) {
    return error(Code::kReadOnly, "the export is read-only");
  }
  if (request.command == Command::kWrite && session_.extended &&
      (request.flags & kPayloadLength) == 0) {
    return error(Code::kInvalid, "a write without its payload");
  }
  if (request.command == Command::kRead && request.length_bytes > kPayloadMaxBytes) {
    const bool whole = (request.flags & kDontFragment) != 0;
    return error(whole ? Code::kTooLarge : Code::kInvalid, "a read takes at most {} bytes",
                 kPayloadMaxBytes);
  }
  if (request.command == Command::kBlockStatus) {
    if (session_.contexts.empty()) return error(Code::kInvalid, "no context was selected");
    if ((request.flags & kPayloadLength) != 0) return {};  // the payload has the range
    if (request.length_bytes == 0) return error(Code::kInvalid, "an empty range");
  }
  return check_range(request);
}

// --- Payloads.

Task<Status> Transmission::skip_payload(std::uint64_t length_bytes) {
  if (length_bytes > kPayloadMaxBytes) {
    co_return error(Code::kTooLarge, "a payload of {} bytes", length_bytes);
  }
  const Share::Buffer scratch =
      co_await share_.take(std::min<std::uint64_t>(length_bytes, kHoleMinBytes));
  while (length_bytes != 0) {
    const std::size_t part = std::min<std::uint64_t>(length_bytes, scratch.data().size());
    VT_CO_RETURN_IF_ERROR(co_await stream_.read(scratch.data().first(part)));
    length_bytes -= part;
  }
  co_return Status();
}

// A long payload is taken, and written, in pieces, so that what a client makes us hold does not
// grow with what it announces.
Task<Status> Transmission::take_write(Request request, Status refused) {
  if (!refused.ok() || request.length_bytes == 0) {
    VT_CO_RETURN_IF_ERROR(co_await skip_payload(request.length_bytes));
    start(refuse(request, std::move(refused)));
    co_return Status();
  }
  if (request.length_bytes > kPayloadMaxBytes) {
    co_return error(Code::kTooLarge, "a write of {} bytes", request.length_bytes);
  }
  auto assembly = std::make_shared<Assembly>();
  assembly->request = request;
  assembly->pieces_left = (request.length_bytes + kPieceBytes - 1) / kPieceBytes;
  assembly->one_piece = assembly->pieces_left == 1;
  for (std::uint64_t done = 0; done < request.length_bytes;) {
    const std::size_t length = std::min<std::uint64_t>(kPieceBytes, request.length_bytes - done);
    Share::Buffer data = co_await share_.take(length);
    // What was begun is not answered when the client breaks off: pieces_left stays above 0.
    VT_CO_RETURN_IF_ERROR(co_await stream_.read(data.data()));
    start(serve_write_piece(assembly, request.offset_bytes + done, std::move(data)));
    done += length;
  }
  co_return Status();
}

// "NBD_CMD_BLOCK_STATUS", payload form: 64-bit effect length, then context ids.
Task<Status> Transmission::take_status_payload(Request request) {
  const std::uint64_t length = request.length_bytes;
  if (length < 8 || length > 8 + 4 * session_.contexts.size() || length % 4 != 0) {
    VT_CO_RETURN_IF_ERROR(co_await skip_payload(length));
    start(refuse(request, error(Code::kInvalid, "a malformed list of contexts")));
    co_return Status();
  }
  std::vector<std::byte> payload(length);
  VT_CO_RETURN_IF_ERROR(co_await stream_.read(payload));
  Reader fields(payload);
  request.length_bytes = fields.number<std::uint64_t>();
  std::vector<std::uint32_t> ids;
  Status status = check_range(request);
  if (request.length_bytes == 0) status = error(Code::kInvalid, "an empty range");
  while (fields.left() != 0) {
    const auto id = fields.number<std::uint32_t>();
    const bool known = id != 0 && id <= session_.contexts.size();
    if (!known || std::find(ids.begin(), ids.end(), id) != ids.end()) {
      status = error(Code::kInvalid, "context {} is unknown, or named twice", id);
    }
    ids.push_back(id);
  }
  if (status.ok() && ids.empty()) status = error(Code::kInvalid, "no context is named");
  if (status.ok()) {
    start(serve_block_status(request, std::move(ids)));
  } else {
    start(refuse(request, std::move(status)));
  }
  co_return Status();
}

// --- Requests in flight.

void Transmission::start(Task<void> handler) {
  ++in_flight_;
  spawn_here(counted(std::move(handler)));
}

Task<void> Transmission::counted(Task<void> handler) {
  co_await std::move(handler);
  --in_flight_;
  if (reader_waits_ && in_flight_ < wanted_in_flight_) {
    Executor::current()->post(std::exchange(reader_waits_, nullptr));
  }
}

Task<void> Transmission::wait_for_fewer(std::size_t requests) {
  struct Fewer {
    Transmission& connection;
    std::size_t requests;
    bool await_ready() const noexcept { return connection.in_flight_ < requests; }
    void await_suspend(std::coroutine_handle<> handle) noexcept {
      connection.wanted_in_flight_ = requests;
      connection.reader_waits_ = handle;
    }
    void await_resume() const noexcept {}
  };
  Fewer fewer{*this, requests};
  co_await fewer;
}

Task<void> Transmission::refuse(Request request, Status why) {
  co_await replies_.finish(request, std::move(why));
}

Task<void> Transmission::serve(Request request) {
  if (request.command == Command::kRead) {
    co_await serve_read(request);
    co_return;
  }
  if (request.command == Command::kBlockStatus) {
    std::vector<std::uint32_t> ids;
    ids.reserve(session_.contexts.size());
    for (const Context& context : session_.contexts) ids.push_back(context.id);
    co_await serve_block_status(request, std::move(ids));
    co_return;
  }
  Status status;
  if (request.command == Command::kFlush) {
    status = co_await device_.flush();
  } else if (request.command == Command::kTrim) {
    status = co_await trim(request);
  } else if (request.command == Command::kWriteZeroes) {
    status = co_await write_zeroes(request);
  }
  // CACHE asks for nothing that could be seen: reads go past the page cache.
  co_await replies_.finish(request, std::move(status));
}

Task<void> Transmission::serve_read(Request request) {
  if (request.length_bytes == 0) {
    co_await replies_.finish(request, Status());
    co_return;
  }
  // Without structured replies an error must be known before the first byte goes out.
  const bool whole = !session_.structured || (request.flags & kDontFragment) != 0;
  for (std::uint64_t done = 0; done < request.length_bytes;) {
    const std::uint64_t at = request.offset_bytes + done;
    const std::uint64_t left = request.length_bytes - done;
    const std::size_t length = whole ? left : std::min<std::uint64_t>(kPieceBytes, left);
    const bool last = length == left;
    if (session_.structured && length >= kHoleMinBytes) {
      const std::vector<AllocationRun> runs = device_.allocation(at, length, 1);
      if (runs.size() == 1 && !runs.front().data && runs.front().length_bytes == length) {
        co_await replies_.hole(request, at, static_cast<std::uint32_t>(length), last);
        done += length;
        continue;
      }
    }
    const Share::Buffer buffer = co_await share_.take(length);
    Status status = co_await device_.read(at, buffer.data());
    if (!status.ok()) {
      co_await replies_.finish(request, std::move(status));
      co_return;
    }
    co_await replies_.data(request, at, buffer.data(), last);
    done += length;
  }
}

// After a failure, too: part of the range may have changed.
Task<void> Transmission::tell(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
  if (observer_ == nullptr) co_return;
  co_await observer_->changed(session_.exported.node.id, offset_bytes, length_bytes);
}

Task<void> Transmission::serve_write_piece(std::shared_ptr<Assembly> assembly,
                                           std::uint64_t offset_bytes, Share::Buffer data) {
  const bool fua = (assembly->request.flags & kFua) != 0;
  Status status = co_await device_.write(offset_bytes, data.data(),
                                         WriteOptions{.fua = fua && assembly->one_piece});
  co_await tell(offset_bytes, data.data().size());
  data = Share::Buffer();
  if (!status.ok() && assembly->status.ok()) assembly->status = std::move(status);
  if (--assembly->pieces_left != 0) co_return;
  if (fua && !assembly->one_piece && assembly->status.ok()) {
    assembly->status = co_await device_.flush();
  }
  co_await replies_.finish(assembly->request, assembly->status);
}

bool Transmission::abandoned() {
  if (!peer_left_ && !stopping_.load() && !replies_.broken()) return false;
  stream_.shut_down();
  return true;
}

// "NBD_CMD_TRIM": a hint, so that a block that is trimmed in part stays as it is.
Task<Status> Transmission::trim(const Request& request) {
  std::uint64_t at = (request.offset_bytes + kBlockBytes - 1) / kBlockBytes * kBlockBytes;
  std::uint64_t end = request.offset_bytes + request.length_bytes;
  if (end != device_.size_bytes()) end = end / kBlockBytes * kBlockBytes;
  while (at < end) {
    const std::uint64_t length = std::min(kZeroPieceBytes, end - at);
    const Status status = co_await device_.discard(at, length);
    co_await tell(at, length);
    if (!status.ok()) co_return status;
    at += length;
    if (at < end && abandoned()) co_return error(Code::kCancelled, "the connection has ended");
  }
  if ((request.flags & kFua) != 0) VT_CO_RETURN_IF_ERROR(co_await device_.flush());
  co_return Status();
}

Task<Status> Transmission::write_zeroes(const Request& request) {
  if ((request.flags & kNoHole) != 0) {
    if ((request.flags & kFastZero) != 0) {
      co_return error(Code::kNotSupported, "zeros that take space are written like data");
    }
    co_return co_await write_real_zeroes(request);
  }
  const std::uint64_t end = request.offset_bytes + request.length_bytes;
  for (std::uint64_t at = request.offset_bytes; at < end;) {
    const std::uint64_t length = std::min(kZeroPieceBytes, end - at);
    const Status status = co_await device_.write_zeroes(at, length, WriteOptions{});
    co_await tell(at, length);
    if (!status.ok()) co_return status;
    at += length;
    if (at < end && abandoned()) co_return error(Code::kCancelled, "the connection has ended");
  }
  if ((request.flags & kFua) != 0) VT_CO_RETURN_IF_ERROR(co_await device_.flush());
  co_return Status();
}

// NO_HOLE: "the client wants to ensure that the server does not create a hole".
Task<Status> Transmission::write_real_zeroes(const Request& request) {
  const std::uint64_t end = request.offset_bytes + request.length_bytes;
  for (std::uint64_t at = request.offset_bytes; at < end;) {
    const std::uint64_t length = std::min<std::uint64_t>(sizeof kZeroPiece, end - at);
    const std::span<const std::byte> zeroes(kZeroPiece, length);
    const Status status = co_await device_.write(at, zeroes, WriteOptions{});
    co_await tell(at, length);
    if (!status.ok()) co_return status;
    at += length;
    if (at < end && abandoned()) co_return error(Code::kCancelled, "the connection has ended");
  }
  if ((request.flags & kFua) != 0) VT_CO_RETURN_IF_ERROR(co_await device_.flush());
  co_return Status();
}

// --- BLOCK_STATUS.

Result<std::vector<ValueRun>> Transmission::runs_of(const Context& context, ByteRange range,
                                                    std::size_t max_runs) const {
  // "base:allocation": NBD_STATE_HOLE is bit 0, NBD_STATE_ZERO bit 1.
  constexpr std::uint32_t kHoleAndZero = 3;
  if (context.kind == Context::Kind::kChanges) {
    return Store::changes(*context.base, device_, range, max_runs);
  }
  if (context.kind == Context::Kind::kLayers) return store_.depths(device_, range, max_runs);
  std::vector<ValueRun> runs;
  for (const AllocationRun& run :
       device_.allocation(range.offset_bytes, range.length_bytes, max_runs)) {
    runs.push_back({run.offset_bytes, run.length_bytes, run.data ? 0 : kHoleAndZero});
  }
  return runs;
}

Task<void> Transmission::serve_block_status(Request request, std::vector<std::uint32_t> ids) {
  const std::size_t max_runs = (request.flags & kReqOne) != 0 ? 1 : kExtentsMax;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    Result<std::vector<ValueRun>> runs = runs_of(
        session_.contexts[ids[i] - 1], {request.offset_bytes, request.length_bytes}, max_runs);
    if (runs.ok() && runs->empty()) runs = error(Code::kIoError, "nothing is known of this range");
    if (!runs.ok()) {
      co_await replies_.finish(request, runs.status());
      co_return;
    }
    Writer payload;
    payload.number(ids[i]);
    if (session_.extended) payload.number(static_cast<std::uint32_t>(runs->size()));
    for (const ValueRun& run : *runs) {
      if (session_.extended) {
        payload.number(run.length_bytes).number(std::uint64_t{run.value});
      } else {
        payload.number(static_cast<std::uint32_t>(run.length_bytes)).number(run.value);
      }
    }
    const Chunk type = session_.extended ? Chunk::kBlockStatusExtended : Chunk::kBlockStatus;
    co_await replies_.chunk(request, type, payload.bytes(), i + 1 == ids.size());
  }
}

}  // namespace voltree::nbd
