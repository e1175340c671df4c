#include "blockstore/engine.h"

#include <algorithm>

namespace voltree {
namespace {

// Layer ids are taken from the catalog this many at a time, so that a new layer costs one commit
// and not two.
constexpr std::size_t kLayerIdBatch = 64;
// What a full host must still have room for: some thousand catalog pages, in the log and in the
// database.
constexpr std::uint64_t kReserveBytes = std::uint64_t{16} << 20;

std::string reserve_path(const std::string& directory) { return directory + "/reserve"; }

}  // namespace

Engine::Engine(Runtime& runtime, std::string directory)
    : runtime_(runtime), directory_(std::move(directory)) {}

LayerRow row_of(Layer& layer) {
  const std::lock_guard lock(layer.mutex);
  return {layer.id(), layer.owner(), layer.size_bytes(), layer.state.unsettled, layer.created_ns()};
}

Status Engine::check_writable() const {
  if (!read_only()) return {};
  if (media_read_only_) {
    return error(Code::kReadOnly, "{} lies on a file system that is mounted read-only", directory_);
  }
  const std::lock_guard lock(failure_mutex_);
  return error(
      Code::kReadOnly,
      "the store went read-only after a failure ({}): stop the daemon, run `voltree check`, "
      "and start it again",
      failure_.message());
}

std::string Engine::needs_check_path(const std::string& directory) {
  return directory + "/run/needs_check";
}

Status Engine::ask_for_check(FileSystem& fs, const std::string& directory, std::string_view why) {
  VT_ASSIGN_OR_RETURN(auto file, fs.open(needs_check_path(directory), {.create = true}));
  VT_RETURN_IF_ERROR(file->truncate(0));
  VT_RETURN_IF_ERROR(file->write_sync(std::as_bytes(std::span(why.data(), why.size())), 0));
  VT_RETURN_IF_ERROR(file->sync_sync());
  return fs.sync_dir(directory + "/run");
}

void Engine::fail(const Status& cause) {
  {
    const std::lock_guard lock(failure_mutex_);
    if (failed_.load(std::memory_order_acquire)) return;
    failure_ = cause;
    failed_.store(true, std::memory_order_release);
  }
  if (media_read_only_) return;
  // For the next daemon of this boot, and no host can refuse it.
  if (inflight_ != nullptr) inflight_->set_failed(true);
  // For those of later boots. The catalog may be what failed, so the mark is a file.
  spawn(*Executor::current(), [](Runtime& runtime, std::string path) -> Task<void> {
    (void)co_await runtime.run_blocking([&runtime, &path]() -> Status {
      VT_RETURN_IF_ERROR(runtime.fs().open(path, {.create = true}).status());
      return runtime.fs().sync_dir(parent_folder(path));
    });
  }(runtime_, needs_check_path(directory_)));
}

Status Engine::make_reserve(FileSystem& fs, const std::string& directory, SyncWatch& syncs) {
  VT_ASSIGN_OR_RETURN(auto file, fs.open(reserve_path(directory), {.create = true}));
  VT_ASSIGN_OR_RETURN(const std::uint64_t allocated_bytes, file->allocated_bytes());
  if (allocated_bytes >= kReserveBytes) return {};
  VT_RETURN_IF_ERROR(file->allocate_sync(0, kReserveBytes));
  return syncs(file->sync_sync());  // a reserve that a power loss takes away is none
}

Task<Status> Engine::commit(Catalog::Change change) {
  // Since its caller looked, what it waited for may have failed.
  VT_CO_RETURN_IF_ERROR(check_writable());
  Status committed = co_await catalog_->commit(std::move(change));
  if (catalog_->failed()) fail(catalog_->failure());
  co_return committed;
}

Task<Status> Engine::commit_freeing(Catalog::Change change) {
  Status committed = co_await commit(change);
  if (committed.code() != Code::kNoSpace) co_return committed;
  const AsyncMutex::Guard guard = co_await reserve_mutex_.lock();
  reserve_spent_.store(true);
  VT_CO_RETURN_IF_ERROR(co_await runtime_.run_blocking([this]() -> Status {
    VT_ASSIGN_OR_RETURN(const bool there, runtime_.fs().exists(reserve_path(directory_)));
    return there ? runtime_.fs().unlink(reserve_path(directory_)) : Status();
  }));
  co_return co_await commit(std::move(change));
}

Task<void> Engine::refill_reserve() {
  if (!reserve_spent_.load()) co_return;
  const AsyncMutex::Guard guard = co_await reserve_mutex_.lock();
  const Status made = co_await run_syncing(
      [this](SyncWatch& syncs) { return make_reserve(runtime_.fs(), directory_, syncs); });
  if (made.ok()) reserve_spent_.store(false);
}

Task<Status> Engine::check_reserve() {
  co_await refill_reserve();
  if (!reserve_spent_.load()) co_return Status();
  co_return error(Code::kNoSpace,
                  "the host is full, and what was kept for deleting is in use: delete something");
}

Task<Result<LayerId>> Engine::new_layer_id() {
  auto guard = co_await layer_id_mutex_.lock();
  if (layer_ids_.empty()) {
    std::vector<LayerId> ids;
    VT_CO_RETURN_IF_ERROR(co_await commit([&ids](CatalogDb& db) -> Status {
      for (std::size_t i = 0; i < kLayerIdBatch; ++i) {
        VT_ASSIGN_OR_RETURN(const std::uint64_t id, db.next_id("layer"));
        if (id > UINT32_MAX) return error(Code::kTooLarge, "this store has used up its layer ids");
        ids.push_back(static_cast<LayerId>(id));
      }
      return {};
    }));
    std::reverse(ids.begin(), ids.end());
    layer_ids_ = std::move(ids);
  }
  const LayerId id = layer_ids_.back();
  layer_ids_.pop_back();
  co_return id;
}

Task<Result<std::shared_ptr<Layer>>> Engine::create_layer(NodeId owner, std::uint64_t size_bytes) {
  VT_CO_ASSIGN_OR_RETURN(const LayerId id, co_await new_layer_id());
  const LayerRow row{id, owner, size_bytes, true, runtime_.wall_now().count()};
  auto layer = std::make_shared<Layer>(runtime_, directory_, row);
  Status made =
      co_await run_syncing([&layer](SyncWatch& syncs) { return layer->create_files(syncs); });
  if (made.ok()) {
    made = co_await commit([&row](CatalogDb& db) { return db.put_layer(row); });
  }
  if (!made.ok()) {
    // (When the commit's outcome is not known, its row may be there: recovery wants the files.)
    if (!read_only()) {
      (void)co_await run_syncing([this, id](SyncWatch& syncs) {
        return Layer::unlink_files(runtime_.fs(), directory_, id, syncs);
      });
    }
    co_return made;
  }
  layers_.add(layer);
  if (layer_created_) layer_created_(layer);
  co_return layer;
}

Task<Status> Engine::mark_unsettled(Layer& layer) {
  auto guard = co_await layer.mark_mutex.lock();
  LayerRow row = row_of(layer);
  if (row.unsettled) co_return Status();
  row.unsettled = true;
  VT_CO_RETURN_IF_ERROR(
      co_await commit_freeing([&row](CatalogDb& db) { return db.put_layer(row); }));
  const std::lock_guard lock(layer.mutex);
  layer.state.unsettled = true;
  co_return Status();
}

Task<Status> Engine::mark_dirty(Layer& layer, std::vector<std::uint64_t> regions) {
  auto guard = co_await layer.mark_mutex.lock();
  {
    // A region that is being settled is still dirty in the catalog: taking it back is enough.
    const std::lock_guard lock(layer.mutex);
    Layer::State& state = layer.state;
    std::erase_if(regions, [&state](std::uint64_t region) {
      if (state.settling_regions.erase(region) != 0) state.dirty_regions.insert(region);
      return state.dirty_regions.contains(region);
    });
  }
  if (regions.empty()) co_return Status();
  const LayerId id = layer.id();
  VT_CO_RETURN_IF_ERROR(co_await commit_freeing(
      [id, &regions](CatalogDb& db) { return db.mark_regions(id, regions, true); }));
  const std::lock_guard lock(layer.mutex);
  layer.state.dirty_regions.insert(regions.begin(), regions.end());
  co_return Status();
}

Task<Status> Engine::sync_layer(Layer& layer) {
  const AsyncMutex::Guard guard = co_await layer.sync_mutex.lock();
  VT_CO_RETURN_IF_ERROR(check_writable());
  Status synced = co_await layer.file(true).sync_data();
  if (!synced.ok()) fail(synced);
  co_return synced;
}

Status Engine::check_stored(const MappedFile& map) {
  Status failure = map.failure();
  if (!failure.ok()) fail(failure);
  return failure;
}

Task<Status> Engine::settle(Layer& layer, Gate* write_gate) {
  bool unsettled = false;
  {
    const std::lock_guard lock(layer.mutex);
    Layer::State& state = layer.state;
    state.settling_regions.merge(state.dirty_regions);
    state.dirty_regions.clear();
    unsettled = state.unsettled;
  }
  if (!unsettled || layer.failed()) co_return Status();
  VT_CO_RETURN_IF_ERROR(check_writable());
  VT_CO_RETURN_IF_ERROR(co_await layer.ensure_open());
  if (write_gate != nullptr) co_await write_gate->drain();
  VT_CO_RETURN_IF_ERROR(co_await sync_layer(layer));
  const Status synced = co_await runtime_.run_blocking(
      [&layer] { return layer.sums().sync_sync(0, layer.sums().size_bytes()); });
  if (!synced.ok()) {
    fail(synced);
    co_return synced;
  }
  auto guard = co_await layer.mark_mutex.lock();
  std::vector<std::uint64_t> regions;
  LayerRow row = row_of(layer);
  {
    const std::lock_guard lock(layer.mutex);
    Layer::State& state = layer.state;
    // I6: where a discard or a write is not flushed yet, the sums are ahead of the catalog's index,
    // and only the mark lets recovery set them right.
    for_each_difference(state.durable_index, state.index, [&state](const BlockRange& range) {
      for (std::uint64_t region = range.first / kRegionBlocks;
           region <= (range.end() - 1) / kRegionBlocks; ++region) {
        if (state.settling_regions.erase(region) != 0) state.dirty_regions.insert(region);
      }
    });
    regions.assign(state.settling_regions.begin(), state.settling_regions.end());
    row.unsettled = !state.pending_regions.empty() || !state.dirty_regions.empty() ||
                    state.needs_sync || write_gate != nullptr;
  }
  const LayerId id = layer.id();
  VT_CO_RETURN_IF_ERROR(co_await commit_freeing([id, &regions, &row](CatalogDb& db) -> Status {
    VT_RETURN_IF_ERROR(db.mark_regions(id, regions, false));
    return row.unsettled ? Status() : db.put_layer(row);
  }));
  const std::lock_guard lock(layer.mutex);
  for (const std::uint64_t region : regions) layer.state.settling_regions.erase(region);
  layer.state.unsettled = row.unsettled;
  co_return Status();
}

}  // namespace voltree
