#include "blockstore/format/region_format.h"

#include <gtest/gtest.h>

#include <random>

namespace voltree {
namespace {

using Random = std::mt19937_64;

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span<const char>(text));
}

// A region's content: `runs` random runs of random states.
ExtentMap random_region(Random& random, std::uint64_t region, unsigned runs, unsigned longest) {
  ExtentMap index;
  const std::uint64_t base = region * kRegionBlocks;
  for (unsigned i = 0; i < runs; ++i) {
    const std::uint64_t first = random() % kRegionBlocks;
    const std::uint64_t count =
        1 + random() % std::min<std::uint64_t>(longest, kRegionBlocks - first);
    index.assign(base + first, count, static_cast<std::uint32_t>(random() % 3));
  }
  return index;
}

TEST(RegionFormat, EmptyRegionHasNoBytes) {
  ExtentMap index;
  index.assign(0, kRegionBlocks, kIndexData);
  index.assign(2 * kRegionBlocks, 1, kIndexData);
  EXPECT_EQ(encode_region(index, 1), "");
  ASSERT_TRUE(decode_region({}, 0, index).ok());
  EXPECT_EQ(index.mapped_blocks(), 1);
}

TEST(RegionFormat, UniformRegionsTakeOneByte) {
  ExtentMap index;
  index.assign(0, 3 * kRegionBlocks, kIndexData);
  index.assign(kRegionBlocks, kRegionBlocks, kIndexTombstone);
  EXPECT_EQ(encode_region(index, 0), "\x01");
  EXPECT_EQ(encode_region(index, 1), "\x02");
  ExtentMap decoded;
  for (std::uint64_t region = 0; region < 3; ++region) {
    ASSERT_TRUE(decode_region(bytes_of(encode_region(index, region)), region, decoded).ok());
  }
  EXPECT_TRUE(decoded == index);
}

TEST(RegionFormat, KnownBytes) {
  ExtentMap index;
  index.assign(5, 3, kIndexData);
  index.assign(8, 300, kIndexTombstone);
  EXPECT_EQ(encode_region(index, 0), std::string("\x03\x0A\x02\x01\xAB\x02"));
}

TEST(RegionFormat, RoundTripKeepsTheNeighbours) {
  constexpr std::uint64_t kLastRegion = kMaxBlocks / kRegionBlocks - 1;
  for (std::uint64_t seed = 0; seed < 2000; ++seed) {
    Random random(seed);
    const std::uint64_t region = seed % 3 == 0 ? kLastRegion : 1 + random() % 1000;
    const ExtentMap index = random_region(random, region, static_cast<unsigned>(random() % 900),
                                          seed % 2 == 0 ? 3 : 200);
    const std::string row = encode_region(index, region);
    ASSERT_LE(row.size(), kRegionRowMaxBytes);
    ASSERT_EQ(row.empty(), index.empty());
    ExtentMap decoded = random_region(random, region, 50, 50);
    decoded.assign((region - 1) * kRegionBlocks, kRegionBlocks, kIndexData);
    ASSERT_TRUE(decode_region(bytes_of(row), region, decoded).ok());
    ASSERT_EQ(decoded.mapped_blocks(), index.mapped_blocks() + kRegionBlocks);
    decoded.assign((region - 1) * kRegionBlocks, kRegionBlocks, kIndexAbsent);
    ASSERT_TRUE(decoded == index);
  }
}

TEST(RegionFormat, RegionBeyondTheLastIsDamaged) {
  ExtentMap index;
  EXPECT_EQ(decode_region(bytes_of("\x01"), kMaxBlocks / kRegionBlocks, index).code(),
            Code::kDamaged);
  EXPECT_EQ(decode_region(bytes_of("\x01"), UINT64_MAX, index).code(), Code::kDamaged);
}

// Whatever decodes encodes to the same bytes; whatever does not leaves the index alone.
void decode_strictly(const std::string& row, std::uint64_t region) {
  ExtentMap index;
  index.assign(region * kRegionBlocks + 3, 4, kIndexTombstone);
  const ExtentMap before = index;
  const Status status = decode_region(bytes_of(row), region, index);
  if (status.ok()) {
    ASSERT_EQ(encode_region(index, region), row);
    ASSERT_TRUE(index.check_structure());
  } else {
    ASSERT_EQ(status.code(), Code::kDamaged);
    ASSERT_TRUE(index.same_structure(before));
  }
}

TEST(RegionFormat, TruncationsMutationsAndGarbage) {
  Random random(11);
  for (unsigned i = 0; i < 60; ++i) {
    const std::string row = encode_region(random_region(random, 7, 1 + i * 8, 4), 7);
    for (std::size_t length = 0; length < row.size(); ++length) {
      ASSERT_NO_FATAL_FAILURE(decode_strictly(row.substr(0, length), 7));
      std::string mutated = row;
      mutated[length] = static_cast<char>(random());
      ASSERT_NO_FATAL_FAILURE(decode_strictly(mutated, 7));
    }
    ASSERT_NO_FATAL_FAILURE(decode_strictly(row + '\0', 7));
  }
  for (unsigned i = 0; i < 20000; ++i) {
    std::string garbage(random() % 300, '\0');
    for (char& byte : garbage) byte = static_cast<char>(random());
    if (!garbage.empty()) garbage[0] = static_cast<char>(random() % 6);
    ASSERT_NO_FATAL_FAILURE(decode_strictly(garbage, 7));
  }
}

TEST(RegionFormat, RefusesWhatIsNotCanonical) {
  ExtentMap index;
  const std::string damaged[] = {
      std::string("\x03", 1),                           // no runs
      std::string("\x03\x02\x00\x00\x00", 5),           // two runs that are one
      std::string("\x03\x00\xFF\x07", 4),               // all data, as a run
      std::string("\x03\x00\x80\x00", 4),               // a padded number
      std::string("\x03\x00\x80\x08", 4),               // past the region
      std::string("\x03\x80\x10\x00", 4),               // begins past the region
      std::string("\x04", 1) + std::string(256, '\0'),  // an empty bitmap
      std::string("\x04", 1) + std::string(256, '\xFF'),
      std::string("\x00", 1),
      std::string("\x05", 1),
      std::string("\x01\x00", 2),
  };
  for (const std::string& row : damaged) {
    EXPECT_EQ(decode_region(bytes_of(row), 0, index).code(), Code::kDamaged)
        << testing::PrintToString(row);
  }
}

ExtentMap random_map(Random& random, unsigned steps) {
  ExtentMap map;
  const unsigned shift = static_cast<unsigned>(random() % 50);
  for (unsigned i = 0; i < steps; ++i) {
    const std::uint64_t first = random() % (kMaxBlocks >> shift);
    const std::uint64_t room = std::min<std::uint64_t>(kMaxBlocks - first, 1 + (random() & 0xFFFF));
    map.assign(first, 1 + random() % room, static_cast<std::uint32_t>(random() % 9 * 1000000));
  }
  return map;
}

TEST(MapFormat, RoundTrip) {
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    Random random(seed);
    const ExtentMap map = random_map(random, static_cast<unsigned>(random() % 3000));
    const std::size_t limit = seed % 2 == 0 ? kMapChunkBytes : 64 + random() % 500;
    const std::vector<std::string> chunks = encode_map(map, limit);
    ASSERT_EQ(chunks.empty(), map.empty());
    for (const std::string& chunk : chunks) ASSERT_LE(chunk.size(), limit);
    const Result<ExtentMap> decoded = decode_map(chunks);
    ASSERT_TRUE(decoded.ok());
    ASSERT_TRUE(*decoded == map);
    ASSERT_TRUE(decoded->check_structure());
  }
}

TEST(MapFormat, TheWholeSpaceAndItsLastBlock) {
  ExtentMap map;
  map.assign(0, kMaxBlocks, UINT32_MAX);
  map.assign(kMaxBlocks - 1, 1, 1);
  const Result<ExtentMap> decoded = decode_map(encode_map(map));
  ASSERT_TRUE(decoded.ok());
  EXPECT_TRUE(*decoded == map);
}

void decode_any(const std::vector<std::string>& chunks) {
  const Result<ExtentMap> decoded = decode_map(chunks);
  if (decoded.ok()) {
    ASSERT_TRUE(decoded->check_structure());
    const Result<ExtentMap> again = decode_map(encode_map(*decoded));
    ASSERT_TRUE(again.ok() && *again == *decoded);
  } else {
    ASSERT_EQ(decoded.status().code(), Code::kDamaged);
  }
}

TEST(MapFormat, TruncationsMutationsAndGarbage) {
  Random random(12);
  const std::vector<std::string> chunks = encode_map(random_map(random, 400), 500);
  for (std::size_t chunk = 0; chunk < std::min<std::size_t>(chunks.size(), 6); ++chunk) {
    for (std::size_t i = 0; i < chunks[chunk].size(); ++i) {
      std::vector<std::string> cut = chunks;
      cut[chunk].resize(i);
      ASSERT_NO_FATAL_FAILURE(decode_any(cut));
      std::vector<std::string> mutated = chunks;
      mutated[chunk][i] = static_cast<char>(random());
      ASSERT_NO_FATAL_FAILURE(decode_any(mutated));
    }
  }
  for (unsigned i = 0; i < 20000; ++i) {
    std::string garbage(random() % 200, '\0');
    for (char& byte : garbage) byte = static_cast<char>(random() >> (random() % 60));
    if (garbage.size() > 1) garbage[0] = 1;
    ASSERT_NO_FATAL_FAILURE(decode_any({garbage}));
  }
}

TEST(MapFormat, RefusesDisorder) {
  ExtentMap map;
  for (std::uint64_t i = 0; i < 300; ++i) map.assign(i * 10, 5, 7);
  const std::vector<std::string> chunks = encode_map(map, 200);
  ASSERT_GT(chunks.size(), 2);
  EXPECT_TRUE(decode_map(chunks).ok());
  EXPECT_EQ(decode_map(std::vector{chunks[1], chunks[0]}).status().code(), Code::kDamaged);
  EXPECT_EQ(decode_map(std::vector{chunks[0], chunks[0]}).status().code(), Code::kDamaged);
  EXPECT_EQ(decode_map(std::vector{chunks[0], std::string()}).status().code(), Code::kDamaged);
  std::string newer = chunks[0];
  newer[0] = 2;
  EXPECT_EQ(decode_map(std::vector{newer}).status().code(), Code::kDamaged);
}

}  // namespace
}  // namespace voltree
