// What loop and NBD devices have in common: nodes in /dev, partitions, and who uses them. Linux
// only; everything here may block, and must not run on an executor: a device's I/O may be ours.
//
// A device is named by its path, "/dev/loop3"; sysfs knows it by its name, "loop3".
#pragma once

#include <unistd.h>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "blockstore/base/status.h"

namespace voltree::kernel {

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

// N of "/dev/loopN" for the prefix "/dev/loop"; -1 for anything else.
int device_number(std::string_view prefix, std::string_view device);

// The first line of a small file of sysfs; empty when it cannot be read.
std::string read_line(const std::string& path);

// The names of its partitions ("loop3p1").
std::vector<std::string> partitions_of(const std::string& device);

// Makes the nodes of the device and its partitions where nobody else does (containers have no
// udev), from what sysfs says.
void make_nodes(const std::string& device);
// Removes those of partitions that are gone: udev removes its own.
void remove_nodes(const std::vector<std::string>& partitions);

// Who uses it: mounts, swap, holders (device mapper, md), processes that have it open. For a
// message; empty when nobody does.
std::vector<std::string> users_of(const std::string& device);
Status busy(const std::string& device, const std::vector<std::string>& users);

// OK when nobody uses it. kBusy, naming who. Processes that open a device for a moment after each
// change (udev, blkid) are waited for.
Status wait_until_unused(const std::string& device);

// Writes back what the kernel caches of it. A failure must stop a detach: data would be lost
// without a word.
Status write_back(const std::string& device);

}  // namespace voltree::kernel
