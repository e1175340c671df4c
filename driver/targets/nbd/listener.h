// Listening sockets of the NBD server.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "blockstore/base/status.h"
#include "blockstore/base/units.h"

namespace voltree::nbd {

struct Endpoint {
  std::string host;  // a name or an address
  std::string port;
};
// "HOST:PORT", "[ADDRESS]:PORT", ":PORT" (all addresses); the port may be 0, for any that is free.
Result<Endpoint> parse_endpoint(std::string_view text);

struct Listener {
  int fd = -1;
  std::string host;  // TCP: the address it is bound to
  std::uint16_t port = 0;
  std::string path;  // a Unix socket
  bool loopback = false;
  bool of_commands = false;  // ServerOptions::private_listener: local, without a path of its own
};

// A Unix socket of mode 0600. A socket file that nobody listens on is replaced; one that is in use
// is kBusy, and what is no socket is left alone (kExists).
Result<Listener> listen_unix_socket(const std::string& path);
// Every address that the name stands for.
Result<std::vector<Listener>> listen_tcp(const Endpoint& endpoint);
void close_listener(Listener& listener);

}  // namespace voltree::nbd
