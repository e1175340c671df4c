// The pool guard: levels, reserves, and what all volumes may be together.
#include <gtest/gtest.h>

#include "blockstore/pool_guard.h"
#include "tests/blockstore/store_fixture.h"

namespace voltree {
namespace {

TEST(PoolGuard, GivesOutWhatIsAboveTheLevelAndNotPromised) {
  PoolGuard guard;
  EXPECT_TRUE(guard.take(UINT64_C(1) << 60, 0));  // off
  guard.set({.stop_free_bytes = 100}, 150, 0);
  EXPECT_TRUE(guard.take(50, 0));
  EXPECT_FALSE(guard.take(1, 0));
  guard.set({.stop_free_bytes = 100}, 150, 30);
  EXPECT_FALSE(guard.take(21, 0));
  EXPECT_TRUE(guard.take(20, 0));
  EXPECT_FALSE(guard.take(1, 0));
  EXPECT_TRUE(guard.take(30, 30));  // its own
  EXPECT_FALSE(guard.take(1, 30));
  guard.set({.stop_free_bytes = 200}, 150, 0);
  EXPECT_FALSE(guard.take(1, 0));
  guard.set({}, 150, 0);
  EXPECT_TRUE(guard.take(1000, 0));
}

TEST(PoolGuard, WantsALookAfterAStride) {
  PoolGuard guard;
  guard.set({.stop_free_bytes = 1}, UINT64_C(1) << 40, 0);
  EXPECT_TRUE(guard.take(PoolGuard::kStrideBytes, 0));
  EXPECT_FALSE(guard.take(1, 0));
}

class GuardTest : public StoreTest {
 protected:
  static constexpr std::uint64_t kHostBytes = 64 * kMiB;
  void SetUp() override {
    StoreTest::SetUp();
    world_.set_capacity(kHostBytes);
  }
  PoolInfo pool() { return *runtime_->sync_wait(store_->pool()); }
  Code write_code(const std::string& name, std::uint64_t offset, std::uint64_t length, char what) {
    return code(device(name)->write(offset, Bytes(length, static_cast<std::byte>(what)), {}));
  }
  // Free beyond the stop level from now on.
  void leave(std::uint64_t bytes) {
    ok(store_->set_guard({.stop_free_bytes = pool().host.free_bytes - bytes}));
  }
};

TEST_F(GuardTest, StopsNewBlocksAndNothingElse) {
  create("a", 16 * kMiB);
  fill("a", 0, kMiB, 'x');
  ok(store_->snapshot("a", "s"));
  fill("a", 0, 64 << 10, 'y');
  leave(2 * kMiB);
  EXPECT_EQ(pool().guard.state, GuardState::kRoom);
  fill("a", 2 * kMiB, kMiB, 'z');
  EXPECT_EQ(write_code("a", 8 * kMiB, 2 * kMiB, 'z'), Code::kNoSpace);
  EXPECT_EQ(at("a", 8 * kMiB), 0);
  fill("a", 0, 64 << 10, 'w');  // in place
  ok(device("a")->flush());
  ok(device("a")->write_zeroes(2 * kMiB, kMiB, {}));
  // Nothing is free below the level: volumes can not be made, and can be deleted.
  ok(store_->set_guard({.stop_free_bytes = kHostBytes}));
  EXPECT_EQ(pool().guard.state, GuardState::kStop);
  EXPECT_NE(pool().warning.find("pool guard"), std::string::npos);
  EXPECT_EQ(code(store_->create_volume("b", kMiB, std::nullopt)), Code::kNoSpace);
  EXPECT_EQ(code(store_->clone("a", "b", 0)), Code::kNoSpace);
  EXPECT_EQ(code(store_->resize("a", 32 * kMiB, false)), Code::kNoSpace);
  EXPECT_EQ(write_code("a", 4 * kMiB, 4096, 'z'), Code::kNoSpace);
  ok(store_->revert("a", "s", {}));
  EXPECT_EQ(at("a", 0, kMiB), 'x');
  remove("a@s");
  ok(store_->resize("a", 8 * kMiB, true));
  // Space that comes back is given out again, and the level is kept with the store.
  ok(store_->set_guard({}));
  leave(2 * kMiB);
  const std::uint64_t level = pool().guard.settings.stop_free_bytes;
  kill_and_reopen();
  EXPECT_EQ(pool().guard.settings.stop_free_bytes, level);
  EXPECT_EQ(write_code("a", 2 * kMiB, 4 * kMiB, 'z'), Code::kNoSpace);
  world_.set_capacity(kHostBytes + 16 * kMiB);
  fill("a", 2 * kMiB, 4 * kMiB, 'z');
}

TEST_F(GuardTest, WarnsBelowALevel) {
  ok(store_->set_guard({.warn_free_bytes = pool().host.free_bytes - kMiB}));
  EXPECT_EQ(pool().guard.state, GuardState::kRoom);
  create("a", 16 * kMiB);
  fill("a", 0, 2 * kMiB, 'x');
  EXPECT_EQ(pool().guard.state, GuardState::kWarn);
  EXPECT_NE(pool().warning.find("free"), std::string::npos);
  fill("a", 2 * kMiB, kMiB, 'x');
}

TEST_F(GuardTest, SaysThatTheHostIsFull) {
  create("a", 128 * kMiB);
  fill("a", 0, kMiB, 'x');
  world_.set_capacity(kHostBytes - pool().host.free_bytes + PoolGuard::kFullBytes);
  EXPECT_EQ(pool().guard.state, GuardState::kRoom);
  EXPECT_EQ(pool().warning, "");
  fill("a", kMiB, kBlockBytes, 'x');
  EXPECT_EQ(pool().guard.state, GuardState::kFull);
  EXPECT_NE(pool().warning.find("ENOSPC"), std::string::npos);
  ok(store_->set_guard({.warn_free_bytes = kMiB}));
  EXPECT_EQ(pool().guard.state, GuardState::kFull);
  ok(store_->set_guard({.stop_free_bytes = kMiB}));
  EXPECT_EQ(pool().guard.state, GuardState::kStop);
  remove("a");
  ok(store_->wait_erased(0));
  ok(store_->set_guard({}));
  EXPECT_EQ(pool().guard.state, GuardState::kRoom);
}

TEST_F(GuardTest, KeepsWhatIsReserved) {
  create("a", 32 * kMiB);
  create("b", 32 * kMiB);
  fill("a", 0, kMiB, 'x');
  leave(8 * kMiB);
  ok(store_->set_reserve("a", 6 * kMiB));
  EXPECT_EQ(pool().guard.promised_bytes, 5 * kMiB);  // 1 MiB of it is used
  EXPECT_EQ(write_code("b", 0, 4 * kMiB, 'y'), Code::kNoSpace);
  fill("b", 0, 2 * kMiB, 'y');
  EXPECT_EQ(write_code("b", 4 * kMiB, kMiB, 'y'), Code::kNoSpace);
  fill("a", kMiB, 5 * kMiB, 'x');
  EXPECT_EQ(pool().guard.promised_bytes, 0u);
  EXPECT_EQ(code(store_->set_reserve("b", 30 * kMiB)), Code::kNoSpace);
  EXPECT_EQ(code(store_->set_reserve("b", 33 * kMiB)), Code::kInvalid);
  EXPECT_EQ(code(store_->set_reserve("nobody", kMiB)), Code::kNotFound);
  EXPECT_EQ(pool().guard.promised_bytes, 0u);
}

TEST_F(GuardTest, AReserveIsKeptAndGoesWithItsVolume) {
  create("a", 32 * kMiB);
  fill("a", 0, kMiB, 'x');
  ok(store_->set_reserve("a", 4 * kMiB));
  kill_and_reopen();
  EXPECT_EQ(pool().guard.promised_bytes, 3 * kMiB);
  EXPECT_EQ(runtime_->sync_wait(store_->info("a"))->settings.reserve_bytes, 4 * kMiB);
  ok(store_->snapshot("a", "s"));  // what was its own is the snapshot's now
  EXPECT_EQ(pool().guard.promised_bytes, 4 * kMiB);
  remove("a");
  EXPECT_EQ(pool().guard.promised_bytes, 0u);
  kill_and_reopen();
  EXPECT_EQ(pool().guard.promised_bytes, 0u);
  create("b", kMiB);
  ok(store_->set_reserve("b", kMiB));
  ok(store_->set_reserve("b", 0));
  EXPECT_EQ(pool().guard.promised_bytes, 0u);
}

TEST_F(GuardTest, BoundsWhatAllVolumesAreTogether) {
  ok(store_->set_guard({.overprovision_percent = 200}));
  create("a", kHostBytes);
  create("b", kHostBytes / 2);
  EXPECT_EQ(code(store_->create_volume("c", kHostBytes, std::nullopt)), Code::kNoSpace);
  EXPECT_EQ(code(store_->clone("a", "c", 0)), Code::kNoSpace);
  EXPECT_EQ(code(store_->resize("b", kHostBytes + kMiB, false)), Code::kNoSpace);
  ok(store_->resize("b", kHostBytes - kMiB, false));
  EXPECT_EQ(code(store_->set_guard({.overprovision_percent = 2'000'000})), Code::kInvalid);
  EXPECT_EQ(pool().guard.settings.overprovision_percent, 200u);
}

}  // namespace
}  // namespace voltree
