// The short form of `tools/crash faults`: a fault at calls of the standard workload, and crashes
// within an init.
#include <gtest/gtest.h>

#include <set>

#include "tests/crash/fault_run.h"
#include "tests/crash/machine.h"

namespace voltree::crash {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr std::uint64_t kShare = 8;
#else
constexpr std::uint64_t kShare = 1;
#endif

class Fault : public ::testing::TestWithParam<FaultKind> {};

TEST_P(Fault, AtCallsOfTheStandardWorkload) {
  const std::vector<Op> ops = standard_workload();
  const std::vector<std::uint64_t> calls = calls_for(ops, 1, GetParam());
  ASSERT_GT(calls.size(), 50u);
  // Some of each kind, and all syncs: what they lose is to be seen after a power loss.
  std::set<std::uint64_t> chosen;
  const std::uint64_t step = calls.size() / 60 + 1;
  for (std::size_t i = static_cast<std::size_t>(GetParam()) % step; i < calls.size(); i += step) {
    chosen.insert(calls[i]);
  }
  const std::vector<std::uint64_t> syncs = calls_for(ops, 1, FaultKind::kLostSync);
  ASSERT_GT(syncs.size(), 50u);
  const bool fails_syncs = GetParam() == FaultKind::kIoErrorOnce ||
                           GetParam() == FaultKind::kIoErrorOn ||
                           GetParam() == FaultKind::kLostSync;
  if (fails_syncs) chosen.insert(syncs.begin(), syncs.end());
  FaultCounts counts;
  std::uint64_t number = 0;
  for (const std::uint64_t call : chosen) {
    if (number++ % kShare != 0) continue;
    const auto failure = run_with_fault(ops, 1, GetParam(), call, fails_syncs ? 3 : 1, counts);
    ASSERT_FALSE(failure) << failure->what;
  }
  EXPECT_GT(counts.runs, 25 / kShare);
}

const auto kKinds =
    ::testing::Values(FaultKind::kIoErrorOnce, FaultKind::kIoErrorOn, FaultKind::kNoSpaceOnce,
                      FaultKind::kNoSpaceOn, FaultKind::kHostFull, FaultKind::kTorn,
                      FaultKind::kShort, FaultKind::kInterrupted, FaultKind::kLostSync);
INSTANTIATE_TEST_SUITE_P(Kinds, Fault, kKinds);

// While groups of writers, flushes, forks and upkeep are under way.
class FaultTogether : public ::testing::TestWithParam<FaultKind> {};

TEST_P(FaultTogether, AtCallsOfConcurrentWorkloads) {
  constexpr std::uint64_t kSeeds = 4;
  constexpr std::size_t kCalls = 8;  // of each
  FaultCounts counts;
  for (std::uint64_t seed = 1; seed <= kSeeds; seed += kShare) {
    const std::vector<Op> ops =
        random_concurrent_workload(seed, 24, seed % 2 == 0 ? kBlockBytes : kSectorBytes);
    const std::vector<std::uint64_t> calls = calls_for(ops, seed, GetParam(), true);
    ASSERT_GE(calls.size(), kCalls) << "seed " << seed;
    for (std::size_t i = 0; i < kCalls; ++i) {
      const std::uint64_t call = calls[(2 * i + 1) * calls.size() / (2 * kCalls)];
      const auto failure = run_with_fault(ops, seed, GetParam(), call, 2, counts);
      ASSERT_FALSE(failure) << "seed " << seed << ": " << failure->what << "\n" << to_text(ops);
    }
  }
  EXPECT_GE(counts.runs, kCalls);
}

INSTANTIATE_TEST_SUITE_P(Kinds, FaultTogether, kKinds);

// A machine with two blocks to be flushed, whose first sync of a layer's file fails.
struct FirstSyncFails {
  explicit FirstSyncFails(std::uint64_t seed) : machine(world, seed) {
    begun = machine.create();
    if (begun.ok()) begun = machine.start();
    if (begun.ok()) begun = machine.perform({Op::Kind::kCreate, "a", "", 0, 4}, 1);
    if (begun.ok()) begun = machine.perform({Op::Kind::kWrite, "a", "", 0, 2}, 2);
    world.set_fault([this](const SimCall& call) {
      SimFault fault;
      if (call.act == SimAct::kSync && call.path.find("/layers/") != std::string::npos && !failed) {
        failed = true;
        fault.status = Status(Code::kIoError, "a sync that fails");
      }
      return fault;
    });
  }
  SimWorld world;
  Machine machine;
  Status begun;
  bool failed = false;
};

// The first one takes what is to be synced, and fails; the others came while it was under way.
TEST(FaultTogetherFlush, WhatWaitsForAFlushThatFailsFails) {
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    FirstSyncFails host(seed);
    ASSERT_TRUE(host.begun.ok()) << host.begun.message();
    Machine& machine = host.machine;
    const Op flush{Op::Kind::kFlush, "a", "", 0, 0};
    const Op snapshot{Op::Kind::kSnapshot, "a@s", "", 0, 0};
    std::size_t done = 0;
    const Status status = machine.perform_together(
        {flush, flush, snapshot}, 3,
        {[](std::size_t) {}, [&](std::size_t, const Status& ended) { done += ended.ok(); }});
    EXPECT_TRUE(host.failed);
    EXPECT_FALSE(status.ok());
    EXPECT_EQ(done, 0u) << "seed " << seed;
    EXPECT_TRUE(machine.store()->read_only());
  }
}

// The host tells of a failure once: settling is told, and what is synced beside it must not count.
TEST(FaultTogetherFlush, WhatIsSyncedBesideASettleThatFailsFails) {
  for (std::uint64_t seed = 1; seed <= 64; ++seed) {
    FirstSyncFails host(seed);
    ASSERT_TRUE(host.begun.ok()) << host.begun.message();
    Machine& machine = host.machine;
    const Op other = seed % 2 == 0 ? Op{Op::Kind::kFlush, "a", "", 0, 0}
                                   : Op{Op::Kind::kSnapshot, "a@s", "", 0, 0};
    bool done = false;
    (void)machine.perform_together(
        {{Op::Kind::kSettle, "", "", 0, 0}, other}, 3,
        {[](std::size_t) {},
         [&](std::size_t index, const Status& ended) { done |= index == 1 && ended.ok(); }});
    EXPECT_TRUE(host.failed);
    EXPECT_FALSE(done) << "seed " << seed;
    EXPECT_TRUE(machine.store()->read_only());
  }
}

// The sums that a write or a discard has stored are lost, or the mark that it is under way.
TEST(FaultOfAMapping, I10_WhatIsStoredAndLostIsRefused) {
  using Kind = Op::Kind;
  const Op in_place{Kind::kWrite, "a", "", 0, 2};
  const std::pair<const char*, Op> cases[] = {{".sum", {Kind::kWrite, "a", "", 2, 1}},
                                              {".sum", in_place},
                                              {".sum", {Kind::kDiscard, "a", "", 0, 1}},
                                              {"/inflight", in_place}};
  for (const auto& [file, op] : cases) {
    SimWorld world;
    Machine machine(world, 1);
    ASSERT_TRUE(machine.create().ok());
    ASSERT_TRUE(machine.start().ok());
    ASSERT_TRUE(machine.perform({Kind::kCreate, "a", "", 0, 4}, 1).ok());
    ASSERT_TRUE(machine.perform({Kind::kWrite, "a", "", 0, 2}, 2).ok());
    ASSERT_TRUE(machine.perform({Kind::kFlush, "a", "", 0, 0}, 3).ok());
    world.set_fault([file = file](const SimCall& call) {
      return call.act == SimAct::kTouch && call.path.ends_with(file)
                 ? SimFault{Status(Code::kIoError, "a page that is gone"), 0}
                 : SimFault();
    });
    EXPECT_EQ(machine.perform(op, 4).code(), Code::kIoError) << file << " " << to_text({op});
    EXPECT_TRUE(machine.store()->read_only()) << file << " " << to_text({op});
  }
}

// A shrink is done when its rows are committed; what its tombstones were stored to is lost.
TEST(FaultOfAMapping, I10_AShrinkWhoseTombstonesAreLostIsDoneAndTheLastThing) {
  using Kind = Op::Kind;
  SimWorld world;
  Machine machine(world, 1);
  ASSERT_TRUE(machine.create().ok());
  ASSERT_TRUE(machine.start().ok());
  StoreModel model;
  Tag tag = 0;
  const auto perform = [&](const Op& op) {
    const Status status = machine.perform(op, ++tag);
    if (status.ok()) model = after(model, op, tag);
    return status;
  };
  ASSERT_TRUE(perform({Kind::kCreate, "a", "", 0, 4}).ok());
  ASSERT_TRUE(perform({Kind::kWriteFua, "a", "", 0, 4}).ok());
  ASSERT_TRUE(perform({Kind::kSnapshot, "a@s", "", 0, 0}).ok());
  world.set_fault([](const SimCall& call) {
    return call.act == SimAct::kTouch && call.path.ends_with(".sum")
               ? SimFault{Status(Code::kIoError, "a page that is gone"), 0}
               : SimFault();
  });
  ASSERT_TRUE(perform({Kind::kResize, "a", "", 0, 2}).ok());
  EXPECT_TRUE(machine.store()->read_only());
  EXPECT_FALSE(perform({Kind::kWrite, "a", "", 0, 1}).ok());
  world.set_fault({});
  machine.kill();
  ASSERT_TRUE(machine.start().ok());
  ASSERT_TRUE(perform({Kind::kResize, "a", "", 0, 4}).ok());
  const auto wrong = machine.look({{model}}, false);
  EXPECT_FALSE(wrong) << *wrong;
}

// A daemon that met a failure is gone; the next one doubts the page cache, and goes by what matches
// its checksum.
class FaultThenDoubt : public ::testing::Test {
 protected:
  using Kind = Op::Kind;
  void begin(std::uint64_t seed) {
    machine_.reset();  // before its world
    world_ = std::make_unique<SimWorld>();
    machine_ = std::make_unique<Machine>(*world_, seed);
    model_ = StoreModel();
    tag_ = 0;
    ASSERT_TRUE(machine_->create().ok());
    ASSERT_TRUE(machine_->start().ok());
    ASSERT_TRUE(perform({Kind::kCreate, "a", "", 0, 4}).ok());
  }
  Status perform(const Op& op) {
    const Status status = machine_->perform(op, ++tag_);
    model_ = status.ok() ? after(model_, op, tag_) : during(model_, op, tag_).either.front();
    return status;
  }
  std::optional<std::string> fail_a_sync_and_look() {
    world_->set_fault([](const SimCall& call) {
      return call.act == SimAct::kSync ? SimFault{Status(Code::kIoError, "injected"), 0}
                                       : SimFault();
    });
    EXPECT_FALSE(perform({Kind::kFlush, "a", "", 0, 0}).ok());
    machine_->kill();
    world_->set_fault({});
    EXPECT_TRUE(machine_->start().ok());
    return machine_->look({{model_}}, false);
  }

  std::unique_ptr<SimWorld> world_;
  std::unique_ptr<Machine> machine_;
  StoreModel model_;
  Tag tag_ = 0;
};

// I5: one part of it overwrites what was acknowledged, another fails, and then nothing can be read.
TEST_F(FaultThenDoubt, WhatAWriteThatFailedHasOverwrittenIsNotLost) {
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    begin(seed);
    ASSERT_TRUE(perform({Kind::kWrite, "a", "", 0, 1}).ok());
    int writes = 0;
    world_->set_fault([&writes](const SimCall& call) {
      const bool of_layer = call.inode != nullptr && call.path.starts_with("/store/layers/");
      if (of_layer && call.act == SimAct::kWrite) ++writes;
      const bool fails =
          of_layer && writes >= 2 && (call.act == SimAct::kWrite || call.act == SimAct::kRead);
      return fails ? SimFault{Status(Code::kIoError, "injected"), 0} : SimFault();
    });
    EXPECT_FALSE(perform({Kind::kWrite, "a", "", 0, 2}).ok());  // in place, and a new block
    EXPECT_EQ(writes, 2);
    const auto wrong = fail_a_sync_and_look();
    EXPECT_FALSE(wrong) << "seed " << seed << ": " << *wrong;
  }
}

// I5: whatever becomes of the sums of one part, those of what another has overwritten are stored.
TEST_F(FaultThenDoubt, WhatAWriteWhoseSumsAreLostHasOverwrittenIsNotLost) {
  begin(1);
  ASSERT_TRUE(perform({Kind::kWrite, "a", "", 1, 1}).ok());
  world_->set_fault([](const SimCall& call) {
    return call.act == SimAct::kTouch && call.path.ends_with(".sum")
               ? SimFault{Status(Code::kIoError, "a page that is gone"), 0}
               : SimFault();
  });
  EXPECT_FALSE(perform({Kind::kWrite, "a", "", 0, 2}).ok());  // a new block, and one in place
  world_->set_fault({});
  machine_->kill();
  ASSERT_TRUE(machine_->start().ok());
  const auto wrong = machine_->look({{model_}}, false);
  EXPECT_FALSE(wrong) << *wrong;
}

// I5: what it could not punch is no hole to the next one.
TEST_F(FaultThenDoubt, ADiscardAfterOneThatFailedIsNotLost) {
  begin(1);
  ASSERT_TRUE(perform({Kind::kWrite, "a", "", 0, 2}).ok());
  ASSERT_TRUE(perform({Kind::kFlush, "a", "", 0, 0}).ok());
  int holes = 0;
  world_->set_fault([&holes](const SimCall& call) {
    const bool fails = call.act == SimAct::kPunch && holes++ == 0;
    return fails ? SimFault{Status(Code::kIoError, "injected"), 0} : SimFault();
  });
  EXPECT_FALSE(perform({Kind::kDiscard, "a", "", 0, 2}).ok());
  EXPECT_FALSE(machine_->look({{model_}}, false));
  EXPECT_TRUE(perform({Kind::kDiscard, "a", "", 0, 1}).ok());
  EXPECT_EQ(holes, 2);
  const auto wrong = fail_a_sync_and_look();
  EXPECT_FALSE(wrong) << *wrong;
}

// An init that the power cuts off at any event leaves a store, or a folder that the next init
// takes.
TEST(Init, CanBeDoneAgainWhereverItWasCutOff) {
  SimLog log;
  {
    SimWorld world;
    world.record(&log);
    Machine machine(world, 1);
    ASSERT_TRUE(machine.create().ok());
  }
  std::mt19937_64 random(1);
  SimDisk disk(log);
  std::uint64_t stores = 0;
  for (std::size_t event = 0; event <= log.size(); ++event) {
    disk.advance(event);
    for (int sample = 0; sample < 6; ++sample) {
      std::vector<SimDisk::Choice> chosen;
      for (const std::size_t index : disk.pending()) {
        // All, none, and what chance brings.
        if (sample == 0 || (sample > 1 && random() % 2 == 0)) chosen.push_back({index});
      }
      Machine machine(disk.with(chosen).to_world({}, 2), random());
      const Status made = machine.create();
      if (made.code() == Code::kExists) {
        ++stores;
      } else {
        ASSERT_TRUE(made.ok()) << "event " << event << ": " << made.message();
      }
      const Status started = machine.start();
      ASSERT_TRUE(started.ok()) << "event " << event << ": " << started.message();
      ASSERT_FALSE(machine.look({{StoreModel()}}, true));
    }
  }
  EXPECT_GT(stores, 5u);
}

TEST(Init, LeavesLayersWithoutACatalogAlone) {
  SimWorld world;
  Machine machine(world, 1);
  ASSERT_TRUE(machine.create().ok());
  ASSERT_TRUE(machine.start().ok());
  ASSERT_TRUE(machine.perform({Op::Kind::kCreate, "a", "", 0, 2}, 1).ok());
  ASSERT_TRUE(machine.perform({Op::Kind::kWrite, "a", "", 0, 2}, 2).ok());
  machine.kill();
  ASSERT_TRUE(world.apply_name({SimNameMutation::Kind::kUnlink, "/store/catalog.db", {}}).ok());
  const Status made = machine.create();
  EXPECT_EQ(made.code(), Code::kExists);
  EXPECT_NE(made.message().find("catalog.db"), std::string::npos);
}

}  // namespace
}  // namespace voltree::crash
