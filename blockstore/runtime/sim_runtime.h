// SimRuntime: a deterministic Runtime for tests.
//
// One thread runs everything: coroutines, I/O, blocking work, strands. What could happen next is
// kept in a list, and a seeded generator picks from it; so one seed is one interleaving, every
// time. An I/O takes effect at one such moment and is reported at another. Time is virtual: it
// moves by a step with each event and jumps to the next timer when nothing else is ready.
//
// A deadlock (the awaited task has not ended and nothing can happen) aborts with a message, and so
// does a world where only timers go on for `time_limit`.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "blockstore/runtime/fd_io.h"
#include "blockstore/runtime/io.h"
#include "blockstore/runtime/sim_world.h"

namespace voltree {

struct SimOptions {
  std::uint64_t seed = 1;
  std::size_t executors = 2;
  std::chrono::nanoseconds step{1000};
  std::chrono::nanoseconds time_limit = std::chrono::hours(24 * 30);
};

class SimFile;

class SimRuntime final : public Runtime {
 public:
  // `world` must outlive this.
  SimRuntime(SimWorld& world, SimOptions options);
  // What has not happened yet never will. Files and strands must be gone.
  ~SimRuntime() override;

  FileSystem& fs() override { return *fs_; }
  std::size_t executor_count() const override { return executors_.size(); }
  Executor& executor(std::size_t index) override;
  std::chrono::nanoseconds monotonic_now() override { return now_; }
  std::chrono::nanoseconds wall_now() override;
  std::uint64_t random_u64() override { return next_random(); }
  std::string boot_id() override;
  void submit_blocking(std::function<void()> work, Executor* home,
                       std::coroutine_handle<> done_handle) override;
  void submit_timer(std::chrono::nanoseconds delay, Executor* home,
                    std::coroutine_handle<> handle) override;
  // There are no descriptors here: -ENOSYS.
  void submit_fd(FdRequest& request) override;
  void cancel_fd(int fd) override;
  std::unique_ptr<Strand> make_strand(const std::string& thread_name) override;
  void run_until_done(Task<void> task) override;

  // Runs until nothing is ready; timers that are not due stay.
  void run_until_idle();
  // A digest of everything that happened, in order: equal for equal seeds.
  std::uint64_t trace_hash() const { return trace_hash_; }
  std::uint64_t step_count() const { return step_count_; }
  SimWorld& world() { return world_; }

 private:
  friend class SimFile;
  friend class SimMappedFile;
  class SimExecutor;
  class SimStrand;
  class SimFileSystem;

  struct Item {
    enum class Kind : std::uint8_t { kResume, kStartIo, kFinishIo, kBlocking, kStrand };
    Kind kind = Kind::kResume;
    std::size_t executor = 0;
    std::coroutine_handle<> handle;
    SimFile* file = nullptr;
    IoRequest* request = nullptr;
    std::function<void()> work;
    SimStrand* strand = nullptr;
  };
  struct Timer {
    std::size_t executor;
    std::coroutine_handle<> handle;
  };

  static std::size_t index_of(Executor* home);
  std::uint64_t next_random();
  void trace(std::uint64_t value);
  void add(Item item) { ready_.push_back(std::move(item)); }
  void submit_io(SimFile& file, IoRequest& request);
  void forget_strand(const SimStrand* strand);
  void fire_timers();
  bool step(bool may_jump);  // false: nothing can happen
  void run_item(Item& item);
  [[noreturn]] void give_up(const char* reason) const;

  SimWorld& world_;
  const SimOptions options_;
  std::unique_ptr<FileSystem> fs_;
  std::vector<std::unique_ptr<SimExecutor>> executors_;
  std::vector<Item> ready_;
  std::multimap<std::chrono::nanoseconds, Timer> timers_;
  std::chrono::nanoseconds now_{std::chrono::seconds(1)};
  std::uint64_t random_state_;
  std::uint64_t trace_hash_ = 0;
  std::uint64_t step_count_ = 0;
};

}  // namespace voltree
