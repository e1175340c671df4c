// Task<T>: a lazy C++20 coroutine, and the executor that resumes one.
//
// A Task starts when it is awaited (or spawned) and runs on the thread of whoever resumes it. A
// coroutine always comes back to the executor it was suspended on: every awaitable in runtime/
// remembers Executor::current() and posts the handle there.
//
// A Task that finishes without suspending does not grow the stack, however often a loop awaits
// one: await_suspend runs the child and answers "did not suspend". No compiler tail call is
// relied on, so sanitizer and debug builds behave alike.
#pragma once

#include <atomic>
#include <coroutine>
#include <cstdlib>
#include <exception>
#include <optional>
#include <type_traits>
#include <utility>

namespace voltree {

// Resumes coroutines on its own thread (or, in the simulator, at a moment of its choosing).
class Executor {
 public:
  virtual ~Executor() = default;
  // Thread-safe. Never resumes `handle` before post returns to the caller's caller: it is queued.
  virtual void post(std::coroutine_handle<> handle) = 0;
  // The executor whose thread this is; nullptr on a foreign thread.
  static Executor* current() { return current_; }

 protected:
  static void set_current(Executor* executor) { current_ = executor; }

 private:
  static inline thread_local Executor* current_ = nullptr;
};

namespace task_detail {

// Who arrives second at the end of a Task resumes the one who waits.
struct PromiseBase {
  std::coroutine_handle<> waiter;
  std::atomic<bool> met{false};

  std::suspend_always initial_suspend() noexcept { return {}; }
  struct FinalAwaiter {
    bool await_ready() noexcept { return false; }
    template <typename Promise>
    void await_suspend(std::coroutine_handle<Promise> handle) noexcept {
      PromiseBase& promise = handle.promise();
      const std::coroutine_handle<> waiting = promise.waiter;
      // After the exchange the frame may be gone: touch nothing of it.
      if (promise.met.exchange(true, std::memory_order_acq_rel)) waiting.resume();
    }
    void await_resume() noexcept {}
  };
  FinalAwaiter final_suspend() noexcept { return {}; }
  // The project does not throw; what the standard library throws (out of memory) ends the process.
  [[noreturn]] void unhandled_exception() noexcept { std::terminate(); }
};

}  // namespace task_detail

template <typename T = void>
class [[nodiscard]] Task {
 public:
  struct promise_type : task_detail::PromiseBase {
    std::optional<T> value;
    Task get_return_object() {
      return Task(std::coroutine_handle<promise_type>::from_promise(*this));
    }
    template <typename U>
    void return_value(U&& result) {
      value.emplace(std::forward<U>(result));
    }
  };

  Task(Task&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Task& operator=(Task&& other) noexcept {
    if (this != &other) {
      if (handle_) handle_.destroy();
      handle_ = std::exchange(other.handle_, nullptr);
    }
    return *this;
  }
  Task(const Task&) = delete;
  Task& operator=(const Task&) = delete;
  ~Task() {
    if (handle_) handle_.destroy();
  }

  bool await_ready() const noexcept { return false; }
  bool await_suspend(std::coroutine_handle<> waiter) noexcept {
    promise_type& promise = handle_.promise();
    promise.waiter = waiter;
    handle_.resume();
    return !promise.met.exchange(true, std::memory_order_acq_rel);
  }
  T await_resume() { return std::move(*handle_.promise().value); }

 private:
  explicit Task(std::coroutine_handle<promise_type> handle) : handle_(handle) {}
  std::coroutine_handle<promise_type> handle_;
};

template <>
class [[nodiscard]] Task<void> {
 public:
  struct promise_type : task_detail::PromiseBase {
    Task get_return_object() {
      return Task(std::coroutine_handle<promise_type>::from_promise(*this));
    }
    void return_void() noexcept {}
  };

  Task(Task&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Task& operator=(Task&& other) noexcept {
    if (this != &other) {
      if (handle_) handle_.destroy();
      handle_ = std::exchange(other.handle_, nullptr);
    }
    return *this;
  }
  Task(const Task&) = delete;
  Task& operator=(const Task&) = delete;
  ~Task() {
    if (handle_) handle_.destroy();
  }

  bool await_ready() const noexcept { return false; }
  bool await_suspend(std::coroutine_handle<> waiter) noexcept {
    promise_type& promise = handle_.promise();
    promise.waiter = waiter;
    handle_.resume();
    return !promise.met.exchange(true, std::memory_order_acq_rel);
  }
  void await_resume() noexcept {}

 private:
  explicit Task(std::coroutine_handle<promise_type> handle) : handle_(handle) {}
  std::coroutine_handle<promise_type> handle_;
};

namespace task_detail {

// A coroutine that owns itself: it runs at once and frees its frame when it ends.
struct Detached {
  struct promise_type {
    Detached get_return_object() noexcept { return {}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() noexcept {}
    [[noreturn]] void unhandled_exception() noexcept { std::terminate(); }
  };
};

}  // namespace task_detail

// Hops to `executor`: what follows the co_await runs there.
struct ResumeOn {
  Executor& executor;
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> handle) const { executor.post(handle); }
  void await_resume() const noexcept {}
};

// Runs `task` on `executor`, with nobody waiting. Thread-safe.
inline void spawn(Executor& executor, Task<void> task) {
  [](Executor& on, Task<void> body) -> task_detail::Detached {
    co_await ResumeOn{on};
    co_await std::move(body);
  }(executor, std::move(task));
}

// Starts `task` here and now, with nobody waiting: for a transport that is on its reactor already.
inline void spawn_here(Task<void> task) {
  [](Task<void> body) -> task_detail::Detached { co_await std::move(body); }(std::move(task));
}

}  // namespace voltree
