// What the kernel is asked for to confine a process; for confined_process.cc.
#pragma once

#include <string>
#include <vector>

#include "driver/images/confined_process.h"

namespace voltree {

bool has_landlock();
// A Landlock ruleset that lets a process run `program` with the system's libraries and open these
// files, and nothing else. -1 when the kernel has no Landlock. The caller closes it.
Result<int> make_ruleset(const std::string& program, const std::vector<ConfinedFile>& files);

// For between fork and exec: nothing but system calls; false sets errno. No new privileges first.
bool restrict_self(int ruleset);
bool forbid_calls();

}  // namespace voltree
