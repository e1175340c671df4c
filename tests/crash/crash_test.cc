// The short form of the crash campaign (tools/crash): power loss and the daemon's death at every
// event of short workloads. In each run these tests look at more than 50,000 crash states: the
// bounds of the sequences alone sum up to that.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/crash/crash_run.h"

namespace voltree::crash {
namespace {

// From the operation `from` on.
void hold(const std::vector<Op>& ops, std::size_t from, ExploreOptions options, Counts& counts) {
  Recording recording;
  const std::optional<Failure> wrong = record(ops, options.seed, recording);
  ASSERT_FALSE(wrong) << to_text(ops) << wrong->what;
  if (from >= recording.begins.size()) return;  // what was left is not possible here
  options.from_event = recording.begins[from];
  const std::optional<Failure> failure = explore(recording, options, counts);
  EXPECT_FALSE(failure) << to_text(ops) << "seed " << options.seed << ": " << failure->what;
}

// What a test run looked at is the sum of these lines.
void tell(const Counts& counts) {
  std::printf("%llu crash states, %llu crashes in recovery, %llu deaths of the daemon\n",
              static_cast<unsigned long long>(counts.states),
              static_cast<unsigned long long>(counts.recovery_states),
              static_cast<unsigned long long>(counts.daemon_deaths));
}

// Every subset of what was not synced, and crashes of the recovery.
TEST(Crash, EveryDiskOfAShortWorkload) {
  Counts counts;
  hold(prologue(), 0, {.recovery_share = 0.1}, counts);
  tell(counts);
  EXPECT_GT(counts.states, 1000u);
  EXPECT_GT(counts.recovery_states, 300u);
  EXPECT_GT(counts.daemon_deaths, 50u);
}

// Sequences of operations, each of which is looked at from the last one on: what came before was
// looked at with the shorter sequence. A sanitizer takes a part of them.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr std::uint64_t kShare = 20;
#else
constexpr std::uint64_t kShare = 1;
#endif

// How many states all sequences have at least, or those that a sanitizer takes: workloads differ,
// so that a share of them need not have its share of the states, but it has half of that.
constexpr std::uint64_t states_min(std::uint64_t of_all) {
  return kShare == 1 ? of_all : of_all / kShare / 2;
}

Counts hold_sequences(std::size_t length, std::uint64_t first, std::uint64_t step,
                      const ExploreOptions& options) {
  Counts counts;
  const std::uint64_t kinds = alphabet().size();
  std::uint64_t all = 1;
  for (std::size_t i = 0; i < length; ++i) all *= kinds;
  for (std::uint64_t number = first; number < all; number += step * kShare) {
    std::vector<Op> ops = prologue();
    std::uint64_t rest = number;
    for (std::size_t i = 0; i < length; ++i, rest /= kinds) ops.push_back(alphabet()[rest % kinds]);
    hold(ops, ops.size() - 1, options, counts);
    if (::testing::Test::HasFailure()) break;
  }
  tell(counts);
  return counts;
}

TEST(Crash, SequencesOfOneAndTwoOperations) {
  Counts counts = hold_sequences(1, 0, 1, {.states_per_point_max = 32, .recovery_share = 0.1});
  counts.add(hold_sequences(
      2, 0, 1, {.sampled_per_point = 2, .states_per_point_max = 2, .recovery_share = 0.05}));
  EXPECT_GT(counts.states, states_min(15'000));
}

// All of them, in shares that run beside each other.
class CrashShare : public ::testing::TestWithParam<std::uint64_t> {};
constexpr std::uint64_t kShares = 4;

TEST_P(CrashShare, SequencesOfThreeOperations) {
  const Counts counts = hold_sequences(
      3, GetParam(), kShares,
      {.sampled_per_point = 2, .states_per_point_max = 2, .keep = 0.25, .recovery_share = 0.03});
  EXPECT_GT(counts.states, states_min(9'000));
  EXPECT_GT(counts.daemon_deaths, states_min(5'000));
}

INSTANTIATE_TEST_SUITE_P(All, CrashShare, ::testing::Range(std::uint64_t{0}, kShares));

TEST(Crash, RandomWorkloads) {
  Counts counts;
  for (std::uint64_t seed = 1; seed <= 40 / kShare && !HasFailure(); ++seed) {
    hold(random_workload(seed, 40), 0,
         {.seed = seed,
          .sampled_per_point = 2,
          .states_per_point_max = 4,
          .keep = 0.1,
          .recovery_share = 0.1},
         counts);
  }
  tell(counts);
  EXPECT_GT(counts.states, states_min(2'000));
}

// Sizes and places that are no whole blocks; and operations at the same time.
using MakeWorkload = std::vector<Op> (*)(std::uint64_t seed, std::size_t length,
                                         std::uint64_t unit_bytes);
void hold_random(MakeWorkload make, std::uint64_t unit_bytes, Counts& counts) {
  constexpr std::uint64_t kSeeds = 12;
  for (std::uint64_t seed = 1;
       seed <= kSeeds / std::min(kSeeds, kShare) && !::testing::Test::HasFailure(); ++seed) {
    hold(make(seed, 40, unit_bytes), 0,
         {.seed = seed,
          .sampled_per_point = 2,
          .states_per_point_max = 4,
          .keep = 0.1,
          .recovery_share = 0.1},
         counts);
  }
  tell(counts);
}

TEST(Crash, RandomWorkloadsOfSectors) {
  Counts counts;
  hold_random(random_workload, kSectorBytes, counts);
  EXPECT_GT(counts.states, 400 / kShare);
}

TEST(Crash, OperationsAtTheSameTime) {
  Counts counts;
  hold_random(random_concurrent_workload, kBlockBytes, counts);
  EXPECT_GT(counts.states, 1000 / kShare);
}

TEST(Crash, OperationsOnSectorsAtTheSameTime) {
  Counts counts;
  hold_random(random_concurrent_workload, kSectorBytes, counts);
  EXPECT_GT(counts.states, 1000 / kShare);
}

}  // namespace
}  // namespace voltree::crash
