// The bytes of layer-index rows and of saved maps, as the catalog stores them.
//
// docs/FORMAT.md describes both. Integrity is the catalog's concern (its rows are checksummed);
// what is checked here is form: every byte string either decodes to a valid map or is kDamaged.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "blockstore/base/status.h"
#include "blockstore/extent_map.h"

namespace voltree {

// No row of a layer index is longer than this.
inline constexpr std::size_t kRegionRowMaxBytes = 1 + kRegionBlocks / 4;
inline constexpr std::size_t kMapChunkBytes = std::size_t{1} << 20;

// The row for region number `region` (kRegionBlocks blocks from region * kRegionBlocks on) of a
// layer's index, whose values are kIndexData and kIndexTombstone. Empty when the region has no
// block present: such a region has no row. Equal contents give equal bytes.
std::string encode_region(const ExtentMap& index, std::uint64_t region);

// Replaces what `index` holds of the region by the row's contents. Bytes that encode_region does
// not produce are kDamaged and leave `index` as it was. No bytes clear the region.
Status decode_region(std::span<const std::byte> bytes, std::uint64_t region, ExtentMap& index);

// A whole map in chunks of at most `chunk_bytes_max` (at least 64); none for an empty map. Each
// chunk carries its own version and dictionary, and absolute positions.
std::vector<std::string> encode_map(const ExtentMap& map,
                                    std::size_t chunk_bytes_max = kMapChunkBytes);

// The inverse; kDamaged names the chunk.
Result<ExtentMap> decode_map(std::span<const std::string> chunks);

}  // namespace voltree
