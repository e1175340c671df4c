// What a share of a long campaign has looked at so far, in a file: it can be stopped at any moment
// and goes on after the last workload that it looked at as a whole.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "tests/crash/crash_run.h"

namespace voltree::crash {

struct LedgerEntry {
  std::uint64_t number = 0;     // the last workload's sequence or seed
  std::uint64_t workloads = 0;  // so far, as the counts
  Counts counts;
};

// The last entry that was written as a whole; nothing when there is none, or no file.
std::optional<LedgerEntry> last_entry(const std::string& path);

// One line behind what is there; false when it cannot be written.
[[nodiscard]] bool append_entry(const std::string& path, const LedgerEntry& entry);

}  // namespace voltree::crash
