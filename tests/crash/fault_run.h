// Runs a workload with a fault at one call of the host, and holds what comes of it to what was
// promised.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tests/crash/crash_run.h"
#include "tests/crash/fault_host.h"

namespace voltree::crash {

struct FaultCounts {
  std::uint64_t runs = 0;
  std::uint64_t refused = 0;    // in which an operation failed
  std::uint64_t read_only = 0;  // in which the store went read-only
  std::uint64_t power_losses = 0;
  void add(const FaultCounts& other);
};

// Those of the workload's calls of the host at which the fault is possible, from 1 on; none when
// the workload goes wrong without one. `together`: only those while several operations are under
// way.
std::vector<std::uint64_t> calls_for(const std::vector<Op>& ops, std::uint64_t seed, FaultKind kind,
                                     bool together = false);
// `call` counts from 1. `power_losses`: so many disks that a power loss may leave at the end.
std::optional<Failure> run_with_fault(const std::vector<Op>& ops, std::uint64_t seed,
                                      FaultKind kind, std::uint64_t call, std::size_t power_losses,
                                      FaultCounts& counts);

}  // namespace voltree::crash
