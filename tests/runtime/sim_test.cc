#include <set>

#include "blockstore/runtime/sim_runtime.h"
#include "blockstore/runtime/sync.h"
#include "tests/runtime/runtime_kinds.h"

namespace voltree {
namespace {

constexpr std::size_t kPage = 4096;

// A little of everything; returns the trace hash.
std::uint64_t run_world(std::uint64_t seed) {
  SimWorld world;
  SimRuntime runtime(world, {.seed = seed, .executors = 3});
  AsyncMutex mutex;
  std::atomic<int> ended{0};
  Result<std::unique_ptr<File>> file = runtime.fs().open("/f", {.create = true});
  EXPECT_TRUE(file.ok());
  const std::unique_ptr<Runtime::Strand> strand = runtime.make_strand("strand");
  const auto worker = [&](std::size_t i) -> Task<void> {
    Buffer data(kPage, static_cast<unsigned char>(i));
    for (int round = 0; round < 5; ++round) {
      Status status = co_await (*file)->write(data.span(), runtime.random_u64() % 64 * kPage);
      EXPECT_TRUE(status.ok());
      const AsyncMutex::Guard guard = co_await mutex.lock();
      strand->post([] {});
      co_await runtime.sleep_for(std::chrono::nanoseconds(runtime.random_u64() % 5000));
      EXPECT_EQ(co_await runtime.run_blocking([&] { return round; }), round);
    }
    ++ended;
  };
  const auto body = [&]() -> Task<void> {
    for (std::size_t i = 0; i < 8; ++i) spawn(runtime.executor(i % 3), worker(i));
    while (ended != 8) co_await runtime.sleep_for(std::chrono::milliseconds(1));
  };
  runtime.run_until_done(body());
  return runtime.trace_hash();
}

TEST(Sim, OneSeedIsOneHistory) {
  std::set<std::uint64_t> histories;
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    const std::uint64_t first = run_world(seed);
    EXPECT_EQ(run_world(seed), first) << seed;
    histories.insert(first);
  }
  EXPECT_EQ(histories.size(), 50u);
}

TEST(Sim, TimeJumpsToTheNextTimer) {
  SimWorld world;
  SimRuntime runtime(world, {});
  const auto before = runtime.monotonic_now();
  runtime.run_until_done(runtime.sleep_for(std::chrono::hours(100)));
  EXPECT_GE(runtime.monotonic_now() - before, std::chrono::hours(100));
  EXPECT_LT(runtime.step_count(), 100u);
}

TEST(Sim, FilesOutliveTheRuntime) {
  SimWorld world;
  std::string boot;
  Buffer data(kPage, 6);
  {
    SimRuntime runtime(world, {.seed = 1});
    boot = runtime.boot_id();
    ASSERT_TRUE(runtime.fs().make_dir("/store").ok());
    Result<std::unique_ptr<File>> file = runtime.fs().open("/store/f", {.create = true});
    ASSERT_TRUE(file.ok());
    ASSERT_TRUE((*file)->write_sync(data.span(), kPage).ok());
  }
  SimRuntime again(world, {.seed = 2});
  EXPECT_EQ(again.boot_id(), boot);
  Result<std::unique_ptr<File>> file = again.fs().open("/store//./f", {});
  ASSERT_TRUE(file.ok());
  Buffer back(kPage);
  ASSERT_TRUE((*file)->read_sync(back.span(), kPage).ok());
  EXPECT_TRUE(back.holds(0, kPage, 6));
  world.reboot();
  EXPECT_NE(again.boot_id(), boot);
}

TEST(Sim, AFullWorldRefusesToAllocateAndLosesNothing) {
  SimWorld world({.capacity_bytes = 10 * kPage});
  SimRuntime runtime(world, {});
  Result<std::unique_ptr<File>> file = runtime.fs().open("/f", {.create = true});
  ASSERT_TRUE(file.ok());
  Buffer data(8 * kPage, 1);
  EXPECT_TRUE((*file)->write_sync(data.span(), 0).ok());
  EXPECT_EQ((*file)->write_sync(data.span(), 6 * kPage).code(), Code::kNoSpace);
  EXPECT_EQ(*(*file)->size_bytes(), 8 * kPage) << "all or nothing";
  EXPECT_TRUE((*file)->write_sync(data.span(), 0).ok()) << "in place needs no space";
  EXPECT_EQ((*file)->allocate_sync(8 * kPage, 3 * kPage).code(), Code::kNoSpace);
  EXPECT_TRUE((*file)->allocate_sync(8 * kPage, 2 * kPage).ok());
  EXPECT_EQ(runtime.fs().info("/")->free_bytes, 0u);

  Result<std::unique_ptr<MappedFile>> mapped = runtime.fs().map("/m", 4 * kPage, 4 * kPage);
  ASSERT_TRUE(mapped.ok()) << "a hole costs nothing";
  EXPECT_EQ((*mapped)->populate_sync(0, kPage, true).code(), Code::kNoSpace);
  EXPECT_TRUE((*mapped)->populate_sync(0, kPage, false).ok());
  EXPECT_FALSE((*mapped)->resident(0, kPage, true));

  file->reset();
  ASSERT_TRUE(runtime.fs().unlink("/f").ok());
  EXPECT_EQ(world.used_bytes(), 0u);
  EXPECT_TRUE((*mapped)->populate_sync(0, kPage, true).ok());
}

TEST(Sim, DirectIoMustBeAligned) {
  SimWorld world;
  SimRuntime runtime(world, {});
  Result<std::unique_ptr<File>> file = runtime.fs().open("/f", {.create = true, .direct = true});
  ASSERT_TRUE(file.ok());
  Buffer data(2 * kPage, 1);
  EXPECT_EQ((*file)->write_sync(data.span().first(512), 0).code(), Code::kInvalid);
  EXPECT_EQ((*file)->write_sync(data.span().first(kPage), 512).code(), Code::kInvalid);
  EXPECT_EQ((*file)->write_sync(data.span().subspan(8, kPage), 0).code(), Code::kInvalid);
  EXPECT_TRUE((*file)->write_sync(data.span(), 0).ok());
}

TEST(SimDeathTest, ADeadlockIsSaid) {
  SimWorld world;
  SimRuntime runtime(world, {});
  Event never;
  const auto body = [&]() -> Task<void> { co_await never.wait(); };
  EXPECT_DEATH(runtime.run_until_done(body()), "deadlock");
}

}  // namespace
}  // namespace voltree
