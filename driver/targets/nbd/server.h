// The NBD server: every volume and snapshot of a store, to any client, on the reactors that serve
// everything else.
//
// Each connection belongs to one executor. What a client can make us hold is bounded: connections,
// the time of a handshake, names, requests in flight, and bytes of payload, for each connection and
// in all (budget.h). A client that does not read its replies while others wait for memory is sent
// away.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <coroutine>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "blockstore/runtime/io.h"
#include "blockstore/store.h"
#include "driver/targets/nbd/access.h"
#include "driver/targets/nbd/budget.h"
#include "driver/targets/nbd/exports.h"
#include "driver/targets/nbd/listener.h"
#include "driver/targets/nbd/negotiation.h"
#include "driver/targets/nbd/tls.h"
#include "driver/targets/nbd/transmission.h"

namespace voltree::nbd {

struct ServerOptions {
  std::string socket_path;  // empty: no Unix socket
  // A listening Unix socket that the server takes over, for commands of the store's owner: the
  // rules of access do not apply to it, and uris() does not tell of it. -1: none.
  int private_listener = -1;
  std::optional<Endpoint> endpoint;  // unset: no TCP
  std::optional<TlsOptions> tls;     // TCP clients must use it, others may
  bool insecure = false;             // TCP beyond loopback without TLS
  AccessRules rules;
  std::size_t connections_max = 1024;
  std::chrono::seconds handshake_timeout{10};
  std::chrono::seconds stall_timeout{30};
  std::size_t memory_bytes = std::size_t{256} << 20;            // payloads of all connections
  std::size_t connection_memory_bytes = std::size_t{32} << 20;  // and of each
  std::function<void(const std::string&)> log;                  // may be empty
};

struct ConnectionInfo {
  std::uint64_t id = 0;
  std::string peer;         // access.h
  std::string export_name;  // empty during the handshake
  NodeId node = kNoNode;
  bool read_only = false;
  std::uint64_t requests = 0;
  std::chrono::seconds age{0};
};

// What the kernel has to be told of an export that it is served.
struct KernelExport {
  std::uint64_t size_bytes = 0;
  std::uint16_t flags = 0;  // transmission flags
};

class Server {
 public:
  // Listens when it returns. Blocking: not from an executor. All must outlive it; `observer` may be
  // null.
  static Result<std::unique_ptr<Server>> start(Runtime& runtime, Store& store,
                                               ServerOptions options, ChangeObserver* observer);
  ~Server();  // stop()
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // No new connections; requests that were read are answered; then every connection is closed.
  // Idempotent. Blocking.
  void stop();

  // Serves an export on a connected stream socket, which it takes over, to the kernel of this host:
  // from the transmission phase on, with simple replies, which are all that the kernel knows. The
  // rules of access do not apply. Blocking.
  Result<KernelExport> serve_kernel(int fd, const std::string& export_name, bool read_only);

  // Closes the connections to this node, but those of the kernel's devices (detach them), waits
  // until they have let go of it, and says how many they were. Blocking.
  std::size_t disconnect(NodeId node);
  std::vector<ConnectionInfo> connections() const;
  // Where clients find an export, one URI for each door, the Unix socket's first (the NBD project's
  // "uri.md").
  std::vector<std::string> uris(const std::string& export_name) const;

 private:
  struct Connection;
  struct Room;

  Server(Runtime& runtime, Store& store, ServerOptions options, ChangeObserver* observer);
  Status listen();
  void begin();
  Task<void> accept_loop(Listener& listener);
  void admit(int fd, const Listener& listener);
  Task<void> serve(std::shared_ptr<Connection> connection);
  Task<Result<Negotiation::Encrypted>> encrypt(Connection& connection);
  Task<void> serve_opened(std::shared_ptr<Connection> connection, Session session);
  Task<Status> converse(Connection& connection);
  Task<Status> transmit(Connection& connection, Stream& stream, Session session);
  void say_end(const Connection& connection, const Status& status);
  void wake_acceptors();  // with mutex_ held
  void forget(const std::shared_ptr<Connection>& connection);
  void watch();
  void shut_down_late(std::vector<std::string>& said);
  void log(const std::string& line);

  Runtime& runtime_;
  Store& store_;
  const ServerOptions options_;
  ChangeObserver* const observer_;
  Exports exports_;
  Exports private_exports_;  // without rules
  std::unique_ptr<TlsServer> tls_;
  Budget budget_;
  std::vector<Listener> listeners_;

  std::atomic<bool> stopping_{false};
  mutable std::mutex mutex_;
  std::condition_variable changed_;  // a connection or an accept loop has ended, or stopping_
  std::list<std::shared_ptr<Connection>> connections_;
  std::size_t accepting_ = 0;
  std::vector<std::coroutine_handle<>> acceptors_;  // those that wait for room
  std::uint64_t next_id_ = 1;
  std::uint64_t lines_logged_ = 0;  // since `watch` last forgave
  std::thread watcher_;
};

}  // namespace voltree::nbd
