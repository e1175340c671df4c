// What is open: one OpenNode for each inode that has open files, one Handle for each open file.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "blockstore/block_device.h"
#include "blockstore/runtime/sync.h"

namespace voltree {

class OpenNode;

// The state of a file that is being created: it grows as it is written through the handle that
// created it, and becomes an ordinary volume when that handle closes (growth.h).
struct Growth {
  std::atomic<bool> active{true};
  // The size as POSIX sees it: the end of what was written, or what ftruncate said. The volume
  // below it may be larger. Raised only under `mutex`, read anywhere.
  std::atomic<std::uint64_t> exact_bytes{0};
  AsyncMutex mutex;
  // The volume below was made by cloning this node: from exact_bytes on it holds what the source
  // held then, and copying that range means raising exact_bytes. Null: from exact_bytes on it holds
  // zeros. Under `mutex`.
  std::shared_ptr<OpenNode> source;
  std::uint64_t source_changes = 0;  // source->changes() when it was cloned
  // What the creator may be copying through its own memory: a file that it had open for reading
  // when it created this one. As long as what it writes is what this holds, nothing needs to be
  // written. Under `mutex`.
  std::shared_ptr<OpenNode> candidate;
  std::vector<std::byte> compare_buffer;
};

class OpenNode {
 public:
  OpenNode(std::uint64_t ino, NodeId id, std::shared_ptr<BlockDevice> device)
      : ino_(ino), id_(id), device_(std::move(device)) {}

  std::uint64_t ino() const { return ino_; }
  NodeId id() const { return id_.load(); }
  std::shared_ptr<BlockDevice> device() const {
    std::lock_guard lock(mutex_);
    return device_;
  }
  void repoint(NodeId id, std::shared_ptr<BlockDevice> device) {
    std::lock_guard lock(mutex_);
    id_.store(id);
    device_ = std::move(device);
  }

  // Before anyone else sees the node.
  void start_growth(std::shared_ptr<OpenNode> candidate) {
    growth_ = std::make_unique<Growth>();
    growth_->candidate = std::move(candidate);
  }
  // Null once the file has become a volume.
  Growth* growth() const {
    return growth_ && growth_->active.load(std::memory_order_acquire) ? growth_.get() : nullptr;
  }
  // What stat says.
  std::uint64_t size_bytes() const {
    const Growth* growing = growth();
    return growing ? growing->exact_bytes.load() : device()->size_bytes();
  }

  // Counts what changed the contents through this mount.
  void note_change() { changes_.fetch_add(1, std::memory_order_relaxed); }
  std::uint64_t changes() const { return changes_.load(std::memory_order_relaxed); }

  // Handles through which the kernel may keep pages of this file.
  void add_cached(int count) { cached_.fetch_add(count); }
  bool cached() const { return cached_.load() != 0; }

 private:
  const std::uint64_t ino_;
  std::atomic<NodeId> id_;
  mutable std::mutex mutex_;
  std::shared_ptr<BlockDevice> device_;
  std::unique_ptr<Growth> growth_;
  std::atomic<std::uint64_t> changes_{0};
  std::atomic<int> cached_{0};
};

// One open file. The kernel knows it by its address.
struct Handle : std::enable_shared_from_this<Handle> {
  std::shared_ptr<OpenNode> node;
  Handle() = default;
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  ~Handle() {
    if (cached) node->add_cached(-1);
  }
  // Opened without O_DIRECT. Before the kernel hears of the handle.
  void set_cached() {
    cached = true;
    node->add_cached(1);
  }
  bool cached = false;
  bool writable = false;
  bool creator = false;     // the handle that made the file: through it, the file grows
  std::int32_t opener = 0;  // the thread that opened it
  std::uint64_t order = 0;  // of opening
};

class OpenFiles {
 public:
  // The open node of `ino`, or null.
  std::shared_ptr<OpenNode> find(std::uint64_t ino);
  // Registers a freshly opened node; if `ino` was opened meanwhile, that one is returned.
  std::shared_ptr<OpenNode> add_node(std::shared_ptr<OpenNode> node);

  // The value for fuse_file_info::fh.
  std::uint64_t add_handle(std::shared_ptr<Handle> handle);
  static std::shared_ptr<Handle> handle(std::uint64_t fh) {
    return reinterpret_cast<Handle*>(fh)->shared_from_this();
  }
  std::shared_ptr<Handle> remove_handle(std::uint64_t fh);
  // The node that this thread opened last, for reading, and has not closed; or null.
  std::shared_ptr<OpenNode> last_read_by(std::int32_t opener);
  // All that are left: the kernel sends no releases when a connection is aborted.
  std::vector<std::shared_ptr<Handle>> take_all();

 private:
  std::mutex mutex_;
  std::unordered_map<std::uint64_t, std::weak_ptr<OpenNode>> nodes_;
  std::unordered_map<std::uint64_t, std::shared_ptr<Handle>> handles_;
  std::uint64_t opened_ = 0;
};

}  // namespace voltree
