// The long crash campaigns. tools/crash builds and runs it; docs/TESTING.md says what it proves.
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <random>

#include "tests/crash/crash_ledger.h"
#include "tests/crash/crash_run.h"
#include "tests/crash/fault_run.h"
#include "tests/crash/flip_run.h"

namespace voltree::crash {
namespace {

struct Campaign {
  std::size_t length = 3;   // of sequences
  std::uint64_t first = 0;  // sequence or seed
  std::uint64_t count = ~std::uint64_t{0};
  std::uint64_t step = 1;  // with `first`: shares of one campaign
  std::uint64_t seconds = ~std::uint64_t{0};
  std::size_t power_losses = 2;   // of each fault
  std::size_t fault_length = 24;  // of the workloads that faults --together takes
  std::size_t calls = 24;         // of each of them and kind of fault
  bool keep_going = false;
  bool sectors = false;
  bool together = false;
  bool mixed = false;  // sectors and together in turns
  std::string ledger;  // a file with what was looked at so far; none when empty
  std::uint64_t until_states = ~std::uint64_t{0};  // the ledger's included
  std::uint64_t until_recovery_states = 0;
  ExploreOptions explore{.sampled_per_point = 4, .states_per_point_max = 64, .recovery_share = 0.1};
};

class Runner {
 public:
  explicit Runner(const Campaign& campaign) : campaign_(campaign) {
    if (campaign_.ledger.empty()) return;
    if (const auto last = last_entry(campaign_.ledger)) {
      counts_ = last->counts;
      before_ = last->workloads;
      campaign_.first = last->number + campaign_.step;
    }
  }

  int sequences() {
    const auto tell_so_far = [this](auto... where) { tell_states(where...); };
    std::uint64_t all = 1;
    for (std::size_t i = 0; i < campaign_.length; ++i) all *= alphabet().size();
    return run(
        all,
        [this](std::uint64_t number) {
          std::vector<Op> ops = prologue();
          for (std::size_t i = 0; i < campaign_.length; ++i, number /= alphabet().size()) {
            ops.push_back(alphabet()[number % alphabet().size()]);
          }
          // What the shorter sequences ended in was looked at with them.
          return hold(ops, prologue().size() + campaign_.length - 1, 1);
        },
        tell_so_far);
  }

  int random() {
    const auto tell_so_far = [this](auto... where) { tell_states(where...); };
    return run(
        ~std::uint64_t{0},
        [this](std::uint64_t seed) {
          // Seeds come in pairs, so that each of two shares has all four kinds.
          const std::uint64_t turn = seed / 2 % 4;
          const bool sectors = campaign_.mixed ? turn % 2 != 0 : campaign_.sectors;
          const bool together = campaign_.mixed ? turn < 2 : campaign_.together;
          const std::uint64_t unit_bytes = sectors ? kSectorBytes : kBlockBytes;
          if (together) {
            return hold(random_concurrent_workload(seed, campaign_.length, unit_bytes), 0, seed);
          }
          return hold(random_workload(seed, campaign_.length, unit_bytes), 0, seed);
        },
        tell_so_far);
  }

  // Every kind of fault at every call of the standard workload.
  int faults() {
    const std::vector<Op> ops = standard_workload();
    for (std::size_t number = 0; number < kFaultKinds; ++number) {
      const auto kind = static_cast<FaultKind>(number);
      const std::vector<std::uint64_t> calls = calls_for(ops, 1, kind);
      if (calls.empty()) return 1;
      std::vector<std::uint64_t> share;
      for (std::size_t i = campaign_.first; i < calls.size(); i += campaign_.step) {
        share.push_back(calls[i]);
      }
      FaultCounts counts;
      if (!fault_at(ops, 1, kind, share, counts)) return 1;
      tell(kind, counts);
    }
    return end_faults();
  }

  // Every kind of fault while operations are under way at the same time, a workload a seed: at so
  // many of its calls.
  int faults_together() {
    std::array<FaultCounts, kFaultKinds> counts;
    const auto tell_so_far = [&](std::uint64_t done, std::uint64_t at) {
      FaultCounts all;
      for (const FaultCounts& one : counts) all.add(one);
      std::printf("%s\n", fmt::format("{} workloads (at {}): {} faults, {} power losses", done, at,
                                      all.runs, all.power_losses)
                              .c_str());
      std::fflush(stdout);
    };
    const auto one = [&](std::uint64_t seed) {
      const std::vector<Op> ops = random_concurrent_workload(
          seed, campaign_.fault_length, seed % 2 == 0 ? kBlockBytes : kSectorBytes);
      std::mt19937_64 random(seed);
      for (std::size_t number = 0; number < kFaultKinds; ++number) {
        const auto kind = static_cast<FaultKind>(number);
        std::vector<std::uint64_t> calls = calls_for(ops, seed, kind, true);
        std::shuffle(calls.begin(), calls.end(), random);
        calls.resize(std::min(calls.size(), campaign_.calls));
        if (!fault_at(ops, seed, kind, calls, counts[number])) return false;
      }
      return true;
    };
    const int status = run(~std::uint64_t{0}, one, tell_so_far);
    for (std::size_t number = 0; number < kFaultKinds; ++number) {
      tell(static_cast<FaultKind>(number), counts[number]);
    }
    const int ended = end_faults();
    return status != 0 ? status : ended;
  }

  // Every bit of every file of a store of more than 1 MiB that was stopped in order, and of the
  // catalog and its log of a smaller one that was not.
  int flips() {
    for (const bool stopped_in_order : {true, false}) {
      FlipStore store(stopped_in_order, stopped_in_order ? 256 : 0);
      if (store.failure()) return 1;
      std::uint64_t pages = 0;
      for (const FlipStore::Target& target : store.targets()) pages += target.pages.size();
      std::printf("%s: %llu files, %llu KiB\n",
                  stopped_in_order ? "stopped in order" : "stopped by a power failure",
                  static_cast<unsigned long long>(store.targets().size()),
                  static_cast<unsigned long long>(pages * SimInode::kPageBytes / 1024));
      std::fflush(stdout);
      std::map<std::string, FlipCounts> counts;
      for (const FlipStore::Target& target : store.targets()) {
        const bool layer = target.kind.starts_with("layer");
        if (!stopped_in_order && !target.kind.starts_with("catalog")) continue;
        if (!flip_all(store, target, layer, counts[target.kind])) return 1;
      }
      if (!flip_copies(store)) return 1;
      for (const auto& [kind, of] : counts) {
        std::string text = kind + ":";
        for (std::size_t i = 0; i < kFlipOutcomes; ++i) {
          text += fmt::format(" {} {};", of[i], flip_outcome_name(static_cast<FlipOutcome>(i)));
        }
        std::printf("%s\n", text.c_str());
        std::fflush(stdout);
      }
    }
    return 0;
  }

 private:
  // False: a violation that ends the campaign.
  bool fault_at(const std::vector<Op>& ops, std::uint64_t seed, FaultKind kind,
                const std::vector<std::uint64_t>& calls, FaultCounts& counts) {
    for (const std::uint64_t call : calls) {
      const auto failure = run_with_fault(ops, seed, kind, call, campaign_.power_losses, counts);
      if (!failure) continue;
      ++violations_;
      std::printf("VIOLATION, seed %llu: %s\n  %s\n", static_cast<unsigned long long>(seed),
                  failure->what.c_str(), to_text(ops).c_str());
      std::fflush(stdout);
      if (!campaign_.keep_going) return false;
    }
    return true;
  }

  static void tell(FaultKind kind, const FaultCounts& counts) {
    std::printf("%s\n",
                fmt::format("{}: at {} calls; in {} an operation was refused, in {} the store "
                            "went read-only; {} power losses after them",
                            fault_name(kind), counts.runs, counts.refused, counts.read_only,
                            counts.power_losses)
                    .c_str());
    std::fflush(stdout);
  }

  int end_faults() const {
    std::printf("%llu violations\n", static_cast<unsigned long long>(violations_));
    return violations_ == 0 ? 0 : 1;
  }

  bool flip_all(FlipStore& store, const FlipStore::Target& target, bool open, FlipCounts& counts) {
    constexpr std::uint64_t kPageBits = SimInode::kPageBytes * 8;
    // The in-flight table is a header and pages of slots: the first stands for them.
    const std::size_t pages = target.kind == "run/inflight" ? 1 : target.pages.size();
    const std::uint64_t bits = pages * kPageBits;
    for (std::uint64_t at = campaign_.first; at < bits; at += campaign_.step) {
      const std::uint64_t bit = target.pages[at / kPageBits] * kPageBits + at % kPageBits;
      if (bit >= target.length_bytes * 8) continue;
      FlipOutcome outcome = FlipOutcome::kNothing;
      std::optional<Failure> failure;
      if (open) {
        failure = store.flip_open(target, bit, outcome);
      } else {
        failure = store.flip_closed(target, bit, outcome);
      }
      if (failure && !tell_violation(*failure)) return false;
      ++counts[static_cast<std::size_t>(outcome)];
    }
    return true;
  }

  // The catalog is lost, too.
  bool flip_copies(FlipStore& store) {
    std::uint64_t rebuilt = 0;
    for (const FlipStore::Target& target : store.targets()) {
      if (target.kind != "lineage") continue;
      for (std::uint64_t bit = campaign_.first; bit < target.length_bytes * 8;
           bit += campaign_.step, ++rebuilt) {
        const auto failure = store.flip_rebuilt(bit);
        if (failure && !tell_violation(*failure)) return false;
      }
    }
    std::printf("lineage, the catalog lost: %llu rebuilt\n",
                static_cast<unsigned long long>(rebuilt));
    std::fflush(stdout);
    return true;
  }

  // False: it ends the campaign.
  bool tell_violation(const Failure& failure) const {
    std::printf("VIOLATION: %s\n", failure.what.c_str());
    std::fflush(stdout);
    return campaign_.keep_going;
  }

  template <typename One, typename Tell>
  int run(std::uint64_t all, One one, Tell tell_so_far) {
    const auto begin = std::chrono::steady_clock::now();
    const auto elapsed = [&] {
      return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::steady_clock::now() -
                                                              begin);
    };
    std::uint64_t done = 0;
    std::uint64_t told = 0;
    for (std::uint64_t number = campaign_.first; number < all && done < campaign_.count;
         number += campaign_.step) {
      if (counts_.states >= campaign_.until_states &&
          counts_.recovery_states >= campaign_.until_recovery_states) {
        break;
      }
      if (static_cast<std::uint64_t>(elapsed().count()) >= campaign_.seconds) break;
      if (!one(number)) return 1;
      ++done;
      if (!note(number, before_ + done)) return 1;
      if (static_cast<std::uint64_t>(elapsed().count()) / 60 > told) {
        told = static_cast<std::uint64_t>(elapsed().count()) / 60;
        tell_so_far(done, number);
      }
    }
    tell_so_far(done, 0);
    return 0;
  }

  // False: the ledger cannot be written.
  bool note(std::uint64_t number, std::uint64_t workloads) const {
    if (campaign_.ledger.empty()) return true;
    if (append_entry(campaign_.ledger, {number, workloads, counts_})) return true;
    std::fprintf(stderr, "%s cannot be written\n", campaign_.ledger.c_str());
    return false;
  }

  void tell_states(std::uint64_t done, std::uint64_t at) const {
    std::printf("%s\n",
                fmt::format("{} workloads (at {}): {} crash points, {} distinct crash states, {} "
                            "distinct crashes in recovery, {} deaths of the daemon; no violation",
                            before_ + done, at, counts_.points, counts_.states,
                            counts_.recovery_states, counts_.daemon_deaths)
                    .c_str());
    std::fflush(stdout);
  }

  bool hold(const std::vector<Op>& ops, std::size_t from, std::uint64_t seed) {
    Recording recording;
    std::optional<Failure> failure = record(ops, seed, recording);
    if (!failure) {
      if (from >= recording.begins.size()) return true;  // an operation was not possible
      ExploreOptions options = campaign_.explore;
      options.seed = seed;
      options.from_event = recording.begins[from];
      failure = explore(recording, options, counts_);
    }
    if (!failure) return true;
    std::printf("VIOLATION, seed %llu: %s\n  %s\n", static_cast<unsigned long long>(seed),
                to_text(ops).c_str(), failure->what.c_str());
    return false;
  }

  Campaign campaign_;
  Counts counts_;
  std::uint64_t before_ = 0;  // workloads, of the ledger
  std::uint64_t violations_ = 0;
};

}  // namespace
}  // namespace voltree::crash

int main(int argc, char** argv) {
  using voltree::crash::Campaign;
  Campaign campaign;
  CLI::App app("Every disk that a crash may leave, recovered and compared with what was promised");
  app.require_subcommand(1);
  CLI::App* sequences = app.add_subcommand("sequences", "Every sequence of operations of a length");
  CLI::App* random = app.add_subcommand("random", "Random workloads, one a seed");
  for (CLI::App* one : {sequences, random}) {
    one->add_option("--length", campaign.length, "Operations");
    one->add_option("--first", campaign.first, "The first sequence, or seed");
    one->add_option("--step", campaign.step, "Every so many: shares of one campaign");
    one->add_option("--count", campaign.count, "How many");
    one->add_option("--seconds", campaign.seconds, "At most");
    one->add_option("--states", campaign.explore.states_per_point_max, "At most, of a crash point");
    one->add_option("--keep", campaign.explore.keep, "Share of the crash points");
    one->add_option("--recovery", campaign.explore.recovery_share,
                    "Share of the states whose recovery is crashed");
    one->add_option("--use", campaign.explore.use_every, "One of so many states is used on")
        ->check(CLI::PositiveNumber);
    one->add_option("--ledger", campaign.ledger,
                    "A file with what was looked at so far: go on after it, and add to it");
    one->add_option("--until-states", campaign.until_states,
                    "End when there are so many, the ledger's included");
    one->add_option("--until-recovery", campaign.until_recovery_states,
                    "... and so many in recovery");
  }
  random->add_flag("--sectors", campaign.sectors, "Sizes and places that are no whole blocks");
  random->add_flag("--together", campaign.together, "Operations at the same time");
  random->add_flag("--mixed", campaign.mixed, "With and without both, in turns");
  CLI::App* faults = app.add_subcommand("faults", "Every kind of fault at every call");
  faults->add_option("--first", campaign.first, "The first call, or seed");
  faults->add_option("--step", campaign.step, "Every so many: shares of one campaign");
  CLI::Option* together = faults->add_flag("--together", campaign.together,
                                           "Operations at the same time, a workload a seed");
  faults->add_option("--count", campaign.count, "How many seeds")->needs(together);
  faults->add_option("--seconds", campaign.seconds, "At most")->needs(together);
  faults->add_option("--length", campaign.fault_length, "Operations")->needs(together);
  faults->add_option("--calls", campaign.calls, "Of each seed and kind of fault")->needs(together);
  faults->add_option("--power-losses", campaign.power_losses, "After each fault, so many");
  faults->add_flag("--keep-going", campaign.keep_going, "Tell all violations");
  CLI::App* flips = app.add_subcommand("flips", "Every bit of every file of a store");
  flips->add_option("--first", campaign.first, "The first bit");
  flips->add_option("--step", campaign.step, "Every so many bits: shares of one campaign");
  flips->add_flag("--keep-going", campaign.keep_going, "Tell all violations");
  CLI11_PARSE(app, argc, argv);
  voltree::crash::Runner runner(campaign);
  if (faults->parsed()) return campaign.together ? runner.faults_together() : runner.faults();
  if (flips->parsed()) return runner.flips();
  return sequences->parsed() ? runner.sequences() : runner.random();
}
