// Files whose blocks a volume shares: what it reads then, and what is left of it after a crash.
#include "tests/blockstore/faulty_runtime.h"
#include "tests/blockstore/store_fixture.h"

namespace voltree {
namespace {

class StoreShareTest : public StoreTest {
 protected:
  static constexpr std::uint64_t kFileBytes = 12 * kMiB;
  static constexpr const char* kPath = "/src";

  // 'a' in the first 5 MiB, a hole of 6 MiB, 'b' in the last.
  void SetUp() override {
    StoreTest::SetUp();
    auto file = runtime_->fs().open(kPath, {.create = true});
    ASSERT_TRUE(file.ok()) << file.status().message();
    ok((*file)->truncate(kFileBytes));
    put(0, 5 * kMiB, 'a');
    put(11 * kMiB, kMiB, 'b');
    create("v", kFileBytes);
  }
  void put(std::uint64_t offset, std::uint64_t length, char what) {
    auto file = runtime_->fs().open(kPath, {});
    ok((*file)->write_sync(Bytes(length, static_cast<std::byte>(what)), offset));
  }
  Status share(const std::string& name, std::uint64_t offset, std::uint64_t length) {
    return runtime_->sync_wait(store_->share_file(name, kPath, {offset, length}));
  }
  void holds_the_file(const std::string& name) {
    EXPECT_EQ(at(name, 0, 5 * kMiB), 'a');
    EXPECT_EQ(at(name, 5 * kMiB, 6 * kMiB), '\0');
    EXPECT_EQ(at(name, 11 * kMiB, kMiB), 'b');
  }
};

TEST_F(StoreShareTest, AVolumeHoldsTheFileAndItsHoles) {
  ok(share("v", 0, kFileBytes));
  holds_the_file("v");
  EXPECT_EQ(usage("v").referenced_bytes, 6 * kMiB);
  EXPECT_EQ(store_->counters().checksum_errors, 0U);
}

TEST_F(StoreShareTest, ChangesOfEitherAreNotSeenInTheOther) {
  ok(share("v", 0, kFileBytes));
  put(0, kMiB, 'x');
  fill("v", kMiB, kMiB, 'y');
  EXPECT_EQ(at("v", 0, kMiB), 'a');
  EXPECT_EQ(at("v", kMiB, kMiB), 'y');
  Bytes got(kBlockBytes);
  auto file = runtime_->fs().open(kPath, {});
  ok((*file)->read_sync(got, kMiB));
  EXPECT_EQ(static_cast<char>(got.front()), 'a');
}

// I5: acknowledged is there when the daemon dies; I2: flushed is there when the machine does.
TEST_F(StoreShareTest, SurvivesTheDaemonUnflushed) {
  ok(share("v", 0, kFileBytes));
  kill_and_reopen();
  holds_the_file("v");
}

TEST_F(StoreShareTest, SurvivesThePowerFlushed) {
  ok(share("v", 0, kFileBytes));
  ok(device("v")->flush());
  power_cycle_and_reopen();
  holds_the_file("v");
}

// I6: without a flush each block is what it was.
TEST_F(StoreShareTest, IsAHoleAfterThePowerFailedUnflushed) {
  ok(share("v", 0, 8 * kMiB));
  ok(device("v")->flush());
  ok(share("v", 8 * kMiB, 4 * kMiB));
  power_cycle_and_reopen();
  EXPECT_EQ(at("v", 0, 5 * kMiB), 'a');
  EXPECT_EQ(at("v", 5 * kMiB, 7 * kMiB), '\0');
}

// I4: the snapshot keeps what the blocks were.
TEST_F(StoreShareTest, OverASnapshot) {
  fill("v", 0, kMiB, 'o');
  ok(store_->snapshot("v", "s"));
  ok(share("v", 0, kFileBytes));
  holds_the_file("v");
  EXPECT_EQ(at("v@s", 0, kMiB), 'o');
  EXPECT_EQ(at("v@s", kMiB, kMiB), '\0');
}

TEST_F(StoreShareTest, WhatCannotBe) {
  EXPECT_EQ(share("v", 512, kMiB).code(), Code::kInvalid);
  EXPECT_EQ(share("v", 0, kMiB + 512).code(), Code::kInvalid);
  EXPECT_EQ(share("v", 0, 2 * kFileBytes).code(), Code::kInvalid);
  EXPECT_EQ(share("nobody", 0, kMiB).code(), Code::kNotFound);
  EXPECT_EQ(code(store_->share_file("v", "/nothing", {0, kMiB})), Code::kNotFound);
  ok(store_->snapshot("v", "s"));
  EXPECT_EQ(share("v@s", 0, kMiB).code(), Code::kReadOnly);
  create("large", 2 * kFileBytes);
  EXPECT_EQ(share("large", 0, 2 * kFileBytes).code(), Code::kInvalid) << "the file is shorter";
  // What was written to keeps its contents.
  fill("v", 0, kMiB, 'w');
  EXPECT_EQ(share("v", 0, kFileBytes).code(), Code::kInvalid);
  EXPECT_EQ(at("v", 0, kMiB), 'w');
}

// A host that says what it can, and a file that changes at any moment.
class StoreShareFaultTest : public ::testing::Test {
 protected:
  using Bytes = std::vector<std::byte>;
  void SetUp() override {
    put('a');
    ASSERT_TRUE(Store::create(runtime_, "/store", {}).ok());
    auto opened = runtime_.sync_wait(Store::open(runtime_, "/store", {.background_work = false}));
    ASSERT_TRUE(opened.ok()) << opened.status().message();
    store_ = std::move(*opened);
    ASSERT_TRUE(runtime_.sync_wait(store_->create_volume("v", 1 << 20, {})).ok());
  }
  void TearDown() override { ASSERT_TRUE(runtime_.sync_wait(store_->close()).ok()); }
  void put(char what) {
    auto file = sim_.fs().open("/src", {.create = true});
    ASSERT_TRUE((*file)->write_sync(Bytes(1 << 20, static_cast<std::byte>(what)), 0).ok());
  }
  Code share() { return runtime_.sync_wait(store_->share_file("v", "/src", {0, 1 << 20})).code(); }
  char first() {
    auto device = runtime_.sync_wait(store_->open_device("v"));
    Bytes got(1 << 20);
    const Status status = runtime_.sync_wait((*device)->read(0, got));
    EXPECT_TRUE(status.ok()) << status.message();
    return static_cast<char>(got.front());
  }

  SimWorld world_;
  SimRuntime sim_{world_, {.seed = 7}};
  testing::FaultyRuntime runtime_{sim_};
  std::unique_ptr<Store> store_;
};

TEST_F(StoreShareFaultTest, AHostThatSharesNothingChangesNothing) {
  EXPECT_EQ(share(), Code::kNotSupported);
  EXPECT_EQ(first(), '\0');
}

// The sums are of what the layer got.
TEST_F(StoreShareFaultTest, AFileThatChangesMeanwhile) {
  runtime_.faults().share = true;
  runtime_.faults().after_share = [this] { put('z'); };
  EXPECT_EQ(share(), Code::kOk);
  EXPECT_EQ(first(), 'a');
  EXPECT_EQ(store_->counters().checksum_errors, 0U);
}

}  // namespace
}  // namespace voltree
