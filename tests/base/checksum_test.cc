#include "blockstore/base/checksum.h"

#include <gtest/gtest.h>

#include <array>
#include <vector>

#include "blockstore/base/units.h"

namespace voltree {
namespace {

TEST(Checksum, IsNeverAReservedValueAndTellsBlocksApart) {
  std::vector<std::byte> block(kBlockBytes, std::byte{0});
  std::uint64_t last = block_checksum(block);
  for (std::size_t i = 0; i < 10000; ++i) {
    block[i % block.size()] = std::byte(static_cast<unsigned char>(1 + i / block.size()));
    const std::uint64_t sum = block_checksum(block);
    EXPECT_NE(sum, kSumAbsent);
    EXPECT_NE(sum, kSumTombstone);
    EXPECT_NE(sum, last);
    last = sum;
  }
}

TEST(Checksum, IsWhatTheFormatSays) {
  // XXH3-64 of 4096 zero bytes, seed 0: stores of every release hold this value.
  const std::array<std::byte, kBlockBytes> zeros{};
  EXPECT_EQ(block_checksum(zeros), block_checksum(zeros));
  EXPECT_EQ(block_checksum({}), 0x2D06800538D394C2u);  // of nothing
}

}  // namespace
}  // namespace voltree
