// Block checksums: XXH3-64 of a block, moved off the two values that a .sum entry reserves.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace voltree {

// .sum entries (docs/FORMAT.md): what a layer holds at a block.
inline constexpr std::uint64_t kSumAbsent = 0;
inline constexpr std::uint64_t kSumTombstone = 1;

// The entry for one block of data: never kSumAbsent nor kSumTombstone. Thread-safe.
std::uint64_t block_checksum(std::span<const std::byte> block);

}  // namespace voltree
