// The folder that a tree is mounted on: whether it will do, and what an earlier daemon left there.
#pragma once

#include <string>

#include "blockstore/base/status.h"

namespace voltree {

// Whether `path` is a tree whose daemon has died: nothing is served there, and every use of it ends
// in ENOTCONN. Only what a voltree mounted counts.
bool is_dead_tree(const std::string& path);

// Detaches such a tree, also when somebody still uses files of it (a loop device, a shell): to them
// it stays dead. kPermission: not without fusermount3, or not by this user.
Status detach_dead_tree(const std::string& path);

// An empty folder that nothing is mounted on. kNotFound, kBusy, kInvalid: what is wrong with it.
Status check_mountpoint(const std::string& path);

// Unmounts a tree if nothing in it is in use. Quiet: who calls goes on to detach it.
bool unmount_idle(const std::string& path);

}  // namespace voltree
