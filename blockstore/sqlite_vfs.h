// A SQLite VFS over FileSystem, so that whoever owns the FileSystem (the simulator, too) owns every
// byte that SQLite reads, writes and syncs.
//
// What it does not do, and why that is enough:
//  - No locks and no shared memory: the store's LOCK admits one process, and the database is opened
//  with
//    locking_mode=EXCLUSIVE, in which WAL keeps its index on the heap.
//  - No temporary files: temp_store=MEMORY keeps them away; a request for one is refused.
//  - After a failed sync every later write and sync fails (I10): SQLite itself would try again.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "blockstore/base/status.h"
#include "blockstore/runtime/io.h"

namespace voltree {

// One instance a database connection, registered under a name of its own for as long as it lives.
// It must outlive the connection, and `fs` must outlive it. Thread-safety is the connection's: one
// thread at a time.
class SqliteVfs {
 public:
  explicit SqliteVfs(FileSystem& fs);
  ~SqliteVfs();
  SqliteVfs(const SqliteVfs&) = delete;
  SqliteVfs& operator=(const SqliteVfs&) = delete;

  // What to give sqlite3_open_v2.
  const char* name() const;
  // The last failure of the host, and forgets it: SQLite's own codes lose the path and the reason.
  // OK when there was none since the last call.
  Status take_failure();

  struct Impl;

 private:
  std::unique_ptr<Impl> impl_;
};

// SQLite draws the salts of its WAL from one generator for the process, seeded by the host. A
// simulation that must write the same bytes for the same seed calls this before each run, with
// `seed` other than 0; 0 returns to the host's.
void seed_sqlite_randomness(std::uint32_t seed);

}  // namespace voltree
