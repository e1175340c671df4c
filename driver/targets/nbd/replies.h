// Replies: the writing side of a connection in the transmission phase. Many requests end at about
// the same time; their replies go out together.
#pragma once

#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "blockstore/base/status.h"
#include "blockstore/runtime/task.h"
#include "driver/targets/nbd/stream.h"
#include "driver/targets/nbd/wire.h"

namespace voltree::nbd {

WireError wire_error(const Status& status);

// Used on the connection's executor alone.
class Replies {
 public:
  Replies(Stream& stream, bool structured, bool extended)
      : stream_(stream), structured_(structured), extended_(extended) {}
  Replies(const Replies&) = delete;
  Replies& operator=(const Replies&) = delete;

  // Each returns when the bytes are with the kernel and `data` is free again; a peer that is gone
  // is no error here, broken() tells.

  // The end of a request that answers nothing but how it went.
  Task<void> finish(const Request& request, Status status);
  // Payload of a READ: `data` of `offset_bytes`. Without structured replies it is the whole answer.
  Task<void> data(const Request& request, std::uint64_t offset_bytes,
                  std::span<const std::byte> data, bool last);
  // Zeros that are not sent ("NBD_REPLY_TYPE_OFFSET_HOLE"); structured replies only.
  Task<void> hole(const Request& request, std::uint64_t offset_bytes, std::uint32_t length_bytes,
                  bool last);
  // Any other chunk.
  Task<void> chunk(const Request& request, Chunk type, std::span<const std::byte> payload,
                   bool last);

  bool broken() const { return broken_; }
  bool structured() const { return structured_; }
  bool extended() const { return extended_; }

 private:
  struct Outgoing {
    std::span<const std::byte> header;
    std::span<const std::byte> data;
    std::coroutine_handle<> waiter;
    bool sent = false;
  };

  void begin_chunk(Writer& header, const Request& request, Chunk type, std::size_t length_bytes,
                   bool last) const;
  Task<void> send(std::span<const std::byte> header, std::span<const std::byte> data);
  Task<void> flush_queue();

  Stream& stream_;
  const bool structured_;
  const bool extended_;
  bool broken_ = false;
  bool flushing_ = false;
  std::vector<Outgoing*> queue_;
};

}  // namespace voltree::nbd
