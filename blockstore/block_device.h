// BlockDevice: what every door (FUSE, NBD) and every tool sees of a volume or a snapshot.
//
// Byte addressed: any offset and length within size_bytes(). Aligned 4 KiB requests from memory
// aligned to 4096 bytes go straight to the layer's file; anything else passes through the unaligned
// shell (aligned_io.h), the only place of a read-modify-write. All calls are thread-safe and run on
// the caller's executor; none blocks it. A buffer must stay alive and unchanged until the call
// ends.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "blockstore/base/status.h"
#include "blockstore/base/units.h"
#include "blockstore/runtime/task.h"

namespace voltree {

struct WriteOptions {
  bool fua = false;  // durable when the call returns (I2)
};

// A run of bytes that is data, or reads as zeros.
struct AllocationRun {
  std::uint64_t offset_bytes = 0;
  std::uint64_t length_bytes = 0;
  bool data = false;
};

class BlockDevice {
 public:
  virtual ~BlockDevice() = default;

  virtual std::uint64_t size_bytes() const = 0;
  virtual bool read_only() const = 0;
  // Bytes of blocks that hold data (whole blocks), in any layer: st_blocks and "referenced".
  virtual std::uint64_t referenced_bytes() const = 0;

  // kInvalid beyond the end; kDamaged for a block that fails its checksum (I9); kGone when deleted
  // meanwhile.
  virtual Task<Status> read(std::uint64_t offset_bytes, std::span<std::byte> out) = 0;
  // Acknowledged means: survives the daemon's death (I5). kNoSpace leaves old contents.
  virtual Task<Status> write(std::uint64_t offset_bytes, std::span<const std::byte> data,
                             WriteOptions options) = 0;
  // Everything acknowledged before the call is durable after it (I2).
  virtual Task<Status> flush() = 0;
  // The range reads as zeros afterwards, and whole blocks of it take no space.
  virtual Task<Status> write_zeroes(std::uint64_t offset_bytes, std::uint64_t length_bytes,
                                    WriteOptions options) = 0;
  Task<Status> discard(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
    return write_zeroes(offset_bytes, length_bytes, {});
  }
  // The allocation of [offset, offset + length), in order, without gaps; at most `max_runs` (it may
  // end early).
  virtual std::vector<AllocationRun> allocation(std::uint64_t offset_bytes,
                                                std::uint64_t length_bytes,
                                                std::size_t max_runs) const = 0;
};

}  // namespace voltree
