#include "blockstore/aligned_io.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "blockstore/volume.h"

namespace voltree {
namespace {

// Direct I/O wants memory aligned to the device's sector; this covers every device in use.
constexpr std::uintptr_t kMemoryAlignBytes = 512;
// Zeroing works in steps, so that no lock is held for long.
constexpr std::uint64_t kZeroStepBlocks = 64 * kRegionBlocks;

bool memory_aligned(const std::byte* memory) {
  return reinterpret_cast<std::uintptr_t>(memory) % kMemoryAlignBytes == 0;
}

BlockRange covering(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
  const std::uint64_t first = offset_bytes / kBlockBytes;
  return {first, blocks_of_bytes(offset_bytes + length_bytes) - first};
}

bool whole_blocks(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
  return offset_bytes % kBlockBytes == 0 && length_bytes % kBlockBytes == 0;
}

Status check_range(const Volume& volume, std::uint64_t offset_bytes, std::uint64_t length_bytes) {
  const std::uint64_t size = volume.size_bytes();
  if (offset_bytes <= size && length_bytes <= size - offset_bytes) return {};
  return error(Code::kInvalid, "bytes {}+{} lie beyond the end of a volume of {} bytes",
               offset_bytes, length_bytes, size);
}

}  // namespace

bool all_zero(std::span<const std::byte> bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{0}; });
}

void AlignedBuffer::Free::operator()(std::byte* memory) const { std::free(memory); }

AlignedBuffer::AlignedBuffer(std::size_t size_bytes)
    : size_bytes_(size_bytes),
      memory_(static_cast<std::byte*>(std::aligned_alloc(
          kBlockBytes, std::max<std::size_t>(blocks_of_bytes(size_bytes), 1) * kBlockBytes))) {
  if (memory_ == nullptr) throw std::bad_alloc();
}

Task<Status> aligned_read(Volume& volume, std::uint64_t offset_bytes, std::span<std::byte> out) {
  VT_CO_RETURN_IF_ERROR(check_range(volume, offset_bytes, out.size()));
  if (out.empty()) co_return Status();
  const BlockRange range = covering(offset_bytes, out.size());
  if (whole_blocks(offset_bytes, out.size()) && memory_aligned(out.data())) {
    co_return co_await volume.read_blocks(range, out.data());
  }
  AlignedBuffer bounce(range.count * kBlockBytes);
  VT_CO_RETURN_IF_ERROR(co_await volume.read_blocks(range, bounce.data()));
  std::memcpy(out.data(), bounce.data() + offset_bytes % kBlockBytes, out.size());
  co_return Status();
}

Task<Status> aligned_write(Volume& volume, std::uint64_t offset_bytes,
                           std::span<const std::byte> data) {
  VT_CO_RETURN_IF_ERROR(check_range(volume, offset_bytes, data.size()));
  if (data.empty()) co_return Status();
  const BlockRange range = covering(offset_bytes, data.size());
  const RangeLock::Guard guard = co_await volume.range_lock().lock(range);
  const bool whole = whole_blocks(offset_bytes, data.size());
  if (whole && memory_aligned(data.data())) {
    co_return co_await volume.write_blocks_locked(range, data.data());
  }
  AlignedBuffer bounce(range.count * kBlockBytes);
  if (!whole) {
    // Only the first and the last block can be partial.
    VT_CO_RETURN_IF_ERROR(co_await volume.read_blocks_locked({range.first, 1}, bounce.data()));
    if (range.count > 1) {
      VT_CO_RETURN_IF_ERROR(co_await volume.read_blocks_locked(
          {range.end() - 1, 1}, bounce.data() + (range.count - 1) * kBlockBytes));
    }
  }
  std::memcpy(bounce.data() + offset_bytes % kBlockBytes, data.data(), data.size());
  co_return co_await volume.write_blocks_locked(range, bounce.data());
}

Task<Status> aligned_zero(Volume& volume, std::uint64_t offset_bytes, std::uint64_t length_bytes) {
  VT_CO_RETURN_IF_ERROR(check_range(volume, offset_bytes, length_bytes));
  const std::uint64_t end_bytes = offset_bytes + length_bytes;
  // The volume's last block may be partial: zeroing up to the end takes all of it.
  const bool to_the_end = end_bytes == volume.size_bytes();
  std::uint64_t first = blocks_of_bytes(offset_bytes);
  const std::uint64_t end = to_the_end ? blocks_of_bytes(end_bytes) : end_bytes / kBlockBytes;
  const std::vector<std::byte> zeros(kBlockBytes);
  if (first > end) {  // within one block
    co_return co_await aligned_write(volume, offset_bytes, std::span(zeros).first(length_bytes));
  }
  if (offset_bytes % kBlockBytes != 0) {
    const std::uint64_t head_bytes = std::min(first * kBlockBytes, end_bytes) - offset_bytes;
    VT_CO_RETURN_IF_ERROR(
        co_await aligned_write(volume, offset_bytes, std::span(zeros).first(head_bytes)));
  }
  while (first < end) {
    const BlockRange step{first, std::min(end - first, kZeroStepBlocks)};
    const RangeLock::Guard guard = co_await volume.range_lock().lock(step);
    VT_CO_RETURN_IF_ERROR(co_await volume.zero_blocks_locked(step));
    first = step.end();
  }
  if (!to_the_end && end_bytes % kBlockBytes != 0) {
    VT_CO_RETURN_IF_ERROR(co_await aligned_write(volume, end * kBlockBytes,
                                                 std::span(zeros).first(end_bytes % kBlockBytes)));
  }
  co_return Status();
}

}  // namespace voltree
