// Plain threads for what may block: a pool, and strands (one thread, one job at a time, in order).
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "blockstore/runtime/io.h"

namespace voltree {

// Names this thread, and marks it PR_SET_IO_FLUSHER where the process may: reclaiming memory for
// such a thread never waits for I/O, which could be I/O to a device that this thread itself serves.
void prepare_thread(const std::string& name);
// Whether the process may: with CAP_SYS_RESOURCE.
bool may_flush_io();

// Jobs run at any order on min..max threads; a thread is added when a job finds none idle.
// Thread-safe. Destroying it finishes what was posted.
class WorkerPool {
 public:
  WorkerPool(std::string name, std::size_t threads_min, std::size_t threads_max);
  ~WorkerPool();
  void post(std::function<void()> job);
  // Finishes what was posted and ends the threads. What is posted from then on runs on the caller's
  // thread.
  void stop();

 private:
  void start_thread();  // mutex_ is held
  void run();

  const std::string name_;
  const std::size_t threads_max_;
  std::mutex mutex_;
  std::condition_variable has_work_;
  std::deque<std::function<void()>> jobs_;
  std::vector<std::thread> threads_;
  std::size_t idle_ = 0;
  bool stopping_ = false;
};

// A Runtime::Strand on a thread of its own.
class ThreadStrand final : public Runtime::Strand {
 public:
  explicit ThreadStrand(const std::string& thread_name) : pool_(thread_name, 1, 1) {}
  void post(std::function<void()> job) override { pool_.post(std::move(job)); }

 private:
  WorkerPool pool_;
};

}  // namespace voltree
