// One reactor: a thread with an io_uring that runs coroutines, timers and I/O.
//
// One turn of the loop: run what is ready; start the I/O that this asked for with one system call,
// which also waits when nothing is ready; take the completions. Other threads hand work over
// through a locked inbox, and write the eventfd that is always being read on the ring only when the
// loop sleeps (or is about to).
#pragma once

#include <liburing.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <queue>
#include <string>
#include <thread>
#include <unordered_set>
#include <vector>

#include "blockstore/runtime/fd_io.h"
#include "blockstore/runtime/host_fs.h"
#include "blockstore/runtime/io.h"

namespace voltree {

class UringReactor final : public Executor {
 public:
  // Starts the thread. kNotSupported when the kernel refuses io_uring.
  static Result<std::unique_ptr<UringReactor>> make(std::string name, std::size_t ring_entries);
  // stop(), if that was not called.
  ~UringReactor() override;

  // Finishes what is ready or in flight, cancels what waits on descriptors, and ends the thread.
  void stop();

  void post(std::coroutine_handle<> handle) override;                               // thread-safe
  void post_timer(std::coroutine_handle<> handle, std::chrono::nanoseconds delay);  // thread-safe
  void cancel_fd(int fd);                                                           // thread-safe
  // On this reactor's thread only.
  void submit_io(HostFile& file, IoRequest& request);
  void submit_fd(FdRequest& request);

 private:
  using Clock = std::chrono::steady_clock;

  struct Op {
    enum class Kind : std::uint8_t { kWake, kFile, kFd, kCancel };
    Kind kind = Kind::kWake;
    HostFile* file = nullptr;
    IoRequest* io = nullptr;
    FdRequest* fd = nullptr;
    std::uint64_t done_bytes = 0;
    bool polling = false;  // kFd: waits for a non-blocking descriptor to be ready
    Op* target = nullptr;  // kCancel
    std::uint64_t target_serial = 0;
    std::uint64_t serial = 0;  // tells an operation from an earlier one in the same memory
  };
  struct Timer {
    Clock::time_point due;
    std::uint64_t number;  // equal times fire in the order they were set
    std::coroutine_handle<> handle;
    bool operator>(const Timer& other) const {
      return due != other.due ? due > other.due : number > other.number;
    }
  };
  struct Completion {
    Op* op;
    int result;
  };

  explicit UringReactor(std::string name) : name_(std::move(name)) {}
  Status open_ring(std::size_t ring_entries);
  void run();
  void take_inbox();
  void run_ready();
  void fire_timers();
  bool may_stop();
  void begin_stop();
  void arm_wake();
  void cancel_waiting(int fd, bool all);
  void drain_backlog();
  // The system call of a turn; `sleep`: wait for a completion, the next timer or the eventfd.
  void enter(bool sleep);
  void take_completions();
  void complete(Op& op, int result);
  void complete_file(Op& op, int result);
  void complete_fd(Op& op, int result);

  Op* new_op(Op::Kind kind);
  void free_op(Op& op);
  void start(Op& op);    // now, or when the ring has room
  bool prepare(Op& op);  // false: the ring is full
  void prepare_file(const Op& op, io_uring_sqe* sqe);
  void prepare_fd(const Op& op, io_uring_sqe* sqe);
  void finish_io(Op& op, Status status);
  bool on_thread() const { return Executor::current() == this; }
  template <typename Fill>
  void hand_over(Fill fill);

  const std::string name_;
  io_uring ring_{};
  UniqueFd wake_fd_;
  std::uint64_t wake_count_ = 0;
  std::thread thread_;

  // The thread's own.
  std::deque<std::coroutine_handle<>> ready_;
  std::vector<IoRequest*> finished_;  // done without the kernel; on_done is still to be called
  std::priority_queue<Timer, std::vector<Timer>, std::greater<>> timers_;
  std::uint64_t next_timer_ = 0;
  std::deque<std::unique_ptr<Op>> op_memory_;
  std::vector<Op*> free_ops_;
  std::uint64_t next_serial_ = 1;
  std::deque<Op*> backlog_;  // wait for room in the ring
  std::unordered_set<Op*> waiting_fds_;
  std::size_t in_ring_ = 0;    // operations that the kernel has, or will have at the next enter()
  std::size_t ring_room_ = 0;  // most of in_ring_: what fits the completion queue
  bool must_stop_ = false;
  bool wake_armed_ = false;

  std::mutex inbox_mutex_;
  std::vector<std::coroutine_handle<>> inbox_;
  std::vector<Timer> inbox_timers_;
  std::vector<int> inbox_cancels_;
  bool inbox_stop_ = false;
  bool asleep_ = false;  // the next to hand something over writes the eventfd
};

}  // namespace voltree
