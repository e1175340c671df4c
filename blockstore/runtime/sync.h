// Awaitable synchronisation. None of these blocks a thread; each resumes a waiter through the
// executor it suspended on. All are thread-safe.
#pragma once

#include <coroutine>
#include <cstdint>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "blockstore/base/units.h"
#include "blockstore/runtime/task.h"

namespace voltree {

struct Waiter {
  std::coroutine_handle<> handle;
  Executor* home = nullptr;
  void wake() const { home->post(handle); }
};

// A mutual exclusion that is held across co_await. First come, first served.
class AsyncMutex {
 public:
  class [[nodiscard]] Guard {
   public:
    Guard() = default;
    explicit Guard(AsyncMutex* mutex) : mutex_(mutex) {}
    Guard(Guard&& other) noexcept : mutex_(std::exchange(other.mutex_, nullptr)) {}
    Guard& operator=(Guard&& other) noexcept {
      if (this != &other) {
        unlock();
        mutex_ = std::exchange(other.mutex_, nullptr);
      }
      return *this;
    }
    ~Guard() { unlock(); }
    void unlock() {
      if (mutex_) std::exchange(mutex_, nullptr)->unlock();
    }

   private:
    AsyncMutex* mutex_ = nullptr;
  };

  auto lock() {
    struct Awaiter {
      AsyncMutex& mutex;
      bool await_ready() const noexcept { return false; }
      bool await_suspend(std::coroutine_handle<> handle) { return mutex.enqueue(handle); }
      Guard await_resume() { return Guard(&mutex); }
    };
    return Awaiter{*this};
  }

 private:
  bool enqueue(std::coroutine_handle<> handle);  // true: must wait
  void unlock();

  std::mutex mutex_;
  bool held_ = false;
  std::deque<Waiter> waiters_;
};

// A gate that opens once and stays open.
class Event {
 public:
  void set();
  bool is_set() const;
  auto wait() {
    struct Awaiter {
      Event& event;
      bool await_ready() const noexcept { return false; }
      bool await_suspend(std::coroutine_handle<> handle) { return event.enqueue(handle); }
      void await_resume() const noexcept {}
    };
    return Awaiter{*this};
  }

 private:
  bool enqueue(std::coroutine_handle<> handle);

  mutable std::mutex mutex_;
  bool set_ = false;
  std::vector<Waiter> waiters_;
};

// Exclusive locks on block ranges of one volume. Overlapping requests are served in order of
// arrival (a later one never overtakes an earlier one it overlaps), disjoint ones at once.
class RangeLock {
 public:
  class [[nodiscard]] Guard {
   public:
    Guard() = default;
    Guard(RangeLock* lock, std::uint64_t ticket) : lock_(lock), ticket_(ticket) {}
    Guard(Guard&& other) noexcept
        : lock_(std::exchange(other.lock_, nullptr)), ticket_(other.ticket_) {}
    Guard& operator=(Guard&& other) noexcept {
      if (this != &other) {
        unlock();
        lock_ = std::exchange(other.lock_, nullptr);
        ticket_ = other.ticket_;
      }
      return *this;
    }
    ~Guard() { unlock(); }
    void unlock() {
      if (lock_) std::exchange(lock_, nullptr)->unlock(ticket_);
    }

   private:
    RangeLock* lock_ = nullptr;
    std::uint64_t ticket_ = 0;
  };

  auto lock(BlockRange range) {
    struct Awaiter {
      RangeLock& lock;
      BlockRange range;
      std::uint64_t ticket = 0;
      bool await_ready() const noexcept { return false; }
      bool await_suspend(std::coroutine_handle<> handle) {
        return lock.enqueue(range, handle, ticket);
      }
      Guard await_resume() { return Guard(&lock, ticket); }
    };
    return Awaiter{*this, range};
  }

 private:
  struct Entry {
    BlockRange range;
    Waiter waiter;         // empty handle: holds the lock
    std::size_t blockers;  // earlier overlapping entries still here
  };
  bool enqueue(BlockRange range, std::coroutine_handle<> handle, std::uint64_t& ticket);
  void unlock(std::uint64_t ticket);

  std::mutex mutex_;
  std::uint64_t next_ticket_ = 1;
  std::map<std::uint64_t, Entry> entries_;  // by ticket: in order of arrival
};

// Counts operations in flight and lets one wait for all that began before it (a grace period).
// enter/leave are cheap; drain() resolves when every token taken before the call has been left.
class Gate {
 public:
  class [[nodiscard]] Token {
   public:
    Token() = default;
    Token(Gate* gate, std::uint64_t epoch) : gate_(gate), epoch_(epoch) {}
    Token(Token&& other) noexcept
        : gate_(std::exchange(other.gate_, nullptr)), epoch_(other.epoch_) {}
    Token& operator=(Token&& other) noexcept {
      if (this != &other) {
        leave();
        gate_ = std::exchange(other.gate_, nullptr);
        epoch_ = other.epoch_;
      }
      return *this;
    }
    ~Token() { leave(); }
    void leave() {
      if (gate_) std::exchange(gate_, nullptr)->leave(epoch_);
    }

   private:
    Gate* gate_ = nullptr;
    std::uint64_t epoch_ = 0;
  };

  Token enter();
  auto drain() {
    struct Awaiter {
      Gate& gate;
      bool await_ready() const noexcept { return false; }
      bool await_suspend(std::coroutine_handle<> handle) { return gate.enqueue(handle); }
      void await_resume() const noexcept {}
    };
    return Awaiter{*this};
  }

 private:
  friend class Token;
  struct Epoch {
    std::uint64_t number;
    std::uint64_t inside = 0;
    std::vector<Waiter> waiters;  // wait for this epoch and all before it
  };
  void leave(std::uint64_t epoch);
  bool enqueue(std::coroutine_handle<> handle);
  void pop_finished(std::vector<Waiter>& wake);

  std::mutex mutex_;
  std::deque<Epoch> epochs_{Epoch{1, 0, {}}};  // oldest first; the last one is current
};

}  // namespace voltree
