#include "blockstore/eraser.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "blockstore/aligned_io.h"
#include "blockstore/format/region_format.h"

namespace voltree {
namespace {

constexpr std::uint64_t kStepBlocks = 256;  // 1 MiB a write
constexpr std::size_t kWhatMaxBytes = 1000;

// The stream of the `random` policy: splitmix64, a seed an erase item, so that the read-back can
// make it again.
class Fill {
 public:
  Fill(ErasePolicy policy, std::uint64_t seed)
      : random_(policy == ErasePolicy::kRandom), state_(seed) {}
  void next(std::span<std::byte> out) {
    if (!random_) {
      std::memset(out.data(), 0, out.size());
      return;
    }
    for (std::size_t at = 0; at < out.size(); at += sizeof(std::uint64_t)) {
      std::uint64_t z = (state_ += 0x9e3779b97f4a7c15ULL);
      z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
      z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
      z ^= z >> 31;
      std::memcpy(out.data() + at, &z, sizeof(z));
    }
  }

 private:
  bool random_;
  std::uint64_t state_;
};

// Where the host has given the file space.
Result<std::vector<BlockRange>> allocated_ranges(File& file) {
  std::vector<BlockRange> ranges;
  VT_ASSIGN_OR_RETURN(const std::uint64_t size, file.size_bytes());
  for (std::uint64_t at = 0; at < size;) {
    VT_ASSIGN_OR_RETURN(const std::uint64_t data, file.seek_data(at));
    if (data >= size) break;
    VT_ASSIGN_OR_RETURN(const std::uint64_t hole, file.seek_hole(data));
    const std::uint64_t first = data / kBlockBytes;
    ranges.push_back({first, blocks_of_bytes(hole) - first});
    at = hole;
  }
  return ranges;
}

// What is done to it is done to whoever else has it: a file that is being taken in, or a copy of
// the store by hard links. Blocking.
Result<bool> has_other_names(File& file) {
  VT_ASSIGN_OR_RETURN(const std::uint64_t links, file.links());
  return links > 1;
}

std::vector<BlockRange> ranges_of(const ExtentMap& map) {
  std::vector<BlockRange> ranges;
  map.for_each_extent([&ranges](const Extent& extent) {
    ranges.push_back({extent.first, extent.count});
  });
  return ranges;
}

// A layer's block lies where its volume's does: what lies before this one is overwritten.
std::uint64_t overwritten_blocks(const EraseRequestRow& request) {
  const bool overwrites =
      request.policy == ErasePolicy::kZero || request.policy == ErasePolicy::kRandom;
  if (!overwrites) return 0;
  return request.first_bytes == 0 ? UINT64_MAX : blocks_of_bytes(request.first_bytes);
}

// Leaves what lies before `end` in `ranges`, and answers how many blocks do not.
std::uint64_t cut_at(std::vector<BlockRange>& ranges, std::uint64_t end) {
  std::uint64_t beyond = 0;
  for (BlockRange& range : ranges) {
    const std::uint64_t kept = range.first >= end ? 0 : std::min(range.count, end - range.first);
    beyond += range.count - kept;
    range.count = kept;
  }
  std::erase_if(ranges, [](const BlockRange& range) { return range.count == 0; });
  return beyond;
}

Result<ExtentMap> decode_ranges(const EraseItemRow& item) {
  const std::vector<std::string> chunks{item.ranges};
  auto decoded = decode_map(chunks);
  if (!decoded.ok()) return decoded.status().with_context(fmt::format("erase item {}", item.id));
  return decoded;
}

std::string json_escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
    } else {
      out += c;
    }
  }
  return out;
}

}  // namespace

void Eraser::load(std::vector<EraseRequestRow> requests, const std::vector<EraseItemRow>& items) {
  for (EraseRequestRow& request : requests) {
    std::vector<EraseItemRow> mine;
    for (const EraseItemRow& item : items) {
      if (item.request == request.id) mine.push_back(item);
    }
    add(std::move(request), std::move(mine));
  }
}

void Eraser::add(EraseRequestRow request, std::vector<EraseItemRow> items) {
  const std::lock_guard lock(mutex_);
  Queued& queued = queue_[request.id];
  queued.request = std::move(request);
  queued.items = std::move(items);
  for (const EraseItemRow& item : queued.items) queued.left_bytes += item.estimated_bytes;
}

std::vector<Eraser::Queued> Eraser::queue() const {
  const std::lock_guard lock(mutex_);
  std::vector<Queued> all;
  for (const auto& entry : queue_) {
    all.push_back(entry.second);
    if (entry.first != running_request_) continue;
    all.back().request.erased_bytes += running_bytes_;
    all.back().left_bytes -= std::min(all.back().left_bytes, running_bytes_);
  }
  return all;
}

ExtentMap Eraser::pending_ranges(LayerId layer) const {
  const std::lock_guard lock(mutex_);
  ExtentMap pending;
  for (const auto& entry : queue_) {
    for (const EraseItemRow& item : entry.second.items) {
      if (item.layer != layer || item.whole_layer) continue;
      const auto ranges = decode_ranges(item);
      if (ranges.ok()) pending = overlay(pending, *ranges);
    }
  }
  return pending;
}

Task<Status> Eraser::drain(std::uint64_t request, std::function<std::uint64_t()> rate_bytes) {
  const AsyncMutex::Guard guard = co_await run_mutex_.lock();
  for (;;) {
    std::uint64_t next = 0;
    {
      const std::lock_guard lock(mutex_);
      if (request != 0 ? !queue_.contains(request) : queue_.empty()) co_return Status();
      next = request != 0 ? request : queue_.begin()->first;
    }
    if (stopping_.load(std::memory_order_acquire)) {
      co_return error(Code::kCancelled,
                      "the store is closing; the erase goes on when it is opened");
    }
    VT_CO_RETURN_IF_ERROR(co_await erase_next(next, rate_bytes()));
  }
}

Task<Status> Eraser::erase_next(std::uint64_t request_id, std::uint64_t rate_bytes) {
  VT_CO_RETURN_IF_ERROR(engine_.check_writable());
  EraseRequestRow request;
  EraseItemRow item;
  bool last = true;
  bool have_item = false;
  {
    const std::lock_guard lock(mutex_);
    const Queued& queued = queue_.at(request_id);
    request = queued.request;
    have_item = !queued.items.empty();
    if (have_item) item = queued.items.front();
    last = queued.items.size() <= 1;
    running_request_ = request_id;
    running_bytes_ = 0;
  }
  co_await engine_.read_gate().drain();
  Outcome outcome;
  if (have_item) {
    Result<Outcome> erased =
        Outcome{};  // (no ?: around co_await: GCC 12 destroys its temporaries twice)
    if (item.whole_layer) {
      erased = co_await erase_layer(item, request, rate_bytes);
    } else {
      erased = co_await erase_ranges(item, request, rate_bytes);
    }
    if (!erased.ok()) co_return erased.status();
    outcome = *erased;
  }
  if ((outcome.missing || outcome.shared) && request.what.size() < kWhatMaxBytes) {
    request.what += fmt::format(
        "; layer {:08x} had {}", item.layer,
        outcome.missing ? "no file to overwrite" : "another name, and was not overwritten");
  }
  VT_CO_RETURN_IF_ERROR(co_await finish_item(request, item, outcome, last));
  const std::lock_guard lock(mutex_);
  running_request_ = 0;
  Queued& queued = queue_.at(request_id);
  if (have_item) queued.items.erase(queued.items.begin());
  queued.request.what = request.what;
  queued.request.erased_bytes += outcome.erased_bytes;
  queued.request.verified_bytes += outcome.verified_bytes;
  ++queued.request.items_done;
  queued.left_bytes -= std::min(queued.left_bytes, item.estimated_bytes);
  if (last) queue_.erase(request_id);
  co_return Status();
}

Task<Result<Eraser::Outcome>> Eraser::erase_layer(const EraseItemRow& item,
                                                  const EraseRequestRow& request,
                                                  std::uint64_t rate_bytes) {
  FileSystem& fs = engine_.runtime().fs();
  const std::string path = Layer::data_path(engine_.directory(), item.layer);
  Outcome outcome;
  std::vector<BlockRange> ranges;
  auto opened = co_await engine_.runtime().run_blocking([&]() -> Result<std::unique_ptr<File>> {
    VT_ASSIGN_OR_RETURN(const bool there, fs.exists(path));
    if (!there) return std::unique_ptr<File>();
    VT_ASSIGN_OR_RETURN(auto file, fs.open(path, {.direct = true}));
    VT_ASSIGN_OR_RETURN(ranges, allocated_ranges(*file));
    VT_ASSIGN_OR_RETURN(outcome.shared, has_other_names(*file));
    return file;
  });
  if (!opened.ok()) co_return opened.status();
  if (*opened != nullptr && !outcome.shared) {
    VT_CO_RETURN_IF_ERROR(
        co_await overwrite(**opened, nullptr, std::move(ranges), request, rate_bytes, outcome));
  }
  outcome.missing = *opened == nullptr;
  const LayerId id = item.layer;
  VT_CO_RETURN_IF_ERROR(co_await engine_.run_syncing([&](SyncWatch& syncs) {
    (*opened).reset();
    return Layer::unlink_files(fs, engine_.directory(), id, syncs);
  }));
  co_return outcome;
}

Task<Result<Eraser::Outcome>> Eraser::erase_ranges(const EraseItemRow& item,
                                                   const EraseRequestRow& request,
                                                   std::uint64_t rate_bytes) {
  Outcome outcome;
  const std::shared_ptr<Layer> layer = engine_.layers().find(item.layer);
  if (layer == nullptr) co_return outcome;  // it was erased as a whole meanwhile
  VT_CO_ASSIGN_OR_RETURN(const ExtentMap map, decode_ranges(item));
  const std::vector<BlockRange> ranges = ranges_of(map);
  const Status ready = co_await layer->ensure_open();
  if (layer->failed()) {
    VT_CO_RETURN_IF_ERROR(
        co_await erase_ranges_of_failed(item.layer, ranges, request, rate_bytes, outcome));
    co_return outcome;
  }
  VT_CO_RETURN_IF_ERROR(ready);
  VT_CO_ASSIGN_OR_RETURN(outcome.shared, co_await engine_.runtime().run_blocking([&layer] {
    return has_other_names(layer->file(true));
  }));
  if (!outcome.shared) {
    VT_CO_RETURN_IF_ERROR(
        co_await overwrite(layer->file(true), layer.get(), ranges, request, rate_bytes, outcome));
  }
  for (const BlockRange& range : ranges) {
    VT_CO_RETURN_IF_ERROR(co_await layer->touch_sums(range, true));
    for (std::uint64_t block = range.first; block < range.end(); ++block) {
      layer->set_sum(block, kSumAbsent);
    }
    VT_CO_RETURN_IF_ERROR(engine_.check_stored(layer->sums()));
    if (outcome.shared) continue;
    VT_CO_RETURN_IF_ERROR(co_await layer->file(true).punch_hole(range.first * kBlockBytes,
                                                                range.count * kBlockBytes));
  }
  // Holes that a power loss undoes would not be made again: the queue forgets them.
  VT_CO_RETURN_IF_ERROR(co_await engine_.sync_layer(*layer));
  co_return outcome;
}

// What is left of the layer's data file. Its sums are left alone: no map leads to these blocks.
Task<Status> Eraser::erase_ranges_of_failed(LayerId layer, std::vector<BlockRange> ranges,
                                            const EraseRequestRow& request,
                                            std::uint64_t rate_bytes, Outcome& outcome) {
  FileSystem& fs = engine_.runtime().fs();
  const std::string path = Layer::data_path(engine_.directory(), layer);
  std::uint64_t end = 0;
  auto opened = co_await engine_.runtime().run_blocking([&]() -> Result<std::unique_ptr<File>> {
    VT_ASSIGN_OR_RETURN(const bool there, fs.exists(path));
    if (!there) return std::unique_ptr<File>();
    VT_ASSIGN_OR_RETURN(auto file, fs.open(path, {.direct = true}));
    VT_ASSIGN_OR_RETURN(const std::uint64_t size_bytes, file->size_bytes());
    VT_ASSIGN_OR_RETURN(outcome.shared, has_other_names(*file));
    end = size_bytes / kBlockBytes;
    return file;
  });
  if (!opened.ok()) co_return opened.status();
  outcome.missing = *opened == nullptr;
  if (outcome.missing || outcome.shared) co_return Status();
  (void)cut_at(ranges, end);
  VT_CO_RETURN_IF_ERROR(
      co_await overwrite(**opened, nullptr, ranges, request, rate_bytes, outcome));
  for (const BlockRange& range : ranges) {
    VT_CO_RETURN_IF_ERROR(
        co_await (*opened)->punch_hole(range.first * kBlockBytes, range.count * kBlockBytes));
  }
  co_return co_await sync(**opened, nullptr);
}

// Overwrite, fdatasync, read back: in this order (I8). What is not overwritten only counts.
Task<Status> Eraser::overwrite(File& file, Layer* layer, std::vector<BlockRange> ranges,
                               const EraseRequestRow& request, std::uint64_t rate_bytes,
                               Outcome& outcome) {
  outcome.erased_bytes += cut_at(ranges, overwritten_blocks(request)) * kBlockBytes;
  if (ranges.empty()) co_return Status();
  const std::uint64_t seed = engine_.runtime().random_u64();
  AlignedBuffer buffer(kStepBlocks * kBlockBytes);
  AlignedBuffer expected(kStepBlocks * kBlockBytes);
  for (const bool verify : {false, true}) {
    Fill fill(request.policy, seed);
    for (const BlockRange& range : ranges) {
      for (std::uint64_t at = range.first; at < range.end(); at += kStepBlocks) {
        if (stopping_.load(std::memory_order_acquire)) {
          co_return error(Code::kCancelled, "the store is closing");
        }
        const std::uint64_t bytes = std::min(kStepBlocks, range.end() - at) * kBlockBytes;
        const auto piece = buffer.span().first(bytes);
        fill.next(expected.span().first(bytes));
        if (verify) {
          VT_CO_RETURN_IF_ERROR(co_await file.read(piece, at * kBlockBytes, request.io_priority));
          if (std::memcmp(piece.data(), expected.data(), bytes) != 0) {
            co_return error(Code::kIoError, "erased blocks at {} did not read back as written", at);
          }
          outcome.verified_bytes += bytes;
        } else {
          VT_CO_RETURN_IF_ERROR(co_await file.write(expected.span().first(bytes), at * kBlockBytes,
                                                    request.io_priority));
          outcome.erased_bytes += bytes;
          {
            const std::lock_guard lock(mutex_);
            running_bytes_ += bytes;
          }
          VT_CO_RETURN_IF_ERROR(co_await pace(bytes, rate_bytes));
        }
      }
    }
    if (verify) break;
    VT_CO_RETURN_IF_ERROR(co_await sync(file, layer));
  }
  co_return Status();
}

Task<Status> Eraser::sync(File& file, Layer* layer) {
  if (layer != nullptr) co_return co_await engine_.sync_layer(*layer);
  Status synced = co_await file.sync_data();
  if (!synced.ok()) engine_.fail(synced);
  co_return synced;
}

Task<Status> Eraser::pace(std::uint64_t bytes, std::uint64_t rate_bytes) {
  if (rate_bytes == 0) co_return Status();
  co_await engine_.runtime().sleep_for(
      std::chrono::nanoseconds(bytes * 1'000'000'000ULL / rate_bytes));
  co_return Status();
}

std::string Eraser::certificate(const EraseRequestRow& request, std::uint64_t id) const {
  const bool overwrites = overwritten_blocks(request) != 0;
  const char* verification = "none: the policy does not overwrite";
  if (overwrites) verification = "read back after fdatasync";
  if (overwrites && request.erased_bytes == 0) verification = "none: there was nothing to erase";
  const std::string part =
      overwrites && request.first_bytes != 0
          ? fmt::format(R"("overwritten_below_bytes":{},)", request.first_bytes)
          : std::string();
  return fmt::format(
      R"({{"certificate":{},"what":"{}","policy":"{}",{}"requested_ns":{},"finished_ns":{},)"
      R"("erased_bytes":{},"verified_bytes":{},"items":{},"verification":"{}"}})",
      id, json_escaped(request.what), erase_policy_name(request.policy), part, request.requested_ns,
      engine_.runtime().wall_now().count(), request.erased_bytes, request.verified_bytes,
      request.items_done, verification);
}

// The queue entry goes, and with the last one the certificate comes, in one commit.
Task<Status> Eraser::finish_item(EraseRequestRow request, const EraseItemRow& item,
                                 const Outcome& outcome, bool last) {
  request.erased_bytes += outcome.erased_bytes;
  request.verified_bytes += outcome.verified_bytes;
  ++request.items_done;
  co_return co_await engine_.commit_freeing([&](CatalogDb& db) -> Status {
    if (item.id != 0) VT_RETURN_IF_ERROR(db.remove_erase_item(item.id));
    if (!last) return db.put_erase_request(request);
    VT_ASSIGN_OR_RETURN(const std::uint64_t id, db.next_id("certificate"));
    VT_RETURN_IF_ERROR(db.put_certificate({id, certificate(request, id)}));
    return db.remove_erase_request(request.id);
  });
}

}  // namespace voltree
