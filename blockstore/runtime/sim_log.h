// SimLog: what happened to a simulated machine's files, in order. The disk that is left after a
// power loss is made from it (sim_crash.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace voltree {

struct SimEvent {
  enum class Kind : std::uint8_t {
    // Changes of a file's bytes (SimMutation); kMappedPage: a page that was stored to through a
    // mapping, as it was when something else happened.
    kWrite,
    kAllocate,
    kPopulate,
    kPunch,
    kTruncate,
    kMappedPage,
    // Changes of names (SimNameMutation).
    kCreate,
    kUnlink,
    kRename,
    kLink,  // one more name, `path`, for a file that has some
    kMakeDir,
    // What was made durable: a whole file; a range of it through its mapping; a folder's names.
    kSyncFile,
    kSyncRange,
    kSyncDir,
    // A sync that failed: what it should have covered never gets to the disk.
    kSyncFailed,
  };
  Kind kind = Kind::kWrite;
  std::uint32_t inode = 0;
  std::uint64_t offset_bytes = 0;
  std::uint64_t length_bytes = 0;
  std::vector<std::byte> data;  // kWrite, kMappedPage
  std::string path;             // names; kSyncDir: the folder
  std::string to;               // kRename
};

using SimLog = std::vector<SimEvent>;

inline bool is_sync(SimEvent::Kind kind) { return kind >= SimEvent::Kind::kSyncFile; }
inline bool is_name(SimEvent::Kind kind) {
  return kind >= SimEvent::Kind::kCreate && kind <= SimEvent::Kind::kMakeDir;
}

}  // namespace voltree
