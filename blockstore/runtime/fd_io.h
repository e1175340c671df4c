// Awaitable reads, writes and polls of descriptors that are not our files: what a transport (the
// FUSE device, an NBD or a control socket) needs. Results are raw: a count, or a negative errno.
//
//   int got = co_await FdRead(runtime, fd, buffer);
//   int ready = co_await FdPoll(runtime, fd, POLLIN);
//
// Runtime::cancel_fd(fd) ends what is waiting with -ECANCELED. A write to a socket whose peer has
// gone is -EPIPE; the program is expected to ignore SIGPIPE.
#pragma once

#include <poll.h>

#include <cassert>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <span>

#include "blockstore/runtime/io.h"

namespace voltree {

enum class FdKind : std::uint8_t { kRead, kWrite, kPoll };

// One operation. Its owner keeps it, and the buffer, alive until `handle` is resumed.
struct FdRequest {
  FdKind kind = FdKind::kRead;
  int fd = -1;
  std::span<std::byte> buffer;  // kWrite only reads it
  short events = 0;             // kPoll: POLLIN, POLLOUT
  int result = 0;               // bytes; kPoll: the events that hold; or a negative errno
  Executor* home = nullptr;
  std::coroutine_handle<> handle;
  // For the runtime's own use.
  bool cancelled = false;
};

class FdAwaiter {
 public:
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> handle) {
    request_.home = Executor::current();
    assert(request_.home != nullptr);
    request_.handle = handle;
    runtime_.submit_fd(request_);
  }
  int await_resume() const noexcept { return request_.result; }

 protected:
  FdAwaiter(Runtime& runtime, FdKind kind, int fd, std::span<std::byte> buffer, short events)
      : runtime_(runtime), request_{kind, fd, buffer, events, 0, nullptr, {}, false} {}

 private:
  Runtime& runtime_;
  FdRequest request_;
};

// Waits for data and reads it once: short reads are the caller's to continue; 0 is the end.
class FdRead : public FdAwaiter {
 public:
  FdRead(Runtime& runtime, int fd, std::span<std::byte> buffer)
      : FdAwaiter(runtime, FdKind::kRead, fd, buffer, 0) {}
};

// Waits for room and writes once: short writes are the caller's to continue.
class FdWrite : public FdAwaiter {
 public:
  FdWrite(Runtime& runtime, int fd, std::span<const std::byte> data)
      : FdAwaiter(runtime, FdKind::kWrite, fd, {const_cast<std::byte*>(data.data()), data.size()},
                  0) {}
};

// Waits until one of `events` (or an error, or a hang-up) holds; the result is the events that do.
class FdPoll : public FdAwaiter {
 public:
  FdPoll(Runtime& runtime, int fd, short events)
      : FdAwaiter(runtime, FdKind::kPoll, fd, {}, events) {}
};

}  // namespace voltree
