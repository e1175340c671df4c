// Flips bits of a store's files, or puts blocks where they do not belong, and says what comes of
// it.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/crash/crash_run.h"
#include "tests/crash/machine.h"

namespace voltree::crash {

enum class FlipOutcome : std::uint8_t {
  kNothing,   // all reads are right, and the check finds nothing
  kRefused,   // the store does not open, and says why
  kDetected,  // a read says kDamaged, and the others are right
  kReported,  // reads are right, and the check finds it
  kCutOff,    // in the log's last commit: taken for one that the power failure cut off
};
constexpr std::size_t kFlipOutcomes = 5;
const char* flip_outcome_name(FlipOutcome outcome);

using FlipCounts = std::array<std::uint64_t, kFlipOutcomes>;

// A store that was made by the engine. Stopped in order, or by a power failure that took nothing:
// its write-ahead log is there then.
class FlipStore {
 public:
  explicit FlipStore(bool stopped_in_order);

  // Those whose bits are flipped: "catalog.db", "catalog.db-wal", "layer", "layer.sum",
  // "run/inflight".
  struct Target {
    std::string kind;
    std::string path;
    std::vector<std::uint64_t> pages;  // that are there; holes have no bits
  };
  const std::vector<Target>& targets() const { return targets_; }
  std::optional<std::string> failure() const { return failure_; }

  // The store starts with the bit flipped, is read and checked.
  std::optional<Failure> flip_closed(const Target& target, std::uint64_t bit, FlipOutcome& outcome);
  // The bit flips while the store is open, and back: for layers, of which an open store keeps
  // nothing in memory.
  std::optional<Failure> flip_open(const Target& target, std::uint64_t bit, FlipOutcome& outcome);

  // The same with a whole page in another's place, as a misdirected write leaves it.
  struct Page {
    const Target* target = nullptr;
    std::uint64_t number = 0;
  };
  std::optional<Failure> misplace(const Page& from, const Page& to, FlipOutcome& outcome);

 private:
  void make(bool stopped_in_order);
  std::optional<Failure> judge(Machine& machine, const std::string& what, FlipOutcome& outcome);
  bool is_in_last_commit(const Target& target, std::uint64_t bit) const;

  SimImage image_;
  Expectation expected_;
  Expectation before_last_commit_;
  std::uint64_t last_commit_at_ = 0;  // in the log
  std::vector<Target> targets_;
  std::unique_ptr<Machine> open_;
  std::optional<std::string> failure_;
};

}  // namespace voltree::crash
