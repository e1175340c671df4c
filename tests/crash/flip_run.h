// Flips bits of a store's files, or puts blocks where they do not belong, and says what comes of
// it.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "blockstore/lineage_copy_rows.h"
#include "tests/crash/crash_run.h"
#include "tests/crash/machine.h"

namespace voltree::crash {

enum class FlipOutcome : std::uint8_t {
  kNothing,   // all reads are right, and the check finds nothing
  kRefused,   // the store does not open, and says why
  kDetected,  // a read says kDamaged, and the others are right
  kReported,  // reads are right, and the check finds it
  kCutOff,    // in the log's last commit: taken for one that the power failure cut off
  kMended,    // in the lineage copy: it is whole again when the store is open
};
constexpr std::size_t kFlipOutcomes = 6;
const char* flip_outcome_name(FlipOutcome outcome);

using FlipCounts = std::array<std::uint64_t, kFlipOutcomes>;

// A store that was made by the engine. Stopped in order, or by a power failure that took nothing:
// its write-ahead log is there then.
class FlipStore {
 public:
  // `more_blocks`: of a volume besides, which has a snapshot.
  explicit FlipStore(bool stopped_in_order, std::uint64_t more_blocks = 0);

  // Those whose bits are flipped: "layer", "layer.sum", and all other files by their names, but for
  // the reserve.
  struct Target {
    std::string kind;
    std::string path;
    std::uint64_t length_bytes = 0;
    std::vector<std::uint64_t> pages;  // that are there; holes have no bits
  };
  const std::vector<Target>& targets() const { return targets_; }
  std::optional<std::string> failure() const { return failure_; }

  // The store starts with the bit flipped, is read and checked.
  std::optional<Failure> flip_closed(const Target& target, std::uint64_t bit, FlipOutcome& outcome);
  // The bit flips while the store is open, and back: for layers, of which an open store keeps
  // nothing in memory. Where the bit that was flipped before is of the same block or checksum and
  // has damaged something, only that is read again; now and then all is.
  std::optional<Failure> flip_open(const Target& target, std::uint64_t bit, FlipOutcome& outcome);

  // The catalog is lost, and the lineage copy, from which it is rebuilt, has the bit flipped: the
  // repair says so, and no sector holds what was never written there.
  std::optional<Failure> flip_rebuilt(std::uint64_t bit);

  // As flip_closed() with a whole page in another's place, as a misdirected write leaves it.
  struct Page {
    const Target* target = nullptr;
    std::uint64_t number = 0;
  };
  std::optional<Failure> misplace(const Page& from, const Page& to, FlipOutcome& outcome);

 private:
  void make(bool stopped_in_order, std::uint64_t more_blocks);
  void look_at_sound_store();
  std::optional<Failure> judge(Machine& machine, const std::string& what, FlipOutcome& outcome);
  std::optional<Failure> judge_damaged(const std::string& what, FlipOutcome& outcome);
  bool is_copy_whole(Machine& machine) const;
  bool is_in_last_commit(const Target& target, std::uint64_t bit) const;

  SimImage image_;
  Expectation expected_;
  Expectation before_last_commit_;
  std::uint64_t last_commit_at_ = 0;  // in the log
  std::vector<Target> targets_;
  CopyState copy_;  // what the lineage copy says while it is open
  std::unique_ptr<Machine> open_;
  // What the last flip in the open store has damaged, and in which block or checksum it was.
  std::vector<Machine::Place> damaged_;
  std::pair<const Target*, std::uint64_t> damaged_by_{nullptr, 0};
  std::optional<std::string> failure_;
};

}  // namespace voltree::crash
