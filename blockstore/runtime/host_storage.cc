#include "blockstore/runtime/host_storage.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <linux/btrfs.h>
#include <linux/loop.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <fstream>

#include "blockstore/runtime/host_fs.h"

namespace voltree {
namespace {

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// As the kernel encodes it for struct loop_info64.
std::uint64_t encoded_device(std::uint32_t major, std::uint32_t minor) {
  return (minor & 0xff) | (std::uint64_t{major} << 8) | (std::uint64_t{minor & ~0xffU} << 12);
}

std::uint64_t device_number(std::uint32_t major, std::uint32_t minor) {
  return (std::uint64_t{major} << 32) | minor;
}

std::string hex_of(const std::uint8_t (&id)[16]) {
  std::string hex;
  for (const std::uint8_t byte : id) hex += fmt::format("{:02x}", byte);
  return hex;
}

// A disk of btrfs: what it lies on, or its own number, which holds for one boot.
std::string disk_at(const char* path) {
  struct stat node {};
  if (::stat(path, &node) != 0 || !S_ISBLK(node.st_mode)) return {};
  const std::uint32_t major = ::major(node.st_rdev);
  const std::uint32_t minor = ::minor(node.st_rdev);
  const std::string storage = host_storage_of(device_number(major, minor));
  return storage.empty() ? fmt::format("{}:{}", major, minor) : storage;
}

// None of these requests needs a privilege (linux/fs/btrfs/ioctl.c).
std::string btrfs_storage(int folder) {
  constexpr std::uint64_t kDisksMax = 256;
  btrfs_ioctl_fs_info_args info{};
  btrfs_ioctl_get_subvol_info_args subvolume{};
  if (::ioctl(folder, BTRFS_IOC_FS_INFO, &info) != 0 || info.max_id > kDisksMax) return {};
  // It answers 1, too, and has written all of it then (the kernel's search for a name that is no
  // exact hit).
  if (::ioctl(folder, BTRFS_IOC_GET_SUBVOL_INFO, &subvolume) < 0) return {};
  std::string storage = fmt::format("btrfs {} {}", hex_of(info.fsid), hex_of(subvolume.uuid));
  std::uint64_t disks = 0;
  for (std::uint64_t id = 0; id <= info.max_id; ++id) {  // disks that were removed leave gaps
    btrfs_ioctl_dev_info_args device{};
    device.devid = id;
    if (::ioctl(folder, BTRFS_IOC_DEV_INFO, &device) != 0) continue;
    device.path[sizeof(device.path) - 1] = 0;
    const std::string disk = disk_at(reinterpret_cast<const char*>(device.path));
    if (disk.empty()) return {};
    storage += ", " + disk;
    ++disks;
  }
  return disks == info.num_devices ? storage : std::string();
}

}  // namespace

std::string host_storage(const std::string& path) {
  const UniqueFd folder(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  struct statfs fs {};
  struct statx st {};
  if (!folder.valid() || ::fstatfs(folder.get(), &fs) != 0) return {};
  if (fs.f_type == BTRFS_SUPER_MAGIC) return btrfs_storage(folder.get());
  if (::statx(folder.get(), "", AT_EMPTY_PATH, STATX_TYPE, &st) != 0) return {};
  return host_storage_of(device_number(st.stx_dev_major, st.stx_dev_minor));
}

std::string host_storage_of(std::uint64_t device) {
  constexpr std::uint32_t kLoopMajor = 7;
  const auto major = static_cast<std::uint32_t>(device >> 32);
  const auto minor = static_cast<std::uint32_t>(device);
  if (major != kLoopMajor) return {};
  const std::string entry = fmt::format("/sys/dev/block/{}:{}", major, minor);
  std::string name;
  for (std::ifstream uevent(entry + "/uevent"); std::getline(uevent, name);) {
    if (name.starts_with("DEVNAME=")) break;
  }
  if (!name.starts_with("DEVNAME=loop")) return {};
  name = "/dev/" + name.substr(name.find('=') + 1);
  const UniqueFd fd(::open(name.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat node {};
  loop_info64 loop{};
  if (!fd.valid() || ::fstat(fd.get(), &node) != 0 || !S_ISBLK(node.st_mode)) return {};
  if (::ioctl(fd.get(), LOOP_GET_STATUS64, &loop) != 0) return {};  // it has no file
  // The path may lead elsewhere by now, or from here: what it leads to must be that file.
  struct statx file {};
  constexpr unsigned kWanted = STATX_TYPE | STATX_INO | STATX_BTIME | STATX_MNT_ID;
  const std::string path = first_line(entry + "/loop/backing_file");
  if (::statx(AT_FDCWD, path.c_str(), 0, kWanted, &file) != 0) return {};
  const bool it = file.stx_ino == loop.lo_inode && S_ISREG(file.stx_mode) &&
                  encoded_device(file.stx_dev_major, file.stx_dev_minor) == loop.lo_device;
  if (!it || (file.stx_mask & STATX_BTIME) == 0) return {};
  return fmt::format("loop {} {} {} {}.{:09} {}", file.stx_mnt_id, loop.lo_device, loop.lo_inode,
                     file.stx_btime.tv_sec, file.stx_btime.tv_nsec, loop.lo_offset);
}

}  // namespace voltree
