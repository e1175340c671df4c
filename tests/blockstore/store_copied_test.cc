// A copy of a store's folder is not the store.
#include <gmock/gmock.h>

#include "blockstore/engine.h"
#include "tests/blockstore/store_fixture.h"

namespace voltree {
namespace {

using ::testing::HasSubstr;

class StoreCopiedTest : public StoreTest {
 protected:
  void copy_folder(const std::string& from, const std::string& to) {
    FileSystem& fs = runtime_->fs();
    ok(fs.make_dir(to));
    const auto names = fs.list_dir(from);
    for (const std::string& name : *names) {
      const std::string path = from + "/" + name;
      if (fs.list_dir(path).ok()) {
        copy_folder(path, to + "/" + name);
        continue;
      }
      auto source = fs.open(path, {});
      Bytes bytes(*(*source)->size_bytes());
      ok((*source)->read_sync(bytes, 0));
      auto target = fs.open(to + "/" + name, {.create = true});
      ok((*target)->write_sync(bytes, 0));
      ok((*target)->truncate(bytes.size()));
    }
  }
  std::unique_ptr<Store> open_copy() {
    auto opened = runtime_->sync_wait(Store::open(*runtime_, "/copy", {.background_work = false}));
    EXPECT_TRUE(opened.ok()) << opened.status().message();
    return opened.ok() ? std::move(*opened) : nullptr;
  }
  Bytes read(Store& store, const std::string& name, std::uint64_t offset) {
    Bytes out(kBlockBytes);
    auto device = runtime_->sync_wait(store.open_device(name));
    ok((*device)->read(offset, out));
    return out;
  }
  static Bytes block_of(char what) { return Bytes(kBlockBytes, static_cast<std::byte>(what)); }
};

TEST_F(StoreCopiedTest, ACopyOfAnOpenStoreIsRecoveredAsAfterAPowerFailure) {
  create("a", kMiB);
  fill("a", 0, 4096, 'x');
  ok(device("a")->flush());
  fill("a", 4096, 4096, 'y');  // acknowledged, and in memory only
  copy_folder("/store", "/copy");
  auto copy = open_copy();
  const PoolInfo pool_of_copy = *runtime_->sync_wait(copy->pool());
  EXPECT_NE(pool_of_copy.uuid, store_->uuid());
  EXPECT_EQ(pool_of_copy.copied_from, store_->uuid());
  EXPECT_THAT(pool_of_copy.warning, HasSubstr("taken while that was open"));
  EXPECT_EQ(read(*copy, "a", 0), block_of('x'));
  EXPECT_EQ(read(*copy, "a", 4096), block_of('\0'));
  EXPECT_EQ(copy->counters().recovered_blocks, 0u);
  // The warning stays until all of it was read.
  ok(copy->close());
  copy = open_copy();
  EXPECT_THAT(runtime_->sync_wait(copy->pool())->warning, HasSubstr("check --data"));
  EXPECT_EQ(copy->uuid(), pool_of_copy.uuid);
  EXPECT_TRUE(runtime_->sync_wait(copy->check({.data = true, .progress = {}}))->sound());
  ok(copy->close());
  copy = open_copy();
  EXPECT_EQ(runtime_->sync_wait(copy->pool())->warning, "");
  ok(copy->close());
  // The store itself goes on: what was acknowledged survives its daemon.
  kill_and_reopen();
  EXPECT_EQ(at("a", 4096), 'y');
  EXPECT_EQ(pool().copied_from, "");
}

TEST_F(StoreCopiedTest, ACopyOfAClosedStoreHasAUuidOfItsOwn) {
  create("a", kMiB);
  fill("a", 0, kMiB, 'x');
  AttachmentRow row;
  row.target = "loop";
  row.device = "/dev/loop3";
  EXPECT_TRUE(runtime_->sync_wait(store_->add_attachment("a", row)).ok());
  const std::string uuid = store_->uuid();
  ok(store_->close());
  store_.reset();
  copy_folder("/store", "/copy");
  auto copy = open_copy();
  EXPECT_NE(copy->uuid(), uuid);
  EXPECT_THAT(runtime_->sync_wait(copy->pool())->warning, HasSubstr("copied, or moved"));
  EXPECT_EQ(runtime_->sync_wait(copy->attachments()).size(), 0u);  // that device is not of here
  EXPECT_EQ(read(*copy, "a", 4096), block_of('x'));
  ok(copy->close());
  open();
  EXPECT_EQ(store_->uuid(), uuid);
  EXPECT_EQ(runtime_->sync_wait(store_->attachments()).size(), 1u);
  EXPECT_EQ(pool().warning, "");
}

TEST_F(StoreCopiedTest, AStoreThatIsRenamedIsItself) {
  const std::string uuid = store_->uuid();
  create("a", kMiB);
  world_.reboot();
  power_cycle_and_reopen();
  EXPECT_EQ(store_->uuid(), uuid);
  EXPECT_EQ(pool().copied_from, "");
  EXPECT_EQ(pool().warning, "");
}

// The host's file system is there again, in the same boot, under another device number: it is the
// same one when it lies on the same storage, and does so under its old number no more.
class StoreMovedTest : public StoreCopiedTest {
 protected:
  static constexpr std::uint64_t kWas = 1, kIs = 2;

  void SetUp() override {
    world_.set_storage(kWas, "a file");
    StoreCopiedTest::SetUp();
    create("a", kMiB);
    fill("a", 0, 4096, 'x');
    ok(device("a")->flush());
    fill("a", 4096, 4096, 'y');
    AttachmentRow row;
    row.target = "loop";
    row.device = "/dev/loop3";
    EXPECT_TRUE(runtime_->sync_wait(store_->add_attachment("a", row)).ok());
    uuid_ = store_->uuid();
  }
  void come_back(const std::string& under_old, const std::string& under_new) {
    store_.reset();
    boot();
    world_.set_mount_count(world_.mount_count() + 1);
    world_.set_device(kIs);
    world_.set_storage(kWas, under_old);
    world_.set_storage(kIs, under_new);
    open();
  }
  void expect_copy() {
    EXPECT_NE(store_->uuid(), uuid_);
    EXPECT_EQ(pool().copied_from, uuid_);
    EXPECT_EQ(runtime_->sync_wait(store_->attachments()).size(), 0u);
    EXPECT_EQ(at("a", 0), 'x');
    EXPECT_EQ(at("a", 4096), '\0');
  }

  std::string uuid_;
};

TEST_F(StoreMovedTest, AnotherNumberOfTheSameStorageIsTheStore) {
  come_back("", "a file");
  EXPECT_EQ(store_->uuid(), uuid_);
  EXPECT_EQ(pool().copied_from, "");
  EXPECT_EQ(runtime_->sync_wait(store_->attachments()).size(), 1u);
  EXPECT_EQ(at("a", 0), 'x');
  EXPECT_EQ(at("a", 4096), 'y');
  // And back.
  ok(store_->close());
  store_.reset();
  world_.set_device(kWas);
  world_.set_storage(kWas, "a file");
  world_.set_storage(kIs, "");
  open();
  EXPECT_EQ(store_->uuid(), uuid_);
  EXPECT_EQ(pool().warning, "");
}

TEST_F(StoreMovedTest, AnotherStorageIsACopy) {
  come_back("a file", "a copy of the file");
  expect_copy();
}

TEST_F(StoreMovedTest, AnotherStorageIsACopyThoughTheOriginalIsGone) {
  come_back("", "a copy of the file");
  expect_copy();
}

TEST_F(StoreMovedTest, WhatIsThereUnderBothNumbersIsACopy) {
  come_back("a file", "a file");
  expect_copy();
}

TEST_F(StoreMovedTest, WhatCannotBeToldIsACopy) {
  come_back("", "");
  expect_copy();
}

}  // namespace
}  // namespace voltree
