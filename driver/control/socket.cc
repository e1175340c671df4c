#include "driver/control/socket.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

namespace voltree {
namespace {

constexpr int kBacklog = 64;

// An address holds about 100 bytes, a path may be longer: then it is reached through a descriptor
// of its folder.
struct Address {
  sockaddr_un bytes{};
  int folder = -1;
  ~Address() {
    if (folder >= 0) ::close(folder);
  }
  const sockaddr* get() const {
    return static_cast<const sockaddr*>(static_cast<const void*>(&bytes));
  }
};

Status fill_address(const std::string& path, Address& address) {
  std::string name = path;
  if (name.size() >= sizeof address.bytes.sun_path) {
    const std::size_t slash = path.rfind('/');
    address.folder = ::open(path.substr(0, slash).c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (address.folder < 0) return Status::from_errno(errno, path);
    name = fmt::format("/proc/self/fd/{}{}", address.folder, path.substr(slash));
    if (name.size() >= sizeof address.bytes.sun_path) {
      return error(Code::kInvalid, "{}: the name of a socket is too long", path);
    }
  }
  address.bytes.sun_family = AF_UNIX;
  std::memcpy(address.bytes.sun_path, name.data(), name.size());
  return {};
}

}  // namespace

LineSocket::~LineSocket() { ::close(fd_); }

Result<std::optional<std::string>> LineSocket::read_line(std::size_t max_bytes) {
  std::array<char, 65536> chunk;
  while (true) {
    const std::size_t newline = buffer_.find('\n', searched_);
    if (newline != std::string::npos && newline <= max_bytes) {
      std::string line = buffer_.substr(0, newline);
      buffer_.erase(0, newline + 1);
      searched_ = 0;
      return std::optional<std::string>(std::move(line));
    }
    searched_ = buffer_.size();
    if (buffer_.size() > max_bytes) {
      return error(Code::kTooLarge, "a message longer than {} bytes", max_bytes);
    }
    const ssize_t got = ::recv(fd_, chunk.data(), chunk.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return Status::from_errno(errno, "the control socket");
    if (got == 0) return std::optional<std::string>();  // half a line is no message
    buffer_.append(chunk.data(), static_cast<std::size_t>(got));
  }
}

Status LineSocket::write_line(std::string_view line) {
  std::string message(line);
  message.push_back('\n');
  for (std::size_t sent = 0; sent < message.size();) {
    const ssize_t put = ::send(fd_, message.data() + sent, message.size() - sent, MSG_NOSIGNAL);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return Status::from_errno(errno, "the control socket");
    sent += static_cast<std::size_t>(put);
  }
  return {};
}

void LineSocket::set_write_timeout(std::chrono::seconds timeout) {
  timeval limit{};
  limit.tv_sec = timeout.count();
  ::setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
}

bool LineSocket::peer_gone() const {
  pollfd state{fd_, 0, 0};
  return ::poll(&state, 1, 0) > 0 && (state.revents & (POLLHUP | POLLERR)) != 0;
}

void LineSocket::shut_down() { ::shutdown(fd_, SHUT_RDWR); }
void LineSocket::shut_down_reading() { ::shutdown(fd_, SHUT_RD); }

Result<uid_t> LineSocket::peer_uid() const {
  ucred peer{};
  socklen_t length = sizeof peer;
  if (::getsockopt(fd_, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) {
    return Status::from_errno(errno, "asking who is at the control socket");
  }
  return peer.uid;
}

Result<int> listen_unix(const std::string& path) {
  Address address;
  VT_RETURN_IF_ERROR(fill_address(path, address));
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return Status::from_errno(errno, "making the control socket");
  ::unlink(path.c_str());
  // The mode is taken from the descriptor: there is no moment in which others could connect.
  if (::fchmod(fd, 0600) != 0 || ::bind(fd, address.get(), sizeof address.bytes) != 0 ||
      ::chmod(path.c_str(), 0600) != 0 || ::listen(fd, kBacklog) != 0) {
    Status status = Status::from_errno(errno, path);
    ::close(fd);
    return status;
  }
  return fd;
}

Result<int> connect_unix(const std::string& path) {
  Address address;
  VT_RETURN_IF_ERROR(fill_address(path, address));
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return Status::from_errno(errno, "making a socket");
  int failure = 0;
  do {
    failure = ::connect(fd, address.get(), sizeof address.bytes) == 0 ? 0 : errno;
  } while (failure == EINTR);
  if (failure == 0) return fd;
  ::close(fd);
  if (failure == ENOENT || failure == ENOTDIR || failure == ECONNREFUSED) {
    return error(Code::kNotFound, "nobody listens on {}", path);
  }
  return Status::from_errno(failure, path);
}

}  // namespace voltree
