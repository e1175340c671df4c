#include "blockstore/base/checksum.h"

#include <xxhash.h>

namespace voltree {

std::uint64_t block_checksum(std::span<const std::byte> block) {
  const std::uint64_t hash = XXH3_64bits(block.data(), block.size());
  // 0 and 1 mean something else in a .sum entry: such a hash moves to the far half of the range.
  constexpr std::uint64_t kMoved = std::uint64_t{1} << 63;
  return hash <= kSumTombstone ? hash + kMoved : hash;
}

}  // namespace voltree
