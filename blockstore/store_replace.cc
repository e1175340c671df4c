// A volume takes over what another one holds.
#include "blockstore/store_core.h"

namespace voltree {
namespace {

// What is to be exchanged: two heads, of different volumes.
struct Heads {
  NodeId target = kNoNode;
  NodeRow source;
  std::vector<LayerId> layers;  // of the source
};

// Under state_mutex.
Result<Heads> find_heads(const StoreCore& core, const std::string& volume,
                         const std::string& source) {
  VT_RETURN_IF_ERROR(check_name(volume));
  VT_RETURN_IF_ERROR(check_name(source));
  Heads heads;
  VT_ASSIGN_OR_RETURN(heads.target, core.resolve(NodeName{volume, ""}));
  VT_ASSIGN_OR_RETURN(const NodeId from, core.resolve(NodeName{source, ""}));
  if (heads.target == from) {
    return error(Code::kInvalid, "{} can not be replaced by itself", quoted(volume));
  }
  VT_RETURN_IF_ERROR(core.check_unused(heads.target));
  VT_RETURN_IF_ERROR(core.check_unused(from));
  VT_RETURN_IF_ERROR(core.check_no_snapshots(*core.find_volume(source)));
  const Lineage::Node& node = *core.lineage.find(from);
  heads.source = node.row;
  heads.layers = node.owned;
  return heads;
}

// The target's own layers are garbage, the source's become its own, in the source's place in the
// tree.
void plan_replace(const Heads& heads, StoreCore::Change& change) {
  Lineage& next = change.next;
  LineagePlan& plan = change.plan;
  next.abandon_layers(heads.target, plan);
  for (const LayerId layer : heads.layers) {
    next.disown(heads.source.id, layer);
    next.own(heads.target, layer);
    plan.moved_layers[layer] = heads.target;
  }
  const NodeId old_parent = next.find(heads.target)->row.parent;
  next.set_parent(heads.target, heads.source.parent);
  NodeRow row = next.find(heads.target)->row;
  row.size_bytes = heads.source.size_bytes;
  next.update(row);
  plan.changed_nodes.push_back(heads.target);
  next.remove(heads.source.id, plan);
  next.parent_lost_child(old_parent, plan);
}

}  // namespace

Task<Status> Store::replace(std::string volume_name, std::string source,
                            std::optional<ErasePolicy> erase_policy) {
  StoreCore& core = *core_;
  const AsyncMutex::Guard guard = co_await core.ops_mutex.lock();
  VT_CO_RETURN_IF_ERROR(core.engine.check_writable());
  Heads heads;
  {
    const std::lock_guard lock(core.state_mutex);
    VT_CO_ASSIGN_OR_RETURN(heads, find_heads(core, volume_name, source));
  }
  std::vector<NodeId> dying;
  dying.push_back(heads.source.id);
  co_await core.kill_devices(dying);
  Status replaced = co_await core.replace_head(volume_name, heads.target, heads.source.id,
                                               core.policy_for(heads.target, erase_policy));
  if (!replaced.ok()) {
    if (const auto left = core.open_volume(heads.source.id)) left->revive();
  }
  co_return replaced;
}

Task<Status> StoreCore::replace_head(std::string name, NodeId target, NodeId source,
                                     ErasePolicy policy) {
  const std::shared_ptr<Volume> from = open_volume(source);
  const std::shared_ptr<Volume> volume = open_volume(target);
  AsyncMutex::Guard from_guard;
  RangeLock::Guard range_guard;
  AsyncMutex::Guard active_guard;
  AsyncMutex::Guard flush_guard;
  if (from != nullptr) {
    // Nobody writes to it any more: what it has is durable from here on.
    VT_CO_RETURN_IF_ERROR(co_await from->flush_shared());
    from_guard = co_await from->flush_mutex().lock();
  }
  if (volume != nullptr) {
    range_guard = co_await volume->range_lock().lock(kAllBlocks);  // as in a revert
    active_guard = co_await volume->active_mutex().lock();
    flush_guard = co_await volume->flush_mutex().lock();
  }
  VT_CO_ASSIGN_OR_RETURN(ExtentMap map, co_await build_map(source));
  Change change;
  change.what = fmt::format("volume {}, replaced", name);
  change.erase.policy = policy;
  change.next = copy_lineage();
  Heads heads;
  heads.target = target;
  heads.source = change.next.find(source)->row;
  heads.layers = change.next.find(source)->owned;
  std::vector<LayerId> needed = change.next.needed_for_remove(target);
  const std::vector<LayerId> more = change.next.needed_for_remove(source);
  needed.insert(needed.end(), more.begin(), more.end());
  VT_CO_RETURN_IF_ERROR(co_await load_indexes(change.next, std::move(needed), true));
  plan_replace(heads, change);
  const VolumeId gone = heads.source.volume;
  change.after_plan = [gone](CatalogDb& db) { return db.remove_volume(gone); };
  change.update_names = [this, gone] {
    volumes.erase(gone);
    limits.erase(gone);
    notes.erase(gone);
  };
  const bool has_parent = change.next.find(target)->row.parent != kNoNode;
  const std::vector<LayerId> owned = change.next.find(target)->owned;
  const std::uint64_t size_bytes = heads.source.size_bytes;
  change.committed = [this, volume, map, size_bytes, owned, has_parent]() -> Task<void> {
    if (volume == nullptr) co_return;
    std::vector<std::shared_ptr<Layer>> layers;
    layers.reserve(owned.size());
    for (const LayerId id : owned) layers.push_back(engine.layers().find(id));
    // A write that is planned between the two waits for the active layer, and is planned anew.
    volume->replace(map, size_bytes);
    volume->adopt(std::move(layers), has_parent);
    co_await volume->write_gate().drain();  // nothing is written to the old layers any more
  };
  const auto committed = co_await commit_change(std::move(change));
  co_return committed.status();
}

}  // namespace voltree
