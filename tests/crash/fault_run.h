// Runs a workload with a fault at one call of the host, and holds what comes of it to what was
// promised.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tests/crash/crash_run.h"

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

struct FaultCounts {
  std::uint64_t runs = 0;
  std::uint64_t refused = 0;    // in which an operation failed
  std::uint64_t read_only = 0;  // in which the store went read-only
  std::uint64_t power_losses = 0;
  void add(const FaultCounts& other);
};

// Those of the workload's calls of the host at which the fault is possible, from 1 on; none when
// the workload goes wrong without one.
std::vector<std::uint64_t> calls_for(const std::vector<Op>& ops, std::uint64_t seed,
                                     FaultKind kind);
// `call` counts from 1. `power_losses`: so many disks that a power loss may leave at the end.
std::optional<Failure> run_with_fault(const std::vector<Op>& ops, std::uint64_t seed,
                                      FaultKind kind, std::uint64_t call, std::size_t power_losses,
                                      FaultCounts& counts);

}  // namespace voltree::crash
