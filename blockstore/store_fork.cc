// Snapshot, clone, revert: forks of the lineage.
#include "blockstore/store_core.h"

namespace voltree {

Task<Status> StoreCore::fork(Fork fork) {
  const std::shared_ptr<Volume> volume = open_volume(fork.head);
  std::vector<std::shared_ptr<Layer>> sealed;
  FlushRows rows;
  AsyncMutex::Guard flush_guard;
  Lineage next;
  const NodeId sealed_id = fork.sealed.id;
  if (volume != nullptr) {
    VT_CO_RETURN_IF_ERROR(co_await volume->flush());  // most of the work, before anything is held
    std::shared_ptr<Layer> fresh;
    if (volume->active_layer() != nullptr) {
      // A volume that is being written to gets its next layer now, so that the switch is all its
      // writers see.
      VT_CO_ASSIGN_OR_RETURN(fresh, co_await engine.create_layer(fork.head, volume->size_bytes()));
    }
    flush_guard = co_await volume->flush_mutex().lock();
    next = copy_lineage();
    sealed = volume->begin_fork(std::move(fresh), sealed_id);
    co_await volume->write_gate().drain();
    auto synced = co_await volume->sync_layers(sealed);
    if (!synced.ok()) {
      volume->abort_fork(std::move(sealed));
      co_return synced.status();
    }
    rows = std::move(*synced);
  } else {
    next = copy_lineage();
    for (const LayerId id : next.find(fork.head)->owned) {
      sealed.push_back(engine.layers().find(id));
      sealed.back()->set_owner(sealed_id);
    }
  }
  NodeRow head = next.find(fork.head)->row;
  fork.sealed.parent = head.parent;
  fork.sealed.size_bytes = head.size_bytes;
  next.add(fork.sealed);
  next.set_parent(fork.head, sealed_id);
  head.parent = sealed_id;
  for (const auto& layer : sealed) {
    next.disown(fork.head, layer->id());
    next.own(sealed_id, layer->id());
  }
  if (fork.amend) fork.amend(next);
  const std::int64_t now_ns = engine.runtime().wall_now().count();
  const Status committed = co_await engine.catalog().commit([&](CatalogDb& db) -> Status {
    VT_RETURN_IF_ERROR(db.put_node(fork.sealed));
    VT_RETURN_IF_ERROR(db.put_node(head));
    for (const auto& layer : sealed) VT_RETURN_IF_ERROR(db.put_layer(row_of(*layer, now_ns)));
    VT_RETURN_IF_ERROR(rows.put(db));
    return fork.extra ? fork.extra(db) : Status();
  });
  if (!committed.ok()) {
    Volume::rows_failed(rows);
    for (const auto& layer : sealed) layer->set_owner(fork.head);
    if (volume != nullptr) volume->abort_fork(std::move(sealed));
    if (engine.catalog().failed()) engine.fail(committed);
    co_return committed;
  }
  Volume::rows_committed(rows);
  if (volume != nullptr) cache_map(sealed_id, volume->finish_fork());
  publish(std::move(next), fork.update_names);
  co_return Status();
}

Task<Status> Store::snapshot(std::string volume, std::string snapshot_name) {
  StoreCore& core = *core_;
  const AsyncMutex::Guard guard = co_await core.ops_mutex.lock();
  VT_CO_RETURN_IF_ERROR(core.engine.check_writable());
  VT_CO_RETURN_IF_ERROR(check_name(volume));
  StoreCore::Fork fork;
  {
    const std::lock_guard lock(core.state_mutex);
    VT_CO_ASSIGN_OR_RETURN(fork.head, core.resolve(NodeName{volume, ""}));
    const VolumeRow& row = *core.find_volume(volume);
    VT_CO_RETURN_IF_ERROR(core.check_free_snapshot(row, snapshot_name));
    fork.sealed.volume = row.id;
  }
  VT_CO_ASSIGN_OR_RETURN(fork.sealed.id, co_await core.new_node_id());
  fork.sealed.kind = NodeKind::kSnapshot;
  fork.sealed.snapshot = std::move(snapshot_name);
  fork.sealed.created_ns = core.engine.runtime().wall_now().count();
  co_return co_await core.fork(std::move(fork));
}

namespace {

// What a clone adds: a volume and its head.
struct NewVolume {
  VolumeRow volume;
  NodeRow head;
};

Task<Result<NewVolume>> make_rows(StoreCore& core, std::string name, std::uint64_t size_bytes,
                                  std::optional<ErasePolicy> policy) {
  NewVolume rows;
  rows.volume.name = std::move(name);
  rows.volume.erase_policy = policy;
  rows.volume.created_ns = core.engine.runtime().wall_now().count();
  VT_CO_ASSIGN_OR_RETURN(rows.head.id, co_await core.new_node_id());
  VT_CO_RETURN_IF_ERROR(co_await core.engine.catalog().commit([&rows](CatalogDb& db) -> Status {
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

Status put_rows(CatalogDb& db, const NewVolume& rows) {
  VT_RETURN_IF_ERROR(db.put_volume(rows.volume));
  return db.put_node(rows.head);
}

Status check_size_fits(const StoreCore& core, std::uint64_t size_bytes) {
  VT_RETURN_IF_ERROR(check_volume_size(size_bytes));
  if (size_bytes <= core.file_size_max_bytes) return {};
  return error(Code::kTooLarge,
               "a volume of {} is larger than a file may be on this host's file system ({})",
               format_size(size_bytes), format_size(core.file_size_max_bytes));
}

}  // namespace

Task<Status> Store::create_volume(std::string name, std::uint64_t size_bytes,
                                  std::optional<ErasePolicy> erase_policy) {
  StoreCore& core = *core_;
  const AsyncMutex::Guard guard = co_await core.ops_mutex.lock();
  VT_CO_RETURN_IF_ERROR(core.engine.check_writable());
  VT_CO_RETURN_IF_ERROR(check_size_fits(core, size_bytes));
  {
    const std::lock_guard lock(core.state_mutex);
    VT_CO_RETURN_IF_ERROR(core.check_free_name(name));
  }
  VT_CO_ASSIGN_OR_RETURN(NewVolume rows,
                         co_await make_rows(core, std::move(name), size_bytes, erase_policy));
  StoreCore::Change change;
  change.next = core.copy_lineage();
  change.next.add(rows.head);
  change.extra = [&rows](CatalogDb& db) { return put_rows(db, rows); };
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
  VT_CO_RETURN_IF_ERROR(check_size_fits(core, size_bytes));
  if (size_bytes < from.size_bytes) {
    co_return error(Code::kInvalid, "a clone of {} can not be smaller than it ({} bytes)",
                    quoted(source), from.size_bytes);
  }
  VT_CO_ASSIGN_OR_RETURN(NewVolume rows, co_await make_rows(core, new_volume, size_bytes, policy));
  auto update_names = [&core, &rows] { core.volumes[rows.volume.id] = rows.volume; };
  if (from.kind == NodeKind::kSnapshot || untouched) {
    rows.head.parent = from.kind == NodeKind::kSnapshot ? from.id : from.parent;
    StoreCore::Change change;
    change.next = core.copy_lineage();
    change.next.add(rows.head);
    change.extra = [&rows](CatalogDb& db) { return put_rows(db, rows); };
    change.update_names = update_names;
    const auto committed = co_await core.commit_change(std::move(change));
    VT_CO_RETURN_IF_ERROR(committed.status());
  } else {
    StoreCore::Fork fork;
    fork.head = from.id;
    VT_CO_ASSIGN_OR_RETURN(fork.sealed.id, co_await core.new_node_id());
    rows.head.parent = fork.sealed.id;
    fork.sealed.kind = NodeKind::kJunction;
    fork.sealed.volume = from.volume;
    fork.sealed.created_ns = rows.head.created_ns;
    fork.amend = [&rows](Lineage& next) { next.add(rows.head); };
    fork.extra = [&rows](CatalogDb& db) { return put_rows(db, rows); };
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
  AsyncMutex::Guard active_guard;
  AsyncMutex::Guard flush_guard;
  if (volume != nullptr) {
    active_guard = co_await volume->active_mutex().lock();
    flush_guard = co_await volume->flush_mutex().lock();
  }
  StoreCore::Change change;
  change.what = fmt::format("volume {}, reverted to {}", volume_name, snapshot_name);
  change.policy = core.policy_for(head, std::nullopt);
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
