// What a file system of this host lies on.
#pragma once

#include <cstdint>
#include <string>

namespace voltree {

// FileSystem::storage_of. Only loop devices on a regular file are told apart: by that file, which a
// copy of it is not. (Names that are in the data, as those of LVM and LUKS, come along with a
// copy.)
std::string host_storage_of(std::uint64_t device);

}  // namespace voltree
