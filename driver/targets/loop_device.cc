#include "driver/targets/loop_device.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

#include "driver/targets/kernel_device.h"

namespace voltree::loop {
namespace {

using std::chrono::milliseconds;

constexpr int kLoopMajor = 7;
constexpr std::string_view kPrefix = "/dev/loop";
// Others take free devices too; each round asks the kernel for a new one.
constexpr int kBindTries = 64;
constexpr int kReleaseTries = 20;
constexpr milliseconds kReleasePause{100};

using kernel::Fd;

std::string device_path(int number) { return fmt::format("{}{}", kPrefix, number); }

// A device that LOOP_CTL_GET_FREE has just made may be unknown to sysfs's readers for a moment.
void make_node(int number) {
  const std::string path = device_path(number);
  if (::access(path.c_str(), F_OK) == 0) return;
  // Losing a race against udev (EEXIST) is as good as winning it; opening the node tells what is
  // wrong otherwise.
  (void)::mknod(path.c_str(), S_IFBLK | 0660, makedev(kLoopMajor, static_cast<unsigned>(number)));
}

int open_backing(const Config& config) {
  const int access = config.read_only ? O_RDONLY : O_RDWR;
  return ::open(config.backing_file.c_str(), access | O_DIRECT | O_CLOEXEC);
}

// As the kernel names it, also when it does not answer any more; empty for a device that is free.
std::string file_behind(int number) {
  return kernel::read_line(fmt::format("/sys/block/loop{}/loop/backing_file", number));
}

// One try on one device: kBusy when somebody else took it first.
Status configure(const std::string& device, int backing, const Config& config) {
  const int mode = (config.read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC;
  const Fd fd(::open(device.c_str(), mode));
  if (!fd.ok()) return Status::from_errno(errno, "opening " + device);
  loop_config request{};
  request.fd = static_cast<__u32>(backing);
  request.block_size = config.sector_size_bytes;
  request.info.lo_flags = LO_FLAGS_DIRECT_IO | LO_FLAGS_PARTSCAN;
  if (config.read_only) request.info.lo_flags |= LO_FLAGS_READ_ONLY;
  const std::size_t length =
      std::min(config.backing_file.size(), sizeof request.info.lo_file_name - 1);
  std::memcpy(request.info.lo_file_name, config.backing_file.data(), length);
  if (::ioctl(fd.get(), LOOP_CONFIGURE, &request) == 0) return {};
  if (errno == EBUSY) return error(Code::kBusy, "{} was taken", device);
  if (errno == ENOTTY || errno == EINVAL) {
    return error(Code::kNotSupported,
                 "the kernel refused to configure {} ({}); LOOP_CONFIGURE needs Linux 5.8", device,
                 std::strerror(errno));
  }
  return Status::from_errno(errno, "configuring " + device);
}

}  // namespace

int device_number(const std::string& device) { return kernel::device_number(kPrefix, device); }

Status check_supported() {
  if (::geteuid() != 0) {
    return error(Code::kPermission,
                 "loop devices need root: run the daemon (voltree serve) as root");
  }
  if (::access("/dev/loop-control", R_OK | W_OK) != 0) {
    return error(Code::kNotSupported,
                 "this host has no loop devices (/dev/loop-control: {}); try modprobe loop",
                 std::strerror(errno));
  }
  return {};
}

Status refresh_size(const std::string& backing_file) {
  struct statx ignored {};
  if (::statx(AT_FDCWD, backing_file.c_str(), AT_STATX_FORCE_SYNC, STATX_SIZE, &ignored) != 0) {
    return Status::from_errno(errno, backing_file);
  }
  return {};
}

Result<std::string> bind(const Config& config) {
  const Fd backing(open_backing(config));
  if (!backing.ok()) return Status::from_errno(errno, "opening " + config.backing_file);
  VT_RETURN_IF_ERROR(refresh_size(config.backing_file));
  const Fd control(::open("/dev/loop-control", O_RDWR | O_CLOEXEC));
  if (!control.ok()) return Status::from_errno(errno, "opening /dev/loop-control");
  Status status;
  for (int i = 0; i < kBindTries; ++i) {
    const int number = ::ioctl(control.get(), LOOP_CTL_GET_FREE);
    if (number < 0) return Status::from_errno(errno, "finding a free loop device");
    make_node(number);
    const std::string device = device_path(number);
    status = configure(device, backing.get(), config);
    if (status.ok()) {
      kernel::make_nodes(device);  // of the partitions that the kernel found
      return device;
    }
    if (status.code() != Code::kBusy) return status;
    std::this_thread::sleep_for(milliseconds(5));
  }
  return status;
}

Status bind_to(const std::string& device, const Config& config) {
  const int number = device_number(device);
  if (number < 0) return error(Code::kInvalid, "{} is no loop device", device);
  const Fd backing(open_backing(config));
  if (!backing.ok()) return Status::from_errno(errno, "opening " + config.backing_file);
  VT_RETURN_IF_ERROR(refresh_size(config.backing_file));
  // The kernel makes it when it is not there; EEXIST is as good.
  const Fd control(::open("/dev/loop-control", O_RDWR | O_CLOEXEC));
  if (control.ok()) (void)::ioctl(control.get(), LOOP_CTL_ADD, number);
  make_node(number);
  VT_RETURN_IF_ERROR(configure(device, backing.get(), config));
  kernel::make_nodes(device);
  return {};
}

Status release_dead(const std::string& device, const std::string& file) {
  const int number = device_number(device);
  if (number < 0) return error(Code::kNotFound, "{} is no loop device", device);
  const std::string behind = file_behind(number);
  if (behind.empty()) return {};
  if (state_of(device).bound || !behind.ends_with(file)) {
    return error(Code::kNotFound, "{} is another's now", device);
  }
  VT_RETURN_IF_ERROR(kernel::wait_until_unused(device));
  const std::vector<std::string> partitions = kernel::partitions_of(device);
  {
    const Fd fd(::open(device.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd.ok()) return Status::from_errno(errno, "opening " + device);
    if (::ioctl(fd.get(), LOOP_CLR_FD) != 0 && errno != ENXIO) {
      return Status::from_errno(errno, "detaching " + device);
    }
  }
  for (int i = 0; i < kReleaseTries; ++i) {
    if (file_behind(number).empty()) {
      kernel::remove_nodes(partitions);
      return {};
    }
    std::this_thread::sleep_for(kReleasePause);
  }
  return kernel::busy(device, kernel::users_of(device));
}

State state_of(const std::string& device) {
  State state;
  const Fd fd(::open(device.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.ok()) return state;
  loop_info64 info{};
  if (::ioctl(fd.get(), LOOP_GET_STATUS64, &info) != 0) return state;
  state.bound = true;
  state.backing_device = info.lo_device;
  state.backing_inode = info.lo_inode;
  state.direct_io = (info.lo_flags & LO_FLAGS_DIRECT_IO) != 0;
  return state;
}

Status unbind(const std::string& device) {
  if (device_number(device) < 0) return error(Code::kInvalid, "{} is no loop device", device);
  VT_RETURN_IF_ERROR(kernel::wait_until_unused(device));
  const std::vector<std::string> partitions = kernel::partitions_of(device);
  VT_RETURN_IF_ERROR(kernel::write_back(device));
  {
    const Fd fd(::open(device.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd.ok()) return Status::from_errno(errno, "opening " + device);
    if (::ioctl(fd.get(), LOOP_CLR_FD) != 0 && errno != ENXIO) {
      return Status::from_errno(errno, "detaching " + device);
    }
  }
  // The kernel lets go when the last one closes it.
  for (int i = 0; i < kReleaseTries; ++i) {
    if (!state_of(device).bound) {
      kernel::remove_nodes(partitions);
      return {};
    }
    std::this_thread::sleep_for(kReleasePause);
  }
  return kernel::busy(device, kernel::users_of(device));
}

Status update_capacity(const std::string& device) {
  const Fd fd(::open(device.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.ok()) return Status::from_errno(errno, "opening " + device);
  if (::ioctl(fd.get(), LOOP_SET_CAPACITY, 0) != 0) {
    return Status::from_errno(errno, "telling " + device + " its new size");
  }
  return {};
}

}  // namespace voltree::loop
