#include "driver/targets/nbd/stream.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "blockstore/runtime/fd_io.h"

namespace voltree::nbd {
namespace {
// A handshake needs little, and anybody can begin one; a connection that moves data gets more.
constexpr std::size_t kHandshakeBufferBytes = 1024;
constexpr std::size_t kBufferBytes = std::size_t{64} * 1024;
}  // namespace

SocketStream::SocketStream(Runtime& runtime, int fd)
    : runtime_(runtime), fd_(fd), buffer_(kHandshakeBufferBytes) {}

SocketStream::~SocketStream() {
  runtime_.cancel_fd(fd_);
  ::close(fd_);
}

void SocketStream::expect_much() { buffer_.resize(kBufferBytes); }

void SocketStream::shut_down_reading() { ::shutdown(fd_, SHUT_RD); }
void SocketStream::shut_down() { ::shutdown(fd_, SHUT_RDWR); }

// Reading at once and waiting only when there is nothing costs one system call for each request of
// a busy client.
Task<Result<std::size_t>> SocketStream::receive(std::span<std::byte> out) {
  while (true) {
    const ssize_t got = ::recv(fd_, out.data(), out.size(), MSG_DONTWAIT);
    if (got > 0) co_return static_cast<std::size_t>(got);
    if (got == 0) co_return error(Code::kGone, "the client closed the connection");
    if (errno == EINTR) continue;
    if (errno != EAGAIN) co_return Status::from_errno(errno, "receiving");
    reading_since_.store(runtime_.monotonic_now());
    const int ready = co_await FdPoll(runtime_, fd_, POLLIN);
    reading_since_.store(std::chrono::nanoseconds(0));
    if (ready < 0) co_return Status::from_errno(-ready, "receiving");
  }
}

Task<Result<std::size_t>> SocketStream::read_some(std::span<std::byte> out) {
  if (begin_ != end_) {
    const std::size_t take = std::min(out.size(), end_ - begin_);
    std::memcpy(out.data(), buffer_.data() + begin_, take);
    begin_ += take;
    co_return take;
  }
  co_return co_await receive(out);
}

Task<Status> SocketStream::read(std::span<std::byte> out) {
  while (!out.empty()) {
    if (begin_ == end_ && out.size() < buffer_.size()) {
      VT_CO_ASSIGN_OR_RETURN(end_, co_await receive(buffer_));
      begin_ = 0;
    }
    // Much data goes where it belongs without a copy.
    VT_CO_ASSIGN_OR_RETURN(const std::size_t got, co_await read_some(out));
    out = out.subspan(got);
  }
  co_return Status();
}

Task<Status> SocketStream::write(std::span<iovec> parts) {
  while (!parts.empty()) {
    msghdr message{};
    message.msg_iov = parts.data();
    message.msg_iovlen = std::min<std::size_t>(parts.size(), IOV_MAX);
    const ssize_t sent = ::sendmsg(fd_, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0) {
      if (errno == EINTR) continue;
      if (errno != EAGAIN) co_return Status::from_errno(errno, "sending");
      if (writing_since_.load() == std::chrono::nanoseconds(0)) {
        writing_since_.store(runtime_.monotonic_now());
      }
      const int ready = co_await FdPoll(runtime_, fd_, POLLOUT);
      if (ready < 0) co_return Status::from_errno(-ready, "sending");
      continue;
    }
    writing_since_.store(std::chrono::nanoseconds(0));
    auto left = static_cast<std::size_t>(sent);
    while (!parts.empty() && left >= parts.front().iov_len) {
      left -= parts.front().iov_len;
      parts = parts.subspan(1);
    }
    if (left != 0) {
      parts.front().iov_base = static_cast<std::byte*>(parts.front().iov_base) + left;
      parts.front().iov_len -= left;
    }
  }
  co_return Status();
}

Task<void> SocketStream::close() {
  ::shutdown(fd_, SHUT_RDWR);
  co_return;
}

}  // namespace voltree::nbd
