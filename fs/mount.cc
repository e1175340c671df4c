#include "fs/mount.h"

#define FUSE_USE_VERSION 314
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <mutex>
#include <vector>

#include "fs/frontend.h"
#include "fs/mountpoint.h"
#include "fs/request_loop.h"

namespace voltree {

namespace {

// Requests that the kernel sends ahead of need (read-ahead, asynchronous direct I/O) are at most so
// many at a time; libfuse's default of 12 starves a loop device.
constexpr unsigned kMaxBackground = 256;
constexpr std::size_t kBufferLimit = 256;

void on_init(void*, fuse_conn_info* conn) {
  conn->max_write = kTransferBytes;
  conn->max_read = kTransferBytes;
  conn->max_background = kMaxBackground;
  conn->congestion_threshold = kMaxBackground * 3 / 4;
  conn->time_gran = 1;
  const unsigned wanted = FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO | FUSE_CAP_PARALLEL_DIROPS;
  // Not wanted though libfuse asks for them: O_TRUNC is to come as a setattr, which keeps the size;
  // the cache is dropped by open and by invalidate(), not by times that we do not keep; splice
  // moves pages, and here data goes from memory straight to io_uring.
  const unsigned refused = FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_AUTO_INVAL_DATA |
                           FUSE_CAP_WRITEBACK_CACHE | FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE |
                           FUSE_CAP_SPLICE_MOVE | FUSE_CAP_READDIRPLUS;
  conn->want = (conn->want | (conn->capable & wanted)) & ~refused;
  conn->want |= conn->capable & FUSE_CAP_EXPLICIT_INVAL_DATA;
}

fuse_lowlevel_ops all_ops() {
  fuse_lowlevel_ops ops{};
  ops.init = on_init;
  set_tree_ops(ops);
  set_file_ops(ops);
  set_range_ops(ops);
  set_xattr_ops(ops);
  return ops;
}

}  // namespace

class Mount::Session {
 public:
  Session(Runtime& runtime, Store& store, MountOptions options)
      : runtime_(runtime),
        options_(std::move(options)),
        frontend_(runtime, store,
                  TreeOwner{options_.owner_uid.value_or(geteuid()),
                            options_.owner_gid.value_or(getegid()), options_.file_mode & 0777U},
                  kBufferLimit) {}
  ~Session() { stop(); }

  Status start();
  void stop();
  bool stopped() const { return stopped_.load() || (loop_ && loop_->ended()); }
  const std::string& mountpoint() const { return options_.mountpoint; }
  void invalidate(const NodeName& name);
  Task<void> forget_range(NodeId node, std::uint64_t offset_bytes, std::uint64_t length_bytes);

 private:
  Task<void> serve() {
    co_await loop_->run();
    std::lock_guard lock(mutex_);
    --loops_running_;
    loop_ended_.notify_all();
  }
  Task<void> invalidate_found(NodeName name);
  void end_loops();
  static Task<void> close_handles(Frontend& frontend, std::vector<std::shared_ptr<Handle>> handles);

  Runtime& runtime_;
  MountOptions options_;
  Frontend frontend_;
  fuse_session* fuse_ = nullptr;
  int fd_ = -1;
  std::unique_ptr<RequestLoop> loop_;
  std::unique_ptr<Runtime::Strand>
      notifier_;  // talks to the kernel where it may wait for our own replies

  std::mutex stop_mutex_;  // one stop() at a time
  std::atomic<bool> stopped_{false};
  std::mutex mutex_;
  std::condition_variable loop_ended_;
  std::size_t loops_running_ = 0;
};

Status Mount::Session::start() {
  if (is_dead_tree(options_.mountpoint)) {
    VT_RETURN_IF_ERROR(detach_dead_tree(options_.mountpoint));
  }
  VT_RETURN_IF_ERROR(check_mountpoint(options_.mountpoint));
  options_.mountpoint = std::filesystem::canonical(options_.mountpoint).string();
  std::string words =
      fmt::format("fsname=voltree,subtype=voltree,default_permissions,max_read={}", kTransferBytes);
  if (options_.allow_other) words += ",allow_other";
  std::string program = "voltree", flag = "-o";
  std::array<char*, 3> arguments{program.data(), flag.data(), words.data()};
  fuse_args parsed = FUSE_ARGS_INIT(static_cast<int>(arguments.size()), arguments.data());
  const fuse_lowlevel_ops ops = all_ops();
  fuse_ = fuse_session_new(&parsed, &ops, sizeof ops, &frontend_);
  fuse_opt_free_args(&parsed);
  if (fuse_ == nullptr) return error(Code::kNotSupported, "libfuse refused the mount options");
  if (fuse_session_mount(fuse_, options_.mountpoint.c_str()) != 0) {
    const bool device = access("/dev/fuse", R_OK | W_OK) == 0;
    fuse_session_destroy(fuse_);
    fuse_ = nullptr;
    return error(Code::kPermission, "mounting at {} failed{}", voltree::quoted(options_.mountpoint),
                 !device ? ": /dev/fuse can not be opened"
                 : options_.allow_other && geteuid() != 0
                     ? ": allow_other needs user_allow_other in /etc/fuse.conf"
                     : " (see the message of fusermount3)");
  }
  fd_ = fuse_session_fd(fuse_);
  // Several readers share the descriptor: the one that comes late must not sleep in read().
  const int flags = fcntl(fd_, F_GETFL);
  if (flags < 0 || fcntl(fd_, F_SETFL, flags | O_NONBLOCK) != 0) {
    return Status::from_errno(errno, "/dev/fuse");
  }
  notifier_ = runtime_.make_strand("fuse-notify");
  loop_ = std::make_unique<RequestLoop>(runtime_, fuse_, fd_, frontend_.buffers);
  const std::size_t executors =
      std::clamp<std::size_t>(options_.reader_executors, 1, runtime_.executor_count());
  loops_running_ = executors;
  for (std::size_t i = 0; i < executors; ++i) spawn(runtime_.executor(i), serve());
  return {};
}

void Mount::Session::end_loops() {
  loop_->stop();
  std::unique_lock lock(mutex_);
  // Again and again: a loop may have passed its check just before stop() and submit its read after
  // the cancellation.
  while (loops_running_ != 0) {
    lock.unlock();
    runtime_.cancel_fd(fd_);
    lock.lock();
    loop_ended_.wait_for(lock, std::chrono::milliseconds(2),
                         [this] { return loops_running_ == 0; });
  }
}

Task<void> Mount::Session::close_handles(Frontend& frontend,
                                         std::vector<std::shared_ptr<Handle>> handles) {
  for (const std::shared_ptr<Handle>& handle : handles) {
    if (handle->creator) (void)(co_await frontend.grower.fit(handle->node, true)).ok();
  }
}

void Mount::Session::stop() {
  std::lock_guard lock(stop_mutex_);
  if (fuse_ == nullptr) return;
  if (loop_ != nullptr) {
    // While requests are still served: an idle tree goes away cleanly, with what programs wrote
    // through mmap.
    if (!loop_->ended()) unmount_idle(options_.mountpoint);
    // A notification may wait for a page that is being read: ends while reads are still served.
    std::unique_ptr<Runtime::Strand> notifier;
    {
      std::lock_guard notify_lock(mutex_);
      notifier = std::move(notifier_);
    }
    notifier.reset();
    end_loops();
    frontend_.wait_idle();
  }
  fuse_session_exit(fuse_);
  // Closes the device, which aborts the connection; then detaches the mount if it is still there.
  fuse_session_unmount(fuse_);
  fuse_session_destroy(fuse_);
  fuse_ = nullptr;
  runtime_.run_until_done(close_handles(frontend_, frontend_.open_files.take_all()));
  stopped_.store(true);
}

Task<void> Mount::Session::invalidate_found(NodeName name) {
  const std::shared_ptr<const Listing> all = co_await frontend_.tree.listing();
  const NodeInfo* node = all->find(name.str());
  if (node == nullptr) co_return;
  const std::uint64_t ino = frontend_.tree.ino_of(node->id);
  if (const auto open = frontend_.open_files.find(ino)) open->note_change();
  std::lock_guard lock(mutex_);
  if (notifier_ == nullptr) co_return;  // stopping
  // ENOENT: the kernel does not know the inode, and so caches nothing of it.
  notifier_->post([fuse = fuse_, ino] { fuse_lowlevel_notify_inval_inode(fuse, ino, 0, 0); });
}

Task<void> Mount::Session::forget_range(NodeId node, std::uint64_t offset_bytes,
                                        std::uint64_t length_bytes) {
  const std::uint64_t ino = frontend_.tree.ino_of(node);
  const std::shared_ptr<OpenNode> open = frontend_.open_files.find(ino);
  if (open == nullptr) co_return;
  open->note_change();
  if (!open->cached()) co_return;
  // The kernel waits for reads of these pages that we are serving: never on an executor.
  struct Told {
    Session& session;
    std::uint64_t ino;
    std::uint64_t offset_bytes;
    std::uint64_t length_bytes;
    bool await_ready() const noexcept { return false; }
    bool await_suspend(std::coroutine_handle<> handle) {
      std::lock_guard lock(session.mutex_);
      if (session.notifier_ == nullptr) return false;  // stopping
      session.notifier_->post([told = *this, handle, home = Executor::current()] {
        fuse_lowlevel_notify_inval_inode(told.session.fuse_, told.ino,
                                         static_cast<off_t>(told.offset_bytes),
                                         static_cast<off_t>(told.length_bytes));
        home->post(handle);
      });
      return true;
    }
    void await_resume() const noexcept {}
  };
  Told told{*this, ino, offset_bytes, length_bytes};
  co_await told;
}

void Mount::Session::invalidate(const NodeName& name) {
  std::lock_guard lock(stop_mutex_);
  if (fuse_ == nullptr || stopped()) return;
  spawn(runtime_.executor(0), frontend_.count(invalidate_found(name)));
}

Mount::Mount(std::unique_ptr<Session> session) : session_(std::move(session)) {}
Mount::~Mount() = default;

Result<std::unique_ptr<Mount>> Mount::start(Runtime& runtime, Store& store, MountOptions options) {
  auto session = std::make_unique<Session>(runtime, store, std::move(options));
  VT_RETURN_IF_ERROR(session->start());
  return std::unique_ptr<Mount>(new Mount(std::move(session)));
}

Task<void> Mount::forget_range(NodeId node, std::uint64_t offset_bytes,
                               std::uint64_t length_bytes) {
  return session_->forget_range(node, offset_bytes, length_bytes);
}
void Mount::stop() { session_->stop(); }
bool Mount::stopped() const { return session_->stopped(); }

std::string Mount::path_of(const NodeName& name) const {
  return name.is_snapshot()
             ? fmt::format("{}/snapshots/{}/{}", session_->mountpoint(), name.volume, name.snapshot)
             : fmt::format("{}/volumes/{}", session_->mountpoint(), name.volume);
}

void Mount::invalidate(const NodeName& name) { session_->invalidate(name); }

}  // namespace voltree
