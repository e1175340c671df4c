#include "blockstore/store_repair_layers.h"

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <vector>

#include "blockstore/aligned_io.h"
#include "blockstore/base/checksum.h"
#include "blockstore/layer.h"

namespace voltree {
namespace {

constexpr std::uint64_t kStepBlocks = 256;  // 1 MiB of data a read
constexpr std::uint64_t kSumBytes = sizeof(std::uint64_t);

class Scanner {
 public:
  Scanner(File& data, File& sums, const ExtentMap& left_out)
      : data_(data), sums_(sums), left_out_(left_out), buffer_(kStepBlocks * kBlockBytes) {}

  Status run(LayerScan& scan, const std::function<void(std::uint64_t)>& progress) {
    VT_ASSIGN_OR_RETURN(scan.file_bytes, data_.size_bytes());
    VT_ASSIGN_OR_RETURN(const std::uint64_t sum_bytes, sums_.size_bytes());
    scan.size_bytes = std::max(scan.size_bytes, scan.file_bytes);
    const std::uint64_t end = blocks_of_bytes(scan.size_bytes);
    for (std::uint64_t at = 0; at < end;) {
      // What is a hole in both files is absent.
      VT_ASSIGN_OR_RETURN(const std::uint64_t data, data_.seek_data(at * kBlockBytes));
      VT_ASSIGN_OR_RETURN(const std::uint64_t sum, sums_.seek_data(at * kSumBytes));
      std::uint64_t next = end;
      if (data < scan.file_bytes) next = std::min(next, data / kBlockBytes);
      if (sum < sum_bytes) next = std::min(next, sum / kSumBytes);
      at = std::max(at, next);
      if (at >= end) break;
      const BlockRange step{at, std::min(kStepBlocks, end - at)};
      VT_RETURN_IF_ERROR(scan_step(step, scan));
      progress(step.count * kBlockBytes);
      at = step.end();
    }
    return {};
  }

 private:
  Status scan_step(BlockRange step, LayerScan& scan) {
    std::vector<std::uint64_t> sums(step.count);
    VT_RETURN_IF_ERROR(
        sums_.read_sync(std::as_writable_bytes(std::span(sums)), step.first * kSumBytes));
    const auto bytes = buffer_.span().first(step.count * kBlockBytes);
    const bool readable = data_.read_sync(bytes, step.first * kBlockBytes).ok();
    for (std::uint64_t i = 0; i < step.count; ++i) {
      const std::uint64_t block = step.first + i;
      const auto one = bytes.subspan(i * kBlockBytes, kBlockBytes);
      // A sector that cannot be read is the fault of its block alone.
      const bool have = readable || data_.read_sync(one, block * kBlockBytes).ok();
      look_at(block, sums[i], one, have, scan);
    }
    return {};
  }

  void look_at(std::uint64_t block, std::uint64_t sum, std::span<const std::byte> bytes, bool have,
               LayerScan& scan) const {
    if (left_out_.at(block) != 0) return;
    if (sum == kSumTombstone) {
      scan.index.assign(block, 1, kIndexTombstone);
    } else if (sum != kSumAbsent) {
      scan.index.assign(block, 1, kIndexData);
      if (!have || block_checksum(bytes) != sum) scan.damaged.assign(block, 1, 1);
    } else if (!have || !all_zero(bytes)) {
      scan.index.assign(block, 1, kIndexData);
      scan.unsummed.assign(block, 1, 1);
    }
  }

  File& data_;
  File& sums_;
  const ExtentMap& left_out_;
  AlignedBuffer buffer_;
};

// The id that a file's name in layers/ says; nullopt for a name that says none.
std::optional<LayerId> id_of(const std::string& name) {
  if (name.size() != 8) return std::nullopt;
  char* end = nullptr;
  const auto id = static_cast<LayerId>(std::strtoul(name.c_str(), &end, 16));
  if (*end != '\0' || id == kNoLayer) return std::nullopt;
  return id;
}

}  // namespace

Result<std::map<LayerId, LayerFiles>> layer_files(FileSystem& fs, const std::string& directory) {
  constexpr std::string_view kSuffix = ".sum";
  std::map<LayerId, LayerFiles> found;
  const std::string root = directory + "/layers";
  VT_ASSIGN_OR_RETURN(const auto folders, fs.list_dir(root));
  for (const std::string& folder : folders) {
    VT_ASSIGN_OR_RETURN(const auto names, fs.list_dir(fmt::format("{}/{}", root, folder)));
    for (const std::string& name : names) {
      const bool sums = name.ends_with(kSuffix);
      const auto id = id_of(sums ? name.substr(0, name.size() - kSuffix.size()) : name);
      if (!id) continue;
      (sums ? found[*id].sums : found[*id].data) = true;
    }
  }
  return found;
}

Result<LayerScan> scan_layer(FileSystem& fs, const std::string& directory, LayerId id,
                             std::uint64_t size_bytes, const ExtentMap& left_out,
                             const std::function<void(std::uint64_t bytes)>& progress) {
  VT_ASSIGN_OR_RETURN(auto data, fs.open(Layer::data_path(directory, id), {.writable = false}));
  VT_ASSIGN_OR_RETURN(auto sums, fs.open(Layer::sum_path(directory, id), {.writable = false}));
  LayerScan scan;
  scan.size_bytes = size_bytes;
  VT_RETURN_IF_ERROR(Scanner(*data, *sums, left_out).run(scan, progress));
  VT_RETURN_IF_ERROR(data->sync_sync());
  VT_RETURN_IF_ERROR(sums->sync_sync());
  return scan;
}

}  // namespace voltree
