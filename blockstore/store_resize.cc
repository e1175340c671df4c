// Delete, rename and resize.
#include <algorithm>

#include "blockstore/aligned_io.h"
#include "blockstore/base/checksum.h"
#include "blockstore/store_core.h"

namespace voltree {

// --- Delete.

Task<void> StoreCore::kill_devices(const std::vector<NodeId>& nodes) {
  bool any = false;
  for (const NodeId id : nodes) {
    const std::shared_ptr<Volume> volume = open_volume(id);
    if (volume == nullptr) continue;
    any = true;
    volume->kill();
    // A layer that is being made is finished first, so that none is born to a node that is gone.
    { const AsyncMutex::Guard guard = co_await volume->active_mutex().lock(); }
    co_await volume->write_gate().drain();
  }
  if (any) co_await engine.read_gate().drain();
}

Task<Result<std::uint64_t>> StoreCore::remove_nodes(std::vector<NodeId> nodes, std::string what,
                                                    EraseMethod erase) {
  std::vector<NodeId> heads;  // whose flushed state decides what is shadowed
  std::vector<LayerId> needed;
  {
    const std::lock_guard guard(state_mutex);
    for (const NodeId id : nodes) {
      for (const LayerId layer : lineage.needed_for_remove(id)) {
        needed.push_back(layer);
        const std::shared_ptr<Layer> found = engine.layers().find(layer);
        if (found == nullptr) continue;
        const NodeId owner = found->owner();
        if (std::find(nodes.begin(), nodes.end(), owner) == nodes.end()) heads.push_back(owner);
      }
    }
    std::sort(heads.begin(), heads.end());
    heads.erase(std::unique(heads.begin(), heads.end()), heads.end());
  }
  co_await kill_devices(nodes);
  auto undo = [this, &nodes] {
    for (const NodeId id : nodes) {
      if (const auto volume = open_volume(id)) volume->revive();
    }
  };
  // A parent's block is garbage only when what shadows it is durable (I6).
  Status ready = co_await flush_open(heads);
  // From here to the commit no flush may write index rows that the plan is about to change.
  std::vector<AsyncMutex::Guard> flush_guards;
  for (const NodeId id : heads) {
    if (const auto volume = open_volume(id)) {
      flush_guards.push_back(co_await volume->flush_mutex().lock());
    }
  }
  Change change;
  change.what = std::move(what);
  change.erase = erase;
  change.next = copy_lineage();
  for (const NodeId id : nodes) {
    const std::vector<LayerId> more = change.next.needed_for_remove(id);
    needed.insert(needed.end(), more.begin(), more.end());
  }
  if (ready.ok()) ready = co_await load_indexes(change.next, needed, true);
  if (!ready.ok()) {
    undo();
    co_return ready;
  }
  std::vector<VolumeRow> kept;     // volumes that lose their head
  std::vector<VolumeId> finished;  // volumes that lose their last named node
  {
    const std::lock_guard guard(state_mutex);
    std::map<VolumeId, VolumeRow> touched;
    for (const NodeId id : nodes) {
      const NodeRow& row = lineage.find(id)->row;
      VolumeRow& volume = touched.try_emplace(row.volume, volumes.at(row.volume)).first->second;
      if (row.kind == NodeKind::kHead) volume.head = kNoNode;
    }
    for (const auto& [volume_id, row] : touched) {
      const bool snapshots_left =
          std::any_of(snapshot_names.begin(), snapshot_names.end(), [&](const auto& entry) {
            return entry.first.first == volume_id &&
                   std::find(nodes.begin(), nodes.end(), entry.second) == nodes.end();
          });
      if (row.head == kNoNode && !snapshots_left) {
        finished.push_back(volume_id);
      } else {
        kept.push_back(row);
      }
    }
  }
  for (const NodeId id : nodes) change.next.remove(id, change.plan);
  change.extra = [&kept](CatalogDb& db) -> Status {
    for (const VolumeRow& row : kept) {
      VT_RETURN_IF_ERROR(db.put_volume(row));
      if (row.head != kNoNode) continue;
      VT_RETURN_IF_ERROR(db.put_volume_limits(row.id, {}));
      VT_RETURN_IF_ERROR(db.put_volume_notes(row.id, {}));
      VT_RETURN_IF_ERROR(db.put_volume_reserve(row.id, 0));
    }
    return {};
  };
  change.after_plan = [&finished](CatalogDb& db) -> Status {
    for (const VolumeId id : finished) VT_RETURN_IF_ERROR(db.remove_volume(id));
    return {};
  };
  change.update_names = [this, &kept, &finished, &nodes] {
    for (const VolumeRow& row : kept) {
      volumes[row.id] = row;
      if (row.head != kNoNode) continue;
      limits.erase(row.id);
      notes.erase(row.id);
      reserves.erase(row.id);
    }
    for (const VolumeId id : finished) {
      volumes.erase(id);
      limits.erase(id);
      notes.erase(id);
      reserves.erase(id);
    }
    for (const NodeId id : nodes) devices.erase(id);  // a junction is no device either
  };
  auto removed = co_await commit_change(std::move(change));
  if (!removed.ok()) undo();
  co_return removed;
}

Task<Result<std::uint64_t>> Store::remove(std::string name, DeleteOptions options) {
  StoreCore& core = *core_;
  std::uint64_t request = 0;
  {
    const AsyncMutex::Guard guard = co_await core.ops_mutex.lock();
    VT_CO_RETURN_IF_ERROR(core.engine.check_writable());
    std::vector<NodeId> nodes;
    NodeName parsed;
    {
      VT_CO_ASSIGN_OR_RETURN(parsed, parse_node_name(name));
      const std::lock_guard lock(core.state_mutex);
      const auto head = core.resolve(parsed);
      const VolumeRow* volume = core.find_volume(parsed.volume);
      if (options.unless_snapshots && !parsed.is_snapshot() && volume != nullptr) {
        VT_CO_RETURN_IF_ERROR(core.check_no_snapshots(*volume));
      }
      const bool only_snapshots = options.snapshots && !parsed.is_snapshot() && volume != nullptr;
      if (!head.ok() && !only_snapshots) co_return head.status();
      if (head.ok()) nodes.push_back(*head);
      if (only_snapshots) {
        for (const auto& [key, id] : core.snapshot_names) {
          if (key.first == volume->id) nodes.push_back(id);
        }
      }
      for (const NodeId id : nodes) {
        VT_CO_RETURN_IF_ERROR(core.check_unused(id, !options.force));
      }
    }
    if (nodes.empty()) co_return std::uint64_t{0};
    const StoreCore::EraseMethod erase{core.policy_for(nodes.front(), options.erase_policy),
                                       options.erase_first_bytes, options.erase_io_priority};
    const std::string what =
        fmt::format("{} {}{}", parsed.is_snapshot() ? "snapshot" : "volume", name,
                    nodes.size() > 1 && options.snapshots ? " and its snapshots" : "");
    VT_CO_ASSIGN_OR_RETURN(request, co_await core.remove_nodes(std::move(nodes), what, erase));
  }
  if (options.wait && request != 0) VT_CO_RETURN_IF_ERROR(co_await wait_erased(request));
  co_return request;
}

// --- Rename.

Task<Status> Store::rename(std::string from, std::string to) {
  StoreCore& core = *core_;
  const AsyncMutex::Guard guard = co_await core.ops_mutex.lock();
  VT_CO_RETURN_IF_ERROR(core.engine.check_writable());
  VT_CO_ASSIGN_OR_RETURN(const NodeName source, parse_node_name(from));
  VT_CO_ASSIGN_OR_RETURN(const NodeName target, parse_node_name(to));
  StoreCore::Change change;
  VolumeRow volume;
  NodeRow node;
  {
    const std::lock_guard lock(core.state_mutex);
    if (source.is_snapshot() != target.is_snapshot() ||
        (source.is_snapshot() && source.volume != target.volume)) {
      co_return error(Code::kInvalid, "a snapshot is renamed within its volume: {} to {}@NEW",
                      quoted(from), quoted(source.volume));
    }
    const VolumeRow* found = core.find_volume(source.volume);
    if (found == nullptr) {
      co_return error(Code::kNotFound, "there is no volume {}", quoted(source.volume));
    }
    volume = *found;
    if (source.is_snapshot()) {
      VT_CO_ASSIGN_OR_RETURN(const NodeId id, core.resolve(source));
      VT_CO_RETURN_IF_ERROR(core.check_free_snapshot(volume, target.snapshot));
      node = core.lineage.find(id)->row;
    } else {
      VT_CO_RETURN_IF_ERROR(core.check_free_name(target.volume));
    }
  }
  change.next = core.copy_lineage();
  if (source.is_snapshot()) {
    node.snapshot = target.snapshot;
    change.next.update(node);
    change.plan.changed_nodes.push_back(node.id);
  } else {
    volume.name = target.volume;
    change.extra = [&volume](CatalogDb& db) { return db.put_volume(volume); };
    change.update_names = [&core, &volume] { core.volumes[volume.id] = volume; };
  }
  const auto committed = co_await core.commit_change(std::move(change));
  co_return committed.status();
}

// --- Resize.

Task<Status> Store::resize(std::string name, std::uint64_t size_bytes, bool shrink) {
  StoreCore& core = *core_;
  const AsyncMutex::Guard guard = co_await core.ops_mutex.lock();
  VT_CO_RETURN_IF_ERROR(core.engine.check_writable());
  VT_CO_RETURN_IF_ERROR(check_volume_size(size_bytes));
  if (size_bytes > core.file_size_max_bytes) {
    co_return error(Code::kTooLarge,
                    "{} is larger than a file may be on this host's file system ({})",
                    format_size(size_bytes), format_size(core.file_size_max_bytes));
  }
  NodeRow row;
  {
    const std::lock_guard lock(core.state_mutex);
    VT_CO_ASSIGN_OR_RETURN(const NodeId id, core.resolve(name));
    row = core.lineage.find(id)->row;
    if (row.kind != NodeKind::kHead) {
      co_return error(Code::kInvalid, "{} is a snapshot: its size is fixed", quoted(name));
    }
    if (size_bytes < row.size_bytes) VT_CO_RETURN_IF_ERROR(core.check_unused(id));
  }
  if (size_bytes == row.size_bytes) co_return Status();
  if (size_bytes > row.size_bytes) {
    VT_CO_RETURN_IF_ERROR(co_await core.check_provision(size_bytes - row.size_bytes));
    co_return co_await core.grow(row.id, size_bytes);
  }
  if (!shrink) {
    co_return error(Code::kInvalid,
                    "{} is {} bytes; making it smaller loses what lies beyond: ask for it with "
                    "--shrink",
                    quoted(name), row.size_bytes);
  }
  co_return co_await core.shrink(row.id, size_bytes);
}

Task<Status> StoreCore::grow(NodeId id, std::uint64_t size_bytes) {
  VT_CO_ASSIGN_OR_RETURN(const std::shared_ptr<Volume> volume, co_await open_node(id));
  const std::uint64_t old_bytes = volume->size_bytes();
  bool zeroed = false;
  if (old_bytes % kBlockBytes != 0 && volume->map().at(old_bytes / kBlockBytes) != kNoLayer) {
    // What the last block holds beyond the old end is nobody's: it reads as zeros from now on.
    const BlockRange last{old_bytes / kBlockBytes, 1};
    const RangeLock::Guard guard = co_await volume->range_lock().lock(last);
    AlignedBuffer buffer(kBlockBytes);
    VT_CO_RETURN_IF_ERROR(co_await volume->read_blocks_locked(last, buffer.data()));
    const auto tail = buffer.span().subspan(old_bytes % kBlockBytes);
    std::fill(tail.begin(), tail.end(), std::byte{0});
    VT_CO_RETURN_IF_ERROR(co_await volume->write_blocks_locked(last, buffer.data()));
    zeroed = true;
  }
  // I7, before the new size is durable: a power loss must not bring the old bytes back behind it.
  if (zeroed) VT_CO_RETURN_IF_ERROR(co_await volume->flush());
  Change change;
  std::optional<LayerRow> layer_row;
  {
    // Held until the size is published, so that no layer of the old size becomes the active one
    // meanwhile.
    const AsyncMutex::Guard guard = co_await volume->active_mutex().lock();
    if (const std::shared_ptr<Layer> active = volume->active_layer()) {
      VT_CO_RETURN_IF_ERROR(co_await active->ensure_open());
      const auto grown = co_await engine.runtime().run_blocking(
          [&active, size_bytes] { return active->grow(size_bytes); });
      if (!grown.ok()) co_return grown.status();
      if (*grown) {
        // I3: the row must not be on the disk before the file is as long as it says.
        VT_CO_RETURN_IF_ERROR(co_await engine.sync_layer(*active));
        layer_row = row_of(*active);
      } else {
        volume->retire_active_layer();
      }
    }
    change.next = copy_lineage();
    NodeRow row = change.next.find(id)->row;
    row.size_bytes = size_bytes;
    change.next.update(row);
    change.plan.changed_nodes.push_back(id);
    change.extra = [&layer_row](CatalogDb& db) {
      return layer_row ? db.put_layer(*layer_row) : Status();
    };
    const auto committed = co_await commit_change(std::move(change));
    if (!committed.ok()) co_return committed.status();
    volume->set_size(size_bytes);
  }
  co_return Status();
}

// What lies beyond leaves the indexes in the commit that changes the size, and goes to the eraser.
// Where an ancestor holds something there, tombstones keep it from coming back when the volume
// grows again.
Task<Status> StoreCore::shrink(NodeId id, std::uint64_t size_bytes) {
  VT_CO_ASSIGN_OR_RETURN(const std::shared_ptr<Volume> volume, co_await open_node(id));
  const std::uint64_t old_bytes = volume->size_bytes();
  const std::uint64_t first = blocks_of_bytes(size_bytes);
  const std::uint64_t end = blocks_of_bytes(old_bytes);
  // No write begins beyond the new end from here on, and those that have begun are over after the
  // drain.
  volume->set_size(size_bytes);
  co_await volume->write_gate().drain();
  Status cut = co_await cut_node(volume, {first, end - first}, size_bytes, old_bytes);
  if (!cut.ok()) volume->set_size(old_bytes);
  co_return cut;
}

namespace {

// So that the sums alone say what the layer holds. Where that does not work (a full host), the
// catalog's index says it.
Task<void> stamp_tombstones(Engine& engine, Layer& layer, BlockRange range) {
  if (!(co_await layer.ensure_open()).ok()) co_return;
  std::vector<BlockRange> steps;
  {
    const std::lock_guard lock(layer.mutex);
    layer.state.index.for_each(range.first, range.count, [&steps](const Extent& extent) {
      for (std::uint64_t at = extent.first; extent.value == kIndexTombstone && at < extent.end();
           at += kRegionBlocks) {
        steps.push_back({at, std::min(kRegionBlocks, extent.end() - at)});
      }
    });
  }
  for (const BlockRange& step : steps) {
    if (!(co_await layer.touch_sums(step, true)).ok()) co_return;
    for (std::uint64_t block = step.first; block < step.end(); ++block) {
      layer.set_sum(block, kSumTombstone);
    }
  }
  (void)engine.check_stored(layer.sums());
}

}  // namespace

Task<Status> StoreCore::cut_node(std::shared_ptr<Volume> volume, BlockRange beyond,
                                 std::uint64_t size_bytes, std::uint64_t old_bytes) {
  const NodeId id = volume->node();
  const std::uint64_t first = beyond.first;
  const std::uint64_t end = beyond.end();
  std::shared_ptr<Layer> target;  // takes the tombstones
  const ExtentMap map = volume->map();
  bool foreign = false;
  map.for_each(first, end - first, [&](const Extent& extent) {
    foreign |= extent.value != kNoLayer && engine.layers().find(extent.value)->owner() != id;
  });
  if (foreign) {
    VT_CO_ASSIGN_OR_RETURN(target, co_await engine.create_layer(id, old_bytes));
  }
  Change change;
  change.next = copy_lineage();
  std::vector<LayerId> owned = change.next.find(id)->owned;
  const bool has_parent = change.next.find(id)->row.parent != kNoNode;
  VT_CO_RETURN_IF_ERROR(co_await volume->flush());
  const AsyncMutex::Guard active_guard = co_await volume->active_mutex().lock();
  const AsyncMutex::Guard flush_guard = co_await volume->flush_mutex().lock();
  volume->retire_active_layer();  // what goes to the eraser must not take new blocks
  for (const LayerId layer_id : owned) {
    const std::shared_ptr<Layer> layer = engine.layers().find(layer_id);
    VT_CO_RETURN_IF_ERROR(co_await layer->ensure_index(engine.catalog()));
    const std::lock_guard guard(layer->mutex);
    ExtentMap after = layer->state.durable_index;
    ExtentMap garbage;
    layer->state.durable_index.for_each(first, end - first, [&](const Extent& extent) {
      if (extent.value != kIndexData) return;
      garbage.assign(extent.first, extent.count, 1);
      after.assign(extent.first, extent.count, has_parent ? kIndexTombstone : kIndexAbsent);
    });
    if (layer == target) {
      map.for_each(first, end - first, [&](const Extent& extent) {
        if (extent.value != kNoLayer) after.assign(extent.first, extent.count, kIndexTombstone);
      });
    }
    if (!garbage.empty()) change.plan.erased_ranges[layer_id] = std::move(garbage);
    if (!(after == layer->state.durable_index))
      change.plan.new_indexes[layer_id] = std::move(after);
  }
  NodeRow row = change.next.find(id)->row;
  row.size_bytes = size_bytes;
  change.next.update(row);
  change.plan.changed_nodes.push_back(id);
  change.what = fmt::format("volume {}, shrunk", name_of(id).volume);
  change.erase.policy = policy_for(id, std::nullopt);
  change.committed = [this, volume, size_bytes, target, has_parent, beyond]() -> Task<void> {
    if (target != nullptr) volume->adopt({target}, has_parent);
    volume->cut(size_bytes);
    if (target != nullptr) co_await stamp_tombstones(engine, *target, beyond);
  };
  const auto committed = co_await commit_change(std::move(change));
  co_return committed.status();
}

}  // namespace voltree
