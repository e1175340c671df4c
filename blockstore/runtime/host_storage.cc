#include "blockstore/runtime/host_storage.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
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

}  // namespace

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
