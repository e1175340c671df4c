// Engine: what the parts of an open store share. It knows no volumes and no lineage; those know it.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "blockstore/base/status.h"
#include "blockstore/base/units.h"
#include "blockstore/catalog.h"
#include "blockstore/inflight.h"
#include "blockstore/layer.h"
#include "blockstore/pool_guard.h"
#include "blockstore/runtime/io.h"
#include "blockstore/runtime/sync.h"
#include "blockstore/sync_watch.h"

namespace voltree {

struct EngineCounters {
  std::atomic<std::uint64_t> reads{0}, read_bytes{0}, writes{0}, written_bytes{0}, flushes{0},
      zeroes{0};
  std::atomic<std::uint64_t> redirected_blocks{0}, checksum_rereads{0}, checksum_errors{0};
  std::atomic<std::uint64_t> recovered_blocks{0}, restamped_blocks{0};
};

class Engine {
 public:
  Engine(Runtime& runtime, std::string directory);

  Runtime& runtime() { return runtime_; }
  const std::string& directory() const { return directory_; }
  Catalog& catalog() { return *catalog_; }
  void set_catalog(std::unique_ptr<Catalog> catalog) { catalog_ = std::move(catalog); }
  LayerTable& layers() { return layers_; }
  const LayerTable& layers() const { return layers_; }
  InflightTable& inflight() { return *inflight_; }
  void set_inflight(std::unique_ptr<InflightTable> table) { inflight_ = std::move(table); }
  // Entered around every read of layer data. A range is erased only after a drain that began when
  // no node could see it any more (DESIGN section 2; I7, I8).
  Gate& read_gate() { return read_gate_; }
  // Entered by whatever sleeps on behalf of a volume; shared, because a sleeper may be the last.
  const std::shared_ptr<Gate>& timers() { return timers_; }
  EngineCounters& counters() { return counters_; }
  PoolGuard& guard() { return guard_; }
  // Looks at the host for guard().
  void on_guard_asks(std::function<Task<Status>()> look) { look_at_host_ = std::move(look); }
  Task<Status> look_at_host() { return look_at_host_(); }

  // I10: from the first failed fsync or commit on, nothing is written any more.
  bool read_only() const {
    return media_read_only_ || failed_.load(std::memory_order_acquire) ||
           (catalog_ != nullptr && catalog_->failed());
  }
  Status check_writable() const;
  // The media cannot be written: the store is only read, and that is no failure.
  void set_media_read_only() { media_read_only_ = true; }
  bool media_read_only() const { return media_read_only_; }
  // Called on an executor. Leaves run/needs_check behind for whoever opens the store next.
  void fail(const Status& cause);
  // After storing to what is mapped: what the host has lost of it is a failure of the store (I10).
  Status check_stored(const MappedFile& map);
  static std::string needs_check_path(const std::string& directory);
  // Leaves it behind by hand: `why` is what the next open warns with. Blocking.
  static Status ask_for_check(FileSystem& fs, const std::string& directory, std::string_view why);

  // Every commit goes through here: one that fails, for another reason than a
  // full host, makes the store read-only (I10).
  Task<Status> commit(Catalog::Change change);
  // A commit that must work on a full host: what frees space (delete, revert, discard, the eraser).
  // When there is no room for it the reserve is given back to the host and the commit made in its
  // place (DESIGN section 4).
  Task<Status> commit_freeing(Catalog::Change change);
  // Makes the reserve whole again when it was spent; quiet when the host has no room for it yet.
  // When its sync fails the store goes read-only (I10).
  Task<void> refill_reserve();
  // kNoSpace while the reserve is in use and there is no room to make it whole again: nothing new
  // is to be made then.
  Task<Status> check_reserve();
  static Status make_reserve(FileSystem& fs, const std::string& directory, SyncWatch& syncs);
  // Runs blocking work that syncs files: when a sync fails, the store goes read-only (I10).
  template <typename F>
  Task<Status> run_syncing(F work);

  // Told of every new layer, on any executor, before it is used.
  void on_layer_created(std::function<void(const std::shared_ptr<Layer>&)> listener) {
    layer_created_ = std::move(listener);
  }
  // One that was never given. Nothing durable bears it yet.
  Task<Result<LayerId>> new_layer_id();
  // A new empty layer, durable in the catalog as `owner`'s and unsettled.
  Task<Result<std::shared_ptr<Layer>>> create_layer(NodeId owner, std::uint64_t size_bytes);
  // Sets the catalog's unsettled flag before the first write since the layer was settled.
  Task<Status> mark_unsettled(Layer& layer);
  // Marks regions dirty in the catalog before an in-place write into them (DESIGN section 4).
  Task<Status> mark_dirty(Layer& layer, std::vector<std::uint64_t> regions);
  // fdatasync of a layer that others may be syncing. A failure is the store's.
  Task<Status> sync_layer(Layer& layer);
  // Makes the layer's dirty regions clean: data and sums durable, marks off. `write_gate` is that
  // of the volume that may be writing to the layer, nullptr when none is.
  Task<Status> settle(Layer& layer, Gate* write_gate);

 private:
  Runtime& runtime_;
  const std::string directory_;
  std::unique_ptr<InflightTable> inflight_;  // the catalog may mark it to its end
  std::unique_ptr<Catalog> catalog_;
  LayerTable layers_;
  Gate read_gate_;
  const std::shared_ptr<Gate> timers_ = std::make_shared<Gate>();
  EngineCounters counters_;
  PoolGuard guard_;
  std::function<Task<Status>()> look_at_host_;
  bool media_read_only_ = false;  // set before anything else is done
  std::atomic<bool> failed_{false};
  mutable std::mutex failure_mutex_;
  Status failure_;
  AsyncMutex reserve_mutex_;
  std::atomic<bool> reserve_spent_{true};  // until refill_reserve has seen to it
  std::function<void(const std::shared_ptr<Layer>&)> layer_created_;
  AsyncMutex layer_id_mutex_;
  std::vector<LayerId>
      layer_ids_;  // reserved in the catalog, not used yet; guarded by layer_id_mutex_
};

template <typename F>
Task<Status> Engine::run_syncing(F work) {
  SyncWatch syncs;
  Status done = co_await runtime_.run_blocking([&] { return work(syncs); });
  if (!syncs.failure().ok()) fail(syncs.failure());
  co_return done;
}

LayerRow row_of(Layer& layer);

}  // namespace voltree
