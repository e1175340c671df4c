// From one store's volume to another's.
#pragma once

#include "driver/control/service.h"
#include "driver/images/nbd_disk.h"

namespace voltree {

// `to` reads as zeros and is as large as `from`: it gets what `from` holds, zeros stay holes.
Status copy_disk(NbdDisk& from, NbdDisk& to, const ProgressSink& progress);
// kInvalid, saying where, when they differ. Holes of both are not read.
Status compare_disks(NbdDisk& from, NbdDisk& to, const ProgressSink& progress);

}  // namespace voltree
