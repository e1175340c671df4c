#include "blockstore/base/checksum.h"

#include <xxhash.h>

#include <string>

namespace voltree {

std::uint64_t block_checksum(std::span<const std::byte> block) {
  const std::uint64_t hash = XXH3_64bits(block.data(), block.size());
  // 0 and 1 mean something else in a .sum entry: such a hash moves to the far half of the range.
  constexpr std::uint64_t kMoved = std::uint64_t{1} << 63;
  return hash <= kSumTombstone ? hash + kMoved : hash;
}

std::uint64_t keyed_checksum(std::string_view bytes, std::uint64_t key, std::uint64_t subkey) {
  std::string all(bytes);
  for (std::uint64_t part : {key, subkey}) {
    for (int i = 0; i < 8; ++i, part >>= 8) all.push_back(static_cast<char>(part & 0xff));
  }
  return block_checksum(std::as_bytes(std::span(all)));
}

}  // namespace voltree
