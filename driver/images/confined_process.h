// A program that must read what nobody vouches for, run so that it can do little else.
//
// It gets no new privileges and no network (seccomp: no sockets, no io_uring, no ptrace, no mounts,
// no keys); it can open the files that it was given, its program and the system's libraries, and
// nothing else (Landlock, where the kernel has it); it has limits of time, memory, descriptors and
// file size; it has no descriptor of ours but those that are named; and it dies with us.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "blockstore/base/status.h"

namespace voltree {

// A descriptor that the program gets, under the same number. A file may be opened anew through
// /dev/fd/N, for writing when `writable`.
struct ConfinedFile {
  int fd = -1;
  bool writable = false;
};

struct ConfinedCommand {
  std::string program;                 // a name, looked for in the system's folders
  std::vector<std::string> arguments;  // without the program
  std::vector<ConfinedFile> files;
  std::uint64_t cpu_seconds = 60;
  std::uint64_t memory_bytes = std::uint64_t{2} << 30;  // of address space
  std::uint64_t file_size_bytes = 0;                    // the largest file that it may write
  std::function<void(std::string_view)> on_output;      // each piece of its standard output
};

struct ConfinedOutcome {
  int exit_code = 0;
  std::string output;  // the first MiB
  std::string errors;  // the first 16 KiB
};

// Blocks. kNotSupported when there is no such program, or no seccomp; kCancelled by a signal
// (stop_signals.h), kInvalid when a limit has ended it.
Result<ConfinedOutcome> run_confined(const ConfinedCommand& command);

// What this host's kernel cannot do of it, for people; empty: nothing.
std::string confinement_gap();

}  // namespace voltree
