// The checksums of the catalog's pages: the last 8 bytes of each, which SQLite leaves to us
// (docs/FORMAT.md). Whatever of a page changes on the disk is found when the page is read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace voltree {

inline constexpr std::uint64_t kCatalogPageBytes = 4096;
inline constexpr int kCatalogPageReservedBytes = 8;  // of SQLite's, and where the checksum is

enum class PageSums : std::uint8_t {
  kNone,  // a catalog of before there were checksums
  kThere,
  kDamaged,  // page 1 does not let us tell
};
// What page 1 says of all of them.
PageSums page_sums_of(std::span<const std::byte> first_page);

// `number` counts from 1.
void put_page_sum(std::span<std::byte> page, std::uint64_t number);
// True, too, where there is none: a page that another program has written with 0 in its place. The
// 8 bytes are 0 after it, so that no stale one gets into the write-ahead log.
bool take_page_sum(std::span<std::byte> page, std::uint64_t number);

}  // namespace voltree
