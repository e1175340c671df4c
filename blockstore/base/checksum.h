// Block checksums: XXH3-64 of a block, moved off the two values that a .sum entry reserves.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace voltree {

// .sum entries (docs/FORMAT.md): what a layer holds at a block.
inline constexpr std::uint64_t kSumAbsent = 0;
inline constexpr std::uint64_t kSumTombstone = 1;

// The entry for one block of data: never kSumAbsent nor kSumTombstone. Thread-safe.
std::uint64_t block_checksum(std::span<const std::byte> block);

// Of `bytes` and two numbers (eight bytes each, little-endian) that say where they belong, so that
// bytes in another's place do not pass. Thread-safe.
std::uint64_t keyed_checksum(std::string_view bytes, std::uint64_t key, std::uint64_t subkey);

}  // namespace voltree
