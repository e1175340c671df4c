// Layers whose files are missing, too short or unreadable: the rest of the store works.
#include <gmock/gmock.h>

#include "blockstore/layer.h"
#include "blockstore/sync_watch.h"
#include "tests/blockstore/store_fixture.h"

namespace voltree {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class StoreMissingTest : public StoreTest {
 protected:
  // Layer 1 is what a@s holds, layer 2 what was written after it.
  void SetUp() override {
    StoreTest::SetUp();
    create("a", kMiB);
    fill("a", 0, kMiB, 'x');
    ok(store_->snapshot("a", "s"));
    fill("a", 4096, 4096, 'y');
    create("other", kMiB);
    fill("other", 0, kMiB, 'o');
  }
  void close() {
    ok(store_->close());
    store_.reset();
  }
  void lose(LayerId layer) {
    SyncWatch syncs;
    ok(Layer::unlink_files(runtime_->fs(), "/store", layer, syncs));
  }
  void make_hole_of_sums(LayerId layer) {
    auto sums = runtime_->fs().open(Layer::sum_path("/store", layer), {});
    const std::uint64_t length = *(*sums)->size_bytes();
    ok((*sums)->truncate(0));
    ok((*sums)->truncate(length));
  }
  void cut_sums(LayerId layer, std::uint64_t length) {
    auto sums = runtime_->fs().open(Layer::sum_path("/store", layer), {});
    ok((*sums)->truncate(length));
  }
  Code read_code(const std::string& name, std::uint64_t offset) {
    Bytes out(kBlockBytes);
    return code(device(name)->read(offset, out));
  }
  NodeInfo info(const std::string& name) { return *runtime_->sync_wait(store_->info(name)); }
  // What the test left damaged is deleted, and the store is sound again: TearDown checks.
  void delete_damaged() {
    remove("a");
    remove("a@s");
    ok(store_->wait_erased(0));
  }
};

TEST_F(StoreMissingTest, TheRestOfTheStoreWorks) {
  close();
  lose(2);
  open();
  EXPECT_THAT(pool().warning, HasSubstr("00000002 is missing"));
  EXPECT_THAT(pool().warning, HasSubstr("(seen by a)"));
  EXPECT_THAT(damage(), HasSubstr("layer 00000002"));
  EXPECT_THAT(damage(), HasSubstr("seen by a)"));
  EXPECT_THAT(info("a").failed_layers, ElementsAre(2));
  EXPECT_THAT(info("a@s").failed_layers, ElementsAre());
  EXPECT_EQ(read_code("a", 4096), Code::kDamaged);
  EXPECT_EQ(at("a", 8192), 'x');
  EXPECT_EQ(at("a@s", 4096), 'x');
  EXPECT_EQ(at("other", 0, kMiB), 'o');
  // A part of a block is not changed without the rest of it; a whole one is mended.
  EXPECT_EQ(code(device("a")->write(4096, Bytes(512, std::byte{'z'}), {})), Code::kDamaged);
  fill("a", 4096, 4096, 'z');
  EXPECT_EQ(at("a", 4096), 'z');
  ok(device("a")->flush());
  ok(store_->snapshot("a", "t"));
  close();
  open();
  EXPECT_EQ(at("a@t", 4096), 'z');
  remove("a@t");
  delete_damaged();
}

TEST_F(StoreMissingTest, ASnapshotOfItIsTakenAndDeleted) {
  close();
  lose(2);
  open();
  ok(store_->snapshot("a", "t"));
  ok(store_->clone("a@t", "c", 0));
  EXPECT_EQ(read_code("c", 4096), Code::kDamaged);
  fill("c", 8192, 4096, 'c');
  EXPECT_EQ(at("c", 8192), 'c');
  EXPECT_EQ(at("c", 0), 'x');
  remove("a@t");
  remove("c");
  delete_damaged();
}

TEST_F(StoreMissingTest, TheEraseOfAMissingFileIsDoneAndSaysSo) {
  close();
  lose(2);
  open();
  remove("a");
  ok(store_->wait_erased(0));
  const auto certificates = runtime_->sync_wait(store_->certificates(0, 10));
  ASSERT_EQ(certificates->size(), 1u);
  EXPECT_THAT(certificates->front(), HasSubstr("layer 00000002 had no file to overwrite"));
  EXPECT_EQ(at("a@s", 4096), 'x');
}

TEST_F(StoreMissingTest, RangesOfAMissingLayerAreErasedToo) {
  close();
  lose(1);
  open();
  ok(store_->clone("a@s", "b", 0));
  fill("b", 0, kMiB, 'b');
  remove("a");
  remove("a@s");  // its place, and what of its layer b does not shadow, are b's
  ok(store_->wait_erased(0));
  EXPECT_EQ(at("b", 0, kMiB), 'b');
  remove("b");
  ok(store_->wait_erased(0));
}

// Its data is there, and nobody can read it through the volume any more: it is deleted all the same
// (I8).
TEST_F(StoreMissingTest, RangesOfALayerWithoutSumsAreErased) {
  close();
  ok(runtime_->fs().unlink(Layer::sum_path("/store", 1)));
  open();
  ASSERT_THAT(info("a@s").failed_layers, ElementsAre(1));
  ok(store_->resize("a", kMiB / 2, true));
  remove("a@s");  // its layer lives on in a, but for what lies beyond a's end
  ok(store_->wait_erased(0));
  auto file = runtime_->fs().open(Layer::data_path("/store", 1), {});
  Bytes got(kMiB);
  ok((*file)->read_sync(got, 0));
  EXPECT_EQ(std::count(got.begin(), got.end(), std::byte{'x'}), kMiB / 2 - 4096);
  EXPECT_EQ(std::count(got.begin() + kMiB / 2, got.end(), std::byte{0}), kMiB / 2);
  const auto certificates = runtime_->sync_wait(store_->certificates(0, 10));
  ASSERT_EQ(certificates->size(), 1u);
  EXPECT_THAT(certificates->front(), HasSubstr("\"verified_bytes\":528384"));
  remove("a");
  ok(store_->wait_erased(0));
}

TEST_F(StoreMissingTest, AFileThatIsTooShortIsDamaged) {
  close();
  auto file = runtime_->fs().open(Layer::data_path("/store", 1), {});
  ok((*file)->truncate(kMiB / 2));
  open();
  EXPECT_EQ(read_code("a@s", 0), Code::kDamaged);
  EXPECT_EQ(at("a", 4096), 'y');
  EXPECT_EQ(at("other", 0, kMiB), 'o');
  EXPECT_THAT(info("a@s").failed_layers, ElementsAre(1));
  delete_damaged();
}

TEST_F(StoreMissingTest, AStoreThatWasNotClosedOpensWithoutIt) {
  ok(device("a")->flush());
  for (const bool same_boot : {true, false}) {
    store_.reset();
    if (!same_boot) world_.reboot();
    boot();
    if (same_boot) lose(2);
    open();
    EXPECT_EQ(read_code("a", 4096), Code::kDamaged);
    EXPECT_EQ(at("a@s", 4096), 'x');
    EXPECT_EQ(at("other", 0, kMiB), 'o');
  }
  delete_damaged();
}

// In the same boot sums say what is there. Sums that are lost say nothing, and not that all of it
// was discarded.
TEST_F(StoreMissingTest, I9_LostSumsAreNoDiscard) {
  ok(device("other")->flush());
  store_.reset();
  boot();
  ok(runtime_->fs().unlink(Layer::sum_path("/store", 3)));
  open();
  EXPECT_EQ(read_code("other", 0), Code::kDamaged);
  EXPECT_EQ(at("a", 4096), 'y');
  remove("other");
  ok(store_->wait_erased(0));
}

TEST_F(StoreMissingTest, I9_SumsThatWereCutOffAreNoDiscard) {
  ok(device("other")->flush());
  store_.reset();
  boot();
  cut_sums(3, 0);
  open();
  EXPECT_EQ(read_code("other", 0), Code::kDamaged);
  remove("other");
  ok(store_->wait_erased(0));
}

// What the file has when it is long again is zeros there and no hole: as sums of blocks that never
// were.
TEST_F(StoreMissingTest, I9_SumsThatWereCutOffWithinAPageAreNoDiscard) {
  ok(device("other")->flush());
  store_.reset();
  boot();
  cut_sums(3, 1024);  // of 128 blocks
  open();
  EXPECT_EQ(read_code("other", 127 * kBlockBytes), Code::kOk);
  EXPECT_EQ(read_code("other", 128 * kBlockBytes), Code::kDamaged);
  EXPECT_EQ(at("a", 4096), 'y');
  remove("other");
  ok(store_->wait_erased(0));
}

// Sums that are all 0 are a hole on a host that stores no zeros.
TEST_F(StoreMissingTest, I5_ADiscardThatLeftAHoleForSumsIsThere) {
  ok(device("other")->flush());
  ok(device("other")->write_zeroes(0, kMiB, {}));
  store_.reset();
  boot();
  make_hole_of_sums(3);
  open();
  EXPECT_EQ(at("other", 0, kMiB), '\0');
}

TEST_F(StoreMissingTest, I9_SumsThatAreAHoleAreNoDiscard) {
  ok(device("other")->flush());
  fill("other", 0, 4096, 'z');  // in a dirty region now
  store_.reset();
  boot();
  make_hole_of_sums(3);
  open();
  EXPECT_EQ(read_code("other", 0), Code::kDamaged);
  EXPECT_EQ(at("a", 4096), 'y');
  remove("other");
  ok(store_->wait_erased(0));
}

TEST_F(StoreMissingTest, ASectorThatCannotBeReadDoesNotKeepTheStoreFromOpening) {
  ok(device("a")->flush());
  fill("a", 4096, 4096, 'z');  // in a dirty region now
  store_.reset();
  world_.reboot();
  boot();
  world_.set_fault([](const SimCall& call) -> SimFault {
    if (call.act != SimAct::kRead || call.path != Layer::data_path("/store", 2)) return {};
    return {Status(Code::kIoError, "a bad sector")};
  });
  open();
  EXPECT_EQ(read_code("a", 4096), Code::kIoError);
  EXPECT_EQ(at("a", 8192), 'x');
  EXPECT_THAT(damage(), HasSubstr("a bad sector"));
  world_.set_fault(nullptr);
}

}  // namespace
}  // namespace voltree
