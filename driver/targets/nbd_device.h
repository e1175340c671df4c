// The kernel's NBD devices, one netlink request at a time (linux/nbd-netlink.h; the generic netlink
// family "nbd"). Linux only; everything here may block, and must not run on an executor.
//
// Nothing here knows of volumes. A device is served through a connected stream socket whose other
// end is in the transmission phase already. When that socket dies, the device keeps its requests
// for kDeadConnectionSeconds, for whoever gives it a new one.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "blockstore/base/status.h"

namespace voltree::nbd_device {

inline constexpr std::uint64_t kDeadConnectionSeconds = 600;

struct Config {
  int socket = -1;                      // the kernel takes a reference of its own
  std::optional<std::uint32_t> number;  // of /dev/nbdN; unset: one that is free
  std::uint64_t size_bytes = 0;
  std::uint32_t sector_size_bytes = 512;
  std::uint16_t server_flags = 0;  // transmission flags
  std::string identifier;          // who may give it a new socket
};

struct State {
  bool connected = false;
  std::string identifier;  // empty before Linux 5.14, which does not tell
};

// OK when this process may make NBD devices; otherwise why not, and what to do.
Status check_supported();

// Returns the device's path, "/dev/nbd3". kBusy: `number` is taken.
Result<std::string> connect(const Config& config);
// A new socket for a device whose socket has died. kBusy: it has not.
Status reconnect(const std::string& device, int socket, const std::string& identifier);
Status set_size(const std::string& device, std::uint64_t size_bytes, const std::string& identifier);

// Not connected when there is no such device.
State state_of(const std::string& device);

// Writes back what is cached of the device and disconnects it. kBusy, naming who, when it is in
// use: nothing changed then.
Status disconnect(const std::string& device);

// N of "/dev/nbdN"; -1 for anything else.
int device_number(const std::string& device);

}  // namespace voltree::nbd_device
