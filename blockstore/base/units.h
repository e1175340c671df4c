// Units, ids and names that the whole project shares.
//
// Quantities carry their unit in their name: *_bytes, *_blocks. A block is 4096 bytes, everywhere.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "blockstore/base/status.h"

namespace voltree {

inline constexpr std::uint64_t kBlockBytes = 4096;
inline constexpr std::uint64_t kSectorBytes = 512;
// The unit of layer-index rows and of dirty marks (DESIGN section 4): 4 MiB.
inline constexpr std::uint64_t kRegionBlocks = 1024;
inline constexpr std::uint64_t kRegionBytes = kRegionBlocks * kBlockBytes;
// The longest name of a volume or a snapshot, in bytes.
inline constexpr std::size_t kNameMaxBytes = 255;

using LayerId = std::uint32_t;  // 0 is no layer (a hole)
using NodeId = std::uint64_t;   // 0 is no node (the parent of a root)
inline constexpr LayerId kNoLayer = 0;
inline constexpr NodeId kNoNode = 0;

// A run of blocks [first, first + count).
struct BlockRange {
  std::uint64_t first = 0;
  std::uint64_t count = 0;
  std::uint64_t end() const { return first + count; }
  bool operator==(const BlockRange&) const = default;
};

constexpr std::uint64_t blocks_of_bytes(std::uint64_t bytes) {
  return bytes / kBlockBytes + (bytes % kBlockBytes != 0 ? 1 : 0);
}

// "10G", "1.5TiB", "4096", "512k": binary units whether or not the i is written; a bare number is
// bytes. kInvalid for anything else, for negatives and for what does not fit 63 bits.
Result<std::uint64_t> parse_size(std::string_view text);
// "4.0 GiB", "512 B": for people. Machine output prints plain bytes.
std::string format_size(std::uint64_t bytes);

// kInvalid unless 1 <= size, a multiple of 512.
Status check_volume_size(std::uint64_t size_bytes);

// kInvalid unless `name` is 1..255 bytes of valid UTF-8 without '/', '@', control characters, and
// is neither "." nor ".." nor starts with '-'. The message quotes the name safely (control bytes
// escaped).
Status check_name(std::string_view name);

// `text` in quotes, with control characters and bytes that are not UTF-8 escaped: safe to print.
std::string quoted(std::string_view text);

// VOLUME or VOLUME@SNAPSHOT, checked.
struct NodeName {
  std::string volume;
  std::string snapshot;  // empty: the volume's head
  bool is_snapshot() const { return !snapshot.empty(); }
  std::string str() const { return snapshot.empty() ? volume : volume + "@" + snapshot; }
};
Result<NodeName> parse_node_name(std::string_view text);

}  // namespace voltree
