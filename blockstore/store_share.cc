// Taking in a file of the host by sharing its blocks.
#include <algorithm>

#include "blockstore/store_core.h"

namespace voltree {
namespace {

// What is under the range lock at once, and read back for its sums.
constexpr std::uint64_t kStepBlocks = 4 * kRegionBlocks;

Status check_share(const BlockDevice& device, ByteRange range) {
  if (device.read_only()) return error(Code::kReadOnly, "a snapshot does not change");
  const bool whole = range.offset_bytes % kBlockBytes == 0 && range.length_bytes % kBlockBytes == 0;
  const std::uint64_t size_bytes = device.size_bytes();
  if (whole && range.offset_bytes <= size_bytes &&
      range.length_bytes <= size_bytes - range.offset_bytes) {
    return {};
  }
  return error(Code::kInvalid, "bytes {}+{} are no whole blocks of a volume of {} bytes",
               range.offset_bytes, range.length_bytes, size_bytes);
}

}  // namespace

Result<BlockRange> next_data(File& file, std::uint64_t at_bytes, std::uint64_t end_bytes) {
  VT_ASSIGN_OR_RETURN(const std::uint64_t data, file.seek_data(at_bytes));
  if (data >= end_bytes) return BlockRange{end_bytes / kBlockBytes, 0};
  VT_ASSIGN_OR_RETURN(const std::uint64_t hole, file.seek_hole(data));
  if (hole <= data) return error(Code::kInvalid, "the file is shorter than it was");
  const std::uint64_t first = data / kBlockBytes;
  return BlockRange{first, blocks_of_bytes(std::min(hole, end_bytes)) - first};
}

Task<Status> Store::share_file(std::string volume, std::string file, ByteRange range) {
  Runtime& runtime = core_->engine.runtime();
  VT_CO_ASSIGN_OR_RETURN(const std::shared_ptr<BlockDevice> device, co_await open_device(volume));
  VT_CO_RETURN_IF_ERROR(check_share(*device, range));
  auto& target = static_cast<Volume&>(*device);
  auto opened =
      co_await runtime.run_blocking([&] { return runtime.fs().open(file, {.writable = false}); });
  if (!opened.ok()) co_return opened.status();
  File& source = **opened;
  const std::uint64_t end_bytes = range.offset_bytes + range.length_bytes;
  for (std::uint64_t at_bytes = range.offset_bytes; at_bytes < end_bytes;) {
    const auto found =
        co_await runtime.run_blocking([&] { return next_data(source, at_bytes, end_bytes); });
    if (!found.ok()) co_return found.status();
    BlockRange left = *found;
    while (left.count > 0) {
      const BlockRange step{left.first, std::min(left.count, kStepBlocks)};
      const RangeLock::Guard guard = co_await target.range_lock().lock(step);
      VT_CO_RETURN_IF_ERROR(co_await target.share_blocks_locked(step, source));
      left = {step.end(), left.count - step.count};
    }
    at_bytes = found->end() * kBlockBytes;
  }
  co_return Status();
}

}  // namespace voltree
