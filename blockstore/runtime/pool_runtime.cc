// PoolRuntime: the host runtime for kernels that refuse io_uring. Executors are plain threads, file
// I/O is pread/pwrite on a pool, and one thread polls the descriptors.
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "blockstore/runtime/fd_io.h"
#include "blockstore/runtime/host_runtime.h"

namespace voltree {
namespace {

class PoolExecutor final : public Executor {
 public:
  explicit PoolExecutor(const std::string& name) : thread_([this, name] { run(name); }) {}
  ~PoolExecutor() override { stop(); }

  // Runs what is queued, then ends the thread. Timers are dropped.
  void stop() {
    if (!thread_.joinable()) return;
    {
      const std::lock_guard guard(mutex_);
      stopping_ = true;
    }
    changed_.notify_one();
    thread_.join();
  }

  void post(std::coroutine_handle<> handle) override { push({handle, nullptr}); }
  // Calls request.on_done on this executor.
  void post_done(IoRequest& request) { push({nullptr, &request}); }
  void post_timer(std::coroutine_handle<> handle, std::chrono::nanoseconds delay) {
    {
      const std::lock_guard guard(mutex_);
      timers_.emplace(std::chrono::steady_clock::now() + delay, handle);
    }
    changed_.notify_one();
  }

 private:
  struct Item {
    std::coroutine_handle<> handle;
    IoRequest* request;
  };

  void push(Item item) {
    // Notified under the mutex: whoever is resumed may be what stops and destroys this.
    const std::lock_guard guard(mutex_);
    queue_.push_back(item);
    changed_.notify_one();
  }

  void run(const std::string& name) {
    prepare_thread(name);
    set_current(this);
    std::unique_lock lock(mutex_);
    for (;;) {
      while (!timers_.empty() && timers_.begin()->first <= std::chrono::steady_clock::now()) {
        queue_.push_back({timers_.begin()->second, nullptr});
        timers_.erase(timers_.begin());
      }
      if (queue_.empty()) {
        if (stopping_) return;
        if (timers_.empty()) {
          changed_.wait(lock);
        } else {
          const auto due = timers_.begin()->first;
          changed_.wait_until(lock, due);
        }
        continue;
      }
      const Item item = queue_.front();
      queue_.pop_front();
      lock.unlock();
      if (item.request != nullptr) {
        item.request->on_done(*item.request);
      } else {
        item.handle.resume();
      }
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Item> queue_;
  std::multimap<std::chrono::steady_clock::time_point, std::coroutine_handle<>> timers_;
  bool stopping_ = false;
  std::thread thread_;  // last: it uses all of the above
};

// Waits for descriptors on one thread, which also does their reads and writes.
class FdPoller {
 public:
  FdPoller() : wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)), thread_([this] { run(); }) {}
  ~FdPoller() { stop(); }

  // Cancels what waits, and ends the thread.
  void stop() {
    if (!thread_.joinable()) return;
    {
      const std::lock_guard guard(mutex_);
      stopping_ = true;
    }
    wake();
    thread_.join();
  }

  void submit(FdRequest& request) {
    if (request.fd < 0) {
      finish(request, -EBADF);  // poll() would pass over it in silence
      return;
    }
    bool refused = false;
    {
      const std::lock_guard guard(mutex_);
      request.cancelled = false;
      refused = stopping_;
      if (!refused) requests_.push_back(&request);  // from here on it may end at any moment
    }
    if (refused) {
      finish(request, -ECANCELED);
    } else {
      wake();
    }
  }

  void cancel(int fd) {
    {
      const std::lock_guard guard(mutex_);
      for (FdRequest* request : requests_) {
        if (request->fd == fd) request->cancelled = true;
      }
    }
    wake();
  }

 private:
  void wake() {
    const std::uint64_t one = 1;
    (void)!::write(wake_.get(), &one, sizeof one);
  }

  static void finish(FdRequest& request, int result) {
    request.result = result;
    request.home->post(request.handle);
  }

  static short events_of(const FdRequest& request) {
    if (request.kind == FdKind::kPoll) return request.events;
    return request.kind == FdKind::kRead ? POLLIN : POLLOUT;
  }

  // The result of a request whose descriptor is ready; -EAGAIN when it is not after all.
  static int perform(const FdRequest& request, short ready) {
    if ((ready & POLLNVAL) != 0) return -EBADF;
    if (request.kind == FdKind::kPoll) return ready;
    ssize_t count = -1;
    if (request.kind == FdKind::kRead) {
      count = ::read(request.fd, request.buffer.data(), request.buffer.size());
    } else {
      count = ::write(request.fd, request.buffer.data(), request.buffer.size());
    }
    if (count >= 0) return static_cast<int>(count);
    return errno == EINTR || errno == EWOULDBLOCK ? -EAGAIN : -errno;
  }

  // Fills `polls` from the requests; hands out those that were cancelled. False: time to end.
  bool collect(std::vector<pollfd>& polls, std::vector<FdRequest*>& polled) {
    polls.assign(1, pollfd{wake_.get(), POLLIN, 0});
    polled.assign(1, nullptr);
    std::vector<FdRequest*> cancelled;
    bool stopping = false;
    {
      const std::lock_guard guard(mutex_);
      stopping = stopping_;
      for (auto at = requests_.begin(); at != requests_.end();) {
        FdRequest* const request = *at;
        if (stopping || request->cancelled) {
          cancelled.push_back(request);
          at = requests_.erase(at);
        } else {
          polls.push_back({request->fd, events_of(*request), 0});
          polled.push_back(request);
          ++at;
        }
      }
    }
    for (FdRequest* request : cancelled) finish(*request, -ECANCELED);
    return !stopping;
  }

  void run() {
    prepare_thread("vt-poll");
    std::vector<pollfd> polls;
    std::vector<FdRequest*> polled;
    while (collect(polls, polled)) {
      if (::poll(polls.data(), polls.size(), -1) < 0) continue;
      std::uint64_t count = 0;
      if (polls.front().revents != 0) (void)!::read(wake_.get(), &count, sizeof count);
      for (std::size_t i = 1; i < polls.size(); ++i) {
        if (polls[i].revents == 0) continue;
        FdRequest& request = *polled[i];
        {
          // A cancellation that came first wins: its caller may be about to close the descriptor.
          const std::lock_guard guard(mutex_);
          if (request.cancelled) continue;
        }
        const int result = perform(request, polls[i].revents);
        if (result == -EAGAIN) continue;
        {
          const std::lock_guard guard(mutex_);
          requests_.remove(&request);
        }
        finish(request, result);
      }
    }
  }

  UniqueFd wake_;
  std::mutex mutex_;
  std::list<FdRequest*> requests_;
  bool stopping_ = false;
  std::thread thread_;  // last: it uses all of the above
};

PoolExecutor& executor_of(Executor* home) {
  assert(home != nullptr);
  return *static_cast<PoolExecutor*>(home);
}

class PoolRuntime final : public HostRuntime {
 public:
  explicit PoolRuntime(std::size_t executors) : io_("vt-io", 4, 16) {
    for (std::size_t i = 0; i < executors; ++i) {
      executors_.push_back(std::make_unique<PoolExecutor>(fmt::format("vt-exec-{}", i)));
    }
  }

  ~PoolRuntime() override {
    poller_.stop();
    stop_blocking();
    io_.stop();
    for (const auto& executor : executors_) executor->stop();
  }

  std::size_t executor_count() const override { return executors_.size(); }
  Executor& executor(std::size_t index) override { return *executors_.at(index); }

  void submit_timer(std::chrono::nanoseconds delay, Executor* home,
                    std::coroutine_handle<> handle) override {
    executor_of(home).post_timer(handle, delay);
  }
  void submit_fd(FdRequest& request) override { poller_.submit(request); }
  void cancel_fd(int fd) override { poller_.cancel(fd); }

 private:
  void submit(HostFile& file, IoRequest& request) override {
    io_.post([&file, &request] {
      request.status = file.execute_sync(request);
      executor_of(request.home).post_done(request);
    });
  }

  std::vector<std::unique_ptr<PoolExecutor>> executors_;
  WorkerPool io_;
  FdPoller poller_;
};

}  // namespace

Result<std::unique_ptr<Runtime>> make_pool_runtime(const RuntimeOptions& options) {
  return std::unique_ptr<Runtime>(std::make_unique<PoolRuntime>(executors_wanted(options)));
}

}  // namespace voltree
