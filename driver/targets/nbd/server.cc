#include "driver/targets/nbd/server.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <set>

#include "blockstore/runtime/fd_io.h"

namespace voltree::nbd {
namespace {

// What every connection may hold whatever others do: a few requests of common size.
constexpr std::size_t kFloorBytes = std::size_t{128} * 1024;
constexpr int kSocketBufferBytes = 1 << 20;
constexpr std::size_t kAcceptsInATurn = 8;
constexpr std::chrono::milliseconds kWatchInterval{500};
constexpr std::chrono::seconds kStopGrace{5};
constexpr std::uint64_t kLinesMax = 20;  // of log in an interval: clients must not fill the disk

std::string percent_encoded(std::string_view text, std::string_view also_plain) {
  std::string out;
  for (const char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       std::string_view("-._~").find(c) != std::string_view::npos ||
                       also_plain.find(c) != std::string_view::npos;
    if (plain) {
      out += c;
    } else {
      out += fmt::format("%{:02X}", static_cast<unsigned char>(c));
    }
  }
  return out;
}

}  // namespace

struct Server::Connection {
  Connection(Runtime& runtime, int fd, bool is_local, Budget& budget, std::size_t limit_bytes)
      : socket(runtime, fd), local(is_local), share(budget, kFloorBytes, limit_bytes) {}

  SocketStream socket;
  std::unique_ptr<Stream> encrypted;  // TLS over it, once there is any
  const bool local;
  bool of_commands = false;  // the rules do not apply
  Share share;
  std::uint64_t id = 0;
  Executor* executor = nullptr;
  std::chrono::nanoseconds since{0};

  // Under Server::mutex_.
  bool negotiating = true;
  bool of_kernel = false;
  bool sent_away = false;
  std::string peer;
  std::string export_name;
  NodeId node = kNoNode;
  bool read_only = false;
  const Transmission* transmission = nullptr;
};

// Waits until there are no more connections than there may be: those that were sent away for others
// count until they are gone.
struct Server::Room {
  Server& server;
  bool await_ready() const noexcept { return false; }
  bool await_suspend(std::coroutine_handle<> handle) const {
    const std::lock_guard lock(server.mutex_);
    if (server.connections_.size() <= server.options_.connections_max || server.stopping_.load()) {
      return false;
    }
    server.acceptors_.push_back(handle);
    return true;
  }
  void await_resume() const noexcept {}
};

Result<std::unique_ptr<Server>> Server::start(Runtime& runtime, Store& store, ServerOptions options,
                                              ChangeObserver* observer) {
  std::unique_ptr<Server> server(new Server(runtime, store, std::move(options), observer));
  if (server->options_.tls) {
    VT_ASSIGN_OR_RETURN(server->tls_, TlsServer::make(*server->options_.tls));
    if (const std::string path = exposed_secrets(*server->options_.tls); !path.empty()) {
      server->log(fmt::format("the keys in {0} can be read by others: chmod 600 {0}", path));
    }
  }
  VT_RETURN_IF_ERROR(server->listen());
  server->begin();
  return server;
}

Server::Server(Runtime& runtime, Store& store, ServerOptions options, ChangeObserver* observer)
    : runtime_(runtime),
      store_(store),
      options_(std::move(options)),
      observer_(observer),
      exports_(store, options_.rules),
      private_exports_(store, AccessRules()),
      budget_(std::max(options_.memory_bytes, std::size_t{kPayloadMaxBytes})) {}

Server::~Server() { stop(); }

Status Server::listen() {
  if (options_.private_listener >= 0) {
    Listener listener;
    listener.fd = options_.private_listener;
    listener.loopback = true;
    listener.of_commands = true;
    ::fcntl(listener.fd, F_SETFL, ::fcntl(listener.fd, F_GETFL) | O_NONBLOCK);
    listeners_.push_back(std::move(listener));
  }
  if (!options_.socket_path.empty()) {
    VT_ASSIGN_OR_RETURN(Listener listener, listen_unix_socket(options_.socket_path));
    listeners_.push_back(std::move(listener));
  }
  if (!options_.endpoint) return {};
  VT_ASSIGN_OR_RETURN(std::vector<Listener> bound, listen_tcp(*options_.endpoint));
  for (Listener& listener : bound) listeners_.push_back(std::move(listener));
  if (tls_ || options_.insecure) return {};
  for (const Listener& listener : listeners_) {
    if (listener.loopback) continue;
    return error(Code::kPermission,
                 "{} can be reached from other machines: give --nbd-tls or --nbd-psk, or say "
                 "--insecure",
                 listener.host);
  }
  return {};
}

void Server::begin() {
  accepting_ = listeners_.size();
  for (Listener& listener : listeners_) spawn(runtime_.executor(0), accept_loop(listener));
  watcher_ = std::thread([this] { watch(); });
}

void Server::stop() {
  if (stopping_.exchange(true)) return;
  for (const Listener& listener : listeners_) runtime_.cancel_fd(listener.fd);
  std::unique_lock lock(mutex_);
  changed_.notify_all();
  wake_acceptors();
  for (const auto& connection : connections_) {
    if (connection->negotiating) {
      connection->socket.shut_down();
    } else {
      connection->socket.shut_down_reading();
    }
  }
  const auto ended = [this] { return connections_.empty() && accepting_ == 0; };
  if (!changed_.wait_for(lock, kStopGrace, ended)) {
    for (const auto& connection : connections_) connection->socket.shut_down();
    changed_.wait(lock, ended);
  }
  lock.unlock();
  if (watcher_.joinable()) watcher_.join();  // none when start() failed
  for (Listener& listener : listeners_) close_listener(listener);
}

// --- Taking connections.

Task<void> Server::accept_loop(Listener& listener) {
  std::size_t turn = 0;
  while (true) {
    co_await Room{*this};
    if (stopping_.load()) break;
    const int fd = ::accept4(listener.fd, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0) {
      admit(fd, listener);
      // Who knocks without end must not keep this executor from its work.
      if (++turn % kAcceptsInATurn == 0) co_await ResumeOn{*Executor::current()};
      continue;
    }
    if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
      // The waiting connection would wake us at once, again and again.
      co_await runtime_.sleep_for(std::chrono::milliseconds(100));
    } else if (errno == EAGAIN) {
      if (co_await FdPoll(runtime_, listener.fd, POLLIN) == -ECANCELED) break;
    }
  }
  const std::lock_guard lock(mutex_);
  --accepting_;
  changed_.notify_all();
}

void Server::admit(int fd, const Listener& listener) {
  const bool local = listener.of_commands || !listener.path.empty();
  if (local) {
    ::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &kSocketBufferBytes, sizeof kSocketBufferBytes);
  } else {
    const int on = 1;
    ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    ::setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  }
  auto connection =
      std::make_shared<Connection>(runtime_, fd, local, budget_, options_.connection_memory_bytes);
  connection->since = runtime_.monotonic_now();
  connection->peer = local ? "unix" : "tcp";
  connection->of_commands = listener.of_commands;
  {
    const std::lock_guard lock(mutex_);
    if (stopping_.load()) return;
    if (connections_.size() >= options_.connections_max) {
      // Who has not got through the handshake yet makes room, the oldest first; who works stays.
      const auto oldest =
          std::find_if(connections_.begin(), connections_.end(),
                       [](const auto& other) { return other->negotiating && !other->sent_away; });
      if (oldest == connections_.end()) return;
      (*oldest)->sent_away = true;
      (*oldest)->socket.shut_down();
    }
    connection->id = next_id_++;
    connection->executor = &runtime_.executor(connection->id % runtime_.executor_count());
    connections_.push_back(connection);
  }
  Executor& executor = *connection->executor;
  spawn(executor, serve(std::move(connection)));
}

Task<void> Server::serve(std::shared_ptr<Connection> connection) {
  const Status status = co_await converse(*connection);
  say_end(*connection, status);
  forget(connection);
}

Task<void> Server::serve_opened(std::shared_ptr<Connection> connection, Session session) {
  const Status status = co_await transmit(*connection, connection->socket, std::move(session));
  say_end(*connection, status);
  forget(connection);
}

void Server::say_end(const Connection& connection, const Status& status) {
  if (status.ok() || status.code() == Code::kGone || status.code() == Code::kCancelled) return;
  log(fmt::format("NBD client {} ({}): {}", connection.id, connection.peer, status.message()));
}

void Server::forget(const std::shared_ptr<Connection>& connection) {
  const std::lock_guard lock(mutex_);
  connections_.remove(connection);
  wake_acceptors();
  // Under the lock: stop() may be followed by the end of this object.
  changed_.notify_all();
}

Task<Result<Negotiation::Encrypted>> Server::encrypt(Connection& connection) {
  VT_CO_ASSIGN_OR_RETURN(TlsServer::Accepted accepted, co_await tls_->accept(connection.socket));
  connection.encrypted = std::move(accepted.stream);
  co_return Negotiation::Encrypted{connection.encrypted.get(), std::move(accepted.peer)};
}

Task<Status> Server::converse(Connection& connection) {
  Negotiation::StartTls start_tls;
  if (tls_) start_tls = [this, &connection] { return encrypt(connection); };
  Exports& exports = connection.of_commands ? private_exports_ : exports_;
  Negotiation negotiation(exports, connection.socket, std::move(start_tls),
                          tls_ != nullptr && !connection.local, connection.peer,
                          [this, &connection](const Export& exported, const std::string& peer) {
                            const std::lock_guard lock(mutex_);
                            connection.negotiating = false;  // GO has only to be told
                            connection.peer = peer;
                            connection.export_name = exported.node.name.str();
                            connection.node = exported.node.id;
                            connection.read_only = exported.read_only;
                          });
  Result<Session> session = co_await negotiation.run();
  Stream& stream = negotiation.stream();
  if (!session.ok()) {
    co_await stream.close();
    co_return session.status();
  }
  co_return co_await transmit(connection, stream, std::move(*session));
}

Task<Status> Server::transmit(Connection& connection, Stream& stream, Session session) {
  Transmission transmission(store_, stream, std::move(session), connection.share, observer_,
                            stopping_);
  {
    const std::lock_guard lock(mutex_);
    connection.transmission = &transmission;
    if (connection.sent_away || stopping_.load()) connection.socket.shut_down();
  }
  Status status = co_await transmission.run();
  co_await stream.close();
  const std::lock_guard lock(mutex_);
  connection.transmission = nullptr;
  co_return status;
}

Result<KernelExport> Server::serve_kernel(int fd, const std::string& export_name, bool read_only) {
  ::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) | O_NONBLOCK);
  ::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &kSocketBufferBytes, sizeof kSocketBufferBytes);
  auto connection =
      std::make_shared<Connection>(runtime_, fd, true, budget_, options_.connection_memory_bytes);
  VT_ASSIGN_OR_RETURN(Export exported,
                      runtime_.sync_wait(private_exports_.open(export_name, "kernel")));
  exported.read_only = exported.read_only || read_only;
  connection->since = runtime_.monotonic_now();
  connection->negotiating = false;
  connection->of_kernel = true;
  connection->peer = "kernel";
  connection->export_name = export_name;
  connection->node = exported.node.id;
  connection->read_only = exported.read_only;
  Session session;
  session.flags = transmission_flags(exported.read_only, false);
  const KernelExport told{exported.size_bytes, session.flags};
  session.exported = std::move(exported);
  {
    const std::lock_guard lock(mutex_);
    if (stopping_.load()) return error(Code::kCancelled, "the daemon is stopping");
    connection->id = next_id_++;
    connection->executor = &runtime_.executor(connection->id % runtime_.executor_count());
    connections_.push_back(connection);
  }
  Executor& executor = *connection->executor;
  spawn(executor, serve_opened(std::move(connection), std::move(session)));
  return told;
}

void Server::wake_acceptors() {
  for (const std::coroutine_handle<> handle : acceptors_) runtime_.executor(0).post(handle);
  acceptors_.clear();
}

// --- Watching over them.

void Server::watch() {
  std::unique_lock lock(mutex_);
  std::size_t turns = 0;
  while (!stopping_.load()) {
    std::vector<std::string> said;
    shut_down_late(said);
    if (++turns % 20 == 0) lines_logged_ = 0;
    lock.unlock();
    for (const std::string& line : said) log(line);
    lock.lock();
    changed_.wait_for(lock, kWatchInterval, [this] { return stopping_.load(); });
  }
}

void Server::shut_down_late(std::vector<std::string>& said) {
  const std::chrono::nanoseconds now = runtime_.monotonic_now();
  for (const auto& connection : connections_) {
    if (connection->sent_away || connection->of_kernel) continue;
    const char* why = nullptr;
    if (connection->negotiating && now - connection->since > options_.handshake_timeout) {
      why = "the handshake took too long";
    }
    const std::chrono::nanoseconds stalled = connection->socket.stalled_since();
    if (stalled.count() != 0 && now - stalled > options_.stall_timeout &&
        connection->share.holds_common() && budget_.short_of_memory()) {
      why = "it neither sends nor reads what it began, and others wait for the memory";
    }
    if (why == nullptr) continue;
    connection->sent_away = true;
    connection->socket.shut_down();
    said.push_back(
        fmt::format("NBD client {} ({}) is sent away: {}", connection->id, connection->peer, why));
  }
}

void Server::log(const std::string& line) {
  if (!options_.log) return;
  {
    const std::lock_guard lock(mutex_);
    if (++lines_logged_ > kLinesMax) return;
  }
  options_.log(line);
}

// --- Questions.

std::size_t Server::disconnect(NodeId node) {
  std::unique_lock lock(mutex_);
  // Those that are there now: clients that reconnect at once would be waited for without end.
  std::set<std::uint64_t> ids;
  for (const auto& connection : connections_) {
    if (connection->node != node || connection->of_kernel) continue;
    connection->sent_away = true;
    connection->socket.shut_down();
    ids.insert(connection->id);
  }
  changed_.wait(lock, [&] {
    return std::none_of(connections_.begin(), connections_.end(),
                        [&](const auto& connection) { return ids.contains(connection->id); });
  });
  return ids.size();
}

std::vector<ConnectionInfo> Server::connections() const {
  const std::chrono::nanoseconds now = runtime_.monotonic_now();
  std::vector<ConnectionInfo> all;
  const std::lock_guard lock(mutex_);
  for (const auto& connection : connections_) {
    ConnectionInfo info;
    info.id = connection->id;
    info.peer = connection->peer;
    info.export_name = connection->export_name;
    info.node = connection->node;
    info.read_only = connection->read_only;
    if (connection->transmission != nullptr) info.requests = connection->transmission->requests();
    info.age = std::chrono::duration_cast<std::chrono::seconds>(now - connection->since);
    all.push_back(std::move(info));
  }
  return all;
}

std::vector<std::string> Server::uris(const std::string& export_name) const {
  std::vector<std::string> all;
  for (const Listener& listener : listeners_) {
    if (listener.of_commands) continue;
    const std::string name = percent_encoded(export_name, "@");
    if (!listener.path.empty()) {
      all.push_back(
          fmt::format("nbd+unix:///{}?socket={}", name, percent_encoded(listener.path, "/")));
      continue;
    }
    const std::string host =
        listener.host.find(':') == std::string::npos ? listener.host : "[" + listener.host + "]";
    all.push_back(fmt::format("{}://{}:{}/{}", tls_ ? "nbds" : "nbd", host, listener.port, name));
  }
  return all;
}

}  // namespace voltree::nbd
