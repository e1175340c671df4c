// Snapshot, clone, revert: forks of the lineage.
#include <algorithm>
#include <set>

#include "blockstore/store_core.h"

namespace voltree {

namespace {

// One head on its way through a fork.
struct Forking {
  NodeRow sealed;
  NodeRow head;                    // with its new parent
  std::shared_ptr<Volume> volume;  // nullptr: not open, so that nobody writes to it
  std::shared_ptr<Layer> fresh;
  std::vector<std::shared_ptr<Layer>> layers;  // the sealed ones
};

// Most of the work, before anything is held.
Task<Status> prepare_forks(StoreCore& core, std::vector<Forking>& all) {
  for (Forking& one : all) {
    one.volume = core.open_volume(one.head.id);
    if (one.volume == nullptr) continue;
    VT_CO_RETURN_IF_ERROR(co_await one.volume->flush());
    // A volume that is being written to gets its next layer now, so that the switch is all its
    // writers see.
    if (one.volume->active_layer() == nullptr) continue;
    VT_CO_ASSIGN_OR_RETURN(
        one.fresh, co_await core.engine.create_layer(one.head.id, one.volume->size_bytes()));
  }
  co_return Status();
}

// The instant of the fork, for every head.
void switch_forks(StoreCore& core, const Lineage& next, std::vector<Forking>& all) {
  std::vector<Volume::Switch> switches;
  std::vector<Forking*> open;
  for (Forking& one : all) {
    if (one.volume != nullptr) {
      switches.push_back({one.volume.get(), std::move(one.fresh), one.sealed.id, {}});
      open.push_back(&one);
      continue;
    }
    for (const LayerId id : next.find(one.head.id)->owned) {
      one.layers.push_back(core.engine.layers().find(id));
      one.layers.back()->set_owner(one.sealed.id);
    }
  }
  Volume::begin_fork(switches);
  for (std::size_t i = 0; i < open.size(); ++i) open[i]->layers = std::move(switches[i].sealed);
}

void abort_forks(std::vector<Forking>& all) {
  for (Forking& one : all) {
    for (const auto& layer : one.layers) layer->set_owner(one.head.id);
    if (one.volume != nullptr) one.volume->abort_fork(std::move(one.layers));
  }
}

// Waits for the writes that end in the sealed layers, and makes all of them durable in one round.
Task<Result<FlushRows>> sync_forks(const std::vector<Forking>& all) {
  std::vector<std::shared_ptr<Layer>> sealed;
  Volume* any = nullptr;
  for (const Forking& one : all) {
    if (one.volume == nullptr) continue;
    any = one.volume.get();
    co_await any->write_gate().drain();
    sealed.insert(sealed.end(), one.layers.begin(), one.layers.end());
  }
  if (any == nullptr) co_return FlushRows();
  co_return co_await any->sync_layers(std::move(sealed));
}

void plan_forks(Lineage& next, std::vector<Forking>& all) {
  for (Forking& one : all) {
    one.head = next.find(one.head.id)->row;
    one.sealed.parent = one.head.parent;
    one.sealed.size_bytes = one.head.size_bytes;
    next.add(one.sealed);
    next.set_parent(one.head.id, one.sealed.id);
    one.head.parent = one.sealed.id;
    for (const auto& layer : one.layers) {
      next.disown(one.head.id, layer->id());
      next.own(one.sealed.id, layer->id());
    }
  }
}

Status put_forks(CatalogDb& db, const std::vector<Forking>& all) {
  for (const Forking& one : all) {
    VT_RETURN_IF_ERROR(db.put_node(one.sealed));
    VT_RETURN_IF_ERROR(db.put_node(one.head));
    for (const auto& layer : one.layers) VT_RETURN_IF_ERROR(db.put_layer(row_of(*layer)));
  }
  return {};
}

}  // namespace

Task<Status> StoreCore::fork(Fork fork) {
  // In order of node: the order in which the heads' locks are taken.
  std::sort(fork.heads.begin(), fork.heads.end(),
            [](const ForkOne& a, const ForkOne& b) { return a.head < b.head; });
  std::vector<Forking> all(fork.heads.size());
  for (std::size_t i = 0; i < all.size(); ++i) {
    all[i].head.id = fork.heads[i].head;
    all[i].sealed = std::move(fork.heads[i].sealed);
  }
  VT_CO_RETURN_IF_ERROR(co_await prepare_forks(*this, all));
  std::vector<AsyncMutex::Guard> flush_guards;
  for (const Forking& one : all) {
    if (one.volume == nullptr) continue;
    flush_guards.push_back(co_await one.volume->flush_mutex().lock());
  }
  Lineage next = copy_lineage();
  switch_forks(*this, next, all);
  auto synced = co_await sync_forks(all);
  if (!synced.ok()) {
    abort_forks(all);
    co_return synced.status();
  }
  const FlushRows rows = std::move(*synced);
  plan_forks(next, all);
  if (fork.amend) fork.amend(next);
  const Status committed = co_await engine.commit([&](CatalogDb& db) -> Status {
    VT_RETURN_IF_ERROR(put_forks(db, all));
    VT_RETURN_IF_ERROR(rows.put(db));
    return fork.extra ? fork.extra(db) : Status();
  });
  if (!committed.ok()) {
    Volume::rows_failed(rows);
    abort_forks(all);
    co_return committed;
  }
  Volume::rows_committed(rows);
  for (const Forking& one : all) {
    if (one.volume != nullptr) cache_map(one.sealed.id, one.volume->finish_fork());
  }
  publish(std::move(next), fork.update_names);
  co_return Status();
}

Task<Status> Store::snapshot(std::string volume, std::string snapshot_name) {
  VT_CO_RETURN_IF_ERROR(check_name(volume));
  VT_CO_RETURN_IF_ERROR(check_name(snapshot_name));
  std::vector<std::string> one;
  one.push_back(NodeName{std::move(volume), std::move(snapshot_name)}.str());
  co_return co_await snapshot_group(std::move(one));
}

namespace {

// Which heads to fork and what their snapshots are called; ids come later. Under state_mutex.
Result<StoreCore::Fork> plan_group(const StoreCore& core,
                                   const std::vector<std::string>& snapshots) {
  StoreCore::Fork fork;
  std::set<NodeId> heads;
  for (const std::string& text : snapshots) {
    VT_ASSIGN_OR_RETURN(const NodeName name, parse_node_name(text));
    if (!name.is_snapshot()) {
      return error(Code::kInvalid, "{} names a volume; a snapshot is VOLUME@NAME", quoted(text));
    }
    StoreCore::ForkOne one;
    VT_ASSIGN_OR_RETURN(one.head, core.resolve(NodeName{name.volume, ""}));
    const VolumeRow& row = *core.find_volume(name.volume);
    VT_RETURN_IF_ERROR(core.check_free_snapshot(row, name.snapshot));
    if (!heads.insert(one.head).second) {
      return error(Code::kInvalid, "volume {} is named twice: one instant gives it one snapshot",
                   quoted(name.volume));
    }
    one.sealed.kind = NodeKind::kSnapshot;
    one.sealed.volume = row.id;
    one.sealed.snapshot = name.snapshot;
    fork.heads.push_back(std::move(one));
  }
  if (fork.heads.empty()) return error(Code::kInvalid, "no snapshot is named");
  return fork;
}

}  // namespace

Task<Status> Store::snapshot_group(std::vector<std::string> snapshots) {
  StoreCore& core = *core_;
  const AsyncMutex::Guard guard = co_await core.ops_mutex.lock();
  VT_CO_RETURN_IF_ERROR(core.engine.check_writable());
  StoreCore::Fork fork;
  {
    const std::lock_guard lock(core.state_mutex);
    VT_CO_ASSIGN_OR_RETURN(fork, plan_group(core, snapshots));
  }
  const std::int64_t now_ns = core.engine.runtime().wall_now().count();
  for (StoreCore::ForkOne& one : fork.heads) {
    VT_CO_ASSIGN_OR_RETURN(one.sealed.id, co_await core.new_node_id());
    one.sealed.created_ns = now_ns;
  }
  co_return co_await core.fork(std::move(fork));
}

Task<Result<StoreCore::NewVolume>> StoreCore::new_volume(std::string name, std::uint64_t size_bytes,
                                                         std::optional<ErasePolicy> policy) {
  NewVolume rows;
  rows.volume.name = std::move(name);
  rows.volume.erase_policy = policy;
  rows.volume.created_ns = engine.runtime().wall_now().count();
  VT_CO_ASSIGN_OR_RETURN(rows.head.id, co_await new_node_id());
  VT_CO_RETURN_IF_ERROR(co_await engine.commit([&rows](CatalogDb& db) -> Status {
    VT_ASSIGN_OR_RETURN(rows.volume.id, db.next_id("volume"));
    return {};
  }));
  rows.volume.head = rows.head.id;
  rows.head.kind = NodeKind::kHead;
  rows.head.volume = rows.volume.id;
  rows.head.size_bytes = size_bytes;
  rows.head.created_ns = rows.volume.created_ns;
  co_return rows;
}

Status StoreCore::NewVolume::put(CatalogDb& db) const {
  VT_RETURN_IF_ERROR(db.put_volume(volume));
  return db.put_node(head);
}

Status StoreCore::check_size_fits(std::uint64_t size_bytes) const {
  VT_RETURN_IF_ERROR(check_volume_size(size_bytes));
  if (size_bytes <= file_size_max_bytes) return {};
  return error(Code::kTooLarge,
               "a volume of {} is larger than a file may be on this host's file system ({})",
               format_size(size_bytes), format_size(file_size_max_bytes));
}

Task<Status> Store::create_volume(std::string name, std::uint64_t size_bytes,
                                  std::optional<ErasePolicy> erase_policy) {
  StoreCore& core = *core_;
  const AsyncMutex::Guard guard = co_await core.ops_mutex.lock();
  VT_CO_RETURN_IF_ERROR(core.engine.check_writable());
  VT_CO_RETURN_IF_ERROR(core.check_size_fits(size_bytes));
  {
    const std::lock_guard lock(core.state_mutex);
    VT_CO_RETURN_IF_ERROR(core.check_free_name(name));
  }
  VT_CO_RETURN_IF_ERROR(co_await core.check_provision(size_bytes));
  VT_CO_ASSIGN_OR_RETURN(StoreCore::NewVolume rows,
                         co_await core.new_volume(std::move(name), size_bytes, erase_policy));
  StoreCore::Change change;
  change.next = core.copy_lineage();
  change.next.add(rows.head);
  change.extra = [&rows](CatalogDb& db) { return rows.put(db); };
  change.update_names = [&core, &rows] { core.volumes[rows.volume.id] = rows.volume; };
  const auto committed = co_await core.commit_change(std::move(change));
  co_return committed.status();
}

Task<Status> Store::clone(std::string source, std::string new_volume, std::uint64_t size_bytes) {
  StoreCore& core = *core_;
  const AsyncMutex::Guard guard = co_await core.ops_mutex.lock();
  VT_CO_RETURN_IF_ERROR(core.engine.check_writable());
  NodeRow from;
  std::optional<ErasePolicy> policy;
  bool untouched = false;  // a head that owns nothing is what its parent is
  {
    const std::lock_guard lock(core.state_mutex);
    VT_CO_ASSIGN_OR_RETURN(const NodeId id, core.resolve(source));
    VT_CO_RETURN_IF_ERROR(core.check_free_name(new_volume));
    const Lineage::Node& node = *core.lineage.find(id);
    from = node.row;
    policy = core.volumes.at(from.volume).erase_policy;
    const Lineage::Node* parent = core.lineage.find(from.parent);
    untouched =
        node.owned.empty() && (parent == nullptr || parent->row.size_bytes == from.size_bytes);
  }
  if (size_bytes == 0) size_bytes = from.size_bytes;
  VT_CO_RETURN_IF_ERROR(core.check_size_fits(size_bytes));
  if (size_bytes < from.size_bytes) {
    co_return error(Code::kInvalid, "a clone of {} can not be smaller than it ({} bytes)",
                    quoted(source), from.size_bytes);
  }
  VT_CO_RETURN_IF_ERROR(co_await core.check_provision(size_bytes));
  VT_CO_ASSIGN_OR_RETURN(StoreCore::NewVolume rows,
                         co_await core.new_volume(new_volume, size_bytes, policy));
  auto update_names = [&core, &rows] { core.volumes[rows.volume.id] = rows.volume; };
  if (from.kind == NodeKind::kSnapshot || untouched) {
    rows.head.parent = from.kind == NodeKind::kSnapshot ? from.id : from.parent;
    StoreCore::Change change;
    change.next = core.copy_lineage();
    change.next.add(rows.head);
    change.extra = [&rows](CatalogDb& db) { return rows.put(db); };
    change.update_names = update_names;
    const auto committed = co_await core.commit_change(std::move(change));
    VT_CO_RETURN_IF_ERROR(committed.status());
  } else {
    StoreCore::ForkOne one;
    one.head = from.id;
    VT_CO_ASSIGN_OR_RETURN(one.sealed.id, co_await core.new_node_id());
    rows.head.parent = one.sealed.id;
    one.sealed.kind = NodeKind::kJunction;
    one.sealed.volume = from.volume;
    one.sealed.created_ns = rows.head.created_ns;
    StoreCore::Fork fork;
    fork.heads.push_back(std::move(one));
    fork.amend = [&rows](Lineage& next) { next.add(rows.head); };
    fork.extra = [&rows](CatalogDb& db) { return rows.put(db); };
    fork.update_names = update_names;
    VT_CO_RETURN_IF_ERROR(co_await core.fork(std::move(fork)));
  }
  // The bytes of the source's last block beyond its end are the clone's now: they read as zeros.
  if (from.size_bytes % kBlockBytes != 0 && size_bytes > from.size_bytes) {
    VT_CO_ASSIGN_OR_RETURN(const auto volume, co_await core.open_node(rows.head.id));
    const std::uint64_t end = blocks_of_bytes(from.size_bytes) * kBlockBytes;
    VT_CO_RETURN_IF_ERROR(co_await volume->write_zeroes(
        from.size_bytes, std::min(end, size_bytes) - from.size_bytes, {}));
  }
  co_return Status();
}

Task<Status> Store::revert(std::string volume_name, std::string snapshot_name,
                           RevertOptions options) {
  StoreCore& core = *core_;
  if (!options.keep_as.empty()) {
    {
      const std::lock_guard lock(core.state_mutex);
      VT_CO_ASSIGN_OR_RETURN(const NodeId head, core.resolve(NodeName{volume_name, ""}));
      VT_CO_RETURN_IF_ERROR(core.resolve(NodeName{volume_name, snapshot_name}).status());
      VT_CO_RETURN_IF_ERROR(core.check_unused(head));
    }
    VT_CO_RETURN_IF_ERROR(co_await snapshot(volume_name, options.keep_as));
  }
  const AsyncMutex::Guard guard = co_await core.ops_mutex.lock();
  VT_CO_RETURN_IF_ERROR(core.engine.check_writable());
  NodeId head = kNoNode;
  NodeId snapshot_id = kNoNode;
  {
    const std::lock_guard lock(core.state_mutex);
    VT_CO_ASSIGN_OR_RETURN(head, core.resolve(NodeName{volume_name, ""}));
    VT_CO_ASSIGN_OR_RETURN(snapshot_id, core.resolve(NodeName{volume_name, snapshot_name}));
    VT_CO_RETURN_IF_ERROR(core.check_unused(head));
  }
  VT_CO_ASSIGN_OR_RETURN(ExtentMap map, co_await core.build_map(snapshot_id));
  const std::shared_ptr<Volume> volume = core.open_volume(head);
  RangeLock::Guard range_guard;
  AsyncMutex::Guard active_guard;
  AsyncMutex::Guard flush_guard;
  if (volume != nullptr) {
    // I8: an unaligned write that has read its edges would bring them back from what is erased.
    range_guard = co_await volume->range_lock().lock(kAllBlocks);
    active_guard = co_await volume->active_mutex().lock();
    flush_guard = co_await volume->flush_mutex().lock();
  }
  StoreCore::Change change;
  change.what = fmt::format("volume {}, reverted to {}", volume_name, snapshot_name);
  change.erase.policy = core.policy_for(head, std::nullopt);
  change.next = core.copy_lineage();
  VT_CO_RETURN_IF_ERROR(
      co_await core.load_indexes(change.next, change.next.needed_for_remove(head), true));
  change.next.abandon_layers(head, change.plan);
  const NodeId old_parent = change.next.find(head)->row.parent;
  change.next.set_parent(head, snapshot_id);
  NodeRow row = change.next.find(head)->row;
  row.size_bytes = change.next.find(snapshot_id)->row.size_bytes;
  change.next.update(row);
  change.plan.changed_nodes.push_back(head);
  change.next.parent_lost_child(old_parent, change.plan);
  change.committed = [volume, map, row]() -> Task<void> {
    if (volume == nullptr) co_return;
    volume->replace(map, row.size_bytes);
    co_await volume->write_gate().drain();  // nothing is written to the old layers any more
  };
  const auto committed = co_await core.commit_change(std::move(change));
  co_return committed.status();
}

}  // namespace voltree
