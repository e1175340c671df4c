// The control socket of a running daemon.
//
// A thread accepts; each connection has a thread, and there are at most `connections_max` of them.
// When all are taken the one that has been silent for longest makes room; when all are working, the
// newcomer is told to come back (kBusy). So idle, slow or stuck clients take nothing from others.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "blockstore/base/status.h"
#include "driver/control/service.h"
#include "driver/control/socket.h"

namespace voltree {

struct ServerOptions {
  std::string socket_path;
  std::size_t connections_max = 64;
  std::chrono::seconds write_timeout{10};  // for a client that does not read its answer
  // A connection is not closed for a newcomer before it was silent for this long: its request may
  // be on the way.
  std::chrono::milliseconds idle_grace{1000};
  // How long a newcomer waits for room before it is told to come back.
  std::chrono::milliseconds room_timeout{5000};
};

// Root, or the user the daemon runs as.
bool control_peer_allowed(uid_t peer, uid_t daemon);

class Server {
 public:
  // Listens when it returns. `service` must outlive it.
  static Result<std::unique_ptr<Server>> start(Service& service, ServerOptions options);
  // stop().
  ~Server();
  // No new connections, calls in progress are answered, the socket file is removed. Idempotent.
  void stop();

 private:
  struct Connection;

  Server(Service& service, ServerOptions options, int listener, int wake);
  void accept_loop();
  void admit(int fd);
  bool make_room();
  bool evict_one();
  void reap();
  void serve(Connection& connection);

  Service& service_;
  const ServerOptions options_;
  const int listener_;
  const int wake_;  // an eventfd: stop() was called
  std::atomic<bool> stopping_{false};
  std::mutex mutex_;  // connections_, and each one's state
  std::list<std::unique_ptr<Connection>> connections_;
  std::thread acceptor_;
};

}  // namespace voltree
