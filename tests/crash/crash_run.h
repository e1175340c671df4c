// Runs a workload on a store in the simulator, recording what happens to its files, and holds every
// disk that a crash may leave to the model.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <unordered_set>
#include <vector>

#include "blockstore/runtime/sim_crash.h"
#include "blockstore/store.h"
#include "tests/crash/crash_model.h"
#include "tests/crash/workload.h"

namespace voltree::crash {

// A workload as it went: what happened to the disk, and what was promised when.
struct Recording {
  // From event `event` on this is what a crash may leave.
  struct Promise {
    std::size_t event = 0;
    Expectation expectation;
    std::string doing;
    std::uint64_t boot = 1;
  };
  SimLog log;
  std::vector<Promise> promises;
  std::vector<std::size_t> begins;  // for each operation that was done, its first event
};

struct Failure {
  std::string what;
};

// Empty when all operations did what they should.
std::optional<Failure> record(const std::vector<Op>& ops, std::uint64_t seed, Recording& out,
                              const StoreCreateOptions& store = {});

struct ExploreOptions {
  std::uint64_t seed = 1;
  std::size_t exhaustive_max = 10;    // pending events: all subsets up to so many
  std::size_t sampled_per_point = 8;  // beyond, and of torn writes
  std::size_t states_per_point_max = ~std::size_t{0};
  double keep = 1.0;                // of the crash points
  double recovery_share = 0.0;      // of the states: the recovery is crashed, too
  std::size_t recovery_states = 8;  // of each such recovery
  std::size_t from_event = 0;       // crash points before it are left out
  std::size_t use_every = 8;        // one of so many states is used on, emptied and closed
};

struct Counts {
  std::uint64_t points = 0;
  std::uint64_t states = 0;           // distinct: another disk, or another promise
  std::uint64_t recovery_states = 0;  // crashes in recovery, distinct
  std::uint64_t daemon_deaths = 0;
  void add(const Counts& other);
};

// Stops at the first violation, which names the crash point and the choice of events.
std::optional<Failure> explore(const Recording& recording, const ExploreOptions& options,
                               Counts& counts);

}  // namespace voltree::crash
