// BufferPool: the memory that requests and replies pass through. A fixed number of buffers, made as
// they are first needed and kept: serving a request never waits for memory from the system, which
// may in turn wait for a write to one of our own volumes.
#pragma once

#include <coroutine>
#include <cstddef>
#include <deque>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

#include "blockstore/runtime/sync.h"
#include "blockstore/runtime/task.h"

namespace voltree {

// The largest read or write that one request carries.
inline constexpr std::size_t kTransferBytes = std::size_t{1} << 20;

class BufferPool {
 public:
  // One buffer. Gives itself back. data() is aligned to 4096 bytes, and request() starts so far
  // before it that the payload of a write request lands exactly on data(): direct I/O needs no
  // copy.
  class [[nodiscard]] Buffer {
   public:
    Buffer() = default;
    Buffer(BufferPool* pool, std::byte* memory) : pool_(pool), memory_(memory) {}
    Buffer(Buffer&& other) noexcept
        : pool_(std::exchange(other.pool_, nullptr)), memory_(other.memory_) {}
    Buffer& operator=(Buffer&& other) noexcept {
      if (this != &other) {
        give_back();
        pool_ = std::exchange(other.pool_, nullptr);
        memory_ = other.memory_;
      }
      return *this;
    }
    ~Buffer() { give_back(); }

    explicit operator bool() const { return pool_ != nullptr; }
    std::span<std::byte> data() const { return {memory_ + kDataAt, kTransferBytes}; }
    std::span<std::byte> request() const {
      return {memory_ + kDataAt - kWriteHeaderBytes, kBufferBytes - kDataAt + kWriteHeaderBytes};
    }

   private:
    void give_back() {
      if (pool_) std::exchange(pool_, nullptr)->give(memory_);
    }
    BufferPool* pool_ = nullptr;
    std::byte* memory_ = nullptr;
  };

  explicit BufferPool(std::size_t limit) : limit_(limit) {}
  ~BufferPool();
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;

  // co_await take(): a buffer, as soon as there is one. First come, first served.
  auto take() {
    struct Awaiter : Slot {
      BufferPool& pool;
      explicit Awaiter(BufferPool& of) : pool(of) {}
      bool await_ready() { return (memory = pool.try_take()) != nullptr; }
      bool await_suspend(std::coroutine_handle<> handle) { return pool.enqueue(*this, handle); }
      Buffer await_resume() { return Buffer(&pool, memory); }
    };
    return Awaiter(*this);
  }

 private:
  // sizeof(fuse_in_header) + sizeof(fuse_write_in): request_loop.cc asserts it.
  static constexpr std::size_t kWriteHeaderBytes = 80;
  static constexpr std::size_t kDataAt = 4096;
  static constexpr std::size_t kBufferBytes = kDataAt + kTransferBytes + 4096;
  friend class RequestLoop;

  struct Slot {
    std::byte* memory = nullptr;
    Waiter waiter;
  };
  std::byte* try_take();
  bool enqueue(Slot& slot, std::coroutine_handle<> handle);
  void give(std::byte* memory);
  std::byte* take_locked();

  const std::size_t limit_;
  std::mutex mutex_;
  std::vector<std::byte*> all_;
  std::vector<std::byte*> free_;  // the last one given is the first one taken: it is warm
  std::deque<Slot*> waiting_;
};

}  // namespace voltree
