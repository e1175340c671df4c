// The kernel's loop devices, one system call at a time. Linux only; everything here may block.
//
// Nothing here knows of volumes. No function may be called on an executor of the runtime:
// configuring a device reads from the file behind it, which our own executors serve.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "blockstore/base/status.h"

namespace voltree::loop {

struct Config {
  std::string backing_file;
  bool read_only = false;
  std::uint32_t sector_size_bytes = 512;
};

struct State {
  bool bound = false;        // it has a backing file that still answers
  dev_t backing_device = 0;  // st_dev of the backing file
  ino_t backing_inode = 0;
  bool direct_io = false;
};

// OK when this process may make loop devices; otherwise why not.
Status check_supported();

// Binds `config.backing_file` to a free device, with direct I/O and partition scan, and returns its
// path
// ("/dev/loop3"). Makes device nodes that nobody else makes (containers have no udev).
Result<std::string> bind(const Config& config);

// The same, to this device. kBusy when it is not free.
Status bind_to(const std::string& device, const Config& config);

// Frees `device` when what is behind it has died and was a file of this end ("/volumes/disk"): what
// was cached of it is lost already. OK when it is free. kNotFound when it is another file's, kBusy,
// naming who, when it is in use.
Status release_dead(const std::string& device, const std::string& file);

// Makes the kernel ask for the file's size again: a loop device takes the size that the kernel
// remembers.
Status refresh_size(const std::string& backing_file);

// What `device` is bound to; not bound when it does not exist, is free, or its backing file is
// dead.
State state_of(const std::string& device);

// Writes back what is cached of `device` and unbinds it. kBusy, naming who, when it is in use:
// nothing changed then.
Status unbind(const std::string& device);

// The backing file has another size now (call refresh_size first).
Status update_capacity(const std::string& device);

// N of "/dev/loopN"; -1 for anything else.
int device_number(const std::string& device);

}  // namespace voltree::loop
