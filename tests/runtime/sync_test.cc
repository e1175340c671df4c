#include "blockstore/runtime/sync.h"

#include <atomic>
#include <random>
#include <vector>

#include "tests/runtime/runtime_kinds.h"

namespace voltree {
namespace {

constexpr int kSeeds = 100;

class SyncTest : public RuntimeTest {};
INSTANTIATE_TEST_SUITE_P(All, SyncTest, testing::Values(Kind::kUring, Kind::kPool, Kind::kSim),
                         kind_name);

// Runs `scenario(runtime)` on the simulator with many seeds.
template <typename Scenario>
void on_many_seeds(Scenario scenario) {
  for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) {
    SCOPED_TRACE(seed);
    SimWorld world;
    SimRuntime runtime(world, {.seed = seed, .executors = 3});
    scenario(runtime);
  }
}

// Starts `count` coroutines made by `make(i)` over the executors and waits until all have ended.
template <typename Make>
void run_all(Runtime& runtime, std::size_t count, Make make) {
  std::atomic<std::size_t> ended{0};
  const auto body = [&](std::size_t i) -> Task<void> {
    co_await make(i);
    ++ended;
  };
  const auto all = [&]() -> Task<void> {
    for (std::size_t i = 0; i < count; ++i) {
      spawn(runtime.executor(i % runtime.executor_count()), body(i));
    }
    while (ended != count) co_await runtime.sleep_for(std::chrono::microseconds(100));
  };
  runtime.run_until_done(all());
}

void mutex_excludes(Runtime& runtime) {
  AsyncMutex mutex;
  int inside = 0;
  int total = 0;
  run_all(runtime, 20, [&](std::size_t) -> Task<void> {
    for (int i = 0; i < 50; ++i) {
      const AsyncMutex::Guard guard = co_await mutex.lock();
      EXPECT_EQ(++inside, 1);
      co_await ResumeOn{*Executor::current()};
      ++total;
      --inside;
    }
  });
  EXPECT_EQ(total, 20 * 50);
}

TEST_P(SyncTest, MutexExcludes) { mutex_excludes(runtime()); }
TEST(SyncSim, MutexExcludes) { on_many_seeds(mutex_excludes); }

TEST(SyncSim, MutexIsFirstComeFirstServed) {
  on_many_seeds([](Runtime& runtime) {
    AsyncMutex mutex;
    std::vector<std::size_t> arrived, served;
    run_all(runtime, 20, [&](std::size_t i) -> Task<void> {
      arrived.push_back(i);
      const AsyncMutex::Guard guard = co_await mutex.lock();
      served.push_back(i);
      co_await ResumeOn{*Executor::current()};
    });
    EXPECT_EQ(arrived, served);
  });
}

void event_lets_all_through(Runtime& runtime) {
  Event event;
  std::atomic<int> ready{0};
  run_all(runtime, 10, [&](std::size_t i) -> Task<void> {
    if (i == 9) {
      co_await ResumeOn{*Executor::current()};
      ready = 1;
      event.set();
      event.set();
      co_return;
    }
    co_await event.wait();
    EXPECT_EQ(ready, 1);
    EXPECT_TRUE(event.is_set());
  });
}

TEST_P(SyncTest, EventLetsAllThrough) { event_lets_all_through(runtime()); }
TEST(SyncSim, EventLetsAllThrough) { on_many_seeds(event_lets_all_through); }

void ranges_exclude(Runtime& runtime) {
  constexpr std::size_t kBlocks = 16;
  RangeLock lock;
  std::array<std::atomic<int>, kBlocks> inside{};
  run_all(runtime, 16, [&](std::size_t i) -> Task<void> {
    std::mt19937_64 random(i);
    for (int round = 0; round < 40; ++round) {
      const std::uint64_t first = random() % kBlocks;
      const BlockRange range{first, 1 + random() % (kBlocks - first)};
      const RangeLock::Guard guard = co_await lock.lock(range);
      for (std::uint64_t b = range.first; b < range.end(); ++b) EXPECT_EQ(++inside[b], 1);
      co_await ResumeOn{*Executor::current()};
      for (std::uint64_t b = range.first; b < range.end(); ++b) --inside[b];
    }
  });
}

TEST_P(SyncTest, RangesExclude) { ranges_exclude(runtime()); }
TEST(SyncSim, RangesExclude) { on_many_seeds(ranges_exclude); }

TEST(SyncSim, OverlappingRangesAreServedInOrderAndDisjointOnesAtOnce) {
  on_many_seeds([](Runtime& runtime) {
    RangeLock lock;
    std::vector<std::pair<std::size_t, BlockRange>> arrived, served;
    run_all(runtime, 12, [&](std::size_t i) -> Task<void> {
      const BlockRange range{i % 5, 1 + i % 3};
      arrived.emplace_back(i, range);
      const RangeLock::Guard guard = co_await lock.lock(range);
      served.emplace_back(i, range);
      co_await ResumeOn{*Executor::current()};
    });
    const auto place = [&](std::size_t who) {
      return std::find_if(served.begin(), served.end(),
                          [&](const auto& entry) { return entry.first == who; });
    };
    for (std::size_t a = 0; a < arrived.size(); ++a) {
      for (std::size_t b = a + 1; b < arrived.size(); ++b) {
        const BlockRange x = arrived[a].second, y = arrived[b].second;
        if (x.first >= y.end() || y.first >= x.end()) continue;
        EXPECT_LT(place(arrived[a].first), place(arrived[b].first));
      }
    }
  });
  SimWorld world;
  SimRuntime runtime(world, {});
  RangeLock lock;
  const auto body = [&]() -> Task<void> {
    // None of these waits, or this one coroutine would deadlock.
    const RangeLock::Guard a = co_await lock.lock({0, 4});
    const RangeLock::Guard b = co_await lock.lock({4, 4});
    const RangeLock::Guard none = co_await lock.lock({2, 0});
  };
  runtime.run_until_done(body());
}

void gate_waits_for_what_began_before(Runtime& runtime) {
  Gate gate;
  constexpr std::size_t kWorkers = 12;
  std::array<std::atomic<int>, kWorkers> round_of{};  // odd: inside
  run_all(runtime, kWorkers + 3, [&](std::size_t i) -> Task<void> {
    for (int round = 0; round < 20; ++round) {
      if (i < kWorkers) {
        const Gate::Token token = gate.enter();
        ++round_of[i];
        co_await ResumeOn{*Executor::current()};
        ++round_of[i];
      } else {
        std::array<int, kWorkers> before{};
        for (std::size_t w = 0; w < kWorkers; ++w) before[w] = round_of[w];
        co_await gate.drain();
        for (std::size_t w = 0; w < kWorkers; ++w) {
          if (before[w] % 2 == 1) {
            EXPECT_GT(round_of[w], before[w]);
          }
        }
      }
      co_await ResumeOn{*Executor::current()};
    }
  });
}

TEST_P(SyncTest, GateWaitsForWhatBeganBefore) { gate_waits_for_what_began_before(runtime()); }
TEST(SyncSim, GateWaitsForWhatBeganBefore) { on_many_seeds(gate_waits_for_what_began_before); }

TEST(SyncSim, GateDoesNotWaitForWhatBeganAfter) {
  SimWorld world;
  SimRuntime runtime(world, {});
  Gate gate;
  bool drained = false;
  const auto drainer = [&]() -> Task<void> {
    co_await gate.drain();
    drained = true;
  };
  Gate::Token first = gate.enter();
  spawn(runtime.executor(0), drainer());
  runtime.run_until_idle();
  EXPECT_FALSE(drained);
  Gate::Token second = gate.enter();
  first.leave();
  runtime.run_until_idle();
  EXPECT_TRUE(drained);
  // A drain behind a drain, with nothing in between, waits for the same tokens.
  drained = false;
  bool again = false;
  const auto other = [&]() -> Task<void> {
    co_await gate.drain();
    again = true;
  };
  spawn(runtime.executor(0), drainer());
  spawn(runtime.executor(0), other());
  runtime.run_until_idle();
  EXPECT_FALSE(drained || again);
  second.leave();
  runtime.run_until_idle();
  EXPECT_TRUE(drained && again);
}

}  // namespace
}  // namespace voltree
