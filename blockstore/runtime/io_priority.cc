#include "blockstore/runtime/io_priority.h"

#include <fmt/format.h>

namespace voltree {
namespace {

constexpr std::string_view kIdle = "idle", kBestEffort = "best-effort:";
constexpr IoPriority kLevels = 8;
// As in linux/ioprio.h, which is not C++.
constexpr int kClassShift = 13, kClassBestEffort = 2, kClassIdle = 3;

constexpr IoPriority value_of(int io_class, IoPriority level) {
  return static_cast<IoPriority>(io_class << kClassShift | level);
}

}  // namespace

Result<IoPriority> parse_io_priority(std::string_view text) {
  if (text == kIdle) return value_of(kClassIdle, 0);
  if (text.starts_with(kBestEffort) && text.size() == kBestEffort.size() + 1) {
    const int level = text.back() - '0';
    if (level >= 0 && level < kLevels) {
      return value_of(kClassBestEffort, static_cast<IoPriority>(level));
    }
  }
  return error(Code::kInvalid, "an I/O priority is idle, or best-effort:0 to best-effort:7");
}

std::string io_priority_name(IoPriority priority) {
  if (priority == 0) return {};
  if (priority >> kClassShift == kClassIdle) return std::string(kIdle);
  return fmt::format("{}{}", kBestEffort, priority & (kLevels - 1));
}

bool is_io_priority(std::uint64_t value) {
  if (value == 0) return true;
  if (value > UINT16_MAX) return false;
  const auto parsed = parse_io_priority(io_priority_name(static_cast<IoPriority>(value)));
  return parsed.ok() && *parsed == value;
}

}  // namespace voltree
