#include "tests/crash/crash_ledger.h"

#include <fmt/core.h>

#include <fstream>
#include <sstream>

namespace voltree::crash {
namespace {

std::optional<LedgerEntry> parse(const std::string& line) {
  std::istringstream in(line);
  LedgerEntry entry;
  Counts& counts = entry.counts;
  std::string end;
  in >> entry.number >> entry.workloads >> counts.points >> counts.states >>
      counts.recovery_states >> counts.daemon_deaths >> end;
  if (in.fail() || end != ".") return std::nullopt;
  return entry;
}

}  // namespace

std::optional<LedgerEntry> last_entry(const std::string& path) {
  std::ifstream in(path);
  std::optional<LedgerEntry> last;
  for (std::string line; std::getline(in, line);) {
    if (auto entry = parse(line)) last = entry;
  }
  return last;
}

// It begins with a line feed, for the line before may have been cut off.
bool append_entry(const std::string& path, const LedgerEntry& entry) {
  std::ofstream out(path, std::ios::app);
  const Counts& counts = entry.counts;
  out << fmt::format("\n{} {} {} {} {} {} .", entry.number, entry.workloads, counts.points,
                     counts.states, counts.recovery_states, counts.daemon_deaths);
  return static_cast<bool>(out.flush());
}

}  // namespace voltree::crash
