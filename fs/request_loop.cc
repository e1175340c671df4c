#include "fs/request_loop.h"

#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>
#include <linux/fuse.h>

#include <cerrno>

#include "blockstore/runtime/fd_io.h"

namespace voltree {

namespace {
thread_local BufferPool::Buffer* current_request = nullptr;
}  // namespace

BufferPool::Buffer RequestLoop::keep_request() {
  assert(current_request != nullptr && *current_request);
  return std::move(*current_request);
}

void RequestLoop::serve(BufferPool::Buffer& buffer, std::size_t length_bytes) {
  static_assert(BufferPool::kWriteHeaderBytes == sizeof(fuse_in_header) + sizeof(fuse_write_in));
  fuse_buf request{};
  request.mem = buffer.request().data();
  request.size = length_bytes;
  current_request = &buffer;
  fuse_session_process_buf(session_, &request);
  current_request = nullptr;
}

Task<void> RequestLoop::run() {
  BufferPool::Buffer buffer = co_await buffers_.take();
  while (!stopping_.load()) {
    const int got = co_await FdRead(runtime_, fd_, buffer.request());
    // ENOENT: the request was withdrawn (its process was killed) between the wake-up and the read;
    // see fuse_dev_do_read() in the kernel. EAGAIN: another reader was faster.
    if (got == -ENOENT || got == -EINTR || got == -EAGAIN) continue;
    if (got == -ECANCELED) break;  // stop()
    if (got <= 0) {                // ENODEV: unmounted, or the connection was aborted
      ended_.store(true);
      break;
    }
    serve(buffer, static_cast<std::size_t>(got));
    if (!buffer) buffer = co_await buffers_.take();
  }
}

}  // namespace voltree
