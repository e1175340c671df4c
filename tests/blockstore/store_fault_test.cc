// I10: after a failed fsync or catalog commit the store is read-only, and no fsync is tried again.
#include <gtest/gtest.h>

#include <optional>

#include "blockstore/runtime/sim_runtime.h"
#include "blockstore/store.h"
#include "tests/blockstore/faulty_runtime.h"

namespace voltree {
namespace {

using testing::FaultyRuntime;

class StoreFaultTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(Store::create(runtime_, "/store", {}).ok());
    open();
    ASSERT_TRUE(runtime_.sync_wait(store_->create_volume("a", 1 << 20, {})).ok());
    device_ = *runtime_.sync_wait(store_->open_device("a"));
  }
  // A store that fails writes that down by itself: let it finish before the machine ends.
  void TearDown() override { runtime_.run_until_done(runtime_.sleep_for(std::chrono::seconds(1))); }
  void open() {
    auto opened = runtime_.sync_wait(Store::open(runtime_, "/store", {.background_work = false}));
    ASSERT_TRUE(opened.ok()) << opened.status().message();
    store_ = std::move(*opened);
  }
  Status write(char what) {
    return runtime_.sync_wait(
        device_->write(0, std::vector<std::byte>(kBlockBytes, static_cast<std::byte>(what)), {}));
  }
  void begin(Task<Status> task, std::optional<Status>& ended) {
    spawn(sim_.executor(0), [](Task<Status> body, std::optional<Status>& out) -> Task<void> {
      out = co_await std::move(body);
    }(std::move(task), ended));
    sim_.run_until_idle();
  }
  void release() {  // what faults().hold has kept
    spawn(sim_.executor(0), [](testing::Faults& faults) -> Task<void> {
      faults.release();
      co_return;
    }(runtime_.faults()));
    sim_.run_until_idle();
  }

  SimWorld world_;
  SimRuntime sim_{world_, {.seed = 7}};
  FaultyRuntime runtime_{sim_};
  std::unique_ptr<Store> store_;
  std::shared_ptr<BlockDevice> device_;
};

TEST_F(StoreFaultTest, I10_AFailedDataSyncMakesTheStoreReadOnlyForGood) {
  ASSERT_TRUE(write('x').ok());
  runtime_.faults().fail_sync = true;
  EXPECT_EQ(runtime_.sync_wait(device_->flush()).code(), Code::kIoError);
  const int syncs = runtime_.faults().syncs;
  runtime_.faults().fail_sync = false;  // the disk is well again; what was lost is not
  EXPECT_TRUE(store_->read_only());
  EXPECT_EQ(runtime_.sync_wait(device_->flush()).code(), Code::kReadOnly);
  EXPECT_EQ(write('y').code(), Code::kReadOnly);
  EXPECT_EQ(runtime_.sync_wait(store_->snapshot("a", "s")).code(), Code::kReadOnly);
  EXPECT_EQ(runtime_.sync_wait(store_->remove("a", {})).status().code(), Code::kReadOnly);
  EXPECT_EQ(runtime_.faults().syncs, syncs);
  std::vector<std::byte> got(kBlockBytes);
  EXPECT_TRUE(runtime_.sync_wait(device_->read(0, got)).ok());
  EXPECT_EQ(got[0], std::byte{'x'});
  EXPECT_NE(runtime_.sync_wait(store_->pool())->warning.find("voltree check"), std::string::npos);
  EXPECT_FALSE(runtime_.sync_wait(store_->close()).ok());
  store_.reset();
  // Whoever opens the store next is told, until a check has read all of it.
  open();
  EXPECT_NE(runtime_.sync_wait(store_->pool())->warning.find("check --data"), std::string::npos);
  EXPECT_TRUE(runtime_.sync_wait(store_->check({.data = true, .progress = {}}))->sound());
  EXPECT_TRUE(runtime_.sync_wait(store_->close()).ok());
  store_.reset();
  open();
  EXPECT_EQ(runtime_.sync_wait(store_->pool())->warning, "");
  EXPECT_TRUE(runtime_.sync_wait(store_->close()).ok());
}

// Its row is the flush's that was beside it, and the hole is not in the file that was synced then.
TEST_F(StoreFaultTest, I2_AHoleThatIsMadeAfterAFlushIsTheNextOnes) {
  ASSERT_TRUE(write('x').ok());
  ASSERT_TRUE(runtime_.sync_wait(device_->flush()).ok());
  runtime_.faults().hold = IoKind::kPunchHole;
  std::optional<Status> discarded;
  begin(device_->discard(0, kBlockBytes), discarded);
  EXPECT_FALSE(discarded);
  ASSERT_TRUE(runtime_.sync_wait(device_->flush()).ok());
  release();
  ASSERT_TRUE(discarded && discarded->ok());
  const int syncs = runtime_.faults().syncs;
  ASSERT_TRUE(runtime_.sync_wait(device_->flush()).ok());
  EXPECT_GT(runtime_.faults().syncs, syncs);
  ASSERT_TRUE(runtime_.sync_wait(device_->flush()).ok());
  EXPECT_TRUE(runtime_.sync_wait(store_->close()).ok());
}

TEST_F(StoreFaultTest, I1_NoRowSaysPresentBeforeTheDataIsDurable) {
  ASSERT_TRUE(write('x').ok());
  runtime_.faults().fail_data_sync = true;  // the catalog could commit; it must not be asked to
  EXPECT_EQ(runtime_.sync_wait(device_->flush()).code(), Code::kIoError);
  runtime_.faults().fail_data_sync = false;
  device_.reset();
  store_.reset();
  world_.reboot();
  open();
  device_ = *runtime_.sync_wait(store_->open_device("a"));
  EXPECT_EQ(device_->referenced_bytes(), 0u);
  EXPECT_TRUE(runtime_.sync_wait(store_->close()).ok());
}

TEST_F(StoreFaultTest, I10_AFailedCatalogCommitMakesTheStoreReadOnly) {
  ASSERT_TRUE(write('x').ok());
  ASSERT_TRUE(runtime_.sync_wait(device_->flush()).ok());
  runtime_.faults().fail_write = true;  // the catalog writes synchronously, volumes do not
  EXPECT_FALSE(runtime_.sync_wait(store_->snapshot("a", "s")).ok());
  runtime_.faults().fail_write = false;
  EXPECT_TRUE(store_->read_only());
  EXPECT_EQ(write('y').code(), Code::kReadOnly);
}

TEST_F(StoreFaultTest, I3_AGroupWhoseDataIsNotDurableIsNotTaken) {
  ASSERT_TRUE(runtime_.sync_wait(store_->create_volume("b", 1 << 20, {})).ok());
  ASSERT_TRUE(runtime_.sync_wait(store_->create_volume("closed", 1 << 20, {})).ok());
  ASSERT_TRUE(write('x').ok());
  auto other = *runtime_.sync_wait(store_->open_device("b"));
  const std::vector<std::byte> block(kBlockBytes, std::byte{'y'});
  ASSERT_TRUE(runtime_.sync_wait(other->write(0, block, {})).ok());
  const std::vector<std::string> group{"b@s", "a@s", "closed@s"};
  const std::uint64_t commits = store_->counters().catalog_commits;
  runtime_.faults().fail_data_sync = true;
  EXPECT_FALSE(runtime_.sync_wait(store_->snapshot_group(group)).ok());
  runtime_.faults().fail_data_sync = false;
  EXPECT_TRUE(store_->read_only());
  EXPECT_EQ(store_->counters().catalog_commits, commits);
  EXPECT_EQ(runtime_.sync_wait(store_->list()).size(), 3u);
}

// The catalog fails at each of its writes in turn: on the way to the fork, and in the fork's own
// commit, when the volumes have been switched.
TEST_F(StoreFaultTest, I3_AGroupIsThereAfterItsCommitAndNotBefore) {
  device_.reset();
  int failures = 0;
  for (bool taken = false; !taken; ++failures) {
    ASSERT_LT(failures, 100);
    const std::string a = "a" + std::to_string(failures);
    const std::string b = "b" + std::to_string(failures);
    const std::vector<std::byte> block(kBlockBytes, std::byte{'x'});
    for (const std::string& name : {a, b}) {
      ASSERT_TRUE(runtime_.sync_wait(store_->create_volume(name, 1 << 20, {})).ok());
      auto device = *runtime_.sync_wait(store_->open_device(name));
      ASSERT_TRUE(runtime_.sync_wait(device->write(0, block, {})).ok());
    }
    const std::uint64_t before = runtime_.sync_wait(store_->list()).size();
    runtime_.faults().fail_write_from_sync = runtime_.faults().syncs + failures;
    const std::vector<std::string> group{b + "@s", a + "@s"};
    taken = runtime_.sync_wait(store_->snapshot_group(group)).ok();
    runtime_.faults().fail_write_from_sync = -1;
    EXPECT_EQ(runtime_.sync_wait(store_->list()).size(), before + (taken ? 2 : 0));
    EXPECT_EQ(store_->read_only(), !taken);
    store_.reset();
    open();
    EXPECT_EQ(runtime_.sync_wait(store_->list()).size(), before + (taken ? 2 : 0));
    const std::string state = taken ? a + "@s" : a;
    auto device = *runtime_.sync_wait(store_->open_device(state));
    std::vector<std::byte> got(kBlockBytes);
    ASSERT_TRUE(runtime_.sync_wait(device->read(0, got)).ok());
    EXPECT_EQ(got, block);
    EXPECT_TRUE(runtime_.sync_wait(store_->check({.data = true, .progress = {}}))->sound());
  }
  EXPECT_GT(failures, 3);  // two next layers, and the fork
  EXPECT_TRUE(runtime_.sync_wait(store_->close()).ok());
}

// The catalog fails at each of its writes in turn: the source's flush, and the commit itself.
TEST_F(StoreFaultTest, I3_AReplaceIsThereAfterItsCommitAndNotBefore) {
  device_.reset();
  ASSERT_TRUE(runtime_.sync_wait(store_->remove("a", {})).ok());
  const auto block = [](char what) {
    return std::vector<std::byte>(kBlockBytes, static_cast<std::byte>(what));
  };
  const auto content = [&](const std::string& name) {
    std::vector<std::byte> got(kBlockBytes);
    auto device = runtime_.sync_wait(store_->open_device(name));
    EXPECT_TRUE(device.ok()) << name << ": " << device.status().message();
    if (!device.ok()) return got;
    EXPECT_TRUE(runtime_.sync_wait((*device)->read(0, got)).ok());
    return got;
  };
  int failures = 0;
  for (bool done = false; !done; ++failures) {
    ASSERT_LT(failures, 100);
    const std::string target = "t" + std::to_string(failures);
    const std::string source = "s" + std::to_string(failures);
    for (const auto& [name, what] : {std::pair{target, 'x'}, std::pair{source, 'y'}}) {
      ASSERT_TRUE(runtime_.sync_wait(store_->create_volume(name, 1 << 20, {})).ok());
      auto device = *runtime_.sync_wait(store_->open_device(name));
      ASSERT_TRUE(runtime_.sync_wait(device->write(0, block(what), {})).ok());
    }
    runtime_.faults().fail_write_from_sync = runtime_.faults().syncs + failures;
    done = runtime_.sync_wait(store_->replace(target, source, {})).ok();
    runtime_.faults().fail_write_from_sync = -1;
    EXPECT_EQ(store_->read_only(), !done);
    for (int reopened = 0; reopened < 2; ++reopened) {
      EXPECT_EQ(content(target), block(done ? 'y' : 'x'));
      EXPECT_EQ(runtime_.sync_wait(store_->info(source)).ok(), !done);
      if (!done) {
        EXPECT_EQ(content(source), block('y')) << "it answers again";
      }
      if (reopened == 0) {
        store_.reset();
        open();
      }
    }
    EXPECT_TRUE(runtime_.sync_wait(store_->check({.data = true, .progress = {}}))->sound());
  }
  EXPECT_GT(failures, 1);
  EXPECT_TRUE(runtime_.sync_wait(store_->close()).ok());
}

// An unaligned write has read the block whose edges it keeps, as far as the engine; the host has
// not done it yet.
class HeldWriteTest : public StoreFaultTest {
 protected:
  void SetUp() override {
    StoreFaultTest::SetUp();
    for (const char what : {'x', 'y'}) {
      const std::vector<std::byte> all(std::size_t{1} << 20, static_cast<std::byte>(what));
      ASSERT_TRUE(runtime_.sync_wait(device_->write(0, all, {})).ok());
      ASSERT_TRUE(runtime_.sync_wait(device_->flush()).ok());
      if (what == 'x') {
        ASSERT_TRUE(runtime_.sync_wait(store_->snapshot("a", "s")).ok());
      }
    }
  }
  void begin_write(std::uint64_t offset_bytes) {
    runtime_.faults().hold = IoKind::kRead;
    runtime_.run_until_done([](HeldWriteTest& test, std::uint64_t at) -> Task<void> {
      spawn(*Executor::current(), [](HeldWriteTest& of, std::uint64_t where) -> Task<void> {
        const std::vector<std::byte> sector(512, std::byte{'z'});
        of.written_ = co_await of.device_->write(where, sector, {});
      }(test, at));
      co_await test.runtime_.faults().held->wait();
    }(*this, offset_bytes));
  }
  std::optional<Status> written_;
};

// I8: the bytes that it has read are not to be overwritten under it, which would be damage to it.
TEST_F(HeldWriteTest, TheEraserWaitsForReads) {
  begin_write((1 << 20) - 1024);
  ASSERT_TRUE(runtime_.sync_wait(store_->resize("a", 1 << 19, true)).ok());
  std::optional<Status> erased;
  begin(store_->wait_erased(0), erased);
  EXPECT_FALSE(erased);
  EXPECT_FALSE(written_);
  release();
  ASSERT_TRUE(erased && written_);
  EXPECT_TRUE(erased->ok()) << erased->message();
  EXPECT_EQ(written_->code(), Code::kInvalid) << written_->message();  // the volume shrank
  EXPECT_EQ(store_->counters().checksum_errors, 0u);
}

// I8: what it has read of the old contents must not come back into the new ones.
TEST_F(HeldWriteTest, ARevertComesAfterIt) {
  begin_write(512);
  std::optional<Status> reverted;
  begin(store_->revert("a", "s", {}), reverted);
  EXPECT_FALSE(reverted);
  release();
  ASSERT_TRUE(reverted && written_);
  EXPECT_TRUE(reverted->ok()) << reverted->message();
  EXPECT_TRUE(written_->ok()) << written_->message();
  std::vector<std::byte> got(kBlockBytes);
  ASSERT_TRUE(runtime_.sync_wait(device_->read(0, got)).ok());
  EXPECT_EQ(got, std::vector<std::byte>(kBlockBytes, std::byte{'x'}));
}

}  // namespace
}  // namespace voltree
