// A file that becomes a volume: wherever the power fails or the daemon dies, there is the file as
// it was, or the volume, whole; never both, and never neither. The model has files as nodes.
#include <gtest/gtest.h>

#include <functional>

#include "blockstore/store_repair.h"
#include "tests/crash/crash_run.h"
#include "tests/crash/fault_run.h"
#include "tests/crash/machine.h"

namespace voltree::crash {
namespace {

using Kind = Op::Kind;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr std::size_t kShare = 8;
#else
constexpr std::size_t kShare = 1;
#endif

// A file whose end lies within a block.
std::vector<Op> taking(std::uint64_t volume_blocks) {
  return {{Kind::kPutFile, "/in/f", "", 0, 19, kSectorBytes},
          {Kind::kTake, "t", "/in/f", 0, volume_blocks}};
}

void hold(std::vector<Op> ops, const ExploreOptions& options, Counts& counts) {
  Recording recording;
  const std::optional<Failure> wrong = record(ops, options.seed, recording);
  ASSERT_FALSE(wrong) << to_text(ops) << wrong->what;
  const std::optional<Failure> failure = explore(recording, options, counts);
  EXPECT_FALSE(failure) << to_text(ops) << failure->what;
}

// A machine with a store, whose events are written down.
class Logged : public ::testing::Test {
 protected:
  void SetUp() override {
    world_.record(&log_);
    ASSERT_TRUE(machine_.create().ok());
    ASSERT_TRUE(machine_.start().ok());
  }
  // The daemon dies after `begin` events, after one more, and so on to the last: `look` is called
  // with a machine that has what it left.
  void after_each_event(std::size_t begin, const std::function<void(Machine& after_it)>& look) {
    machine_.kill();
    SimImage image;
    for (std::size_t at = 0; at <= log_.size(); ++at) {
      if (at > 0) image.apply(log_[at - 1]);
      if (at < begin) continue;
      SCOPED_TRACE(at);
      Machine after_it(image.to_world({}, 1), at);
      look(after_it);
      if (HasFatalFailure()) return;
    }
  }

  SimWorld world_;
  SimLog log_;
  Machine machine_{world_, 1};
};
using Take = Logged;
using Handover = Logged;

TEST_F(Take, EveryCrashLeavesTheFileOrTheVolume) {
  Counts counts;
  std::vector<Op> ops = taking(4);
  ops.push_back({Kind::kWrite, "t", "", 1, 3});
  ops.push_back({Kind::kFlush, "t", "", 0, 0});
  hold(ops, {.keep = 1.0 / kShare, .recovery_share = 0.5}, counts);
  EXPECT_GT(counts.states, 400u / kShare);
  EXPECT_GT(counts.recovery_states, 100u / kShare);
  EXPECT_GT(counts.daemon_deaths, 20u / kShare);
}

TEST_F(Take, WithWhatFollows) {
  const std::vector<std::vector<Op>> all{
      {{Kind::kKill, "", "", 0, 0}, {Kind::kWrite, "t", "", 0, 2}},
      {{Kind::kSnapshot, "t@s", "", 0, 0}, {Kind::kWrite, "t", "", 0, 1}},
      {{Kind::kRemove, "t", "", 0, 0}, {Kind::kErase, "", "", 0, 0}},
      {{Kind::kReopen, "", "", 0, 0}, {Kind::kClone, "t", "c", 0, 0}},
      {{Kind::kPutFile, "/in/f", "", 0, 8, kSectorBytes}, {Kind::kTake, "u", "/in/f", 0, 0}},
  };
  Counts counts;
  for (const std::vector<Op>& more : all) {
    std::vector<Op> ops = taking(0);
    ops.insert(ops.end(), more.begin(), more.end());
    hold(ops, {.states_per_point_max = 32, .keep = 1.0 / kShare, .recovery_share = 0.2}, counts);
  }
  EXPECT_GT(counts.states, 1000u / kShare);
}

// What its owner had not synced is durable when it is the volume (I1), whatever a crash has kept of
// names and of what else was not synced.
TEST_F(Take, AFileThatWasNotSynced) {
  const Op op{Kind::kTake, "t", "/f", 0, 4};
  StoreModel model{{op.b, {}}};
  std::size_t written = 0;  // the file's contents
  {
    SimRuntime runtime(world_, {.seed = 1});
    std::vector<std::byte> data(3 * kBlockBytes);
    fill_sectors(data, 7, 0);
    auto file = runtime.fs().open(op.b, {.create = true});
    ASSERT_TRUE((*file)->write_sync(data, 0).ok());
    written = log_.size() - 1;
    SectorTags tags;
    tags.tags = {7};
    model[op.b].sectors.assign(data.size() / kSectorBytes, tags);
  }
  ASSERT_TRUE(machine_.perform(op, 1).ok());
  world_.log_stores();
  SimDisk disk(log_);
  std::size_t volumes = 0;
  for (std::size_t at = written; at <= log_.size(); ++at) {
    disk.advance(at);
    std::vector<SimDisk::Choice> all_else;
    for (const std::size_t event : disk.pending()) {
      if (event != written) all_else.push_back({event});
    }
    for (const SimImage& image : {disk.durable(), disk.with(all_else)}) {
      Machine after_it(image.to_world({}, 2), at);
      ASSERT_TRUE(after_it.start().ok());
      if (after_it.wait(after_it.store()->names()).empty()) continue;
      ++volumes;
      const auto wrong = after_it.look({{after(model, op, 1)}}, true);
      ASSERT_FALSE(wrong) << "event " << at << ": " << *wrong;
    }
  }
  EXPECT_GT(volumes, 2u);
}

// The daemon dies, and the catalog is lost: what repair makes of the copy and the layers has the
// file or the volume, too.
TEST_F(Take, TheCatalogIsLostAsWell) {
  const std::vector<Op> ops = taking(4);
  ASSERT_TRUE(machine_.perform(ops[0], 7).ok());
  const std::size_t begin = log_.size();
  ASSERT_TRUE(machine_.perform(ops[1], 8).ok());
  std::vector<std::byte> wanted(ops[0].length_bytes());
  fill_sectors(wanted, 7, 0);
  std::size_t files = 0;
  std::size_t volumes = 0;
  std::size_t named = 0;  // volumes that kept their name
  after_each_event(begin, [&](Machine& after_it) {
    std::vector<std::byte> got(wanted.size());
    for (const char* name : {"/store/catalog.db", "/store/catalog.db-wal"}) {
      if (!*after_it.fs().exists(name)) continue;
      ASSERT_TRUE(after_it.fs().unlink(name).ok());
    }
    const auto report = after_it.repair();
    ASSERT_TRUE(report.ok()) << report.status().message();
    std::string found;
    for (const RepairFinding& finding : report->findings) found += finding.what + "\n";
    SCOPED_TRACE(found);
    ASSERT_TRUE(after_it.start().ok());
    const auto there = after_it.world().find("/in/f");
    const std::vector<NodeName> names = after_it.wait(after_it.store()->names());
    ASSERT_EQ(names.size(), there.ok() ? 0u : 1u);
    if (there.ok()) {
      ++files;
      ASSERT_EQ((*there)->size_bytes(), wanted.size());
      (*there)->read(got, 0);
    } else {
      ++volumes;
      named += names.front().str() == "t" ? 1 : 0;
      const auto device = after_it.wait(after_it.store()->open_device(names.front().str()));
      ASSERT_TRUE(device.ok());
      const Status read = after_it.wait((*device)->read(0, got));
      ASSERT_TRUE(read.ok()) << names.front().str() << ": " << read.message();
    }
    ASSERT_TRUE(got == wanted);
  });
  EXPECT_GT(files, 5u);
  EXPECT_GT(volumes, 5u);
  EXPECT_GT(named, 0u);
}

// A volume that leaves, and one that arrives: for each store it is one or the other.
std::vector<Op> handing_over() {
  return {{Kind::kCreate, "v", "", 0, 4},    {Kind::kWrite, "v", "", 0, 3},
          {Kind::kFlush, "v", "", 0, 0},     {Kind::kWrite, "v", "", 1, 1},
          {Kind::kGive, "v", "", 0, 0},      {Kind::kTakeGiven, "v", "", 0, 0},
          {Kind::kWrite, "v", "", 3, 1},     {Kind::kFlush, "v", "", 0, 0},
          {Kind::kReopen, "", "", 0, 0},     {Kind::kGive, "v", "", 0, 0},
          {Kind::kKill, "", "", 0, 0},       {Kind::kTakeGiven, "v", "", 0, 0},
          {Kind::kSnapshot, "v@s", "", 0, 0}};
}

TEST_F(Handover, EveryCrashLeavesTheVolumeInOnePlace) {
  Counts counts;
  hold(handing_over(), {.states_per_point_max = 64, .keep = 1.0 / kShare, .recovery_share = 0.3},
       counts);
  EXPECT_GT(counts.states, 500u / kShare);
  EXPECT_GT(counts.recovery_states, 100u / kShare);
}

// Of a volume that a crash kept from being taken nothing is kept back on the host.
TEST_F(Handover, AVolumeThatWasNotTakenPromisesNothing) {
  ASSERT_TRUE(machine_.perform({Kind::kCreate, "v", "", 0, 4}, 1).ok());
  ASSERT_TRUE(machine_.perform({Kind::kWriteFua, "v", "", 0, 1}, 2).ok());
  ASSERT_TRUE(machine_.wait(machine_.store()->set_reserve("v", 3 * kBlockBytes)).ok());
  ASSERT_TRUE(machine_.perform({Kind::kGive, "v", "", 0, 0}, 3).ok());
  const std::size_t begin = log_.size();
  ASSERT_TRUE(machine_.perform({Kind::kTakeGiven, "v", "", 0, 0}, 4).ok());
  std::size_t taken = 0;
  std::size_t not_taken = 0;
  after_each_event(begin, [&](Machine& after_it) {
    ASSERT_TRUE(after_it.start().ok());
    const bool there = !after_it.wait(after_it.store()->names()).empty();
    ++(there ? taken : not_taken);
    const auto pool = after_it.wait(after_it.store()->pool());
    ASSERT_TRUE(pool.ok());
    EXPECT_EQ(pool->guard.promised_bytes > 0, there);
  });
  EXPECT_GT(taken, 2u);
  EXPECT_GT(not_taken, 2u);
}

class TakeFault : public ::testing::TestWithParam<FaultKind> {};

TEST_P(TakeFault, AtEveryCall) {
  std::vector<Op> ops = taking(4);
  ops.push_back({Kind::kWrite, "t", "", 3, 1});
  ops.push_back({Kind::kFlush, "t", "", 0, 0});
  const std::vector<std::uint64_t> calls = calls_for(ops, 1, GetParam());
  ASSERT_GT(calls.size(), 10u);
  FaultCounts counts;
  for (std::size_t i = 0; i < calls.size(); i += kShare) {
    const auto failure = run_with_fault(ops, 1, GetParam(), calls[i], 3, counts);
    ASSERT_FALSE(failure) << failure->what;
  }
  EXPECT_GT(counts.power_losses, 20 / kShare);
}

TEST_P(TakeFault, AtCallsOfAHandover) {
  const std::vector<Op> ops = handing_over();
  const std::vector<std::uint64_t> calls = calls_for(ops, 1, GetParam());
  ASSERT_GT(calls.size(), 10u);
  FaultCounts counts;
  const std::size_t step = 2 * kShare;
  for (std::size_t i = static_cast<std::size_t>(GetParam()) % step; i < calls.size(); i += step) {
    const auto failure = run_with_fault(ops, 1, GetParam(), calls[i], 1, counts);
    ASSERT_FALSE(failure) << failure->what;
  }
  EXPECT_GT(counts.power_losses, 20 / kShare);
}

INSTANTIATE_TEST_SUITE_P(Kinds, TakeFault,
                         ::testing::Values(FaultKind::kIoErrorOnce, FaultKind::kIoErrorOn,
                                           FaultKind::kNoSpaceOnce, FaultKind::kNoSpaceOn,
                                           FaultKind::kHostFull, FaultKind::kTorn,
                                           FaultKind::kInterrupted, FaultKind::kLostSync));

}  // namespace
}  // namespace voltree::crash
