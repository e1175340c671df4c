// The unaligned shell: cuts byte ranges into whole blocks for the aligned core (Volume). It is the
// only place of a read-modify-write, and does it under the range lock, so that a block that fails
// its checksum is never laundered (I9): the read fails, and so does the write.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "blockstore/base/status.h"
#include "blockstore/runtime/task.h"

namespace voltree {

class Volume;

Task<Status> aligned_read(Volume& volume, std::uint64_t offset_bytes, std::span<std::byte> out);
Task<Status> aligned_write(Volume& volume, std::uint64_t offset_bytes,
                           std::span<const std::byte> data);
Task<Status> aligned_zero(Volume& volume, std::uint64_t offset_bytes, std::uint64_t length_bytes);

bool all_zero(std::span<const std::byte> bytes);

// Memory for direct I/O: aligned to 4096 bytes.
class AlignedBuffer {
 public:
  explicit AlignedBuffer(std::size_t size_bytes);
  std::byte* data() { return memory_.get(); }
  std::span<std::byte> span() { return {memory_.get(), size_bytes_}; }

 private:
  struct Free {
    void operator()(std::byte* memory) const;
  };
  std::size_t size_bytes_;
  std::unique_ptr<std::byte, Free> memory_;
};

}  // namespace voltree
