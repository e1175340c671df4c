// What the two runtimes of a host have in common: files, clocks, chance, blocking work, strands.
#pragma once

#include <memory>
#include <string>

#include "blockstore/runtime/host_fs.h"
#include "blockstore/runtime/io.h"
#include "blockstore/runtime/worker_threads.h"

namespace voltree {

class HostRuntime : public Runtime, protected HostIoBackend {
 public:
  FileSystem& fs() override { return fs_; }
  std::chrono::nanoseconds monotonic_now() override;
  std::chrono::nanoseconds wall_now() override;
  std::uint64_t random_u64() override;
  std::string boot_id() override;
  void submit_blocking(std::function<void()> work, Executor* home,
                       std::coroutine_handle<> done_handle) override;
  std::unique_ptr<Strand> make_strand(const std::string& thread_name) override;
  void run_until_done(Task<void> task) override;

 protected:
  HostRuntime() : fs_(this), blocking_("vt-block", 4, 8) {}
  // First thing in a destructor: blocking work posts to the executors when it is done.
  void stop_blocking() { blocking_.stop(); }

 private:
  HostFileSystem fs_;
  WorkerPool blocking_;
};

// kNotSupported (with the reason) where the kernel refuses io_uring.
Result<std::unique_ptr<Runtime>> make_uring_runtime(const RuntimeOptions& options);
Result<std::unique_ptr<Runtime>> make_pool_runtime(const RuntimeOptions& options);

// options.executors, or its default.
std::size_t executors_wanted(const RuntimeOptions& options);

}  // namespace voltree
