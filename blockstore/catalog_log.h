// Looks at the catalog's write-ahead log before SQLite does. SQLite takes whatever it can not read
// for the torn end of what a crash cut off, and goes on without it: right for the last transaction,
// and silence about all others.
#pragma once

#include <string>

#include "blockstore/base/status.h"
#include "blockstore/runtime/io.h"
#include "blockstore/sync_watch.h"

namespace voltree {

// Cuts off what a crash left unfinished, so that it can not be taken for more when the next crash
// comes. kDamaged when something before that does not match its checksum: commits that were durable
// follow it. What is damaged in the last commit can not be told from a crash. No log is fine.
Status trim_log(FileSystem& fs, const std::string& path, SyncWatch& syncs);

}  // namespace voltree
