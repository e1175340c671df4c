#include "blockstore/runtime/task.h"

#include <memory>
#include <string>

#include "tests/runtime/runtime_kinds.h"

namespace voltree {
namespace {

class TaskTest : public RuntimeTest {};
INSTANTIATE_TEST_SUITE_P(All, TaskTest, testing::Values(Kind::kUring, Kind::kPool, Kind::kSim),
                         kind_name);

Task<int> identity(int value) { co_return value; }

Task<std::uint64_t> sum_to(int count) {
  std::uint64_t sum = 0;
  for (int i = 0; i < count; ++i) sum += static_cast<std::uint64_t>(co_await identity(i));
  co_return sum;
}

TEST_P(TaskTest, AMillionSynchronousAwaitsDoNotGrowTheStack) {
  EXPECT_EQ(runtime().sync_wait(sum_to(1'000'000)), 499'999'500'000u);
}

Task<int> hop(Runtime& runtime, int count) {
  for (int i = 0; i < count; ++i) co_await ResumeOn{*Executor::current()};
  co_return runtime.executor_count() > 0 ? count : -1;
}

TEST_P(TaskTest, ManyHopsDoNotGrowTheStack) {
  EXPECT_EQ(runtime().sync_wait(hop(runtime(), 100'000)), 100'000);
}

Task<std::unique_ptr<std::string>> make_text() {
  co_return std::make_unique<std::string>("moved, not copied");
}

TEST_P(TaskTest, ValuesMayBeMoveOnly) {
  const auto body = []() -> Task<std::string> {
    const std::unique_ptr<std::string> text = co_await make_text();
    co_return *text;
  };
  EXPECT_EQ(runtime().sync_wait(body()), "moved, not copied");
}

TEST_P(TaskTest, ATaskThatIsNeverAwaitedNeverRuns) {
  bool ran = false;
  const auto body = [&]() -> Task<void> {
    ran = true;
    co_return;
  };
  { const Task<void> unused = body(); }
  EXPECT_FALSE(ran);
}

TEST_P(TaskTest, BlockingWorkRunsOffTheExecutorAndComesBack) {
  const auto body = [&]() -> Task<void> {
    Executor* const home = Executor::current();
    EXPECT_NE(home, nullptr);
    Executor* const inside = co_await runtime().run_blocking([] { return Executor::current(); });
    EXPECT_EQ(inside, nullptr);
    EXPECT_EQ(Executor::current(), home);
    co_await ResumeOn{runtime().executor(1)};
    EXPECT_EQ(Executor::current(), &runtime().executor(1));
  };
  runtime().run_until_done(body());
}

TEST_P(TaskTest, TimersFireInOrderAndNotEarly) {
  const auto body = [&]() -> Task<void> {
    const auto before = runtime().monotonic_now();
    co_await runtime().sleep_for(std::chrono::milliseconds(20));
    EXPECT_GE(runtime().monotonic_now() - before, std::chrono::milliseconds(20));
    co_await runtime().sleep_for(std::chrono::nanoseconds(0));
    co_await runtime().sleep_for(std::chrono::nanoseconds(-5));
  };
  runtime().run_until_done(body());
}

TEST_P(TaskTest, StrandJobsKeepTheirOrder) {
  std::vector<int> order;
  {
    const std::unique_ptr<Runtime::Strand> strand = runtime().make_strand("vt-test");
    for (int i = 0; i < 100; ++i) strand->post([&order, i] { order.push_back(i); });
  }  // finishes what was posted
  ASSERT_EQ(order.size(), 100u);
  EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
}

TEST_P(TaskTest, ManyBlockingJobsAtOnce) {
  std::atomic<int> done{0};
  std::atomic<int> ran{0};
  const auto job = [&]() -> Task<void> {
    const int value = co_await runtime().run_blocking([&] { return ++ran; });
    if (value > 0) ++done;
  };
  const auto body = [&]() -> Task<void> {
    for (std::size_t i = 0; i < 200; ++i) {
      spawn(runtime().executor(i % runtime().executor_count()), job());
    }
    while (done != 200) co_await runtime().sleep_for(std::chrono::milliseconds(1));
  };
  runtime().run_until_done(body());
  EXPECT_EQ(ran, 200);
}

TEST_P(TaskTest, TheWorldHasABootIdAndAClock) {
  EXPECT_FALSE(runtime().boot_id().empty());
  EXPECT_GT(runtime().wall_now(), std::chrono::hours(24 * 365 * 50));
  EXPECT_NE(runtime().random_u64(), runtime().random_u64());
}

}  // namespace
}  // namespace voltree
