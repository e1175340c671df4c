// Limits of volumes in a store: kept, resolved, and held to in simulated time.
#include <gtest/gtest.h>

#include "tests/blockstore/store_fixture.h"

namespace voltree {
namespace {

using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using std::chrono::seconds;

constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;

class StoreQosTest : public StoreTest {
 protected:
  using Entries = QosLimits::Entries;

  static QosLimits limits(const Entries& entries) {
    QosLimits value;
    for (const auto& [key, number] : entries) EXPECT_TRUE(value.set(key, number).ok()) << key;
    return value;
  }
  void limit(const std::string& name, const Entries& entries) {
    ok(store_->set_qos(name, limits(entries)));
  }
  QosInfo qos(const std::string& name) {
    auto known = runtime_->sync_wait(store_->qos(name));
    EXPECT_TRUE(known.ok()) << known.status().message();
    return known.ok() ? *known : QosInfo();
  }
  // Simulated seconds that a call takes.
  double time_of(Task<Status> task) {
    const nanoseconds before = runtime_->monotonic_now();
    ok(std::move(task));
    return static_cast<double>((runtime_->monotonic_now() - before).count()) / 1e9;
  }
  void pass(nanoseconds time) { runtime_->run_until_done(runtime_->sleep_for(time)); }

  // Writes 4 KiB, in the background.
  void start_write(const std::string& name, char what) {
    ++under_way_;
    spawn(runtime_->executor(0),
          [](StoreQosTest& test, std::shared_ptr<BlockDevice> device, char byte) -> Task<void> {
            const Bytes data(kBlockBytes, static_cast<std::byte>(byte));
            const Status status = co_await device->write(0, data, {});
            test.ended_.push_back(status.code());
            --test.under_way_;
          }(*this, device(name), what));
  }

  int under_way_ = 0;
  std::vector<Code> ended_;
};

TEST_F(StoreQosTest, LimitsAreKept) {
  create("a", kMiB);
  create("b", kMiB);
  EXPECT_TRUE(qos("a").limits.empty());
  const Entries all{{"read_iops_sec", 100}, {"total_bytes_sec", 5 * kMiB}, {"size_iops_sec", 4096}};
  limit("a", all);
  EXPECT_EQ(qos("a").limits, limits(all));
  kill_and_reopen();
  EXPECT_EQ(qos("a").limits, limits(all));
  EXPECT_TRUE(qos("b").limits.empty());
  ok(store_->rename("a", "c"));
  limit("b", {{"write_iops_sec", 1}});
  limit("b", {});
  ok(runtime_->sync_wait(store_->close()));
  store_.reset();
  power_cycle_and_reopen();
  EXPECT_EQ(qos("c").limits.entries(), all);
  EXPECT_TRUE(qos("b").limits.empty());
}

TEST_F(StoreQosTest, WhatMakesNoSenseIsRefused) {
  create("a", kMiB);
  ok(store_->snapshot("a", "s"));
  limit("a", {{"read_iops_sec", 100}});
  EXPECT_EQ(code(store_->set_qos("a", limits({{"read_iops_sec_max", 5}}))), Code::kInvalid);
  EXPECT_EQ(code(store_->set_qos("a@s", limits({{"read_iops_sec", 5}}))), Code::kInvalid);
  EXPECT_EQ(code(store_->set_qos("b", limits({{"read_iops_sec", 5}}))), Code::kNotFound);
  EXPECT_EQ(runtime_->sync_wait(store_->qos("a@s")).status().code(), Code::kInvalid);
  EXPECT_EQ(qos("a").limits, limits({{"read_iops_sec", 100}}));
}

TEST_F(StoreQosTest, ClonesInheritNothingAndALostHeadKeepsNothing) {
  create("a", kMiB);
  limit("a", {{"read_iops_sec", 100}});
  ok(store_->snapshot("a", "s"));
  ok(store_->clone("a@s", "b", 0));
  ok(store_->clone("a", "c", 0));
  EXPECT_TRUE(qos("b").limits.empty());
  EXPECT_TRUE(qos("c").limits.empty());
  remove("a");
  EXPECT_EQ(runtime_->sync_wait(store_->qos("a")).status().code(), Code::kNotFound);
  limit("b", {{"read_iops_sec", 100}});
  remove("b");
  remove("a@s");
  kill_and_reopen();
  create("a", kMiB);
  create("b", kMiB);
  EXPECT_TRUE(qos("a").limits.empty());
  EXPECT_TRUE(qos("b").limits.empty());
}

TEST_F(StoreQosTest, PerGiBFollowsResizeAndRevert) {
  create("a", kGiB);
  limit("a", {{"read_iops_sec_per_gb", 10}});
  const auto rate = [this] { return qos("a").effective[QosRate::kReadIops].per_second; };
  // What the open volume does, not only what is said of it: a full bucket, and a second's worth.
  const auto reads_of_a_second = [this](std::uint64_t per_second) {
    pass(seconds(1));
    const std::uint64_t count = per_second + per_second / 10;
    const auto read = [](std::shared_ptr<BlockDevice> from, std::uint64_t times) -> Task<Status> {
      Bytes got(kBlockBytes);
      for (std::uint64_t i = 0; i < times; ++i) {
        VT_CO_RETURN_IF_ERROR(co_await from->read(0, got));
      }
      co_return Status();
    };
    EXPECT_NEAR(time_of(read(device("a"), count)), 1.0, 0.01) << per_second;
  };
  EXPECT_EQ(rate(), 10u);
  reads_of_a_second(10);
  ok(store_->snapshot("a", "s"));
  ok(store_->resize("a", 5 * kGiB, false));
  EXPECT_EQ(rate(), 50u);
  reads_of_a_second(50);
  ok(store_->resize("a", 2 * kGiB, true));
  EXPECT_EQ(rate(), 20u);
  reads_of_a_second(20);
  ok(store_->revert("a", "s", {}));
  EXPECT_EQ(rate(), 10u);
  reads_of_a_second(10);
  kill_and_reopen();
  reads_of_a_second(10);
}

TEST_F(StoreQosTest, ReadsAndWritesAreHeldToTheirBytes) {
  create("a", 8 * kMiB);
  ok(store_->snapshot("a", "s"));
  limit("a", {{"total_bytes_sec", kMiB}});
  Bytes data(kMiB, std::byte{'x'});
  EXPECT_LE(time_of(device("a")->write(0, data, {})), 0.01);  // the bucket is full: into debt
  EXPECT_NEAR(time_of(device("a")->write(kMiB, data, {.fua = true})), 1.0, 0.01);
  EXPECT_LE(time_of(device("a")->flush()), 0.01);
  EXPECT_NEAR(time_of(device("a")->read(0, data)), 1.0, 0.01);
  EXPECT_LE(time_of(device("a@s")->read(0, data)), 0.01);  // limits are the volume's own
  limit("a", {});
  EXPECT_LE(time_of(device("a")->read(0, data)), 0.01);
}

TEST_F(StoreQosTest, ZeroingIsOneOperationAndNoBytes) {
  create("a", 64 * kMiB);
  limit("a", {{"write_bytes_sec", 4096}, {"write_iops_sec", 10}});
  EXPECT_LE(time_of(device("a")->write_zeroes(0, 64 * kMiB, {})), 0.01);
  EXPECT_NEAR(time_of(device("a")->discard(0, 64 * kMiB)), 0.1, 0.01);
}

TEST_F(StoreQosTest, SnapshotsAndFlushesDoNotWait) {
  create("a", kMiB);
  fill("a", 0, kMiB, 'x');
  limit("a", {{"write_iops_sec", 1}});
  start_write("a", '1');
  pass(milliseconds(1));  // in this order
  start_write("a", '2');
  pass(milliseconds(500));
  EXPECT_EQ(under_way_, 1);
  EXPECT_EQ(qos("a").waiting, 1u);
  EXPECT_LE(time_of(store_->snapshot("a", "s")), 0.1);
  EXPECT_LE(time_of(device("a")->flush()), 0.1);
  EXPECT_LE(time_of(store_->resize("a", 2 * kMiB, false)), 0.1);
  EXPECT_EQ(under_way_, 1);
  pass(seconds(1));
  EXPECT_EQ(under_way_, 0);
  EXPECT_EQ(at("a@s", 0), '1');
  EXPECT_EQ(at("a", 0), '2');
  EXPECT_EQ(qos("a").delayed, 1u);
}

TEST_F(StoreQosTest, WhoWaitsForADeletedVolumeIsTold) {
  create("a", kMiB);
  limit("a", {{"write_iops_sec", 1}});
  for (int i = 0; i < 3; ++i) start_write("a", 'x');
  pass(milliseconds(10));
  EXPECT_EQ(under_way_, 2);
  remove("a");
  runtime_->run_until_idle();
  EXPECT_EQ(ended_, (std::vector<Code>{Code::kOk, Code::kGone, Code::kGone}));
}

TEST_F(StoreQosTest, ClosingTheStoreWaitsForNoLimit) {
  create("a", kMiB);
  limit("a", {{"write_iops_sec", 1}});
  for (int i = 0; i < 3; ++i) start_write("a", 'x');
  pass(milliseconds(10));
  EXPECT_LE(time_of(store_->close()), 0.2);
  runtime_->run_until_idle();
  EXPECT_EQ(ended_, (std::vector<Code>{Code::kOk, Code::kGone, Code::kGone}));
  store_.reset();
}

TEST_F(StoreQosTest, LiftedLimitsHoldNobodyAndStayInTheCatalog) {
  create("a", kMiB);
  limit("a", {{"write_iops_sec", 1}});
  for (int i = 0; i < 3; ++i) start_write("a", 'x');
  pass(milliseconds(10));
  runtime_->run_until_done(store_->lift_limits());
  runtime_->run_until_idle();
  EXPECT_EQ(ended_, (std::vector<Code>{Code::kOk, Code::kOk, Code::kOk}));
  limit("a", {{"write_iops_sec", 2}});
  start_write("a", 'y');
  start_write("a", 'y');
  runtime_->run_until_idle();
  EXPECT_EQ(under_way_, 0);
  pass(seconds(5));  // the clock that was set for those who waited rings once more
  kill_and_reopen();
  EXPECT_EQ(qos("a").effective[QosRate::kWriteIops].per_second, 2u);
}

}  // namespace
}  // namespace voltree
