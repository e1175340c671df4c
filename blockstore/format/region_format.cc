#include "blockstore/format/region_format.h"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <optional>
#include <unordered_map>

#include "blockstore/extent_map_builder.h"
#include "blockstore/format/varint.h"

namespace voltree {
namespace {

enum RegionKind : std::uint8_t {
  kAllData = 1,
  kAllTombstone = 2,
  kRunList = 3,
  kBitmap = 4,
};

constexpr std::size_t kBitmapBytes = kRegionBlocks / 4;
constexpr std::uint8_t kMapVersion = 1;
constexpr std::size_t kChunkBytesMin = 64;

std::size_t varint_bytes(std::uint64_t value) {
  std::size_t bytes = 1;
  for (; value >= 0x80; value >>= 7) ++bytes;
  return bytes;
}

// --- Layer index rows. Extents here are relative to the region. ---

std::string encode_bitmap(std::span<const Extent> extents) {
  std::string out(1 + kBitmapBytes, '\0');
  out[0] = static_cast<char>(kBitmap);
  for (const Extent& extent : extents) {
    for (std::uint64_t block = extent.first; block < extent.end(); ++block) {
      char& packed = out[1 + block / 4];
      packed = static_cast<char>(packed | (extent.value << (block % 4 * 2)));
    }
  }
  return out;
}

std::string encode_extents(std::span<const Extent> extents) {
  if (extents.empty()) return {};
  if (extents[0].count == kRegionBlocks) {
    return std::string(
        1, static_cast<char>(extents[0].value == kIndexData ? kAllData : kAllTombstone));
  }
  std::string out(1, static_cast<char>(kRunList));
  std::uint64_t position = 0;
  for (const Extent& extent : extents) {
    const bool tombstone = extent.value == kIndexTombstone;
    put_varint(out, (extent.first - position) << 1 | (tombstone ? 1 : 0));
    put_varint(out, extent.count - 1);
    position = extent.end();
    if (out.size() > 1 + kBitmapBytes) return encode_bitmap(extents);
  }
  return out;
}

bool parse_runs(VarintReader reader, std::vector<Extent>& extents) {
  std::uint64_t position = 0;
  while (!reader.done()) {
    const std::optional<std::uint64_t> gap_and_state = reader.varint();
    const std::optional<std::uint64_t> count_less_one = reader.varint();
    if (!gap_and_state || !count_less_one) return false;
    const std::uint64_t gap = *gap_and_state >> 1;
    if (gap >= kRegionBlocks - position) return false;
    const std::uint64_t first = position + gap;
    if (*count_less_one >= kRegionBlocks - first) return false;
    const std::uint32_t state = (*gap_and_state & 1) != 0 ? kIndexTombstone : kIndexData;
    if (gap == 0 && !extents.empty() && extents.back().value == state) return false;
    extents.push_back({first, *count_less_one + 1, state});
    position = extents.back().end();
    if (position == kRegionBlocks) return reader.done();
  }
  return true;
}

bool parse_bitmap(VarintReader reader, std::vector<Extent>& extents) {
  for (std::uint64_t block = 0; block < kRegionBlocks; block += 4) {
    const std::optional<std::uint8_t> packed = reader.byte();
    if (!packed) return false;
    for (unsigned i = 0; i < 4; ++i) {
      const std::uint32_t state = (*packed >> (2 * i)) & 3U;
      if (state > kIndexTombstone) return false;
      if (state == kIndexAbsent) continue;
      if (!extents.empty() && extents.back().end() == block + i && extents.back().value == state) {
        ++extents.back().count;
      } else {
        extents.push_back({block + i, 1, state});
      }
    }
  }
  return reader.done();
}

bool parse_region(std::span<const std::byte> bytes, std::vector<Extent>& extents) {
  VarintReader reader(bytes);
  const std::optional<std::uint8_t> kind = reader.byte();
  if (!kind) return true;
  switch (*kind) {
    case kAllData:
    case kAllTombstone:
      extents.push_back({0, kRegionBlocks, *kind == kAllData ? kIndexData : kIndexTombstone});
      return reader.done();
    case kRunList:
      return parse_runs(reader, extents);
    case kBitmap:
      return parse_bitmap(reader, extents);
    default:
      return false;
  }
}

// --- Saved maps ---

class ChunkWriter {
 public:
  explicit ChunkWriter(std::size_t bytes_max) : bytes_max_(std::max(bytes_max, kChunkBytesMin)) {}

  void add(const Extent& extent) {
    if (!append(extent)) {
      flush();
      const bool fits = append(extent);
      assert(fits);
      static_cast<void>(fits);
    }
  }

  std::vector<std::string> finish() {
    flush();
    return std::move(chunks_);
  }

 private:
  // False when the chunk has no room for it.
  bool append(const Extent& extent) {
    const auto known = indexes_.find(extent.value);
    const std::uint64_t index = known != indexes_.end() ? known->second : indexes_.size();
    const std::uint64_t gap = extent.first - position_;
    const std::size_t value_bytes = known != indexes_.end() ? 0 : varint_bytes(extent.value);
    const std::size_t total = 1 + varint_bytes(indexes_.size() + 1) + values_.size() + value_bytes +
                              extents_.size() + varint_bytes(gap) + varint_bytes(extent.count) +
                              varint_bytes(index);
    if (total > bytes_max_) return false;
    if (known == indexes_.end()) {
      indexes_.emplace(extent.value, index);
      put_varint(values_, extent.value);
    }
    put_varint(extents_, gap);
    put_varint(extents_, extent.count);
    put_varint(extents_, index);
    position_ = extent.end();
    return true;
  }

  void flush() {
    if (extents_.empty()) return;
    std::string chunk(1, static_cast<char>(kMapVersion));
    put_varint(chunk, indexes_.size());
    chunk += values_;
    chunk += extents_;
    chunks_.push_back(std::move(chunk));
    indexes_.clear();
    values_.clear();
    extents_.clear();
    position_ = 0;
  }

  std::size_t bytes_max_;
  std::vector<std::string> chunks_;
  // The chunk being written.
  std::unordered_map<std::uint32_t, std::uint64_t> indexes_;
  std::string values_;
  std::string extents_;
  std::uint64_t position_ = 0;
};

// The dictionary of a chunk: distinct values that are not 0.
bool parse_dictionary(VarintReader& reader, std::size_t chunk_bytes,
                      std::vector<std::uint32_t>& dictionary) {
  const std::optional<std::uint64_t> size = reader.varint();
  if (!size || *size == 0 || *size > chunk_bytes) return false;
  for (std::uint64_t i = 0; i < *size; ++i) {
    const std::optional<std::uint64_t> value = reader.varint();
    if (!value || *value == 0 || *value > UINT32_MAX) return false;
    dictionary.push_back(static_cast<std::uint32_t>(*value));
  }
  std::vector<std::uint32_t> sorted = dictionary;
  std::sort(sorted.begin(), sorted.end());
  return std::adjacent_find(sorted.begin(), sorted.end()) == sorted.end();
}

bool parse_chunk(std::span<const std::byte> bytes, ExtentMapBuilder& builder) {
  VarintReader reader(bytes);
  if (reader.byte() != kMapVersion) return false;
  std::vector<std::uint32_t> dictionary;
  if (!parse_dictionary(reader, bytes.size(), dictionary)) return false;
  if (reader.done()) return false;
  std::uint64_t position = 0;
  while (!reader.done()) {
    const std::optional<std::uint64_t> gap = reader.varint();
    const std::optional<std::uint64_t> count = reader.varint();
    const std::optional<std::uint64_t> index = reader.varint();
    if (!gap || !count || !index || *index >= dictionary.size()) return false;
    if (*gap >= kMaxBlocks - position) return false;
    const std::uint64_t first = position + *gap;
    if (*count == 0 || *count > kMaxBlocks - first) return false;
    // Also what keeps one chunk from reaching back into the one before it.
    if (first < builder.end_block()) return false;
    builder.push({first, *count, dictionary[*index]});
    position = first + *count;
  }
  return true;
}

}  // namespace

std::string encode_region(const ExtentMap& index, std::uint64_t region) {
  const std::uint64_t base = region * kRegionBlocks;
  std::vector<Extent> extents;
  index.for_each(base, kRegionBlocks, [&](const Extent& extent) {
    assert(extent.value <= kIndexTombstone);
    if (extent.value == kIndexAbsent) return;
    extents.push_back({extent.first - base, extent.count, extent.value});
  });
  return encode_extents(extents);
}

Status decode_region(std::span<const std::byte> bytes, std::uint64_t region, ExtentMap& index) {
  if (region >= kMaxBlocks / kRegionBlocks) {
    return error(Code::kDamaged, "layer index: region {} is beyond any volume", region);
  }
  std::vector<Extent> extents;
  if (bytes.size() > kRegionRowMaxBytes || !parse_region(bytes, extents)) {
    return error(Code::kDamaged, "layer index: the row of region {} is malformed", region);
  }
  // One content has one encoding: whatever differs was not written by us.
  const std::string canonical = encode_extents(extents);
  if (canonical.size() != bytes.size() ||
      (!bytes.empty() && std::memcmp(canonical.data(), bytes.data(), bytes.size()) != 0)) {
    return error(Code::kDamaged, "layer index: the row of region {} is not in its shortest form",
                 region);
  }
  const std::uint64_t base = region * kRegionBlocks;
  if (extents.size() != 1 || extents[0].count != kRegionBlocks) {
    index.assign(base, kRegionBlocks, kIndexAbsent);
  }
  for (const Extent& extent : extents) {
    index.assign(base + extent.first, extent.count, extent.value);
  }
  return {};
}

std::vector<std::string> encode_map(const ExtentMap& map, std::size_t chunk_bytes_max) {
  ChunkWriter writer(chunk_bytes_max);
  map.for_each_extent([&](const Extent& extent) { writer.add(extent); });
  return writer.finish();
}

Result<ExtentMap> decode_map(std::span<const std::string> chunks) {
  ExtentMapBuilder builder;
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    if (!parse_chunk(std::as_bytes(std::span<const char>(chunks[i])), builder)) {
      return error(Code::kDamaged, "saved map: chunk {} of {} is malformed", i + 1, chunks.size());
    }
  }
  return builder.finish();
}

}  // namespace voltree
