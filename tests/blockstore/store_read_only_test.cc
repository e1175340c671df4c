// A store on media that cannot be written.
#include <gmock/gmock.h>

#include "tests/blockstore/store_fixture.h"

namespace voltree {
namespace {

using ::testing::HasSubstr;

class StoreReadOnlyTest : public StoreTest {
 protected:
  void SetUp() override {
    StoreTest::SetUp();
    create("a", kMiB);
    fill("a", 0, kMiB, 'x');
    ok(store_->snapshot("a", "s"));
    fill("a", 4096, 4096, 'y');
  }
  void TearDown() override {
    world_.set_read_only(false);
    StoreTest::TearDown();
  }
  // Begins again where nothing can be written.
  void start_on_read_only_media() {
    store_.reset();
    world_.reboot();
    world_.set_read_only(true);
    boot();
  }
};

TEST_F(StoreReadOnlyTest, WhatWasClosedInOrderIsRead) {
  ok(store_->close());
  start_on_read_only_media();
  open();
  EXPECT_THAT(pool().warning, HasSubstr("mounted read-only"));
  EXPECT_TRUE(pool().read_only);
  EXPECT_EQ(at("a", 4096), 'y');
  EXPECT_EQ(at("a@s", 4096), 'x');
  EXPECT_EQ(at("a", 8192, kMiB - 8192), 'x');
  EXPECT_EQ(usage("a").exclusive_bytes, 4096u);
  sound();
}

TEST_F(StoreReadOnlyTest, EveryChangeIsRefused) {
  ok(store_->close());
  start_on_read_only_media();
  open();
  EXPECT_EQ(code(store_->create_volume("b", kMiB, std::nullopt)), Code::kReadOnly);
  EXPECT_EQ(code(store_->snapshot("a", "t")), Code::kReadOnly);
  EXPECT_EQ(code(store_->clone("a@s", "c", 0)), Code::kReadOnly);
  EXPECT_EQ(code(store_->revert("a", "s", {})), Code::kReadOnly);
  EXPECT_EQ(code(store_->rename("a", "b")), Code::kReadOnly);
  EXPECT_EQ(code(store_->resize("a", 2 * kMiB, false)), Code::kReadOnly);
  EXPECT_EQ(runtime_->sync_wait(store_->remove("a", {})).status().code(), Code::kReadOnly);
  EXPECT_EQ(code(device("a")->write(0, Bytes(4096), {})), Code::kReadOnly);
  EXPECT_EQ(code(device("a")->write_zeroes(0, 4096, {})), Code::kReadOnly);
  EXPECT_EQ(code(store_->start_scrub(0, false)), Code::kReadOnly);
}

// Nothing of it has changed, and where it can be written it goes on as if nothing had been.
TEST_F(StoreReadOnlyTest, GoesOnWhereItCanBeWritten) {
  ok(store_->close());
  start_on_read_only_media();
  open();
  EXPECT_EQ(at("a", 0), 'x');
  ok(store_->close());
  store_.reset();
  world_.set_read_only(false);
  boot();
  open();
  EXPECT_EQ(pool().warning, "");
  fill("a", 0, 4096, 'z');
  EXPECT_EQ(at("a", 0), 'z');
}

TEST_F(StoreReadOnlyTest, WhatMustRecoverIsRefused) {
  ok(device("a")->flush());
  start_on_read_only_media();
  const auto opened =
      runtime_->sync_wait(Store::open(*runtime_, "/store", {.background_work = false}));
  ASSERT_FALSE(opened.ok());
  EXPECT_EQ(opened.status().code(), Code::kReadOnly);
  EXPECT_THAT(std::string(opened.status().message()), HasSubstr("not closed in order"));
  world_.set_read_only(false);
  open();
  EXPECT_EQ(at("a", 4096), 'y');
}

}  // namespace
}  // namespace voltree
