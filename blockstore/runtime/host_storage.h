// What a file system of this host lies on.
#pragma once

#include <cstdint>
#include <string>

namespace voltree {

// FileSystem::storage and FileSystem::storage_of. Two kinds are told apart:
// - A loop device on a regular file, by that file, which a copy of it is not.
// - btrfs, whose device numbers are new with each mount (linux/fs/super.c, get_anon_bdev), by its
//   subvolume's UUID, which a snapshot does not have, and by its disks, which a copy does not have.
// (Names that are in the data, as those of LVM and LUKS, come along with a copy.)
std::string host_storage(const std::string& path);
std::string host_storage_of(std::uint64_t device);

}  // namespace voltree
