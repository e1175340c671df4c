// Which place a request has among those that the host's block layer schedules.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "blockstore/base/status.h"

namespace voltree {

// A class and a level as ioprio_set(2) has them (IOPRIO_PRIO_VALUE). 0: the process's own.
using IoPriority = std::uint16_t;

// "idle", or "best-effort:LEVEL" with a level from 0, the highest, to 7. The real-time class is
// refused: it wants privileges that a daemon may not have.
Result<IoPriority> parse_io_priority(std::string_view text);
// In that form; empty for 0.
std::string io_priority_name(IoPriority priority);
// Whether parse_io_priority may have given it, or it is 0.
bool is_io_priority(std::uint64_t value);

}  // namespace voltree
