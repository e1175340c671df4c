// The scrub: finds what has rotted, stands in nobody's way, and goes on where it was stopped.
#include <gmock/gmock.h>

#include <atomic>

#include "blockstore/layer.h"
#include "blockstore/sync_watch.h"
#include "tests/blockstore/store_fixture.h"

namespace voltree {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class StoreScrubTest : public StoreTest {
 protected:
  void damage(LayerId layer, std::uint64_t block) {
    auto file = runtime_->fs().open(Layer::data_path("/store", layer), {});
    Bytes byte(1);
    ok((*file)->read_sync(byte, block * kBlockBytes));
    byte[0] ^= std::byte{1};
    ok((*file)->write_sync(byte, block * kBlockBytes));
  }
  ScrubInfo scrub() {
    ok(store_->start_scrub(0, false));
    ok(store_->wait_scrub());
    return store_->scrub();
  }
  void pass(std::chrono::nanoseconds time) { runtime_->run_until_done(runtime_->sleep_for(time)); }
  void stop() { runtime_->run_until_done(store_->stop_scrub()); }
};

TEST_F(StoreScrubTest, FindsEachBadBlockAndWhoSeesIt) {
  create("a", 4 * kMiB);
  fill("a", 0, 4 * kMiB, 'x');
  ok(store_->snapshot("a", "s"));
  fill("a", 4096, 4096, 'y');
  ok(device("a")->flush());
  EXPECT_EQ(store_->scrub().started_ns, 0);
  const ScrubInfo clean = scrub();
  EXPECT_EQ(clean.bad_blocks, 0u);
  EXPECT_EQ(clean.done_bytes, 4 * kMiB + 4096);
  EXPECT_EQ(clean.total_bytes, clean.done_bytes);
  EXPECT_NE(clean.finished_ns, 0);
  damage(1, 1);    // the snapshot's alone
  damage(1, 255);  // and across two steps, of both
  damage(1, 256);
  const ScrubInfo found = scrub();
  EXPECT_EQ(found.bad_blocks, 3u);
  ASSERT_THAT(found.findings, SizeIs(2));
  EXPECT_EQ(found.findings[0].blocks, (BlockRange{1, 1}));
  EXPECT_THAT(found.findings[0].seen_by, ElementsAre("a@s"));
  EXPECT_EQ(found.findings[1].blocks, (BlockRange{255, 2}));
  EXPECT_THAT(found.findings[1].seen_by, ElementsAre("a", "a@s"));
  // It is told of until the next one.
  ok(store_->close());
  store_.reset();
  open();
  EXPECT_EQ(store_->scrub().bad_blocks, 3u);
  EXPECT_EQ(store_->scrub().findings[1].blocks, (BlockRange{255, 2}));
  EXPECT_THAT(store_->scrub().findings[1].seen_by, ElementsAre("a", "a@s"));
  for (const std::uint64_t block : {1, 255, 256}) damage(1, block);  // and back
  EXPECT_THAT(scrub().findings, IsEmpty());
}

TEST_F(StoreScrubTest, KeepsToItsRateAndStops) {
  create("a", 8 * kMiB);
  fill("a", 0, 8 * kMiB, 'x');
  ok(store_->start_scrub(kMiB, false));
  EXPECT_EQ(code(store_->start_scrub(0, false)), Code::kBusy);
  pass(std::chrono::milliseconds(2500));
  EXPECT_EQ(store_->scrub().done_bytes, 3 * kMiB);
  EXPECT_TRUE(store_->scrub().running);
  stop();
  EXPECT_FALSE(store_->scrub().running);
  EXPECT_EQ(store_->scrub().finished_ns, 0);
  const std::uint64_t done_bytes = store_->scrub().done_bytes;
  EXPECT_LT(done_bytes, 5 * kMiB);
  // It goes on from there, in another process, too.
  kill_and_reopen();
  EXPECT_EQ(store_->scrub().done_bytes, done_bytes);
  damage(1, 0);  // which is behind it
  EXPECT_EQ(scrub().bad_blocks, 0u);
  EXPECT_EQ(store_->scrub().done_bytes, 8 * kMiB);
  EXPECT_EQ(scrub().bad_blocks, 1u);
  damage(1, 0);
}

TEST_F(StoreScrubTest, AnewWhenAsked) {
  create("a", 8 * kMiB);
  fill("a", 0, 8 * kMiB, 'x');
  ok(store_->start_scrub(kMiB, false));
  pass(std::chrono::milliseconds(2500));
  stop();
  ok(store_->start_scrub(0, true));
  ok(store_->wait_scrub());
  EXPECT_EQ(store_->scrub().done_bytes, 8 * kMiB);
}

TEST_F(StoreScrubTest, OneThatWasCutOffIsTakenUp) {
  create("a", 8 * kMiB);
  fill("a", 0, 8 * kMiB, 'x');
  ok(store_->start_scrub(kMiB, false));
  pass(std::chrono::milliseconds(2500));
  ok(store_->close());
  store_.reset();
  auto opened = runtime_->sync_wait(Store::open(*runtime_, "/store", {.background_work = true}));
  ASSERT_TRUE(opened.ok());
  store_ = std::move(*opened);
  EXPECT_TRUE(store_->scrub().running);
  EXPECT_EQ(store_->scrub().rate_bytes, kMiB);
  ok(store_->wait_scrub());
  EXPECT_EQ(store_->scrub().done_bytes, 8 * kMiB);
  EXPECT_NE(store_->scrub().finished_ns, 0);
}

// What is written, discarded and deleted under it is no damage.
TEST_F(StoreScrubTest, WritersAreNoDamage) {
  create("a", 2 * kMiB);
  create("b", 2 * kMiB);
  fill("a", 0, 2 * kMiB, 'x');
  fill("b", 0, 2 * kMiB, 'b');
  std::atomic<bool> writing = true;
  auto volume = device("a");
  const auto write = [](BlockDevice& to, const std::atomic<bool>& go_on,
                        Runtime& runtime) -> Task<void> {
    for (std::uint64_t i = 0; go_on.load(); ++i) {
      const Bytes data(64 * kBlockBytes, static_cast<std::byte>(i));
      const std::uint64_t at = i * 17 % 8 * data.size();
      if (i % 5 == 4) {
        (void)co_await to.discard(at, data.size());
      } else {
        (void)co_await to.write(at, data, {});
      }
      co_await runtime.sleep_for(std::chrono::microseconds(10));
    }
  };
  Event ended;
  spawn(runtime_->executor(0), [](Task<void> body, Event& done) -> Task<void> {
    co_await std::move(body);
    done.set();
  }(write(*volume, writing, *runtime_), ended));
  for (int round = 0; round < 20; ++round) {
    ok(store_->start_scrub(100 * kMiB, true));
    if (round == 5) remove("b");
    if (round == 6) ok(store_->snapshot("a", "s"));
    if (round == 9) remove("a@s");
    if (round % 2 == 1) ok(store_->wait_erased(0));
    ok(store_->wait_scrub());
    EXPECT_EQ(store_->scrub().bad_blocks, 0u) << round;
  }
  writing = false;
  runtime_->run_until_done([](Event& done) -> Task<void> { co_await done.wait(); }(ended));
  EXPECT_GT(store_->counters().writes, 100u);
}

TEST_F(StoreScrubTest, AMissingLayerIsDamage) {
  create("a", kMiB);
  fill("a", 0, kMiB, 'x');
  ok(store_->close());
  store_.reset();
  SyncWatch syncs;
  ok(Layer::unlink_files(runtime_->fs(), "/store", 1, syncs));
  open();
  const ScrubInfo found = scrub();
  EXPECT_EQ(found.bad_blocks, kMiB / kBlockBytes);
  EXPECT_THAT(found.findings[0].seen_by, ElementsAre("a"));
  remove("a");
  ok(store_->wait_erased(0));
}

}  // namespace
}  // namespace voltree
