// A catalog, or its copy, whose rows are whole and do not fit together: refused, or found by check;
// repair does not build on it.
#include <gmock/gmock.h>

#include "blockstore/lineage_copy.h"
#include "blockstore/store_repair.h"
#include "tests/blockstore/catalog_fixture.h"
#include "tests/blockstore/store_fixture.h"

namespace voltree {
namespace {

using ::testing::HasSubstr;

constexpr const char* kCatalog = "/store/catalog.db";

class StoreDamagedTest : public StoreTest {
 protected:
  // a, a snapshot of it, and a clone of that; closed.
  void SetUp() override {
    StoreTest::SetUp();
    make();
  }
  void make() {
    create("a", kMiB);
    fill("a", 0, kMiB, 'x');
    ok(store_->snapshot("a", "s"));
    fill("a", 0, 4096, 'y');
    ok(store_->clone("a@s", "b", 0));
    fill("b", 4096, 4096, 'z');
    ok(store_->close());
    store_.reset();
  }
  // As new.
  void make_again() {
    store_.reset();
    runtime_.reset();  // before its world
    world_ = SimWorld();
    StoreTest::SetUp();
    make();
  }
  void TearDown() override { store_.reset(); }  // it is not sound
  Status open_status() {
    auto opened = runtime_->sync_wait(Store::open(*runtime_, "/store", {.background_work = false}));
    if (opened.ok()) store_ = std::move(opened).value();
    return opened.status();
  }
  std::string repair_words(bool apply) {
    const auto report =
        repair_store(*runtime_, "/store", {.apply = apply, .force = false, .progress = {}});
    if (!report.ok()) return std::string(report.status().message());
    std::string all;
    for (const RepairFinding& finding : report->findings) all += finding.what + "\n";
    return all;
  }
};

TEST_F(StoreDamagedTest, RowsThatDoNotFitAreRefused) {
  constexpr std::pair<const char*, const char*> kCases[] = {
      {"UPDATE layer SET owner = 99 WHERE id = 1", "belongs to node 99"},
      {"UPDATE node SET parent = (SELECT head FROM volume WHERE name = 'a') WHERE snapshot = 's'",
       "ancestry has no root"},
      {"UPDATE node SET parent = 99 WHERE snapshot = 's'", "ancestry has no root"},
      {"INSERT INTO setting VALUES ('guard_warn_free_bytes', 'much')", "much"},
      {"INSERT INTO setting VALUES ('guard_stop_free_bytes', '12 ')", "12 "},
  };
  for (const auto& [sql, message] : kCases) {
    SCOPED_TRACE(sql);
    make_again();
    testing::tamper(runtime_->fs(), kCatalog, sql);
    const Status opened = open_status();
    EXPECT_EQ(opened.code(), Code::kDamaged);
    EXPECT_THAT(std::string(opened.message()), HasSubstr(message));
  }
}

TEST_F(StoreDamagedTest, RowsThatDoNotFitAreFoundByCheck) {
  constexpr std::pair<const char*, const char*> kCases[] = {
      {"UPDATE node SET kind = 0, snapshot = NULL WHERE snapshot = 's'", "has children"},
      {"DELETE FROM layer WHERE owner = (SELECT head FROM volume WHERE name = 'b');"
       "DELETE FROM node WHERE volume = (SELECT id FROM volume WHERE name = 'b');"
       "DELETE FROM volume WHERE name = 'b';"
       "UPDATE node SET kind = 2, snapshot = NULL WHERE snapshot = 's'",
       "has 1 children instead of two or more"},
      {"UPDATE node SET volume = 99 WHERE snapshot = 's'", "belongs to volume 99"},
      {"UPDATE volume SET head = (SELECT id FROM node WHERE snapshot = 's') WHERE name = 'b'",
       "has no head"},
      {"UPDATE layer SET size_bytes = 4096 WHERE id = 1", "goes beyond its 1 blocks"},
  };
  for (const auto& [sql, message] : kCases) {
    SCOPED_TRACE(sql);
    make_again();
    testing::tamper(runtime_->fs(), kCatalog, sql);
    const Status opened = open_status();
    // Refused is as good, if it is for that.
    EXPECT_THAT(opened.ok() ? damage() : std::string(opened.message()), HasSubstr(message));
  }
}

TEST_F(StoreDamagedTest, ACopyWhoseRowsDoNotFitIsNotBuiltOn) {
  using Change = void (*)(CatalogImage&);
  constexpr std::pair<Change, const char*> kCases[] = {
      {[](CatalogImage& image) { image.volumes[1].name = image.volumes[0].name; },
       "a name is there twice"},
      {[](CatalogImage& image) { image.nodes[0].volume = 99; }, "belongs to no volume"},
      {[](CatalogImage& image) {
         image.nodes.push_back(image.nodes.front());
         for (NodeRow& row : image.nodes) {
           if (row.kind == NodeKind::kSnapshot) image.nodes.back() = row;
         }
         image.nodes.back().id = 77;
       },
       "a snapshot is there twice"},
      {[](CatalogImage& image) {
         for (NodeRow& row : image.nodes) {
           if (row.parent == kNoNode) row.parent = image.volumes[0].head;
         }
       },
       "ancestry has no root"},
      {[](CatalogImage& image) { image.volumes[0].head = 99; }, "has no head"},
      {[](CatalogImage& image) { image.layers[0].owner = 99; }, "belongs to node 99"},
      {[](CatalogImage& image) {
         image.taken_layers.push_back({88, "/file"});
       },
       "layer 00000058 was taken and is no layer"},
      {[](CatalogImage& image) {
         image.erase_items.push_back({5, 6, 7, true, "", 8});
       },
       "erase item 5 belongs to no request"},
  };
  for (const auto& [change, message] : kCases) {
    SCOPED_TRACE(message);
    make_again();
    {
      auto db = CatalogDb::open(runtime_->fs(), kCatalog);
      CatalogImage image = *(*db)->load();
      change(image);
      LineageCopy copy(*runtime_, "/store", [] {});
      ok(copy.take_up(image));
    }
    ok(runtime_->fs().unlink(kCatalog));
    EXPECT_THAT(repair_words(true), HasSubstr(message));
    // What is left are the layers, each a volume of its own.
    ok(open_status());
    EXPECT_EQ(runtime_->sync_wait(store_->names()).size(), 3u);
    EXPECT_EQ(damage(), "");
    ok(store_->close());
    store_.reset();
  }
}

}  // namespace
}  // namespace voltree
