// The host of a simulated machine with a fault at one of its calls.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "blockstore/runtime/sim_crash.h"
#include "blockstore/runtime/sim_world.h"

namespace voltree::crash {

enum class FaultKind : std::uint8_t {
  kIoErrorOnce,
  kIoErrorOn,    // from then on
  kNoSpaceOnce,  // where a call can say so
  kNoSpaceOn,    // from then on
  kHostFull,     // from then on nothing more fits: what is freed can be used again
  kTorn,         // a write gets there in part, and fails
  kShort,        // a write gets there in two transfers; a read cannot be told from a whole one
  kInterrupted,  // EINTR, where it is not tried again: a sync, a name
  kLostSync,     // a sync fails, and what it should have covered is gone from the page cache, too
};
constexpr std::size_t kFaultKinds = 9;
const char* fault_name(FaultKind kind);

// What is to fail, and what has.
class FaultyHost {
 public:
  // `call` counts from 1.
  FaultyHost(SimWorld& world, SimLog& log, FaultKind kind, std::uint64_t call)
      : world_(world), log_(log), kind_(kind), call_(call) {
    world_.set_fault([this](const SimCall& one) { return fault(one); });
  }
  // Calls before `call` at which the fault is possible; and of those, the ones that were made while
  // several operations were under way.
  const std::vector<std::uint64_t>& possible() const { return possible_; }
  const std::vector<std::uint64_t>& possible_together() const { return possible_together_; }
  void set_together(bool together) { together_ = together; }
  bool happened() const { return happened_; }
  bool lasts() const {
    return happened_ && !lifted_ &&
           (kind_ == FaultKind::kIoErrorOn || kind_ == FaultKind::kNoSpaceOn);
  }
  bool full() const { return happened_ && !lifted_ && kind_ == FaultKind::kHostFull; }
  bool lost_sums() const { return lost_sums_; }
  bool sync_failed() const { return sync_failed_; }
  bool copy_sync_failed() const { return copy_sync_failed_; }
  bool take_sync_failed() { return std::exchange(sync_failed_, false); }
  bool tore_a_layer() const { return tore_a_layer_; }
  bool lost_pages() const { return lost_pages_; }
  // A mapping failed, and does so until the store is opened again.
  bool lost_map() const { return lost_map_; }
  void open_again() { lost_map_ = false; }
  std::string where() const { return where_; }
  // What others than the store do does not fail.
  void pause(bool paused) { paused_ = paused; }
  void lift();

 private:
  SimFault fault(const SimCall& one);
  SimFault fail(const SimCall& one);

  SimWorld& world_;
  SimLog& log_;
  const FaultKind kind_;
  const std::uint64_t call_;
  std::uint64_t calls_ = 0;
  std::vector<std::uint64_t> possible_;
  std::vector<std::uint64_t> possible_together_;
  bool together_ = false;
  bool happened_ = false;
  bool lifted_ = false;
  bool paused_ = false;
  bool sync_failed_ = false;
  bool copy_sync_failed_ = false;
  bool tore_a_layer_ = false;
  bool lost_pages_ = false;
  bool lost_map_ = false;
  bool lost_sums_ = false;
  std::string where_;
};

}  // namespace voltree::crash
