#include "blockstore/runtime/uring_reactor.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <future>

#include "blockstore/runtime/worker_threads.h"

namespace voltree {
namespace {

// The kernel moves at most a little under 2 GiB at once, and an SQE's length has 32 bits.
constexpr std::uint64_t kTransferMaxBytes = std::uint64_t{1} << 30;
constexpr std::size_t kCompletionsPerEntry = 4;

}  // namespace

Result<std::unique_ptr<UringReactor>> UringReactor::make(std::string name,
                                                         std::size_t ring_entries) {
  std::unique_ptr<UringReactor> reactor(new UringReactor(std::move(name)));
  reactor->wake_fd_ = UniqueFd(::eventfd(0, EFD_CLOEXEC));
  if (!reactor->wake_fd_.valid()) return Status::from_errno(errno, "eventfd");

  // The ring is made on its thread: SINGLE_ISSUER binds it to the task that makes it.
  std::promise<Status> opened;
  std::future<Status> outcome = opened.get_future();
  UringReactor* const self = reactor.get();
  self->thread_ = std::thread([self, ring_entries, promise = std::move(opened)]() mutable {
    prepare_thread(self->name_);
    const Status status = self->open_ring(ring_entries);
    promise.set_value(status);
    if (status.ok()) self->run();
  });
  const Status status = outcome.get();
  if (!status.ok()) return status;  // the destructor joins the thread
  return reactor;
}

UringReactor::~UringReactor() { stop(); }

Status UringReactor::open_ring(std::size_t ring_entries) {
  const auto entries = static_cast<unsigned>(std::clamp<std::size_t>(ring_entries, 8, 32768));
  // Newest first. DEFER_TASKRUN runs completions only when we ask, not in the middle of our work;
  // the TASKRUN flag tells when asking is worth a system call.
  constexpr std::array<unsigned, 3> kFlagSets = {
      IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_COOP_TASKRUN |
          IORING_SETUP_TASKRUN_FLAG,
      IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG, 0};
  int result = -EINVAL;
  for (const unsigned flags : kFlagSets) {
    io_uring_params params{};
    params.flags = flags | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
    params.cq_entries = static_cast<unsigned>(entries * kCompletionsPerEntry);
    result = ::io_uring_queue_init_params(entries, &ring_, &params);
    if (result == 0) {
      ring_room_ = params.cq_entries;
      return {};
    }
    if (result != -EINVAL) break;
  }
  return error(Code::kNotSupported, "io_uring: {}", std::generic_category().message(-result));
}

template <typename Fill>
void UringReactor::hand_over(Fill fill) {
  bool wake = false;
  {
    const std::lock_guard guard(inbox_mutex_);
    fill();
    wake = std::exchange(asleep_, false);
  }
  if (!wake) return;
  const std::uint64_t one = 1;
  // Cannot fail: the counter is far from its end, and is read whenever it is not zero.
  (void)!::write(wake_fd_.get(), &one, sizeof one);
}

void UringReactor::post(std::coroutine_handle<> handle) {
  if (on_thread()) {
    ready_.push_back(handle);
  } else {
    hand_over([&] { inbox_.push_back(handle); });
  }
}

void UringReactor::post_timer(std::coroutine_handle<> handle, std::chrono::nanoseconds delay) {
  const Timer timer{Clock::now() + std::max(delay, std::chrono::nanoseconds(0)), 0, handle};
  hand_over([&] { inbox_timers_.push_back(timer); });
}

void UringReactor::cancel_fd(int fd) {
  hand_over([&] { inbox_cancels_.push_back(fd); });
}

void UringReactor::stop() {
  if (!thread_.joinable()) return;
  hand_over([&] { inbox_stop_ = true; });
  thread_.join();
}

void UringReactor::run() {
  set_current(this);
  arm_wake();
  for (;;) {
    take_inbox();
    fire_timers();
    run_ready();
    if (may_stop()) break;
    bool sleep = ready_.empty() && finished_.empty();
    if (sleep) {
      const std::lock_guard guard(inbox_mutex_);
      sleep = inbox_.empty() && inbox_timers_.empty() && inbox_cancels_.empty() &&
              (must_stop_ || !inbox_stop_);
      asleep_ = sleep;
    }
    enter(sleep);
    take_completions();
  }
  ::io_uring_queue_exit(&ring_);
  set_current(nullptr);
}

void UringReactor::take_inbox() {
  std::vector<int> cancels;
  bool stop = false;
  {
    const std::lock_guard guard(inbox_mutex_);
    asleep_ = false;
    ready_.insert(ready_.end(), inbox_.begin(), inbox_.end());
    inbox_.clear();
    for (Timer& timer : inbox_timers_) {
      timer.number = next_timer_++;
      timers_.push(timer);
    }
    inbox_timers_.clear();
    cancels.swap(inbox_cancels_);
    stop = inbox_stop_;
  }
  for (const int fd : cancels) cancel_waiting(fd, false);
  if (stop && !must_stop_) begin_stop();
}

void UringReactor::fire_timers() {
  if (timers_.empty()) return;
  const Clock::time_point now = Clock::now();
  while (!timers_.empty() && timers_.top().due <= now) {
    ready_.push_back(timers_.top().handle);
    timers_.pop();
  }
}

void UringReactor::run_ready() {
  // Only what is ready now: what these make ready waits for the next turn, so that I/O gets its
  // share.
  for (std::size_t left = ready_.size(); left > 0; --left) {
    const std::coroutine_handle<> handle = ready_.front();
    ready_.pop_front();
    handle.resume();
  }
  std::vector<IoRequest*> finished;
  finished.swap(finished_);
  for (IoRequest* request : finished) request->on_done(*request);
}

void UringReactor::begin_stop() {
  must_stop_ = true;
  cancel_waiting(-1, true);
  // The read of the eventfd ends, and is not armed again: nothing of ours is left in the kernel.
  const std::uint64_t one = 1;
  if (wake_armed_) (void)!::write(wake_fd_.get(), &one, sizeof one);
}

bool UringReactor::may_stop() {
  if (!must_stop_ || !ready_.empty() || !finished_.empty() || !backlog_.empty() || in_ring_ != 0) {
    return false;
  }
  const std::lock_guard guard(inbox_mutex_);
  return inbox_.empty();
}

void UringReactor::arm_wake() {
  wake_armed_ = true;
  start(*new_op(Op::Kind::kWake));
}

void UringReactor::enter(bool sleep) {
  drain_backlog();
  std::chrono::nanoseconds wait{0};
  if (sleep && !timers_.empty()) {
    wait = timers_.top().due - Clock::now();
    sleep = wait.count() > 0;
  }
  if (!sleep) {
    // Errors (the kernel is short of memory, or wants its completions taken first) leave the
    // entries in the ring: the next turn offers them again.
    ::io_uring_submit(&ring_);
    return;
  }
  io_uring_cqe* completion = nullptr;
  constexpr std::int64_t kNanosPerSecond = 1'000'000'000;
  __kernel_timespec timeout{wait.count() / kNanosPerSecond, wait.count() % kNanosPerSecond};
  ::io_uring_submit_and_wait_timeout(&ring_, &completion, 1, timers_.empty() ? nullptr : &timeout,
                                     nullptr);
}

void UringReactor::take_completions() {
  constexpr unsigned kAtOnce = 256;
  std::array<io_uring_cqe*, kAtOnce> entries;
  std::array<Completion, kAtOnce> completions;
  const unsigned count = ::io_uring_peek_batch_cqe(&ring_, entries.data(), kAtOnce);
  // Copied first: the handlers below may submit, and that may want the queue's room.
  unsigned taken = 0;
  for (unsigned i = 0; i < count; ++i) {
    if (entries[i]->user_data == LIBURING_UDATA_TIMEOUT) continue;
    completions[taken++] = {static_cast<Op*>(::io_uring_cqe_get_data(entries[i])), entries[i]->res};
  }
  ::io_uring_cq_advance(&ring_, count);
  in_ring_ -= taken;
  for (unsigned i = 0; i < taken; ++i) complete(*completions[i].op, completions[i].result);
}

void UringReactor::complete(Op& op, int result) {
  switch (op.kind) {
    case Op::Kind::kWake:
      free_op(op);
      wake_armed_ = false;
      if (!must_stop_) arm_wake();
      return;
    case Op::Kind::kFile:
      complete_file(op, result);
      return;
    case Op::Kind::kFd:
      complete_fd(op, result);
      return;
    case Op::Kind::kCancel:
      free_op(op);
      return;
  }
}

void UringReactor::complete_file(Op& op, int result) {
  IoRequest& request = *op.io;
  const bool is_sync = request.kind == IoKind::kSyncData;
  // A sync is never repeated: after a failure nobody knows what is durable (I10).
  if (!is_sync && (result == -EINTR || result == -EAGAIN)) {
    start(op);
    return;
  }
  if (result < 0) {
    finish_io(op, op.file->failure(-result, "I/O failed"));
    return;
  }
  if (is_sync) {
    finish_io(op, check_sync_holds(op.file->fd(), op.file->path()));
    return;
  }
  if (request.kind != IoKind::kRead && request.kind != IoKind::kWrite) {
    finish_io(op, {});
    return;
  }
  op.done_bytes += static_cast<std::uint64_t>(result);
  bool at_end = result == 0;
  if (request.kind == IoKind::kRead) {
    // A direct read that ends inside a sector has met the end of the file.
    at_end = at_end || (op.file->direct() && result % 512 != 0);
    if (at_end) {
      std::fill(request.data + op.done_bytes, request.data + request.length_bytes, std::byte{0});
      op.done_bytes = request.length_bytes;
    }
  } else if (at_end) {
    finish_io(op, op.file->failure(EIO, "the host wrote nothing"));
    return;
  }
  if (op.done_bytes < request.length_bytes) {
    start(op);
  } else {
    finish_io(op, {});
  }
}

void UringReactor::finish_io(Op& op, Status status) {
  IoRequest& request = *op.io;
  free_op(op);
  request.status = std::move(status);
  request.on_done(request);
}

void UringReactor::complete_fd(Op& op, int result) {
  FdRequest& request = *op.fd;
  if (request.cancelled) {
    // What was read or written before the cancellation came still counts.
    if (op.polling || result == -EINTR || result == -EAGAIN) result = -ECANCELED;
  } else if (result == -EINTR || (op.polling && result >= 0 && request.kind != FdKind::kPoll)) {
    op.polling = false;
    start(op);
    return;
  } else if (result == -EAGAIN && !op.polling) {
    op.polling = true;  // the descriptor is non-blocking
    start(op);
    return;
  }
  waiting_fds_.erase(&op);
  free_op(op);
  request.result = result;
  request.handle.resume();
}

void UringReactor::submit_io(HostFile& file, IoRequest& request) {
  assert(on_thread());
  request.status = check_file_range(request.offset_bytes, request.length_bytes, file.path());
  if (request.kind == IoKind::kPopulate) {
    request.status = error(Code::kNotSupported, "{}: not an operation on a file", file.path());
  }
  const bool empty = request.length_bytes == 0 && request.kind != IoKind::kSyncData;
  if (empty || !request.status.ok()) {
    finished_.push_back(&request);
    return;
  }
  Op& op = *new_op(Op::Kind::kFile);
  op.file = &file;
  op.io = &request;
  start(op);
}

void UringReactor::submit_fd(FdRequest& request) {
  assert(on_thread());
  request.cancelled = false;
  if (must_stop_) {
    request.result = -ECANCELED;
    ready_.push_back(request.handle);
    return;
  }
  Op& op = *new_op(Op::Kind::kFd);
  op.fd = &request;
  waiting_fds_.insert(&op);
  start(op);
}

void UringReactor::cancel_waiting(int fd, bool all) {
  std::vector<Op*> targets;
  for (Op* op : waiting_fds_) {
    if (all || op->fd->fd == fd) targets.push_back(op);
  }
  for (Op* target : targets) {
    target->fd->cancelled = true;
    const auto queued = std::find(backlog_.begin(), backlog_.end(), target);
    if (queued != backlog_.end()) {
      backlog_.erase(queued);
      waiting_fds_.erase(target);
      target->fd->result = -ECANCELED;
      ready_.push_back(target->fd->handle);
      free_op(*target);
      continue;
    }
    Op& cancel = *new_op(Op::Kind::kCancel);
    cancel.target = target;
    cancel.target_serial = target->serial;
    start(cancel);
  }
}

UringReactor::Op* UringReactor::new_op(Op::Kind kind) {
  if (free_ops_.empty()) {
    op_memory_.push_back(std::make_unique<Op>());
    free_ops_.push_back(op_memory_.back().get());
  }
  Op* const op = free_ops_.back();
  free_ops_.pop_back();
  *op = Op{};
  op->kind = kind;
  op->serial = next_serial_++;
  return op;
}

void UringReactor::free_op(Op& op) {
  op.serial = 0;
  free_ops_.push_back(&op);
}

void UringReactor::start(Op& op) {
  // Behind what waits already: nobody is overtaken forever.
  if (!backlog_.empty() || !prepare(op)) backlog_.push_back(&op);
}

void UringReactor::drain_backlog() {
  while (!backlog_.empty() && prepare(*backlog_.front())) backlog_.pop_front();
}

bool UringReactor::prepare(Op& op) {
  if (op.kind == Op::Kind::kCancel && op.target->serial != op.target_serial) {
    free_op(op);  // what it was to cancel is over
    return true;
  }
  // Never more in flight than the completion queue can hold: it cannot overflow.
  if (in_ring_ >= ring_room_) return false;
  io_uring_sqe* sqe = ::io_uring_get_sqe(&ring_);
  if (sqe == nullptr) {
    ::io_uring_submit(&ring_);
    sqe = ::io_uring_get_sqe(&ring_);
    if (sqe == nullptr) return false;
  }
  switch (op.kind) {
    case Op::Kind::kWake:
      ::io_uring_prep_read(sqe, wake_fd_.get(), &wake_count_, sizeof wake_count_, 0);
      break;
    case Op::Kind::kFile:
      prepare_file(op, sqe);
      break;
    case Op::Kind::kFd:
      prepare_fd(op, sqe);
      break;
    case Op::Kind::kCancel:
      ::io_uring_prep_cancel(sqe, op.target, 0);
      break;
  }
  ::io_uring_sqe_set_data(sqe, &op);
  ++in_ring_;
  return true;
}

void UringReactor::prepare_fd(const Op& op, io_uring_sqe* sqe) {
  const FdRequest& request = *op.fd;
  const auto length =
      static_cast<unsigned>(std::min<std::uint64_t>(request.buffer.size(), kTransferMaxBytes));
  constexpr auto kCurrentPosition = static_cast<std::uint64_t>(-1);
  if (op.polling || request.kind == FdKind::kPoll) {
    const short events = request.kind == FdKind::kPoll    ? request.events
                         : request.kind == FdKind::kWrite ? short{POLLOUT}
                                                          : short{POLLIN};
    ::io_uring_prep_poll_add(sqe, request.fd, static_cast<unsigned>(events));
  } else if (request.kind == FdKind::kRead) {
    ::io_uring_prep_read(sqe, request.fd, request.buffer.data(), length, kCurrentPosition);
  } else {
    ::io_uring_prep_write(sqe, request.fd, request.buffer.data(), length, kCurrentPosition);
  }
}

void UringReactor::prepare_file(const Op& op, io_uring_sqe* sqe) {
  const IoRequest& request = *op.io;
  const int fd = op.file->fd();
  std::byte* const data = request.data + op.done_bytes;
  const std::uint64_t offset = request.offset_bytes + op.done_bytes;
  const auto length =
      static_cast<unsigned>(std::min(request.length_bytes - op.done_bytes, kTransferMaxBytes));
  const auto range_offset = static_cast<off_t>(request.offset_bytes);
  const auto range_length = static_cast<off_t>(request.length_bytes);
  switch (request.kind) {
    case IoKind::kRead:
      ::io_uring_prep_read(sqe, fd, data, length, offset);
      sqe->ioprio = request.io_priority;
      return;
    case IoKind::kWrite:
      ::io_uring_prep_write(sqe, fd, data, length, offset);
      sqe->ioprio = request.io_priority;
      return;
    case IoKind::kSyncData:
      ::io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
      return;
    case IoKind::kAllocate:
      ::io_uring_prep_fallocate(sqe, fd, FALLOC_FL_KEEP_SIZE, range_offset, range_length);
      return;
    case IoKind::kPunchHole:
      ::io_uring_prep_fallocate(sqe, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, range_offset,
                                range_length);
      return;
    case IoKind::kPopulate:
      break;  // refused by submit_io
  }
}

}  // namespace voltree
