// The one interface to files, clocks, randomness and threads.
//
// The engine (SQLite included, through its VFS layer) sees the world only through Runtime and
// FileSystem. There are three implementations: io_uring reactors (UringRuntime), a pread/pwrite
// pool for hosts that refuse io_uring (PoolRuntime), and a deterministic simulator (SimRuntime).
//
// Two kinds of call:
//  - Data operations on a File are awaitable and never block the calling thread.
//  - Metadata operations (open, unlink, truncate, list, map, ...) are synchronous and may block:
//  call
//    them from Runtime::run_blocking, or before the store is serving.
#pragma once

#include <atomic>
#include <chrono>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "blockstore/base/status.h"
#include "blockstore/runtime/io_priority.h"
#include "blockstore/runtime/task.h"

namespace voltree {

class File;

enum class IoKind : std::uint8_t { kRead, kWrite, kSyncData, kAllocate, kPunchHole, kPopulate };

// One data operation. Whoever submits it keeps it, and the memory it points to, alive until done.
struct IoRequest {
  IoKind kind = IoKind::kRead;
  File* file = nullptr;
  std::byte* data = nullptr;  // kWrite only reads it
  std::uint64_t offset_bytes = 0;
  std::uint64_t length_bytes = 0;
  Status status;  // the outcome; a read past the end of the file yields zeros, not an error

  // Called once, on the executor that submitted it, when `status` is set.
  void (*on_done)(IoRequest&) = nullptr;
  void* context = nullptr;
  Executor* home = nullptr;    // set by File::submit's caller: Executor::current()
  IoPriority io_priority = 0;  // of kRead and kWrite
};

// Awaits one IoRequest.
class IoAwaiter {
 public:
  explicit IoAwaiter(IoRequest request, IoPriority io_priority = 0) : request_(std::move(request)) {
    request_.io_priority = io_priority;
  }
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> handle);
  Status await_resume() { return std::move(request_.status); }

 private:
  IoRequest request_;
  std::coroutine_handle<> handle_;
};

// Submits many requests at once and awaits them all; the Status is the first failure in order.
// requests() may be filled until it is awaited; they must stay where they are after that.
class IoBatch {
 public:
  std::vector<IoRequest>& requests() { return requests_; }
  bool await_ready() const noexcept { return requests_.empty(); }
  bool await_suspend(std::coroutine_handle<> handle);
  Status await_resume();

 private:
  std::vector<IoRequest> requests_;
  std::atomic<std::size_t> left_{0};
  std::coroutine_handle<> handle_;
};

// An open file. Thread-safe. Closed when destroyed; no operation may be in flight then.
//
// A direct file (OpenMode::direct) wants memory aligned to 512 bytes, and offsets and lengths in
// whole 4096-byte blocks. Reads and writes are whole or fail: short transfers are continued inside.
class File {
 public:
  virtual ~File() = default;

  IoAwaiter read(std::span<std::byte> out, std::uint64_t offset_bytes, IoPriority io_priority = 0) {
    return IoAwaiter({IoKind::kRead, this, out.data(), offset_bytes, out.size(), {}}, io_priority);
  }
  IoAwaiter write(std::span<const std::byte> data, std::uint64_t offset_bytes,
                  IoPriority io_priority = 0) {
    return IoAwaiter(
        {IoKind::kWrite, this, const_cast<std::byte*>(data.data()), offset_bytes, data.size(), {}},
        io_priority);
  }
  // fdatasync. A failure is final for the file (I10): never call it again after one.
  IoAwaiter sync_data() { return IoAwaiter({IoKind::kSyncData, this, nullptr, 0, 0, {}}); }
  // Reserves space; the size does not change.
  IoAwaiter allocate(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
    return IoAwaiter({IoKind::kAllocate, this, nullptr, offset_bytes, length_bytes, {}});
  }
  // Releases space; the range reads as zeros; the size does not change.
  IoAwaiter punch_hole(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
    return IoAwaiter({IoKind::kPunchHole, this, nullptr, offset_bytes, length_bytes, {}});
  }

  // The asynchronous entry point behind all of the above. request.home must be set.
  virtual void submit(IoRequest& request) = 0;

  // Synchronous forms; they may block.
  virtual Status read_sync(std::span<std::byte> out, std::uint64_t offset_bytes) = 0;
  virtual Status write_sync(std::span<const std::byte> data, std::uint64_t offset_bytes) = 0;
  virtual Status sync_sync() = 0;  // fdatasync
  virtual Result<std::uint64_t> size_bytes() = 0;
  virtual Status truncate(std::uint64_t size_bytes) = 0;
  virtual Status allocate_sync(std::uint64_t offset_bytes, std::uint64_t length_bytes) = 0;
  // [source_offset, +length) of `source`, a file of the same FileSystem, is at `offset_bytes` of
  // this one, too, and shares its space until one of them is written to. Whole blocks of 4096
  // bytes. What becomes of it in a crash is what becomes of a write. kNotSupported when the host
  // cannot: nothing has changed then.
  virtual Status clone_range_sync(File& source, std::uint64_t source_offset_bytes,
                                  std::uint64_t length_bytes, std::uint64_t offset_bytes);
  // Bytes of space that the host has given the file (st_blocks * 512).
  virtual Result<std::uint64_t> allocated_bytes() = 0;
  // The first byte of data / of a hole at or after `offset_bytes`; the file's size when there is
  // none.
  virtual Result<std::uint64_t> seek_data(std::uint64_t offset_bytes) = 0;
  virtual Result<std::uint64_t> seek_hole(std::uint64_t offset_bytes) = 0;
  // Waits until direct writes of a process that died with this file open have landed or vanished.
  virtual Status drain_foreign_io() = 0;

  // --- A file of somebody else's that is to become ours. kNotSupported where the host cannot.
  // How many names it has.
  virtual Result<std::uint64_t> links();
  // The path that leads to it now, absolute and without symbolic links.
  virtual Result<std::string> path_now();
  // kBusy when anybody else has it open. Whoever opens it from now on waits until this file is
  // closed, or for as long as the host lets him wait.
  virtual Status take_lease();
  // kBusy when somebody waits.
  virtual Status check_lease();
  // Gives it one more name, durable when its folder is synced. kExists when the name is taken.
  virtual Status link(const std::string& path);
  // Takes the name away again; kNotFound when `path` is none of its names.
  virtual Status unlink_name(const std::string& path);
  // Owner and mode become those of files that this process makes.
  virtual Status make_ours();
};

// A file mapped shared and writable: its bytes survive this process (I5), not a power loss.
// The address range never moves. Thread-safe; the bytes themselves are the caller's to order.
class MappedFile {
 public:
  virtual ~MappedFile() = default;
  virtual std::byte* data() = 0;
  virtual std::uint64_t size_bytes() const = 0;
  // Why what was read from the bytes cannot be relied on, and what was stored to them may be lost:
  // the host could not give a page, or not make it writable, though it was resident() or populated
  // before. Such a page reads as zeros. It stays so until the file is mapped anew, and every other
  // call fails in the same way. Who has touched the bytes asks before he relies on it.
  virtual Status failure() const = 0;
  // True when touching the range reads no disk: its pages are in memory. With `for_write` also: its
  // space is known to be reserved, so that storing to it cannot fail for want of space
  // (populate_sync makes it so). Cheap (one system call at most).
  virtual bool resident(std::uint64_t offset_bytes, std::uint64_t length_bytes, bool for_write) = 0;
  // Brings the range into memory, ready to be written to: space is reserved first when `for_write`,
  // so that a full host is a kNoSpace here and never a SIGBUS later. May block: see populate().
  virtual Status populate_sync(std::uint64_t offset_bytes, std::uint64_t length_bytes,
                               bool for_write) = 0;
  // msync: what was stored before the call is durable after it. May block.
  virtual Status sync_sync(std::uint64_t offset_bytes, std::uint64_t length_bytes) = 0;
  // Zeros the range and gives its space back (whole pages; the edges are zeroed). May block.
  virtual Status punch_sync(std::uint64_t offset_bytes, std::uint64_t length_bytes) = 0;
  // As File::seek_data: where the first page that was ever written is. The host may answer with
  // more data than there is (reserved pages near a written one, which read as zeros), never with
  // less.
  virtual Result<std::uint64_t> seek_data(std::uint64_t offset_bytes) = 0;
  virtual Result<std::uint64_t> seek_hole(std::uint64_t offset_bytes) = 0;
  // Grows the file and what is mapped of it (the address may stay; the reserved range is
  // `reserve_bytes` at open).
  virtual Status grow(std::uint64_t size_bytes) = 0;
};

struct OpenMode {
  bool create = false;     // make it when absent
  bool exclusive = false;  // with create: fail with kExists when present
  bool writable = true;
  bool direct = false;  // past the page cache where the host can; silently cached where it cannot
};

struct FsInfo {
  std::string type;  // "ext4", "xfs", "btrfs", "tmpfs", ... or "0x<magic>"
  std::uint64_t total_bytes = 0;
  std::uint64_t free_bytes = 0;  // what this user may still allocate
  std::uint64_t file_size_max_bytes = 0;
  bool sparse_files = false;   // holes and FALLOC_FL_PUNCH_HOLE work (tried, not guessed)
  bool copy_on_write = false;  // overwriting does not overwrite: btrfs, bcachefs, ZFS
  bool read_only = false;      // mounted so
  // Another one within a boot: it was mounted anew, and its page cache may be another. Kernels
  // before 6.8 may give a new mount the id of an old one.
  std::string mount_id;
};

struct FsSpace {
  std::uint64_t total_bytes = 0;
  std::uint64_t free_bytes = 0;  // what this user may still allocate
};

// What tells a file from a copy of it. A file that is renamed keeps it.
struct FileIdentity {
  std::uint64_t device = 0;  // of its file system; holds for one boot
  std::uint64_t inode = 0;
  std::int64_t born_ns = 0;  // when it was made; 0: the host does not say
  bool operator==(const FileIdentity&) const = default;
};

// The folder that holds `path`; "." for a bare name.
std::string parent_folder(const std::string& path);

// Paths are absolute, or relative to the process's folder. Every call may block.
class FileSystem {
 public:
  virtual ~FileSystem() = default;
  // Whether the paths are the kernel's, so that other processes can meet us there.
  virtual bool on_host() const { return true; }
  virtual Result<std::unique_ptr<File>> open(const std::string& path, OpenMode mode) = 0;
  // Opens (making it if absent) and maps `path`, at least `size_bytes` long; the mapping can grow
  // to `reserve_bytes`.
  virtual Result<std::unique_ptr<MappedFile>> map(const std::string& path, std::uint64_t size_bytes,
                                                  std::uint64_t reserve_bytes) = 0;
  // Maps all of a file that is there, for reading alone: what is stored to it is a fault.
  virtual Result<std::unique_ptr<MappedFile>> map_read_only(const std::string& path) = 0;
  virtual Result<bool> exists(const std::string& path) = 0;
  virtual Status unlink(const std::string& path) = 0;
  virtual Status rename(const std::string& from, const std::string& to) = 0;
  virtual Status make_dir(const std::string& path) = 0;  // ok when it is there already
  virtual Result<std::vector<std::string>> list_dir(const std::string& path) = 0;  // names, sorted
  // Makes the names in a folder durable.
  virtual Status sync_dir(const std::string& path) = 0;
  virtual Result<FsInfo> info(const std::string& path) = 0;
  virtual Result<FsSpace> space(const std::string& path) = 0;  // quicker than info()
  virtual Result<FileIdentity> identity(const std::string& path) = 0;
  // What the file system of `path` lies on, by a name that no copy of it has and that another
  // device number does not change; empty: it cannot be said.
  virtual Result<std::string> storage(const std::string& path) = 0;
  // The same of the file system with this device number; empty also where there is none, or where
  // only a path tells.
  virtual Result<std::string> storage_of(std::uint64_t device) = 0;
};

struct FdRequest;  // fd_io.h

// Threads, time and chance.
class Runtime {
 public:
  // Stops the threads: what is queued or has been handed to the kernel is finished first, requests
  // on descriptors are cancelled, timers are dropped. Files and strands must be gone by then, and
  // so should coroutines: the frame of one that is still suspended is never freed.
  virtual ~Runtime() = default;
  virtual FileSystem& fs() = 0;
  // Executors that run coroutines; at least one. Index 0 is where background work goes.
  virtual std::size_t executor_count() const = 0;
  virtual Executor& executor(std::size_t index) = 0;

  virtual std::chrono::nanoseconds monotonic_now() = 0;
  virtual std::chrono::nanoseconds wall_now() = 0;  // since 1970-01-01T00:00:00Z
  virtual std::uint64_t random_u64() = 0;
  // The kernel's id of this boot (/proc/sys/kernel/random/boot_id).
  virtual std::string boot_id() = 0;

  // Runs `work` where it may block, then resumes `done_handle` through its home executor.
  virtual void submit_blocking(std::function<void()> work, Executor* home,
                               std::coroutine_handle<> done_handle) = 0;
  // Resumes `handle` through `home` once `delay` has passed.
  virtual void submit_timer(std::chrono::nanoseconds delay, Executor* home,
                            std::coroutine_handle<> handle) = 0;

  // Reads, writes or polls a descriptor that is not one of our files (the FUSE device, a socket):
  // see fd_io.h, whose awaitables are the way to call this.
  virtual void submit_fd(FdRequest& request) = 0;
  // Ends every FdRequest on `fd` that was submitted before this call with -ECANCELED, unless it has
  // its result already. Does not wait for them. Thread-safe. Call it before closing `fd`.
  virtual void cancel_fd(int fd) = 0;

  // A strand: jobs run one at a time, in the order they were posted, where they may block.
  // Destroying it finishes what was posted. The catalog lives on one.
  class Strand {
   public:
    virtual ~Strand() = default;
    virtual void post(std::function<void()> job) = 0;  // thread-safe
  };
  virtual std::unique_ptr<Strand> make_strand(const std::string& thread_name) = 0;

  // Runs `task` on executor(0) and blocks this foreign thread until it ends. In the simulator it
  // runs the whole world until then. Never call it from an executor. (sync_wait below adds the
  // result.)
  virtual void run_until_done(Task<void> task) = 0;

  // co_await run_blocking([&] { ...; return value; }): the value of `work`, run off the executor.
  template <typename F>
  Task<std::invoke_result_t<F>> run_blocking(F work);
  // co_await sleep_for(1s).
  Task<void> sleep_for(std::chrono::nanoseconds delay);

  // Blocks a foreign thread for the result of `task`.
  template <typename T>
  T sync_wait(Task<T> task) {
    std::optional<T> result;
    run_until_done([](Task<T> body, std::optional<T>& out) -> Task<void> {
      out.emplace(co_await std::move(body));
    }(std::move(task), result));
    return std::move(*result);
  }
};

template <typename F>
Task<std::invoke_result_t<F>> Runtime::run_blocking(F work) {
  using R = std::invoke_result_t<F>;
  struct Awaiter {
    Runtime& runtime;
    F& work;
    std::optional<R> result;
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> handle) {
      runtime.submit_blocking([this] { result.emplace(work()); }, Executor::current(), handle);
    }
    R await_resume() { return std::move(*result); }
  };
  Awaiter awaiter{*this, work, std::nullopt};
  co_return co_await awaiter;
}

struct RuntimeOptions {
  std::size_t executors = 0;  // 0: one a core, at most 4
  std::size_t ring_entries = 512;
  bool force_pool = false;  // the pread/pwrite pool even where io_uring works
};

// The runtime of this host: io_uring reactors, or the pool where the kernel refuses io_uring. The
// threads are marked PR_SET_IO_FLUSHER where the process may (a loop device may sit on our files).
Result<std::unique_ptr<Runtime>> make_host_runtime(const RuntimeOptions& options);

}  // namespace voltree
