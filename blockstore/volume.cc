// The life of an open node: forks, flushes, what the store does to it. The data path is in
// volume_io.cc.
#include "blockstore/volume.h"

#include <algorithm>

#include "blockstore/aligned_io.h"
#include "blockstore/format/region_format.h"

namespace voltree {

bool FlushRows::empty() const {
  return std::all_of(parts.begin(), parts.end(),
                     [](const Part& part) { return part.regions.empty(); });
}

Status FlushRows::put(CatalogDb& db) const {
  for (const Part& part : parts) {
    for (const std::uint64_t region : part.regions) {
      VT_RETURN_IF_ERROR(
          db.put_region({part.layer->id(), region, encode_region(part.index, region), true}));
    }
  }
  return {};
}

Volume::Volume(Engine& engine, VolumeState state)
    : engine_(engine),
      node_(state.node),
      writable_(state.writable),
      size_bytes_(state.size_bytes),
      throttle_(engine.runtime(), engine.timers()),
      qos_(state.qos),
      map_(std::move(state.map)),
      has_parent_(state.has_parent),
      owned_(std::move(state.owned)) {
  if (state.newest_is_active) active_ = owned_.back();
  resolve_limits();
}

std::uint64_t Volume::referenced_bytes() const {
  const std::lock_guard lock(mutex_);
  return map_.mapped_blocks() * kBlockBytes;
}

ExtentMap Volume::map() const {
  const std::lock_guard lock(mutex_);
  return map_;
}

std::vector<std::shared_ptr<Layer>> Volume::owned() const {
  const std::lock_guard lock(mutex_);
  return owned_;
}

std::shared_ptr<Layer> Volume::active_layer() const {
  const std::lock_guard lock(mutex_);
  return active_ != nullptr && active_->failed() ? nullptr : active_;
}

// Under mutex_, so that a write is either planned before (and holds a token of the write gate) or
// not at all.
void Volume::kill() {
  {
    const std::lock_guard lock(mutex_);
    dead_.store(true, std::memory_order_release);
  }
  throttle_.close();
}

void Volume::revive() {
  {
    const std::lock_guard lock(mutex_);
    dead_.store(false, std::memory_order_release);
  }
  throttle_.reopen();
}

void Volume::cut(std::uint64_t size_bytes) {
  {
    const std::lock_guard lock(mutex_);
    const std::uint64_t end = blocks_of_bytes(size_bytes);
    if (map_.end_block() > end) map_.assign(end, map_.end_block() - end, kNoLayer);
    size_bytes_.store(size_bytes, std::memory_order_release);
  }
  resolve_limits();
}

void Volume::set_qos(const QosLimits& limits) {
  {
    const std::lock_guard lock(mutex_);
    qos_ = limits;
  }
  resolve_limits();
}

// After every change of the limits or the size.
void Volume::resolve_limits() {
  ResolvedQos resolved;
  {
    const std::lock_guard lock(mutex_);
    resolved = resolve_qos(qos_, size_bytes());
  }
  throttle_.set(resolved);
}

Status Volume::check_alive(bool for_write) const {
  if (dead()) return error(Code::kGone, "this volume or snapshot was deleted while it was open");
  if (!for_write) return {};
  if (!writable_) return error(Code::kReadOnly, "a snapshot is read-only: clone it to write");
  return engine_.check_writable();
}

std::vector<AllocationRun> Volume::allocation(std::uint64_t offset_bytes,
                                              std::uint64_t length_bytes,
                                              std::size_t max_runs) const {
  std::vector<AllocationRun> runs;
  const std::uint64_t size = size_bytes();
  if (offset_bytes >= size || length_bytes == 0) return runs;
  const std::uint64_t end_bytes = offset_bytes + std::min(length_bytes, size - offset_bytes);
  const std::uint64_t first = offset_bytes / kBlockBytes;
  const ExtentMap map = this->map();
  map.for_each(first, blocks_of_bytes(end_bytes) - first, [&](const Extent& extent) {
    const bool data = extent.value != kNoLayer;
    const std::uint64_t begin = std::max(extent.first * kBlockBytes, offset_bytes);
    const std::uint64_t end = std::min(extent.end() * kBlockBytes, end_bytes);
    if (!runs.empty() && runs.back().data == data) {  // two layers side by side are one run of data
      runs.back().length_bytes += end - begin;
      return true;
    }
    if (runs.size() == max_runs) return false;
    runs.push_back({begin, end - begin, data});
    return true;
  });
  return runs;
}

// --- Flush.

Task<Status> Volume::flush() {
  VT_CO_RETURN_IF_ERROR(check_alive(false));
  co_return co_await flush_shared();
}

Task<Status> Volume::flush_shared() {
  if (!writable_) co_return Status();
  VT_CO_RETURN_IF_ERROR(engine_.check_writable());
  engine_.counters().flushes.fetch_add(1, std::memory_order_relaxed);
  // Flushes share: one that began after this call came in has covered it.
  const std::uint64_t call = flush_calls_.fetch_add(1, std::memory_order_acq_rel) + 1;
  auto guard = co_await flush_mutex_.lock();
  if (flush_covered_ >= call) co_return Status();
  const std::uint64_t covers = flush_calls_.load(std::memory_order_acquire);
  VT_CO_RETURN_IF_ERROR(co_await flush_now());
  flush_covered_ = covers;
  co_return Status();
}

Task<Status> Volume::flush_now() {
  VT_CO_ASSIGN_OR_RETURN(const FlushRows rows, co_await sync_layers(owned()));
  if (rows.empty()) co_return Status();
  Status committed = co_await engine_.commit([&rows](CatalogDb& db) { return rows.put(db); });
  if (committed.ok()) {
    rows_committed(rows);
  } else {
    rows_failed(rows);
  }
  co_return committed;
}

Task<Result<FlushRows>> Volume::sync_layers(std::vector<std::shared_ptr<Layer>> layers) {
  std::erase_if(layers, [](const std::shared_ptr<Layer>& layer) {
    const std::lock_guard lock(layer->mutex);
    return !layer->state.needs_sync && layer->state.pending_regions.empty();
  });
  std::sort(layers.begin(), layers.end(),
            [](const auto& a, const auto& b) { return a->id() < b->id(); });
  std::vector<AsyncMutex::Guard> sync_guards;  // in order of id
  for (const auto& layer : layers) sync_guards.push_back(co_await layer->sync_mutex.lock());
  // One that failed, and for which this one has waited, has taken with it what there was to sync
  // (I10).
  VT_CO_RETURN_IF_ERROR(engine_.check_writable());
  FlushRows rows;
  IoBatch batch;
  for (const auto& layer : layers) {
    const std::lock_guard lock(layer->mutex);
    Layer::State& state = layer->state;
    rows.parts.push_back({layer, state.index, std::move(state.pending_regions)});
    state.pending_regions.clear();
    state.needs_sync = false;
    IoRequest request;
    request.kind = IoKind::kSyncData;
    request.file = &layer->file(true);
    batch.requests().push_back(std::move(request));
  }
  Status synced = co_await batch;
  if (!synced.ok()) {
    engine_.fail(
        synced);  // I10: the kernel may have dropped the dirty pages; no fsync is tried again
    co_return synced;
  }
  co_return rows;
}

void Volume::rows_committed(const FlushRows& rows) {
  for (const FlushRows::Part& part : rows.parts) {
    if (part.regions.empty()) continue;
    const std::lock_guard lock(part.layer->mutex);
    Layer::State& state = part.layer->state;
    state.durable_index = part.index;
    state.dirty_regions.insert(part.regions.begin(), part.regions.end());
    for (const std::uint64_t region : part.regions) state.settling_regions.erase(region);
  }
}

void Volume::rows_failed(const FlushRows& rows) {
  for (const FlushRows::Part& part : rows.parts) {
    const std::lock_guard lock(part.layer->mutex);
    part.layer->state.pending_regions.insert(part.regions.begin(), part.regions.end());
  }
}

// --- Forks and what else the store does.

// Writes are planned under mutex_: with all of them held, one that is planned after this one's
// switch is planned after every other's, too (I4).
void Volume::begin_fork(std::vector<Switch>& switches) {
  std::vector<std::unique_lock<std::mutex>> locks;
  locks.reserve(switches.size());
  for (const Switch& one : switches) locks.emplace_back(one.volume->mutex_);
  for (Switch& one : switches) {
    one.sealed = one.volume->switch_locked(std::move(one.fresh), one.sealed_owner);
  }
}

std::vector<std::shared_ptr<Layer>> Volume::switch_locked(std::shared_ptr<Layer> fresh,
                                                          NodeId sealed_owner) {
  std::vector<std::shared_ptr<Layer>> sealed = std::move(owned_);
  owned_.clear();
  for (const auto& layer : sealed) layer->set_owner(sealed_owner);
  if (fresh != nullptr) owned_.push_back(fresh);
  active_ = std::move(fresh);
  has_parent_ = true;
  fork_epoch_ = epoch_++;
  fork_map_ = map_;
  return sealed;
}

ExtentMap Volume::finish_fork() {
  const std::lock_guard lock(mutex_);
  ExtentMap map = std::move(*fork_map_);
  fork_map_.reset();
  return map;
}

void Volume::abort_fork(std::vector<std::shared_ptr<Layer>> sealed) {
  const std::lock_guard lock(mutex_);
  for (const auto& layer : sealed) layer->set_owner(node_);
  sealed.insert(sealed.end(), owned_.begin(), owned_.end());
  owned_ = std::move(sealed);
  fork_map_.reset();
}

void Volume::replace(ExtentMap map, std::uint64_t size_bytes) {
  {
    const std::lock_guard lock(mutex_);
    replaced_epoch_ = epoch_++;
    map_ = std::move(map);
    for (const auto& layer : owned_) layer->set_owner(kNoNode);
    owned_.clear();
    active_ = nullptr;
    has_parent_ = true;
    size_bytes_.store(size_bytes, std::memory_order_release);
  }
  resolve_limits();
}

void Volume::adopt(std::vector<std::shared_ptr<Layer>> layers, bool has_parent) {
  const std::lock_guard lock(mutex_);
  for (const auto& layer : layers) layer->set_owner(node_);
  layers.insert(layers.end(), owned_.begin(), owned_.end());
  owned_ = std::move(layers);
  has_parent_ = has_parent;
  ++epoch_;
}

void Volume::drop_owned(const std::vector<LayerId>& layers) {
  const std::lock_guard lock(mutex_);
  std::erase_if(owned_, [&](const std::shared_ptr<Layer>& layer) {
    if (std::find(layers.begin(), layers.end(), layer->id()) == layers.end()) return false;
    layer->set_owner(kNoNode);
    return true;
  });
}

void Volume::set_size(std::uint64_t size_bytes) {
  {
    const std::lock_guard lock(mutex_);
    size_bytes_.store(size_bytes, std::memory_order_release);
  }
  resolve_limits();
}

void Volume::retire_active_layer() {
  const std::lock_guard lock(mutex_);
  active_ = nullptr;
}

// --- BlockDevice: the unaligned shell does the cutting.

Task<Status> Volume::read(std::uint64_t offset_bytes, std::span<std::byte> out) {
  VT_CO_RETURN_IF_ERROR(check_alive(false));
  if (throttle_.active()) {
    VT_CO_RETURN_IF_ERROR(co_await throttle_.admit(Throttle::Direction::kRead, out.size()));
  }
  engine_.counters().reads.fetch_add(1, std::memory_order_relaxed);
  engine_.counters().read_bytes.fetch_add(out.size(), std::memory_order_relaxed);
  co_return co_await aligned_read(*this, offset_bytes, out);
}

Task<Status> Volume::write(std::uint64_t offset_bytes, std::span<const std::byte> data,
                           WriteOptions options) {
  VT_CO_RETURN_IF_ERROR(check_alive(true));
  if (throttle_.active()) {
    VT_CO_RETURN_IF_ERROR(co_await throttle_.admit(Throttle::Direction::kWrite, data.size()));
  }
  engine_.counters().writes.fetch_add(1, std::memory_order_relaxed);
  engine_.counters().written_bytes.fetch_add(data.size(), std::memory_order_relaxed);
  VT_CO_RETURN_IF_ERROR(co_await aligned_write(*this, offset_bytes, data));
  if (!options.fua) co_return Status();
  co_return co_await flush();
}

Task<Status> Volume::write_zeroes(std::uint64_t offset_bytes, std::uint64_t length_bytes,
                                  WriteOptions options) {
  VT_CO_RETURN_IF_ERROR(check_alive(true));
  if (throttle_.active()) {
    // One operation and no bytes, however long: it moves none.
    VT_CO_RETURN_IF_ERROR(co_await throttle_.admit(Throttle::Direction::kWrite, 0));
  }
  engine_.counters().zeroes.fetch_add(1, std::memory_order_relaxed);
  VT_CO_RETURN_IF_ERROR(co_await aligned_zero(*this, offset_bytes, length_bytes));
  if (!options.fua) co_return Status();
  co_return co_await flush();
}

}  // namespace voltree
