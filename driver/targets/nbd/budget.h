// Budget: how many bytes of requests and replies all connections together may hold, and each alone.
//
// A connection may always hold `floor_bytes`, so that it goes on when others have taken
// everything; what is more comes out of the common budget, first come, first served. Nobody holds
// one part of the budget while waiting for another, so waits end as fast as disks and peers do.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

#include "blockstore/runtime/sync.h"

namespace voltree::nbd {

// Of a long request that is read, written or sent at a time.
inline constexpr std::size_t kPieceBytes = std::size_t{1} << 20;

// Thread-safe.
class Budget {
 public:
  explicit Budget(std::size_t limit_bytes) : left_bytes_(limit_bytes) {}
  ~Budget();
  Budget(const Budget&) = delete;
  Budget& operator=(const Budget&) = delete;

  // co_await take(n). n is at most the limit.
  auto take(std::size_t bytes) {
    struct Awaiter {
      Budget& budget;
      std::size_t bytes;
      bool await_ready() const noexcept { return false; }
      bool await_suspend(std::coroutine_handle<> handle) { return budget.enqueue(bytes, handle); }
      void await_resume() const noexcept {}
    };
    return Awaiter{*this, bytes};
  }
  void give(std::size_t bytes);

  // Memory for payloads, aligned for direct I/O. Some of the pieces that long requests are made of
  // are kept: fresh pages cost more than the copy into them.
  std::byte* allocate(std::size_t bytes);
  void release(std::byte* memory, std::size_t bytes);

  // Whether somebody waits.
  bool short_of_memory() const { return waiting_count_.load(std::memory_order_relaxed) != 0; }

 private:
  struct Wait {
    std::size_t bytes;
    Waiter waiter;
  };
  bool enqueue(std::size_t bytes, std::coroutine_handle<> handle);

  std::mutex mutex_;
  std::size_t left_bytes_;
  std::deque<Wait> waiting_;
  std::atomic<std::size_t> waiting_count_{0};
  std::mutex spare_mutex_;
  std::vector<std::byte*> spare_;  // of kPieceBytes
};

// One connection's part, used on its executor alone. `limit_bytes` is the most it may hold, but a
// single piece may be larger when it is alone.
class Share {
 public:
  Share(Budget& budget, std::size_t floor_bytes, std::size_t limit_bytes)
      : budget_(budget), floor_bytes_(floor_bytes), limit_bytes_(limit_bytes) {}
  ~Share();
  Share(const Share&) = delete;
  Share& operator=(const Share&) = delete;

  // Memory for one payload, aligned for direct I/O. Gives itself back.
  class [[nodiscard]] Buffer {
   public:
    Buffer() = default;
    Buffer(Share* share, std::size_t bytes, std::size_t common);
    Buffer(Buffer&& other) noexcept
        : share_(std::exchange(other.share_, nullptr)),
          memory_(other.memory_),
          bytes_(other.bytes_),
          common_(other.common_) {}
    Buffer& operator=(Buffer&& other) noexcept {
      if (this != &other) {
        give_back();
        share_ = std::exchange(other.share_, nullptr);
        memory_ = other.memory_;
        bytes_ = other.bytes_;
        common_ = other.common_;
      }
      return *this;
    }
    ~Buffer() { give_back(); }
    std::span<std::byte> data() const { return {memory_, bytes_}; }

   private:
    friend class Share;
    void give_back();
    Share* share_ = nullptr;
    std::byte* memory_ = nullptr;
    std::size_t bytes_ = 0;
    std::size_t common_ = 0;  // of the common budget
  };

  // Whether it holds any of what all share. Thread-safe.
  bool holds_common() const { return common_bytes_.load(std::memory_order_relaxed) != 0; }

  // Waits until the connection, and all of them, may hold that much more.
  Task<Buffer> take(std::size_t bytes);

 private:
  void give(std::size_t bytes, std::size_t common);
  std::byte* allocate(std::size_t bytes);
  void release(std::byte* memory, std::size_t bytes);

  Budget& budget_;
  const std::size_t floor_bytes_;
  const std::size_t limit_bytes_;
  std::size_t held_bytes_ = 0;
  std::atomic<std::size_t> common_bytes_{0};  // of these
  std::deque<std::pair<std::size_t, Waiter>> waiting_;
  std::vector<std::byte*> spare_;  // single blocks: what small requests use again and again
};

}  // namespace voltree::nbd
