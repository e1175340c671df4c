// Frontend: what the handlers of requests share. The handlers are free functions in *_ops.cc and
// xattrs.cc; each starts a coroutine that asks the Store or a BlockDevice and replies from wherever
// that completes. libfuse's types are named here, but only *.cc files see what is in them.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "blockstore/runtime/io.h"
#include "blockstore/store.h"
#include "fs/buffer_pool.h"
#include "fs/growth.h"
#include "fs/open_files.h"
#include "fs/tree.h"

struct fuse_lowlevel_ops;
struct fuse_req;

namespace voltree {

// What readdir goes through: each open folder keeps the entries that it had when it was opened.
class OpenFolders {
 public:
  using Entries = std::vector<Tree::Entry>;
  // The value for fuse_file_info::fh.
  std::uint64_t add(Entries entries) {
    auto kept = std::make_unique<const Entries>(std::move(entries));
    const auto fh = reinterpret_cast<std::uint64_t>(kept.get());
    std::lock_guard lock(mutex_);
    open_.emplace(fh, std::move(kept));
    return fh;
  }
  static const Entries& entries(std::uint64_t fh) { return *reinterpret_cast<const Entries*>(fh); }
  void remove(std::uint64_t fh) {
    std::lock_guard lock(mutex_);
    open_.erase(fh);
  }

 private:
  std::mutex mutex_;
  // The kernel releases nothing when a connection is aborted: what is left ends with this.
  std::unordered_map<std::uint64_t, std::unique_ptr<const Entries>> open_;
};

class Frontend {
 public:
  Frontend(Runtime& on, Store& of, TreeOwner owner, std::size_t buffer_limit)
      : runtime(on), store(of), tree(of, owner), grower(of, tree), buffers(buffer_limit) {}

  Runtime& runtime;
  Store& store;
  Tree tree;
  OpenFiles open_files;
  OpenFolders open_folders;
  Grower grower;
  BufferPool buffers;

  // Runs a handler's coroutine here and now, and counts it.
  void start(Task<void> handler) { spawn_here(count(std::move(handler))); }
  // The same task, counted from now on.
  Task<void> count(Task<void> handler) {
    {
      std::lock_guard lock(mutex_);
      ++in_flight_;
    }
    return counted(std::move(handler));
  }
  // Blocks until no handler runs. Not from an executor.
  void wait_idle() {
    std::unique_lock lock(mutex_);
    idle_.wait(lock, [this] { return in_flight_ == 0; });
  }

  // What the inode's file has as its size and its blocks now, with all other attributes.
  Task<Result<struct stat>> attributes(std::uint64_t ino);
  Task<struct stat> attributes(Place place);
  // The open node of a file; opens the device when it is not open yet.
  Task<Result<std::shared_ptr<OpenNode>>> open_node(Place place);

 private:
  Task<void> counted(Task<void> handler) {
    co_await std::move(handler);
    // Notified under the lock: wait_idle() may be followed by the end of this object.
    std::lock_guard lock(mutex_);
    if (--in_flight_ == 0) idle_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable idle_;
  std::uint64_t in_flight_ = 0;
};

// Each fills in the handlers that its file defines.
void set_tree_ops(
    fuse_lowlevel_ops& ops);  // lookup, getattr, setattr, readdir, mknod, unlink, rename, statfs
void set_file_ops(fuse_lowlevel_ops& ops);   // open, create, read, write, flush, release, fsync
void set_range_ops(fuse_lowlevel_ops& ops);  // fallocate, lseek, copy_file_range
void set_xattr_ops(fuse_lowlevel_ops& ops);  // setxattr, getxattr, listxattr, removexattr

// The Frontend that a request is for.
Frontend& frontend_of(fuse_req* request);

}  // namespace voltree
