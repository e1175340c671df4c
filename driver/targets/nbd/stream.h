// Stream: the two ways of bytes of one connection. Plain here; tls.h puts TLS over it.
//
// Owned and used by coroutines of one executor; one of them reads, one writes, at a time. Only
// shut_down*() and stalled_since() may be called from elsewhere.
#pragma once

#include <sys/uio.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "blockstore/base/status.h"
#include "blockstore/runtime/io.h"
#include "blockstore/runtime/task.h"

namespace voltree::nbd {

class Stream {
 public:
  virtual ~Stream() = default;
  // All of `out`. kGone when the peer has ended the stream, kIoError when it broke.
  virtual Task<Status> read(std::span<std::byte> out) = 0;
  // All of the parts, which it may change.
  virtual Task<Status> write(std::span<iovec> parts) = 0;
  // Whether bytes were received that nobody has read.
  virtual bool holds_input() const = 0;
  // The peer has shown that it means it: from now on there is much to read.
  virtual void expect_much() = 0;
  // Says goodbye where the form of the stream has words for it, and ends both ways.
  virtual Task<void> close() = 0;
  // Ends both ways at once; who waits is woken. Thread-safe.
  virtual void shut_down() = 0;
};

// Over a connected, non-blocking socket, which it owns.
class SocketStream final : public Stream {
 public:
  SocketStream(Runtime& runtime, int fd);
  ~SocketStream() override;
  SocketStream(const SocketStream&) = delete;
  SocketStream& operator=(const SocketStream&) = delete;

  Task<Status> read(std::span<std::byte> out) override;
  Task<Status> write(std::span<iovec> parts) override;
  bool holds_input() const override { return begin_ != end_; }
  Task<void> close() override;

  // What has arrived, at least one byte and at most `out`; for who puts a form of its own over it.
  Task<Result<std::size_t>> read_some(std::span<std::byte> out);

  void expect_much() override;
  int fd() const { return fd_; }
  Runtime& runtime() { return runtime_; }
  void shut_down() override;
  void shut_down_reading();  // thread-safe, too
  // Since when a side has been waiting for the peer, the one that waits longer; 0 when none does.
  // Monotonic. Thread-safe.
  std::chrono::nanoseconds stalled_since() const {
    const std::chrono::nanoseconds reading = reading_since_.load();
    const std::chrono::nanoseconds writing = writing_since_.load();
    if (reading.count() == 0 || writing.count() == 0) return std::max(reading, writing);
    return std::min(reading, writing);
  }

 private:
  Task<Result<std::size_t>> receive(std::span<std::byte> out);

  Runtime& runtime_;
  const int fd_;
  std::vector<std::byte> buffer_;
  std::size_t begin_ = 0;  // of what is in buffer_
  std::size_t end_ = 0;
  std::atomic<std::chrono::nanoseconds> reading_since_{std::chrono::nanoseconds(0)};
  std::atomic<std::chrono::nanoseconds> writing_since_{std::chrono::nanoseconds(0)};
};

}  // namespace voltree::nbd
