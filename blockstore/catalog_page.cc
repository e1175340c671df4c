#include "blockstore/catalog_page.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "blockstore/base/checksum.h"

namespace voltree {
namespace {

constexpr std::size_t kSumAt = kCatalogPageBytes - kCatalogPageReservedBytes;
// Where SQLite's header says how many bytes at the end of each page are not its own.
constexpr std::size_t kReservedAt = 20;

// Of the page without its sum, followed by its number: a page in another's place does not pass.
std::uint64_t sum_of(std::span<const std::byte> page, std::uint64_t number) {
  std::array<std::byte, kCatalogPageBytes> all;
  std::memcpy(all.data(), page.data(), kSumAt);
  for (std::size_t i = 0; i < sizeof number; ++i) {
    all[kSumAt + i] = static_cast<std::byte>(number >> (8 * i) & 0xff);
  }
  return block_checksum(all);
}

std::uint64_t stored_sum(std::span<const std::byte> page) {
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < sizeof sum; ++i) {
    sum |= static_cast<std::uint64_t>(page[kSumAt + i]) << (8 * i);
  }
  return sum;
}

}  // namespace

PageSums page_sums_of(std::span<const std::byte> first_page) {
  const auto reserved = static_cast<int>(first_page[kReservedAt]);
  if (reserved == kCatalogPageReservedBytes) return PageSums::kThere;
  // The byte that says so may be what has changed.
  std::array<std::byte, kCatalogPageBytes> mended;
  std::copy(first_page.begin(), first_page.end(), mended.begin());
  mended[kReservedAt] = static_cast<std::byte>(kCatalogPageReservedBytes);
  return stored_sum(mended) == sum_of(mended, 1) ? PageSums::kDamaged : PageSums::kNone;
}

void put_page_sum(std::span<std::byte> page, std::uint64_t number) {
  const std::uint64_t sum = sum_of(page, number);
  for (std::size_t i = 0; i < sizeof sum; ++i) {
    page[kSumAt + i] = static_cast<std::byte>(sum >> (8 * i) & 0xff);
  }
}

bool take_page_sum(std::span<std::byte> page, std::uint64_t number) {
  const std::uint64_t sum = stored_sum(page);
  if (sum != 0 && sum != sum_of(page, number)) return false;
  std::fill(page.begin() + kSumAt, page.end(), std::byte{0});
  return true;
}

}  // namespace voltree
