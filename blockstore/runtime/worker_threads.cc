#include "blockstore/runtime/worker_threads.h"

#include <pthread.h>
#include <sys/prctl.h>

#include <utility>

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#define PR_GET_IO_FLUSHER 58
#endif

namespace voltree {

void prepare_thread(const std::string& name) {
  constexpr std::size_t kNameMax = 15;  // the kernel's limit
  ::pthread_setname_np(::pthread_self(), name.substr(0, kNameMax).c_str());
  (void)::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
}

bool may_flush_io() { return ::prctl(PR_GET_IO_FLUSHER, 0, 0, 0, 0) >= 0; }

WorkerPool::WorkerPool(std::string name, std::size_t threads_min, std::size_t threads_max)
    : name_(std::move(name)), threads_max_(threads_max) {
  const std::lock_guard guard(mutex_);
  for (std::size_t i = 0; i < threads_min; ++i) start_thread();
}

WorkerPool::~WorkerPool() { stop(); }

void WorkerPool::start_thread() {
  // Counted as idle from the start, so that a burst of jobs does not start a thread each.
  ++idle_;
  threads_.emplace_back([this] { run(); });
}

void WorkerPool::post(std::function<void()> job) {
  {
    std::unique_lock lock(mutex_);
    if (stopping_) {
      // A straggler of a runtime that is going away: there may be no thread left for it.
      lock.unlock();
      job();
      return;
    }
    jobs_.push_back(std::move(job));
    if (jobs_.size() > idle_ && threads_.size() < threads_max_) start_thread();
  }
  has_work_.notify_one();
}

void WorkerPool::stop() {
  {
    const std::lock_guard guard(mutex_);
    stopping_ = true;
  }
  has_work_.notify_all();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

void WorkerPool::run() {
  prepare_thread(name_);
  std::unique_lock lock(mutex_);
  for (;;) {
    has_work_.wait(lock, [&] { return stopping_ || !jobs_.empty(); });
    if (jobs_.empty()) return;
    std::function<void()> job = std::move(jobs_.front());
    jobs_.pop_front();
    --idle_;
    lock.unlock();
    job();
    job = nullptr;  // what it holds is destroyed outside of the lock
    lock.lock();
    ++idle_;
  }
}

}  // namespace voltree
