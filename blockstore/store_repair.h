// Repair: makes the catalog of a store that has lost it anew, from the lineage copy and the layers
// themselves. Offline: nobody has the store open.
//
// What it does not know it does not guess: a layer whose owner is unknown becomes a volume of its
// own, and a block that does not match its checksum stays an I/O error. It writes to no layer.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "blockstore/base/status.h"
#include "blockstore/runtime/io.h"

namespace voltree {

struct RepairOptions {
  bool apply = false;  // otherwise only the report is made
  bool force = false;  // though the catalog is sound
  std::function<void(std::uint64_t done_bytes, std::uint64_t total_bytes)> progress;
};

struct RepairFinding {
  enum class Kind : std::uint8_t {
    kLost,       // it was there, and is not any more
    kUncertain,  // it may not be what it was
    kNote,
  };
  Kind kind = Kind::kNote;
  std::string what;
};

struct RepairReport {
  bool catalog_sound = false;  // of the one that was there; nothing is changed then, without force
  bool applied = false;
  std::vector<RepairFinding> findings;
  // What the new catalog has.
  std::uint64_t volumes = 0, snapshots = 0, layers = 0;
  std::uint64_t blocks = 0;             // of data; those that were discarded are none
  std::uint64_t unreadable_blocks = 0;  // of those: I/O errors when they are read
  std::vector<std::string> recovered;   // volumes made of layers whose owner is not known
  std::string kept_as;                  // where the old catalog is now; empty: there was none
};

// kBusy: the store is open. kNotFound: there is no store. kNotSupported: the catalog is of a later
// version. Blocking: call from a thread that may. All-or-nothing: until the new catalog is whole
// the old one stays; after a crash in between, run it again.
Result<RepairReport> repair_store(Runtime& runtime, const std::string& directory,
                                  RepairOptions options);

}  // namespace voltree
