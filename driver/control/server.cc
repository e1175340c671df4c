#include "driver/control/server.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "driver/control/protocol.h"

namespace voltree {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kRoomPause{5};

void refuse(LineSocket& socket, int rpc_code, const Status& status) {
  (void)socket.write_line(dump_json(rpc_error(nullptr, rpc_code, status)));
}

}  // namespace

bool control_peer_allowed(uid_t peer, uid_t daemon) { return peer == 0 || peer == daemon; }

struct Server::Connection {
  enum class State : std::uint8_t { kReading, kCalling, kEvicted, kFinished };

  explicit Connection(int fd) : socket(fd) {}
  LineSocket socket;
  std::thread thread;
  State state = State::kReading;           // under Server::mutex_
  Clock::time_point since = Clock::now();  // when it last became kReading
};

Result<std::unique_ptr<Server>> Server::start(Service& service, ServerOptions options) {
  VT_ASSIGN_OR_RETURN(const int listener, listen_unix(options.socket_path));
  const int wake = ::eventfd(0, EFD_CLOEXEC);
  if (wake < 0) {
    Status status = Status::from_errno(errno, "making an eventfd");
    ::close(listener);
    return status;
  }
  return std::unique_ptr<Server>(new Server(service, std::move(options), listener, wake));
}

Server::Server(Service& service, ServerOptions options, int listener, int wake)
    : service_(service), options_(std::move(options)), listener_(listener), wake_(wake) {
  acceptor_ = std::thread([this] { accept_loop(); });
}

Server::~Server() {
  stop();
  ::close(wake_);
}

void Server::stop() {
  if (stopping_.exchange(true)) return;
  ::unlink(options_.socket_path.c_str());
  service_.stop();
  const std::uint64_t one = 1;
  while (::write(wake_, &one, sizeof one) < 0 && errno == EINTR) {
  }
  acceptor_.join();
  ::close(listener_);
  std::list<std::unique_ptr<Connection>> left;
  {
    const std::lock_guard lock(mutex_);
    left.swap(connections_);
  }
  // Only the reading side: who is being answered gets the answer.
  for (const auto& connection : left) connection->socket.shut_down_reading();
  for (const auto& connection : left) connection->thread.join();
}

void Server::accept_loop() {
  while (!stopping_.load()) {
    pollfd watched[2] = {{listener_, POLLIN, 0}, {wake_, POLLIN, 0}};
    if (::poll(watched, 2, -1) < 0 && errno != EINTR) break;
    if (stopping_.load() || (watched[1].revents & POLLIN) != 0) break;
    if ((watched[0].revents & POLLIN) == 0) continue;
    const int fd = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    reap();
    if (fd >= 0) {
      admit(fd);
    } else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM) {
      // The waiting connection would wake poll at once, again and again.
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
  }
}

void Server::admit(int fd) {
  auto connection = std::make_unique<Connection>(fd);
  connection->socket.set_write_timeout(options_.write_timeout);
  const Result<uid_t> peer = connection->socket.peer_uid();
  if (!peer.ok() || !control_peer_allowed(*peer, ::geteuid())) {
    refuse(connection->socket, kRpcFailed,
           Status(Code::kPermission, "the control socket is for root and the daemon's user"));
    return;
  }
  if (!make_room()) {
    refuse(
        connection->socket, kRpcFailed,
        error(Code::kBusy, "all {} connections are working; try again", options_.connections_max));
    return;
  }
  const std::lock_guard lock(mutex_);
  Connection* raw = connection.get();
  connections_.push_back(std::move(connection));
  raw->thread = std::thread([this, raw] { serve(*raw); });
}

bool Server::make_room() {
  const Clock::time_point deadline = Clock::now() + options_.room_timeout;
  while (!stopping_.load()) {
    reap();
    {
      const std::lock_guard lock(mutex_);
      if (connections_.size() < options_.connections_max) return true;
    }
    if (evict_one()) return true;
    if (Clock::now() >= deadline) return false;
    std::this_thread::sleep_for(kRoomPause);
  }
  return false;
}

bool Server::evict_one() {
  std::list<std::unique_ptr<Connection>> evicted;
  {
    const std::lock_guard lock(mutex_);
    const Clock::time_point silent_since = Clock::now() - options_.idle_grace;
    auto oldest = connections_.end();
    for (auto it = connections_.begin(); it != connections_.end(); ++it) {
      if ((*it)->state != Connection::State::kReading || (*it)->since > silent_since) continue;
      if (oldest == connections_.end() || (*it)->since < (*oldest)->since) oldest = it;
    }
    if (oldest == connections_.end()) return false;
    (*oldest)->state = Connection::State::kEvicted;
    evicted.splice(evicted.end(), connections_, oldest);
  }
  // It waits for bytes and nothing else: it ends at once.
  evicted.front()->socket.shut_down();
  evicted.front()->thread.join();
  return true;
}

void Server::reap() {
  std::list<std::unique_ptr<Connection>> finished;
  {
    const std::lock_guard lock(mutex_);
    for (auto it = connections_.begin(); it != connections_.end();) {
      const auto next = std::next(it);
      if ((*it)->state == Connection::State::kFinished) {
        finished.splice(finished.end(), connections_, it);
      }
      it = next;
    }
  }
  for (const auto& connection : finished) connection->thread.join();
}

void Server::serve(Connection& connection) {
  using State = Connection::State;
  bool lost = false;
  Waiting client;
  // A client that is gone does not stop its call, unless the call asks; writing the answer ends the
  // connection.
  client.send = [&](const Json& message) {
    if (!lost) lost = !connection.socket.write_line(dump_json(message)).ok();
  };
  client.gone = [&] { return lost || connection.socket.peer_gone(); };
  while (!stopping_.load()) {
    Result<std::optional<std::string>> line = connection.socket.read_line(kRequestLineMaxBytes);
    if (!line.ok()) {
      if (line.status().code() == Code::kTooLarge) {
        refuse(connection.socket, kRpcInvalidRequest, line.status());
      }
      break;
    }
    if (!line->has_value()) break;
    {
      const std::lock_guard lock(mutex_);
      if (connection.state != State::kReading) break;
      connection.state = State::kCalling;
    }
    const std::optional<Json> answer = answer_line(service_, **line, client);
    const bool sent = !answer || connection.socket.write_line(dump_json(*answer)).ok();
    const std::lock_guard lock(mutex_);
    connection.state = State::kReading;
    connection.since = Clock::now();
    if (!sent) break;
  }
  connection.socket.shut_down();
  const std::lock_guard lock(mutex_);
  if (connection.state != State::kEvicted) connection.state = State::kFinished;
}

}  // namespace voltree
