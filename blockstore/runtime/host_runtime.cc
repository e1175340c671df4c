#include "blockstore/runtime/host_runtime.h"

#include <sys/random.h>

#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <random>

namespace voltree {

std::chrono::nanoseconds HostRuntime::monotonic_now() {
  return std::chrono::steady_clock::now().time_since_epoch();
}

std::chrono::nanoseconds HostRuntime::wall_now() {
  return std::chrono::system_clock::now().time_since_epoch();
}

std::uint64_t HostRuntime::random_u64() {
  std::uint64_t value = 0;
  if (::getrandom(&value, sizeof value, 0) == sizeof value) return value;
  std::random_device device;
  return std::uint64_t{device()} << 32 | device();
}

std::string HostRuntime::boot_id() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string id;
  std::getline(file, id);
  return id;
}

void HostRuntime::submit_blocking(std::function<void()> work, Executor* home,
                                  std::coroutine_handle<> done_handle) {
  assert(home != nullptr);
  blocking_.post([work = std::move(work), home, done_handle]() mutable {
    work();
    work = nullptr;  // destroyed before the coroutine, whose frame it may refer to, goes on
    home->post(done_handle);
  });
}

std::unique_ptr<Runtime::Strand> HostRuntime::make_strand(const std::string& thread_name) {
  return std::make_unique<ThreadStrand>(thread_name);
}

void HostRuntime::run_until_done(Task<void> task) {
  assert(Executor::current() == nullptr && "an executor must not block on its own work");
  struct Done {
    std::mutex mutex;
    std::condition_variable changed;
    bool done = false;
  } state;
  spawn(executor(0), [](Task<void> body, Done& done) -> Task<void> {
    co_await std::move(body);
    // Notified under the mutex: the waiter may destroy `done` as soon as it can take it.
    const std::lock_guard guard(done.mutex);
    done.done = true;
    done.changed.notify_one();
  }(std::move(task), state));
  std::unique_lock lock(state.mutex);
  state.changed.wait(lock, [&] { return state.done; });
}

std::size_t executors_wanted(const RuntimeOptions& options) {
  if (options.executors != 0) return options.executors;
  return std::clamp<std::size_t>(std::thread::hardware_concurrency(), 1, 4);
}

Result<std::unique_ptr<Runtime>> make_host_runtime(const RuntimeOptions& options) {
  if (!options.force_pool) {
    Result<std::unique_ptr<Runtime>> runtime = make_uring_runtime(options);
    if (runtime.ok() || runtime.status().code() != Code::kNotSupported) return runtime;
    if (std::getenv("VOLTREE_DEBUG") != nullptr) {
      fmt::print(stderr, "voltree: using threads for I/O: {}\n", runtime.status().message());
    }
  }
  return make_pool_runtime(options);
}

}  // namespace voltree
