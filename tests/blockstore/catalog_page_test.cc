// The checksums of the catalog's pages: kept, heeded, and done without where they are not there.
#include "blockstore/catalog_page.h"

#include <algorithm>
#include <array>

#include "blockstore/catalog_schema.h"
#include "tests/blockstore/catalog_fixture.h"

namespace voltree::testing {
namespace {

class CatalogPageTest : public CatalogTest {
 protected:
  using Page = std::array<std::byte, kCatalogPageBytes>;

  std::uint64_t pages() {
    auto file = must(fs_.open(kPath, {}));
    return must(file->size_bytes()) / kCatalogPageBytes;
  }
  Page page(std::uint64_t number) {
    Page bytes;
    EXPECT_OK(must(fs_.open(kPath, {}))->read_sync(bytes, (number - 1) * kCatalogPageBytes));
    return bytes;
  }
  void put(std::uint64_t number, const Page& bytes) {
    EXPECT_OK(must(fs_.open(kPath, {}))->write_sync(bytes, (number - 1) * kCatalogPageBytes));
  }
  static Status add_volume(CatalogDb& db, VolumeId id) {
    return change(db, [id](CatalogDb& rows) {
      return rows.put_volume({id, "v" + std::to_string(id), kNoNode, std::nullopt, 1});
    });
  }
};

TEST_F(CatalogPageTest, EveryPageHasOneAndItIsHeeded) {
  EXPECT_OK(add_volume(*create(), 1));
  for (std::uint64_t number = 1; number <= pages(); ++number) {
    Page bytes = page(number);
    EXPECT_TRUE(take_page_sum(bytes, number)) << number;
    bytes = page(number);
    EXPECT_FALSE(take_page_sum(bytes, number + 1)) << "it is of another page";
  }
  Page first = page(1);
  first[kCatalogPageBytes / 2] ^= std::byte{1};
  put(1, first);
  EXPECT_EQ(open_status().code(), Code::kDamaged);
  EXPECT_NE(open_status().message().find("page 1"), std::string::npos);
}

TEST_F(CatalogPageTest, APageThatAnotherProgramWroteWithoutOnePasses) {
  EXPECT_OK(add_volume(*create(), 1));
  for (std::uint64_t number = 1; number <= pages(); ++number) {
    Page bytes = page(number);
    std::fill(bytes.end() - kCatalogPageReservedBytes, bytes.end(), std::byte{0});
    put(number, bytes);
  }
  {
    auto db = open();
    EXPECT_EQ(must(db->load()).volumes.size(), 1u);
    EXPECT_OK(add_volume(*db, 2));
  }
  std::uint64_t with_sum = 0;  // what the change has written
  for (std::uint64_t number = 1; number <= pages(); ++number) {
    const Page bytes = page(number);
    with_sum +=
        std::count(bytes.end() - kCatalogPageReservedBytes, bytes.end(), std::byte{0}) != 8 ? 1 : 0;
  }
  EXPECT_GT(with_sum, 0u);
  EXPECT_LT(with_sum, pages());
}

TEST_F(CatalogPageTest, ACatalogOfBeforeThereWereAnyStaysAsItIs) {
  {
    SqliteVfs vfs(fs_);
    sqlite3* db = nullptr;
    ASSERT_EQ(SQLITE_OK,
              sqlite3_open_v2(kPath, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, vfs.name()));
    const std::string marks = "PRAGMA application_id=" + std::to_string(kCatalogApplicationId) +
                              "; PRAGMA user_version=1; UPDATE format SET incompatible = 0";
    EXPECT_EQ(SQLITE_OK, sqlite3_exec(db, kCatalogSchema, nullptr, nullptr, nullptr));
    EXPECT_EQ(SQLITE_OK, sqlite3_exec(db, marks.c_str(), nullptr, nullptr, nullptr));
    EXPECT_EQ(SQLITE_OK, sqlite3_close(db));
  }
  EXPECT_EQ(page_sums_of(page(1)), PageSums::kNone);
  EXPECT_OK(add_volume(*open(), 1));
  EXPECT_OK(add_volume(*open(), 2));
  EXPECT_EQ(must(open()->load()).volumes.size(), 2u);
  EXPECT_EQ(page_sums_of(page(1)), PageSums::kNone);
}

}  // namespace
}  // namespace voltree::testing
