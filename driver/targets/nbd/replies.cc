#include "driver/targets/nbd/replies.h"

#include <algorithm>

namespace voltree::nbd {
namespace {
constexpr std::size_t kErrorTextMaxBytes = 512;
}

// "Error values"
WireError wire_error(const Status& status) {
  switch (status.code()) {
    case Code::kOk:
      return WireError::kNone;
    case Code::kInvalid:
      return WireError::kInvalid;
    case Code::kNoSpace:
      return WireError::kNoSpace;
    case Code::kReadOnly:
    case Code::kPermission:
      return WireError::kPerm;
    case Code::kTooLarge:
      return WireError::kOverflow;
    case Code::kNotSupported:
      return WireError::kNotSupported;
    case Code::kCancelled:
      return WireError::kShutdown;
    default:
      return WireError::kIo;
  }
}

void Replies::begin_chunk(Writer& header, const Request& request, Chunk type,
                          std::size_t length_bytes, bool last) const {
  header.number(extended_ ? kExtendedReplyMagic : kStructuredReplyMagic);
  header.number(static_cast<std::uint16_t>(last ? kReplyDone : 0)).number(type);
  header.number(request.cookie);
  if (extended_) {
    header.number(request.offset_bytes).number(static_cast<std::uint64_t>(length_bytes));
  } else {
    header.number(static_cast<std::uint32_t>(length_bytes));
  }
}

Task<void> Replies::finish(const Request& request, Status status) {
  Writer header;
  const WireError code = wire_error(status);
  if (!structured_ || (status.ok() && !extended_ && request.command != Command::kRead)) {
    header.number(kSimpleReplyMagic).number(code).number(request.cookie);
  } else if (status.ok()) {
    begin_chunk(header, request, Chunk::kNone, 0, true);
  } else {
    const std::string_view why = status.message().substr(0, kErrorTextMaxBytes);
    begin_chunk(header, request, Chunk::kError, 6 + why.size(), true);
    header.number(code).number(static_cast<std::uint16_t>(why.size())).text(why);
  }
  co_await send(header.bytes(), {});
}

Task<void> Replies::data(const Request& request, std::uint64_t offset_bytes,
                         std::span<const std::byte> data, bool last) {
  Writer header;
  if (structured_) {
    begin_chunk(header, request, Chunk::kOffsetData, 8 + data.size(), last);
    header.number(offset_bytes);
  } else {
    header.number(kSimpleReplyMagic).number(WireError::kNone).number(request.cookie);
  }
  co_await send(header.bytes(), data);
}

Task<void> Replies::hole(const Request& request, std::uint64_t offset_bytes,
                         std::uint32_t length_bytes, bool last) {
  Writer header;
  begin_chunk(header, request, Chunk::kOffsetHole, 12, last);
  header.number(offset_bytes).number(length_bytes);
  co_await send(header.bytes(), {});
}

Task<void> Replies::chunk(const Request& request, Chunk type, std::span<const std::byte> payload,
                          bool last) {
  Writer header;
  begin_chunk(header, request, type, payload.size(), last);
  co_await send(header.bytes(), payload);
}

Task<void> Replies::send(std::span<const std::byte> header, std::span<const std::byte> data) {
  if (broken_) co_return;
  Outgoing reply{header, data, {}, false};
  queue_.push_back(&reply);
  if (!flushing_) {
    flushing_ = true;
    // What completes in the same turn of the executor joins this one's system call.
    co_await ResumeOn{*Executor::current()};
    co_await flush_queue();
    co_return;
  }
  struct Sent {
    Outgoing& reply;
    bool await_ready() const noexcept { return reply.sent; }
    void await_suspend(std::coroutine_handle<> handle) noexcept { reply.waiter = handle; }
    void await_resume() const noexcept {}
  };
  Sent sent{reply};
  co_await sent;
}

Task<void> Replies::flush_queue() {
  std::vector<Outgoing*> batch;
  std::vector<iovec> parts;
  while (!queue_.empty()) {
    batch.swap(queue_);
    parts.clear();
    for (const Outgoing* reply : batch) {
      for (const std::span<const std::byte> part : {reply->header, reply->data}) {
        if (!part.empty()) parts.push_back({const_cast<std::byte*>(part.data()), part.size()});
      }
    }
    if (!broken_) {
      const Status status = co_await stream_.write(parts);
      if (!status.ok()) {
        broken_ = true;
        stream_.shut_down();  // the reading side learns of it
      }
    }
    for (Outgoing* reply : batch) {
      reply->sent = true;
      if (reply->waiter) Executor::current()->post(reply->waiter);
    }
    batch.clear();
  }
  flushing_ = false;
}

}  // namespace voltree::nbd
