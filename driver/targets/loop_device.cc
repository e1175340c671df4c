#include "driver/targets/loop_device.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <set>
#include <sstream>
#include <thread>
#include <utility>

namespace voltree::loop {
namespace {

using std::chrono::milliseconds;

constexpr int kLoopMajor = 7;
constexpr std::string_view kPrefix = "/dev/loop";
// Others take free devices too; each round asks the kernel for a new one.
constexpr int kBindTries = 64;
// udev and blkid open a device for a moment after each change.
constexpr int kBusyTries = 20;
constexpr milliseconds kBusyPause{100};

class Fd {
 public:
  explicit Fd(int fd) : fd_(fd) {}
  ~Fd() { close(); }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  int get() const { return fd_; }
  bool ok() const { return fd_ >= 0; }
  void close() {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  }

 private:
  int fd_;
};

std::string device_path(int number) { return fmt::format("{}{}", kPrefix, number); }

// The names in a folder, without "." and ".."; empty when it cannot be read.
std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  DIR* dir = ::opendir(folder.c_str());
  if (dir == nullptr) return names;
  while (const dirent* entry = ::readdir(dir)) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") names.push_back(name);
  }
  ::closedir(dir);
  return names;
}

// "7:3" in sysfs's `dev` file of a device or partition.
std::string read_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

void make_node(const std::string& path, const std::string& major_minor) {
  unsigned int major = 0;
  unsigned int minor = 0;
  const char* end = major_minor.data() + major_minor.size();
  const auto [colon, bad] = std::from_chars(major_minor.data(), end, major);
  if (bad != std::errc() || colon == end || *colon != ':') return;
  if (std::from_chars(colon + 1, end, minor).ec != std::errc()) return;
  if (::access(path.c_str(), F_OK) == 0) return;
  // Losing a race against udev (EEXIST) is as good as winning it; opening the node tells what is
  // wrong otherwise.
  if (::mknod(path.c_str(), S_IFBLK | 0660, makedev(major, minor)) != 0) return;
}

std::vector<std::string> partitions_of(int number) {
  const std::string name = fmt::format("loop{}", number);
  std::vector<std::string> found;
  for (const std::string& entry : names_in("/sys/block/" + name)) {
    if (entry.rfind(name + "p", 0) == 0) found.push_back(entry);
  }
  return found;
}

void make_nodes(int number) {
  make_node(device_path(number), fmt::format("{}:{}", kLoopMajor, number));
  for (const std::string& part : partitions_of(number)) {
    make_node("/dev/" + part, read_line(fmt::format("/sys/block/loop{}/{}/dev", number, part)));
  }
}

// Nodes of partitions that are gone: udev removes its own, these are the ones of make_nodes.
void remove_partition_nodes(const std::vector<std::string>& partitions) {
  for (const std::string& part : partitions) {
    if (::access(("/sys/class/block/" + part).c_str(), F_OK) != 0) {
      ::unlink(("/dev/" + part).c_str());
    }
  }
}

// "major:minor" of the device and its partitions.
std::set<std::string> device_ids(int number) {
  std::set<std::string> ids{fmt::format("{}:{}", kLoopMajor, number)};
  for (const std::string& part : partitions_of(number)) {
    ids.insert(read_line(fmt::format("/sys/block/loop{}/{}/dev", number, part)));
  }
  return ids;
}

std::string process_name(const std::string& pid) {
  return fmt::format("{} (pid {})", read_line("/proc/" + pid + "/comm"), pid);
}

void find_mounts(int number, std::vector<std::string>& users) {
  const std::set<std::string> ids = device_ids(number);
  std::ifstream mounts("/proc/self/mountinfo");
  for (std::string line; std::getline(mounts, line);) {
    std::istringstream fields(line);
    std::string id, parent, device, root, where, options, field, type, source;
    fields >> id >> parent >> device >> root >> where >> options;
    while (fields >> field && field != "-") {
    }
    fields >> type >> source;
    // btrfs shows an anonymous device number, but names its source.
    const std::string path = device_path(number);
    const bool ours = ids.count(device) != 0 || source == path || source.rfind(path + "p", 0) == 0;
    if (ours) users.push_back("mounted on " + where);
  }
}

void find_openers(int number, std::vector<std::string>& users) {
  const std::string path = device_path(number);
  const std::string self = fmt::format("{}", ::getpid());
  for (const std::string& pid : names_in("/proc")) {
    if (pid.empty() || pid[0] < '0' || pid[0] > '9' || pid == self) continue;
    for (const std::string& fd : names_in("/proc/" + pid + "/fd")) {
      char target[256];
      const ssize_t length =
          ::readlink(fmt::format("/proc/{}/fd/{}", pid, fd).c_str(), target, sizeof target);
      if (length <= 0) continue;
      const std::string_view open(target, static_cast<std::size_t>(length));
      if (open != path && open.substr(0, path.size() + 1) != path + "p") continue;
      users.push_back("open in " + process_name(pid));
      break;
    }
  }
}

// True when someone claims the device (a mount in any namespace, swap, device mapper).
bool claimed(const std::string& device) {
  const Fd fd(::open(device.c_str(), O_RDONLY | O_EXCL | O_CLOEXEC));
  return !fd.ok() && errno == EBUSY;
}

Status busy(const std::string& device, const std::vector<std::string>& users) {
  return error(Code::kBusy, "{} is in use: {}", device,
               users.empty() ? "claimed by a mount or a device in another namespace"
                             : fmt::format("{}", fmt::join(users, ", ")));
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

int device_number(const std::string& device) {
  if (device.rfind(kPrefix, 0) != 0) return -1;
  int number = -1;
  const char* end = device.data() + device.size();
  const auto [stop, bad] = std::from_chars(device.data() + kPrefix.size(), end, number);
  return bad == std::errc() && stop == end && number >= 0 ? number : -1;
}

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
  const int access = config.read_only ? O_RDONLY : O_RDWR;
  Fd backing(::open(config.backing_file.c_str(), access | O_DIRECT | O_CLOEXEC));
  if (!backing.ok()) return Status::from_errno(errno, "opening " + config.backing_file);
  VT_RETURN_IF_ERROR(refresh_size(config.backing_file));
  const Fd control(::open("/dev/loop-control", O_RDWR | O_CLOEXEC));
  if (!control.ok()) return Status::from_errno(errno, "opening /dev/loop-control");
  Status status;
  for (int i = 0; i < kBindTries; ++i) {
    const int number = ::ioctl(control.get(), LOOP_CTL_GET_FREE);
    if (number < 0) return Status::from_errno(errno, "finding a free loop device");
    make_nodes(number);
    const std::string device = device_path(number);
    status = configure(device, backing.get(), config);
    if (status.ok()) {
      make_nodes(number);  // of the partitions that the kernel found
      return device;
    }
    if (status.code() != Code::kBusy) return status;
    std::this_thread::sleep_for(milliseconds(5));
  }
  return status;
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

std::vector<std::string> users_of(const std::string& device) {
  std::vector<std::string> users;
  const int number = device_number(device);
  if (number < 0) return users;
  find_mounts(number, users);
  std::ifstream swaps("/proc/swaps");
  for (std::string line; std::getline(swaps, line);) {
    const std::string name = line.substr(0, line.find_first_of(" \t"));
    if (name == device || name.rfind(device + "p", 0) == 0) users.push_back("swap on " + name);
  }
  std::vector<std::string> nodes = partitions_of(number);
  nodes.push_back(fmt::format("loop{}", number));
  for (const std::string& node : nodes) {
    for (const std::string& holder : names_in("/sys/class/block/" + node + "/holders")) {
      users.push_back("held by " + holder);
    }
  }
  find_openers(number, users);
  return users;
}

Status unbind(const std::string& device) {
  if (device_number(device) < 0) return error(Code::kInvalid, "{} is no loop device", device);
  std::vector<std::string> users;
  bool is_claimed = false;
  for (int i = 0; i < kBusyTries; ++i) {
    users = users_of(device);
    is_claimed = claimed(device);
    if (users.empty() && !is_claimed) break;
    const bool lasting = std::any_of(users.begin(), users.end(), [](const std::string& user) {
      return user.rfind("open in ", 0) != 0;
    });
    if (lasting) break;
    std::this_thread::sleep_for(kBusyPause);
  }
  if (!users.empty() || is_claimed) return busy(device, users);

  const std::vector<std::string> partitions = partitions_of(device_number(device));
  Fd fd(::open(device.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.ok()) return Status::from_errno(errno, "opening " + device);
  // A failed write-back must stop the detach: data would be lost without a word.
  if (::fsync(fd.get()) != 0) return Status::from_errno(errno, "writing back " + device);
  if (::ioctl(fd.get(), LOOP_CLR_FD) != 0 && errno != ENXIO) {
    return Status::from_errno(errno, "detaching " + device);
  }
  fd.close();
  // The kernel lets go when the last one closes it.
  for (int i = 0; i < kBusyTries; ++i) {
    if (!state_of(device).bound) {
      remove_partition_nodes(partitions);
      return {};
    }
    std::this_thread::sleep_for(kBusyPause);
  }
  return busy(device, users_of(device));
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
