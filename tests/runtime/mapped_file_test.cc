#include "tests/runtime/runtime_kinds.h"

namespace voltree {
namespace {

class MappedFileTest : public RuntimeTest {
 protected:
  std::unique_ptr<MappedFile> map(std::uint64_t size_bytes, std::uint64_t reserve_bytes) {
    Result<std::unique_ptr<MappedFile>> file = fs().map(path("m"), size_bytes, reserve_bytes);
    EXPECT_TRUE(file.ok()) << file.status().message();
    return file.ok() ? std::move(file).value() : nullptr;
  }
  // The simulator now and then says no to keep its callers honest.
  static bool resident(MappedFile& file, std::uint64_t offset, std::uint64_t length, bool write) {
    for (int i = 0; i < 64; ++i) {
      if (file.resident(offset, length, write)) return true;
    }
    return false;
  }
};
INSTANTIATE_TEST_SUITE_P(All, MappedFileTest,
                         testing::Values(Kind::kUring, Kind::kPool, Kind::kSim), kind_name);

constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t kMi = 1 << 20;

TEST_P(MappedFileTest, ShowsTheBytesThatTheFileShows) {
  const std::unique_ptr<File> file = open("m");
  Buffer data(kPage, 1);
  ASSERT_TRUE(file->write_sync(data.span(), 0).ok());
  const std::unique_ptr<MappedFile> mapped = map(4 * kPage, kMi);
  EXPECT_EQ(mapped->size_bytes(), 4 * kPage);
  EXPECT_EQ(mapped->data()[17], std::byte{1});
  ASSERT_TRUE(mapped->populate_sync(kPage, kPage, true).ok());
  std::memset(mapped->data() + kPage, 2, kPage);
  ASSERT_TRUE(file->read_sync(data.span(), kPage).ok());
  EXPECT_TRUE(data.holds(0, kPage, 2));
  std::memset(&data[0], 3, kPage);
  ASSERT_TRUE(file->write_sync(data.span(), kPage).ok());
  EXPECT_EQ(mapped->data()[kPage], std::byte{3});
  EXPECT_TRUE(mapped->sync_sync(0, 4 * kPage).ok());
  EXPECT_TRUE(mapped->sync_sync(kPage + 1, 5).ok());
}

TEST_P(MappedFileTest, BytesSurviveTheMapping) {
  {
    const std::unique_ptr<MappedFile> mapped = map(2 * kPage, kMi);
    ASSERT_TRUE(mapped->populate_sync(0, 2 * kPage, true).ok());
    mapped->data()[kPage] = std::byte{9};
  }
  const std::unique_ptr<MappedFile> again = map(0, 4 * kMi);
  EXPECT_EQ(again->size_bytes(), 2 * kPage);
  EXPECT_EQ(again->data()[kPage], std::byte{9});
}

TEST_P(MappedFileTest, GrowsInPlace) {
  const std::unique_ptr<MappedFile> mapped = map(100, 64 * kMi);
  std::byte* const address = mapped->data();
  ASSERT_TRUE(mapped->populate_sync(0, 100, true).ok());
  mapped->data()[99] = std::byte{5};
  ASSERT_TRUE(resident(*mapped, 0, 100, true));
  ASSERT_TRUE(mapped->grow(40 * kMi).ok());
  EXPECT_EQ(mapped->data(), address);
  EXPECT_EQ(mapped->size_bytes(), 40 * kMi);
  EXPECT_FALSE(mapped->resident(0, 2 * kPage, true)) << "the rest of its chunk is not reserved";
  ASSERT_TRUE(mapped->populate_sync(40 * kMi - 1, 1, true).ok());
  mapped->data()[40 * kMi - 1] = std::byte{6};
  EXPECT_EQ(mapped->data()[99], std::byte{5});
  ASSERT_TRUE(mapped->grow(kPage).ok()) << "never shrinks";
  EXPECT_EQ(mapped->size_bytes(), 40 * kMi);
  EXPECT_EQ(mapped->grow(65 * kMi).code(), Code::kTooLarge);
  EXPECT_EQ(*open("m")->size_bytes(), 40 * kMi);
}

TEST_P(MappedFileTest, IsResidentForWritingOnlyOnceItsSpaceIsReserved) {
  const std::unique_ptr<MappedFile> mapped = map(kMi, kMi);
  ASSERT_TRUE(mapped->populate_sync(0, kMi, false).ok());
  EXPECT_TRUE(resident(*mapped, 0, kMi, false));
  EXPECT_FALSE(resident(*mapped, 0, kPage, true));
  ASSERT_TRUE(mapped->populate_sync(100, 8, true).ok());
  EXPECT_TRUE(resident(*mapped, 0, kPage, true));
  EXPECT_FALSE(resident(*mapped, 0, kMi, true));
  EXPECT_GE(*open("m")->allocated_bytes(), kPage);
  ASSERT_TRUE(mapped->punch_sync(0, 16 * kPage).ok());
  EXPECT_FALSE(resident(*mapped, 0, kPage, true)) << "the space was given back";
}

TEST_P(MappedFileTest, PunchZeroesAndGivesSpaceBack) {
  const std::unique_ptr<MappedFile> mapped = map(kMi, kMi);
  ASSERT_TRUE(mapped->populate_sync(0, kMi, true).ok());
  std::memset(mapped->data(), 7, kMi);
  ASSERT_TRUE(mapped->sync_sync(0, kMi).ok());
  const std::uint64_t before = *open("m")->allocated_bytes();
  const std::uint64_t from = 10 * kPage + 5, to = 100 * kPage + 9;
  ASSERT_TRUE(mapped->punch_sync(from, to - from).ok());
  ASSERT_TRUE(mapped->punch_sync(200 * kPage + 1, 10).ok()) << "inside a page";
  for (std::uint64_t i = 0; i < kMi; ++i) {
    const bool zero = (i >= from && i < to) || (i >= 200 * kPage + 1 && i < 200 * kPage + 11);
    ASSERT_EQ(mapped->data()[i], zero ? std::byte{0} : std::byte{7}) << i;
  }
  EXPECT_LT(*open("m")->allocated_bytes(), before);
  EXPECT_EQ(*mapped->seek_hole(0), 11 * kPage);
  EXPECT_EQ(*mapped->seek_data(11 * kPage), 100 * kPage);
  // Across a page's edge, and less than a page.
  ASSERT_TRUE(mapped->punch_sync(121 * kPage - 2, 4).ok());
  EXPECT_EQ(mapped->data()[121 * kPage - 3], std::byte{7});
  EXPECT_EQ(mapped->data()[121 * kPage - 2], std::byte{0});
  EXPECT_EQ(mapped->data()[121 * kPage + 1], std::byte{0});
  EXPECT_EQ(mapped->data()[121 * kPage + 2], std::byte{7});
}

TEST_P(MappedFileTest, AnEmptyOneIsAllHole) {
  const std::unique_ptr<MappedFile> mapped = map(kMi, std::uint64_t{32} << 30);
  EXPECT_EQ(*mapped->seek_data(0), kMi);
  EXPECT_EQ(*mapped->seek_hole(0), 0u);
  ASSERT_TRUE(mapped->populate_sync(40 * kPage, 8, true).ok());
  mapped->data()[40 * kPage] = std::byte{1};
  // A host with large folios may say a little less than that.
  EXPECT_LE(*mapped->seek_data(0), 40 * kPage);
  EXPECT_EQ(*mapped->seek_data(200 * kPage), kMi);
}

TEST_P(MappedFileTest, RangesBeyondTheEndAreRefused) {
  const std::unique_ptr<MappedFile> mapped = map(kPage, kMi);
  EXPECT_EQ(mapped->populate_sync(kPage, 1, true).code(), Code::kInvalid);
  EXPECT_EQ(mapped->punch_sync(0, kPage + 1).code(), Code::kInvalid);
  EXPECT_EQ(mapped->sync_sync(~std::uint64_t{0}, 1).code(), Code::kInvalid);
  EXPECT_FALSE(mapped->resident(0, kPage + 1, false));
  EXPECT_EQ(fs().map(path("huge"), 0, std::uint64_t{1} << 62).status().ok(), false);
}

}  // namespace
}  // namespace voltree
