// A Runtime over a FaultyFs, for tests of whole stores.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "tests/blockstore/faulty_fs.h"

namespace voltree::testing {

// A simulated machine whose files fail when a test says so.
class FaultyRuntime final : public Runtime {
 public:
  explicit FaultyRuntime(Runtime& below) : below_(below), fs_(below.fs()) {}
  Faults& faults() { return fs_.faults; }

  FileSystem& fs() override { return fs_; }
  std::size_t executor_count() const override { return below_.executor_count(); }
  Executor& executor(std::size_t index) override { return below_.executor(index); }
  std::chrono::nanoseconds monotonic_now() override { return below_.monotonic_now(); }
  std::chrono::nanoseconds wall_now() override { return below_.wall_now(); }
  std::uint64_t random_u64() override { return below_.random_u64(); }
  std::string boot_id() override { return below_.boot_id(); }
  void submit_blocking(std::function<void()> work, Executor* home,
                       std::coroutine_handle<> done) override {
    below_.submit_blocking(std::move(work), home, done);
  }
  void submit_timer(std::chrono::nanoseconds delay, Executor* home,
                    std::coroutine_handle<> handle) override {
    below_.submit_timer(delay, home, handle);
  }
  void submit_fd(FdRequest& request) override { below_.submit_fd(request); }
  void cancel_fd(int fd) override { below_.cancel_fd(fd); }
  std::unique_ptr<Strand> make_strand(const std::string& name) override {
    return below_.make_strand(name);
  }
  void run_until_done(Task<void> task) override { below_.run_until_done(std::move(task)); }

 private:
  Runtime& below_;
  FaultyFs fs_;
};

}  // namespace voltree::testing
