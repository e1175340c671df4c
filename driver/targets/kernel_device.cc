#include "driver/targets/kernel_device.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <fstream>
#include <set>
#include <sstream>
#include <thread>

namespace voltree::kernel {
namespace {

constexpr int kBusyTries = 20;
constexpr std::chrono::milliseconds kBusyPause{100};

std::string name_of(const std::string& device) { return device.substr(device.rfind('/') + 1); }

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

// `major_minor`: "7:3", as in sysfs's `dev` file of a device or partition.
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

// "major:minor" of the device and its partitions.
std::set<std::string> device_ids(const std::string& device) {
  const std::string folder = "/sys/block/" + name_of(device);
  std::set<std::string> ids{read_line(folder + "/dev")};
  for (const std::string& part : partitions_of(device)) {
    ids.insert(read_line(fmt::format("{}/{}/dev", folder, part)));
  }
  return ids;
}

std::string process_name(const std::string& pid) {
  return fmt::format("{} (pid {})", read_line("/proc/" + pid + "/comm"), pid);
}

void find_mounts(const std::string& device, std::vector<std::string>& users) {
  const std::set<std::string> ids = device_ids(device);
  std::ifstream mounts("/proc/self/mountinfo");
  for (std::string line; std::getline(mounts, line);) {
    std::istringstream fields(line);
    std::string id, parent, mounted, root, where, options, field, type, source;
    fields >> id >> parent >> mounted >> root >> where >> options;
    while (fields >> field && field != "-") {
    }
    fields >> type >> source;
    // btrfs shows an anonymous device number, but names its source.
    const bool ours =
        ids.count(mounted) != 0 || source == device || source.rfind(device + "p", 0) == 0;
    if (ours) users.push_back("mounted on " + where);
  }
}

void find_openers(const std::string& device, std::vector<std::string>& users) {
  const std::string self = fmt::format("{}", ::getpid());
  for (const std::string& pid : names_in("/proc")) {
    if (pid.empty() || pid[0] < '0' || pid[0] > '9' || pid == self) continue;
    for (const std::string& fd : names_in("/proc/" + pid + "/fd")) {
      char target[256];
      const ssize_t length =
          ::readlink(fmt::format("/proc/{}/fd/{}", pid, fd).c_str(), target, sizeof target);
      if (length <= 0) continue;
      const std::string_view open(target, static_cast<std::size_t>(length));
      if (open != device && open.substr(0, device.size() + 1) != device + "p") continue;
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

}  // namespace

int device_number(std::string_view prefix, std::string_view device) {
  if (!device.starts_with(prefix)) return -1;
  int number = -1;
  const char* end = device.data() + device.size();
  const auto [stop, bad] = std::from_chars(device.data() + prefix.size(), end, number);
  return bad == std::errc() && stop == end && number >= 0 ? number : -1;
}

std::string read_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

std::vector<std::string> partitions_of(const std::string& device) {
  const std::string name = name_of(device);
  std::vector<std::string> found;
  for (const std::string& entry : names_in("/sys/block/" + name)) {
    if (entry.rfind(name + "p", 0) == 0) found.push_back(entry);
  }
  return found;
}

void make_nodes(const std::string& device) {
  const std::string folder = "/sys/block/" + name_of(device);
  make_node(device, read_line(folder + "/dev"));
  for (const std::string& part : partitions_of(device)) {
    make_node("/dev/" + part, read_line(fmt::format("{}/{}/dev", folder, part)));
  }
}

void remove_nodes(const std::vector<std::string>& partitions) {
  for (const std::string& part : partitions) {
    if (::access(("/sys/class/block/" + part).c_str(), F_OK) != 0) {
      ::unlink(("/dev/" + part).c_str());
    }
  }
}

std::vector<std::string> users_of(const std::string& device) {
  std::vector<std::string> users;
  find_mounts(device, users);
  std::ifstream swaps("/proc/swaps");
  for (std::string line; std::getline(swaps, line);) {
    const std::string name = line.substr(0, line.find_first_of(" \t"));
    if (name == device || name.rfind(device + "p", 0) == 0) users.push_back("swap on " + name);
  }
  std::vector<std::string> nodes = partitions_of(device);
  nodes.push_back(name_of(device));
  for (const std::string& node : nodes) {
    for (const std::string& holder : names_in("/sys/class/block/" + node + "/holders")) {
      users.push_back("held by " + holder);
    }
  }
  find_openers(device, users);
  return users;
}

Status busy(const std::string& device, const std::vector<std::string>& users) {
  return error(Code::kBusy, "{} is in use: {}", device,
               users.empty() ? "claimed by a mount or a device in another namespace"
                             : fmt::format("{}", fmt::join(users, ", ")));
}

Status wait_until_unused(const std::string& device) {
  std::vector<std::string> users;
  for (int i = 0; i < kBusyTries; ++i) {
    users = users_of(device);
    if (users.empty() && !claimed(device)) return {};
    const bool lasting = std::any_of(users.begin(), users.end(), [](const std::string& user) {
      return user.rfind("open in ", 0) != 0;
    });
    if (lasting) break;
    std::this_thread::sleep_for(kBusyPause);
  }
  return busy(device, users);
}

Status write_back(const std::string& device) {
  const Fd fd(::open(device.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.ok()) return Status::from_errno(errno, "opening " + device);
  if (::fsync(fd.get()) != 0) return Status::from_errno(errno, "writing back " + device);
  return {};
}

}  // namespace voltree::kernel
