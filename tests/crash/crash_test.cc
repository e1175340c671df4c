// The short form of the crash campaign (tools/crash): power loss and the daemon's death at every
// event of short workloads.
#include <gtest/gtest.h>

#include "tests/crash/crash_run.h"

namespace voltree::crash {
namespace {

std::string text_of(const std::vector<Op>& ops) {
  std::string text;
  for (const Op& op : ops) text += to_text(op) + "; ";
  return text;
}

// From the operation `from` on.
void hold(const std::vector<Op>& ops, std::size_t from, ExploreOptions options, Counts& counts) {
  Recording recording;
  const std::optional<Failure> wrong = record(ops, options.seed, recording);
  ASSERT_FALSE(wrong) << text_of(ops) << wrong->what;
  if (from >= recording.begins.size()) return;  // what was left is not possible here
  options.from_event = recording.begins[from];
  const std::optional<Failure> failure = explore(recording, options, counts);
  EXPECT_FALSE(failure) << text_of(ops) << "seed " << options.seed << ": " << failure->what;
}

// Every subset of what was not synced, and crashes of the recovery.
TEST(Crash, EveryDiskOfAShortWorkload) {
  Counts counts;
  hold(prologue(), 0, {.recovery_share = 0.1}, counts);
  EXPECT_GT(counts.states, 1000u);
  EXPECT_GT(counts.recovery_states, 300u);
  EXPECT_GT(counts.daemon_deaths, 50u);
}

// All sequences of up to two operations, at every crash point; `crash_campaign sequences` does
// those of three.
TEST(Crash, SequencesOfTwoOperations) {
  Counts counts;
  for (const Op& first : alphabet()) {
    for (const Op& second : alphabet()) {
      std::vector<Op> ops = prologue();
      ops.push_back(first);
      ops.push_back(second);
      hold(ops, prologue().size(),
           {.sampled_per_point = 2, .states_per_point_max = 4, .recovery_share = 0.05}, counts);
      if (HasFailure()) return;
    }
  }
  std::printf("%llu states, %llu in recovery, %llu deaths\n",
              static_cast<unsigned long long>(counts.states),
              static_cast<unsigned long long>(counts.recovery_states),
              static_cast<unsigned long long>(counts.daemon_deaths));
}

}  // namespace
}  // namespace voltree::crash
