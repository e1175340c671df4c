// A layer: one sparse data file and its .sum file (docs/FORMAT.md). A byte of a volume at offset x
// lives, in whichever layer holds it, at offset x.
//
// Ownership: layers are shared_ptr, kept in LayerTable; whoever reads or writes one holds a
// reference across the I/O. Threads: the files are thread-safe. What is in State is guarded by
// `mutex`, held for memory operations only. Lock order: Volume::mutex_ before Layer::mutex.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "blockstore/base/checksum.h"
#include "blockstore/base/status.h"
#include "blockstore/base/units.h"
#include "blockstore/catalog.h"
#include "blockstore/extent_map.h"
#include "blockstore/runtime/io.h"
#include "blockstore/runtime/sync.h"
#include "blockstore/sync_watch.h"

namespace voltree {

class Layer {
 public:
  // `writable` false: its files lie where nothing can be written.
  Layer(Runtime& runtime, std::string store_directory, const LayerRow& row, bool writable = true);

  LayerId id() const { return id_; }
  std::uint64_t size_bytes() const { return size_bytes_.load(std::memory_order_acquire); }
  std::int64_t created_ns() const { return created_ns_; }
  // The node that owns the layer. A head writes in place into what it owns and nowhere else.
  NodeId owner() const { return owner_.load(std::memory_order_acquire); }
  void set_owner(NodeId node) { owner_.store(node, std::memory_order_release); }
  static std::string data_path(const std::string& store_directory, LayerId id);
  static std::string sum_path(const std::string& store_directory, LayerId id);

  // Makes a place for the files of layer `id`, which no row names: its folder is durable, and
  // what a crash left there is gone. Blocking.
  static Status make_place(FileSystem& fs, const std::string& store_directory, LayerId id,
                           SyncWatch& syncs);
  // How long the files of a layer of this size must be.
  static std::uint64_t data_file_bytes(std::uint64_t size_bytes);
  static std::uint64_t sum_file_bytes(std::uint64_t size_bytes);
  // Makes both files and their names durable. Blocking.
  Status create_files(SyncWatch& syncs);
  // Removes both files and makes that durable; absent ones are fine. No I/O may be in flight.
  // Blocking.
  static Status unlink_files(FileSystem& fs, const std::string& store_directory, LayerId id,
                             SyncWatch& syncs);
  // Opens the files on first use. kDamaged, naming the file, when it is missing or short: the layer
  // has failed then.
  Task<Status> ensure_open();
  // Why its files cannot be used; OK as long as nothing is known against them. A layer that has
  // failed stays so until the store is opened again: nothing is written to it, and its blocks are
  // kDamaged. Thread-safe.
  Status failure() const;
  bool failed() const { return failed_.load(std::memory_order_acquire); }
  void fail(Status why);
  // True when the reserved address range lets the layer grow to `size_bytes`; it has then grown.
  // Blocking.
  Result<bool> grow(std::uint64_t size_bytes);

  // Valid after ensure_open(). Direct: past the page cache, for the blocks of a volume's own
  // layers.
  File& file(bool direct) { return direct ? *direct_file_ : *cached_file_; }
  MappedFile& sums() { return *sums_; }

  // The .sum file was shorter than it must be: it has lost its end.
  bool sums_were_short() const { return sums_were_short_; }

  std::uint64_t sum(std::uint64_t block) const;
  void set_sum(std::uint64_t block, std::uint64_t value);
  // Brings the sums of `range` into memory without blocking this thread; after it they can be read
  // (and written).
  Task<Status> touch_sums(BlockRange range, bool for_write);

  // Loads the index from the catalog on first use.
  Task<Status> ensure_index(Catalog& catalog);

  struct State {
    bool index_loaded = false;
    ExtentMap index;  // what the layer holds now
    ExtentMap
        durable_index;  // what the catalog says it holds (I1): never ahead of the data's durability
    std::set<std::uint64_t> pending_regions;   // changed in `index` since the last flush took them
    std::set<std::uint64_t> dirty_regions;     // marked dirty in the catalog
    std::set<std::uint64_t> settling_regions;  // still dirty in the catalog; a settle is under way
    bool needs_sync = false;                   // written to since the last fdatasync began
    bool unsettled = false;                    // the catalog's flag
  };
  std::mutex mutex;
  State state;            // guarded by mutex
  AsyncMutex mark_mutex;  // serialises catalog changes of dirty marks: mark against settle
  // One sync of the data file at a time, held until a failure is the store's: the host tells one of
  // them alone, and what another was to make durable is lost with it (I10).
  AsyncMutex sync_mutex;

 private:
  Status open_files();
  Status open_sums();

  Runtime& runtime_;
  const std::string store_directory_;
  const bool writable_;
  const LayerId id_;
  const std::int64_t created_ns_;
  std::atomic<std::uint64_t> size_bytes_;
  std::atomic<NodeId> owner_;
  AsyncMutex open_mutex_;
  std::atomic<bool> opened_{false};
  std::atomic<bool> failed_{false};
  mutable std::mutex failure_mutex_;
  Status failure_;
  bool sums_were_short_ = false;
  std::atomic<bool> index_ready_{false};
  std::unique_ptr<File> direct_file_;
  std::unique_ptr<File> cached_file_;
  std::unique_ptr<MappedFile> sums_;
  std::uint64_t sums_reserve_bytes_ = 0;  // of address space, since it was opened
};

// Every layer of the store, by id. Thread-safe.
class LayerTable {
 public:
  void add(std::shared_ptr<Layer> layer);
  void remove(LayerId id);
  std::shared_ptr<Layer> find(LayerId id) const;  // nullptr when there is none
  std::vector<std::shared_ptr<Layer>> all() const;
  std::vector<std::shared_ptr<Layer>> failed() const;

 private:
  mutable std::mutex mutex_;
  std::unordered_map<LayerId, std::shared_ptr<Layer>> layers_;
};

}  // namespace voltree
