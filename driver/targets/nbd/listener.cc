#include "driver/targets/nbd/listener.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

namespace voltree::nbd {
namespace {

constexpr int kBacklog = 1024;

Result<sockaddr_un> unix_address(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) {
    return error(Code::kInvalid, "a socket's path takes 1 to {} bytes: {}",
                 sizeof address.sun_path - 1, quoted(path));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

// A file of an earlier daemon makes room; anything else does not.
Status make_way(const std::string& path, const sockaddr_un& address) {
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0) {
    return errno == ENOENT ? Status() : Status::from_errno(errno, path);
  }
  if (!S_ISSOCK(info.st_mode)) return error(Code::kExists, "{} is there and is no socket", path);
  const int probe = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (probe < 0) return Status::from_errno(errno, "making a socket");
  const bool refused =
      ::connect(probe, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 &&
      errno == ECONNREFUSED;
  ::close(probe);
  if (!refused) return error(Code::kBusy, "somebody listens on {} already", path);
  if (::unlink(path.c_str()) != 0) return Status::from_errno(errno, path);
  return {};
}

Status bind_tcp(const addrinfo& address, Listener& listener) {
  listener.fd = ::socket(address.ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (listener.fd < 0) return Status::from_errno(errno, "making a socket");
  const int on = 1;
  ::setsockopt(listener.fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  // The same port for both families, when a name stands for both.
  if (address.ai_family == AF_INET6) {
    ::setsockopt(listener.fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
  }
  if (::bind(listener.fd, address.ai_addr, address.ai_addrlen) != 0 ||
      ::listen(listener.fd, kBacklog) != 0) {
    return Status::from_errno(errno, "listening");
  }
  sockaddr_storage bound{};
  socklen_t length = sizeof bound;
  if (::getsockname(listener.fd, reinterpret_cast<sockaddr*>(&bound), &length) != 0) {
    return Status::from_errno(errno, "getsockname");
  }
  char text[INET6_ADDRSTRLEN] = {};
  if (bound.ss_family == AF_INET) {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(bound);
    ::inet_ntop(AF_INET, &v4.sin_addr, text, sizeof text);
    listener.port = ntohs(v4.sin_port);
    listener.loopback = (ntohl(v4.sin_addr.s_addr) >> 24) == 127;
  } else {
    const auto& v6 = reinterpret_cast<const sockaddr_in6&>(bound);
    ::inet_ntop(AF_INET6, &v6.sin6_addr, text, sizeof text);
    listener.port = ntohs(v6.sin6_port);
    listener.loopback = IN6_IS_ADDR_LOOPBACK(&v6.sin6_addr) != 0;
  }
  listener.host = text;
  return {};
}

}  // namespace

Result<Endpoint> parse_endpoint(std::string_view text) {
  const std::size_t colon = text.rfind(':');
  const Status bad = error(Code::kInvalid, "{} is not HOST:PORT", quoted(text));
  if (colon == std::string_view::npos || colon + 1 == text.size()) return bad;
  Endpoint endpoint{std::string(text.substr(0, colon)), std::string(text.substr(colon + 1))};
  if (endpoint.host.starts_with('[')) {
    if (!endpoint.host.ends_with(']')) return bad;
    endpoint.host = endpoint.host.substr(1, endpoint.host.size() - 2);
  } else if (endpoint.host.find(':') != std::string::npos) {
    return bad;  // an IPv6 address wants its brackets
  }
  if (endpoint.port.find_first_not_of("0123456789") != std::string::npos ||
      endpoint.port.size() > 5 || std::stoul(endpoint.port) > 65535) {
    return error(Code::kInvalid, "{} is not a port", quoted(endpoint.port));
  }
  return endpoint;
}

Result<Listener> listen_unix_socket(const std::string& path) {
  VT_ASSIGN_OR_RETURN(const sockaddr_un address, unix_address(path));
  VT_RETURN_IF_ERROR(make_way(path, address));
  Listener listener;
  listener.path = path;
  listener.loopback = true;
  listener.fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (listener.fd < 0) return Status::from_errno(errno, "making a socket");
  // The file takes its mode from the descriptor: there is no moment in which others could connect.
  if (::fchmod(listener.fd, 0600) != 0 ||
      ::bind(listener.fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(listener.fd, kBacklog) != 0) {
    Status status = Status::from_errno(errno, path);
    ::close(listener.fd);
    return status;
  }
  return listener;
}

Result<std::vector<Listener>> listen_tcp(const Endpoint& endpoint) {
  addrinfo wanted{};
  wanted.ai_socktype = SOCK_STREAM;
  wanted.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  const int failure = ::getaddrinfo(endpoint.host.empty() ? nullptr : endpoint.host.c_str(),
                                    endpoint.port.c_str(), &wanted, &found);
  if (failure != 0) {
    return error(Code::kInvalid, "{}: {}", quoted(endpoint.host), ::gai_strerror(failure));
  }
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owned(found, &::freeaddrinfo);
  std::vector<Listener> listeners;
  for (const addrinfo* address = found; address != nullptr; address = address->ai_next) {
    Listener listener;
    Status status = bind_tcp(*address, listener);
    // A host without IPv6 has names that say it has.
    if (!status.ok() && address->ai_family == AF_INET6 && found->ai_next != nullptr) {
      close_listener(listener);
      continue;
    }
    if (!status.ok()) {
      close_listener(listener);
      for (Listener& other : listeners) close_listener(other);
      return status.with_context(fmt::format("{}:{}", endpoint.host, endpoint.port));
    }
    listeners.push_back(std::move(listener));
    if (endpoint.port == "0") break;  // one free port is enough
  }
  if (listeners.empty()) {
    return error(Code::kIoError, "{}:{}: no address could be bound", endpoint.host, endpoint.port);
  }
  return listeners;
}

void close_listener(Listener& listener) {
  if (listener.fd >= 0) ::close(listener.fd);
  listener.fd = -1;
  if (!listener.path.empty()) ::unlink(listener.path.c_str());
}

}  // namespace voltree::nbd
