// RequestLoop: takes requests off the FUSE device and hands them to libfuse, on an executor.
#pragma once

#include <atomic>

#include "blockstore/runtime/io.h"
#include "fs/buffer_pool.h"

struct fuse_session;

namespace voltree {

class RequestLoop {
 public:
  RequestLoop(Runtime& runtime, fuse_session* session, int fd, BufferPool& buffers)
      : runtime_(runtime), session_(session), fd_(fd), buffers_(buffers) {}

  // Serves until the file system is unmounted (ended() is true then) or stop() is called. One may
  // run on each of several executors; the descriptor must be non-blocking.
  Task<void> run();
  // run() returns when what it waits for is cancelled (Runtime::cancel_fd), and waits no more.
  void stop() { stopping_.store(true); }
  bool ended() const { return ended_.load(); }

  // For the handler of a write, on the thread that it was called on, before it first suspends: the
  // buffer that holds the request, data included. The loop goes on with another one.
  static BufferPool::Buffer keep_request();

 private:
  void serve(BufferPool::Buffer& buffer, std::size_t length_bytes);

  Runtime& runtime_;
  fuse_session* session_;
  int fd_;
  BufferPool& buffers_;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> ended_{false};
};

}  // namespace voltree
