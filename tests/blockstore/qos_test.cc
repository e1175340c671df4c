// Limits as a value, and the throttle against the simulator's clock.
#include "blockstore/qos.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <vector>

#include "blockstore/runtime/sim_runtime.h"

namespace voltree {
namespace {

using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using std::chrono::seconds;

constexpr std::uint64_t kKiB = 1024;
constexpr std::uint64_t kMiB = 1024 * kKiB;
constexpr std::uint64_t kGiB = 1024 * kMiB;

QosLimits limits_of(const QosLimits::Entries& entries) {
  QosLimits limits;
  for (const auto& [key, value] : entries) {
    const Status set = limits.set(key, value);
    EXPECT_TRUE(set.ok()) << set.message();
  }
  return limits;
}

Code check(const QosLimits::Entries& entries) { return limits_of(entries).check().code(); }

TEST(QosLimitsTest, EveryKeyIsSetAndTakenAwayByItsName) {
  QosLimits limits;
  EXPECT_EQ(qos_keys().size(), 25u);
  std::uint64_t value = 0;
  for (const std::string& key : qos_keys()) EXPECT_TRUE(limits.set(key, ++value).ok()) << key;
  const QosLimits::Entries entries = limits.entries();
  ASSERT_EQ(entries.size(), 25u);
  for (std::size_t i = 0; i < entries.size(); ++i) {
    EXPECT_EQ(entries[i].first, qos_keys()[i]);
    EXPECT_EQ(entries[i].second, i + 1);
  }
  for (const std::string& key : qos_keys()) EXPECT_TRUE(limits.set(key, 0).ok()) << key;
  EXPECT_TRUE(limits.empty());
}

TEST(QosLimitsTest, UnknownKeysAndTooMuchAreRefused) {
  QosLimits limits;
  for (const char* key : {"", "iops", "read_iops", "read_iops_sec_", "read_iops_sec_max_max",
                          "size_iops_sec_max", "READ_IOPS_SEC", "total_bytes_sec_per_gib"}) {
    EXPECT_EQ(limits.set(key, 1).code(), Code::kInvalid) << key;
  }
  EXPECT_EQ(limits.set("read_iops_sec", kQosValueMax + 1).code(), Code::kInvalid);
  EXPECT_TRUE(limits.set("read_iops_sec", kQosValueMax).ok());
}

TEST(QosLimitsTest, WhatMakesNoSenseIsRefused) {
  EXPECT_EQ(check({}), Code::kOk);
  EXPECT_EQ(check({{"read_iops_sec", 5}, {"read_iops_sec_max", 5}}), Code::kOk);
  EXPECT_EQ(check({{"read_iops_sec", 5}, {"total_iops_sec", 3}, {"write_bytes_sec", 1}}),
            Code::kOk);
  EXPECT_EQ(check({{"read_iops_sec", 5}, {"read_iops_sec_max", 4}}), Code::kInvalid);
  EXPECT_EQ(check({{"read_iops_sec_max", 4}}), Code::kInvalid);
  EXPECT_EQ(check({{"read_iops_sec", 5}, {"read_iops_sec_per_gb", 4}}), Code::kInvalid);
  EXPECT_EQ(check({{"read_iops_sec", 5}, {"read_iops_sec_per_gb_min", 4}}), Code::kInvalid);
  EXPECT_EQ(check({{"size_iops_sec", 4096}, {"total_bytes_sec", 4096}}), Code::kInvalid);
  EXPECT_EQ(check({{"size_iops_sec", 4096}, {"write_iops_sec_per_gb", 1}}), Code::kOk);
}

TEST(QosLimitsTest, PerGiBFollowsTheSize) {
  const QosLimits limits = limits_of({{"total_iops_sec_per_gb", 10},
                                      {"total_iops_sec_per_gb_min", 25},
                                      {"total_iops_sec_max", 50},
                                      {"read_bytes_sec", 7}});
  const auto at = [&limits](std::uint64_t size) {
    return resolve_qos(limits, size)[QosRate::kTotalIops];
  };
  EXPECT_EQ(at(512).per_second, 25u);
  EXPECT_EQ(at(2 * kGiB).per_second, 25u);
  EXPECT_EQ(at(3 * kGiB).per_second, 30u);
  EXPECT_EQ(at(3 * kGiB + 512).per_second, 31u);
  EXPECT_EQ(at(3 * kGiB).burst, 50u);
  EXPECT_EQ(at(100 * kGiB).per_second, 1000u);
  EXPECT_EQ(at(100 * kGiB).burst, 1000u);  // raised: a burst below the rate would be a second limit
  EXPECT_EQ(resolve_qos(limits, kGiB)[QosRate::kReadBytes].per_second, 7u);
  const QosLimits most = limits_of({{"read_bytes_sec_per_gb", kQosValueMax}});
  EXPECT_EQ(resolve_qos(most, 16384 * kGiB)[QosRate::kReadBytes].per_second, kQosValueMax);
  EXPECT_EQ(resolve_qos(most, kGiB - 512)[QosRate::kReadBytes].per_second,
            kQosValueMax - kQosValueMax / (kGiB / 512));
  EXPECT_EQ(
      resolve_qos(limits_of({{"read_iops_sec_per_gb", 1}}), 512)[QosRate::kReadIops].per_second,
      1u);
}

// --- The throttle.

using Direction = Throttle::Direction;

struct Tally {
  std::uint64_t operations = 0;
  std::uint64_t bytes = 0;
};

class ThrottleTest : public ::testing::Test {
 protected:
  // Asks once, `delay` from now.
  Task<void> ask_once(nanoseconds delay, Direction direction, std::uint64_t bytes, int who,
                      std::vector<int>& admitted) {
    co_await runtime_.sleep_for(delay);
    const Status status = co_await throttle_.admit(direction, bytes);
    EXPECT_TRUE(status.ok());
    admitted.push_back(who);
  }
  void limit(const QosLimits::Entries& entries) {
    const QosLimits limits = limits_of(entries);
    EXPECT_TRUE(limits.check().ok());
    on_executor([this, &limits] { throttle_.set(resolve_qos(limits, kGiB)); });
  }
  void on_executor(const std::function<void()>& what) {
    runtime_.run_until_done([](const std::function<void()>& body) -> Task<void> {
      body();
      co_return;
    }(what));
  }
  // Asks again and again until it is told kGone.
  Task<void> ask(Direction direction, std::uint64_t bytes, Tally& tally) {
    for (;;) {
      const Status admitted = co_await throttle_.admit(direction, bytes);
      if (!admitted.ok()) {
        EXPECT_EQ(admitted.code(), Code::kGone);
        break;
      }
      ++tally.operations;
      tally.bytes += bytes;
    }
    --askers_;
  }
  void start(Direction direction, std::uint64_t bytes, Tally& tally, int askers = 4) {
    if (started_at_.count() == 0) started_at_ = runtime_.monotonic_now();
    for (int i = 0; i < askers; ++i) {
      ++askers_;
      spawn(runtime_.executor(static_cast<std::size_t>(i) % 2), ask(direction, bytes, tally));
    }
  }
  // Lets simulated time pass; how much it has been since the first start, in seconds.
  double after(nanoseconds time) {
    runtime_.run_until_done(runtime_.sleep_for(time));
    return static_cast<double>((runtime_.monotonic_now() - started_at_).count()) / 1e9;
  }
  void end() {
    on_executor([this] { throttle_.close(); });
    const nanoseconds before = runtime_.monotonic_now();
    runtime_.run_until_done([](Gate& gate) -> Task<void> { co_await gate.drain(); }(*timers_));
    runtime_.run_until_idle();
    EXPECT_LE(runtime_.monotonic_now() - before, milliseconds(101));
    EXPECT_EQ(askers_, 0);
    EXPECT_EQ(throttle_.waiting(), 0u);
  }
  // What a rate lets through in a time, and what is admitted of it when somebody always waits.
  static void expect_between(double got, double rate, double time, double bucket, double largest) {
    EXPECT_LE(got, rate * time + std::max(bucket, largest));
    EXPECT_GE(got, rate * time - largest);
  }

  SimWorld world_;
  SimRuntime runtime_{world_, {.seed = 5}};
  std::shared_ptr<Gate> timers_ = std::make_shared<Gate>();
  Throttle throttle_{runtime_, timers_};
  nanoseconds started_at_{0};
  int askers_ = 0;
};

TEST_F(ThrottleTest, WithoutLimitsNobodyAsks) {
  EXPECT_FALSE(throttle_.active());
  limit({{"total_iops_sec", 1}});
  EXPECT_TRUE(throttle_.active());
  limit({});
  EXPECT_FALSE(throttle_.active());
}

TEST_F(ThrottleTest, OperationsAreAdmittedAtTheirRate) {
  for (const std::uint64_t rate : {3U, 100U, 5000U}) {
    limit({{"write_iops_sec", rate}});
    on_executor([this] { throttle_.reopen(); });
    Tally tally;
    started_at_ = nanoseconds(0);
    start(Direction::kWrite, 4 * kKiB, tally);
    const auto per_second = static_cast<double>(rate);
    for (int i = 0; i < 4; ++i) {
      const double time = after(seconds(5));
      expect_between(static_cast<double>(tally.operations), per_second, time, per_second / 10, 1);
    }
    end();
  }
}

TEST_F(ThrottleTest, BytesAreAdmittedAtTheirRate) {
  limit({{"total_bytes_sec", kMiB}});
  Tally tally;
  start(Direction::kRead, 64 * kKiB, tally, 2);
  start(Direction::kWrite, 4 * kKiB, tally, 2);
  start(Direction::kWrite, 512, tally, 2);
  const double time = after(seconds(10));
  expect_between(static_cast<double>(tally.bytes), kMiB, time, kMiB / 10.0, 64.0 * kKiB);
  end();
}

TEST_F(ThrottleTest, AnOperationLargerThanTheBucketGoesIntoDebt) {
  limit({{"read_bytes_sec", 100 * kKiB}});
  Tally tally;
  start(Direction::kRead, kMiB, tally, 1);
  after(milliseconds(1));
  EXPECT_EQ(tally.operations, 1u);
  const double time = after(seconds(101));
  expect_between(static_cast<double>(tally.bytes), 100.0 * kKiB, time, 10.0 * kKiB, kMiB);
  end();
}

TEST_F(ThrottleTest, ABurstIsAsFastAndAsLongAsItSays) {
  limit({{"total_iops_sec", 100}, {"total_iops_sec_max", 500}});
  Tally tally;
  start(Direction::kRead, 512, tally);
  double time = after(milliseconds(500));
  expect_between(static_cast<double>(tally.operations), 500, time, 50, 1);
  // The bucket of 500 loses 400 a second: it lasts 1.25 s, less the tenth that went at once.
  time = after(seconds(20));
  EXPECT_LE(static_cast<double>(tally.operations), 100 * time + 500);
  EXPECT_GE(static_cast<double>(tally.operations), 100 * time + 499);
  end();
}

TEST_F(ThrottleTest, LargeOperationsCountAsSeveral) {
  limit({{"write_iops_sec", 100}, {"size_iops_sec", 256 * kKiB}});
  Tally tally;
  start(Direction::kWrite, kMiB - 512, tally);
  const double time = after(seconds(10));
  expect_between(4.0 * static_cast<double>(tally.operations), 100, time, 10, 4);
  end();
}

TEST_F(ThrottleTest, EachOfSeveralLimitsHolds) {
  limit({{"total_iops_sec", 100}, {"write_iops_sec", 20}, {"read_bytes_sec", 256 * kKiB}});
  Tally reads;
  Tally writes;
  start(Direction::kRead, 4 * kKiB, reads);
  start(Direction::kWrite, 4 * kKiB, writes);
  const double time = after(seconds(10));
  expect_between(static_cast<double>(writes.operations), 20, time, 2, 1);
  expect_between(static_cast<double>(reads.bytes), 256 * kKiB, time, 25.6 * kKiB, 4 * kKiB);
  end();
}

TEST_F(ThrottleTest, ReadsDoNotWaitForWritesWithALimitOfTheirOwn) {
  limit({{"write_iops_sec", 1}, {"total_iops_sec", 1000}});
  Tally reads;
  Tally writes;
  start(Direction::kWrite, 4 * kKiB, writes);
  start(Direction::kRead, 4 * kKiB, reads);
  const double time = after(seconds(10));
  expect_between(static_cast<double>(writes.operations), 1, time, 0, 1);
  expect_between(static_cast<double>(reads.operations + writes.operations), 1000, time, 100, 1);
  end();
}

TEST_F(ThrottleTest, SmallOperationsDoNotStarveALargeOne) {
  limit({{"total_bytes_sec", kMiB}});
  Tally small;
  Tally large;
  start(Direction::kRead, 4 * kKiB, small, 8);
  start(Direction::kWrite, kMiB, large, 1);
  after(seconds(21));
  // In turn: 8 small ones and the large one, 1.03 s.
  EXPECT_GE(large.operations, 19u);
  EXPECT_GE(small.operations, 8 * 19u);
  end();
}

TEST_F(ThrottleTest, FirstComeFirstServed) {
  limit({{"write_iops_sec", 10}});
  std::vector<int> order;
  for (int who = 20; who > 0; --who) {
    spawn(runtime_.executor(static_cast<std::size_t>(who) % 2),
          ask_once(milliseconds(who), Direction::kWrite, 512, who, order));
  }
  after(seconds(3));
  ASSERT_EQ(order.size(), 20u);
  EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
  EXPECT_EQ(throttle_.delayed(), 19u);
}

TEST_F(ThrottleTest, AChangeHoldsForThoseThatWait) {
  limit({{"write_bytes_sec", 1}});
  Tally tally;
  start(Direction::kWrite, kMiB, tally);
  after(seconds(60));
  EXPECT_EQ(tally.operations, 1u);  // the others have days to go
  EXPECT_EQ(throttle_.waiting(), 4u);
  limit({{"write_bytes_sec", kMiB}});
  started_at_ = runtime_.monotonic_now();
  tally = {};
  const double time = after(seconds(10));
  expect_between(static_cast<double>(tally.bytes), kMiB, time, kMiB / 10.0, kMiB);
  end();
}

TEST_F(ThrottleTest, WithoutLimitsWhoWaitsGoesOn) {
  limit({{"write_bytes_sec", 1}});
  std::vector<int> admitted;
  for (int i = 0; i < 5; ++i) {
    spawn(runtime_.executor(0), ask_once(nanoseconds(0), Direction::kWrite, kMiB, i, admitted));
  }
  after(seconds(1));
  EXPECT_EQ(admitted.size(), 1u);
  limit({});
  runtime_.run_until_idle();
  EXPECT_EQ(admitted.size(), 5u);
}

TEST_F(ThrottleTest, CloseTellsWhoWaitsAndWhoComes) {
  limit({{"write_iops_sec", 1}});
  Tally tally;
  start(Direction::kWrite, 512, tally, 3);
  after(milliseconds(10));
  EXPECT_EQ(throttle_.waiting(), 3u);
  const nanoseconds before = runtime_.monotonic_now();
  on_executor([this] { throttle_.close(); });
  runtime_.run_until_idle();
  EXPECT_EQ(askers_, 0);
  EXPECT_LE(runtime_.monotonic_now() - before, milliseconds(1));
  EXPECT_EQ(runtime_.sync_wait(throttle_.admit(Direction::kWrite, 512)).code(), Code::kGone);
  on_executor([this] { throttle_.reopen(); });
  after(seconds(2));
  EXPECT_TRUE(runtime_.sync_wait(throttle_.admit(Direction::kWrite, 512)).ok());
}

TEST_F(ThrottleTest, AThrottleMayGoWhileItsTimerSleeps) {
  auto throttle = std::make_unique<Throttle>(runtime_, timers_);
  const QosLimits limits = limits_of({{"write_iops_sec", 1}});
  on_executor([&] { throttle->set(resolve_qos(limits, kGiB)); });
  int told = 0;
  const auto once = [](Throttle& of, int& count) -> Task<void> {
    (void)co_await of.admit(Direction::kWrite, 512);
    ++count;
  };
  for (int i = 0; i < 2; ++i) spawn(runtime_.executor(0), once(*throttle, told));
  runtime_.run_until_idle();
  on_executor([&] { throttle->close(); });
  runtime_.run_until_idle();
  EXPECT_EQ(told, 2);
  throttle.reset();
  after(seconds(1));
}

// On real threads: what ThreadSanitizer is run for.
class ThrottleThreads : public ::testing::Test {
 protected:
  void SetUp() override {
    RuntimeOptions options;
    options.executors = 2;
    options.force_pool = true;
    auto made = make_host_runtime(options);
    ASSERT_TRUE(made.ok()) << made.status().message();
    runtime_ = std::move(*made);
    throttle_ = std::make_unique<Throttle>(*runtime_, timers_);
  }
  Task<void> ask(Direction direction) {
    for (int i = 0; i < 500; ++i) {
      const Status admitted = co_await throttle_->admit(direction, 4 * kKiB);
      EXPECT_TRUE(admitted.ok());
    }
    leave();
  }
  Task<void> change() {
    const std::vector<QosLimits> all{limits_of({{"total_iops_sec", 20'000}}),
                                     limits_of({{"write_iops_sec", 10'000},
                                                {"read_bytes_sec", 40 * kMiB},
                                                {"read_bytes_sec_max", 80 * kMiB}}),
                                     limits_of({{"write_iops_sec", 1}}), QosLimits()};
    for (int i = 0; i < 100; ++i) {
      throttle_->set(resolve_qos(all[static_cast<std::size_t>(i) % all.size()], kGiB));
      co_await runtime_->sleep_for(milliseconds(1));
      EXPECT_LE(throttle_->waiting(), 8u);
    }
    leave();
  }
  void leave() {
    if (left_.fetch_sub(1) == 1) ended_.set();
  }

  std::unique_ptr<Runtime> runtime_;
  std::shared_ptr<Gate> timers_ = std::make_shared<Gate>();
  std::unique_ptr<Throttle> throttle_;
  std::atomic<int> left_{9};
  Event ended_;
};

TEST_F(ThrottleThreads, ChangesAndAskersAtOnce) {
  for (std::size_t i = 0; i < 8; ++i) {
    spawn(runtime_->executor(i % 2), ask(i < 4 ? Direction::kRead : Direction::kWrite));
  }
  spawn(runtime_->executor(0), change());
  runtime_->run_until_done([](Event& ended, Gate& timers) -> Task<void> {
    co_await ended.wait();
    co_await timers.drain();
  }(ended_, *timers_));
  EXPECT_EQ(throttle_->waiting(), 0u);
}

}  // namespace
}  // namespace voltree
