// The steps that the operations of a store share: names, maps, commits.
#include "blockstore/store_core.h"

#include <algorithm>

#include "blockstore/format/region_format.h"
#include "blockstore/store_scrub.h"

namespace voltree {
namespace {

constexpr std::size_t kMapCacheEntries = 64;
// A merged map is saved when opening had to walk this many nodes past the nearest saved one.
constexpr std::size_t kSaveMapDepth = 64;
// Node ids are taken from the catalog this many at a time, so that a snapshot costs no commit for
// its id.
constexpr std::size_t kNodeIdBatch = 64;

}  // namespace

StoreCore::StoreCore(Runtime& runtime, std::string directory)
    : engine(runtime, std::move(directory)),
      eraser(engine),
      scrubber(std::make_unique<Scrubber>(*this)) {
  eraser_wake = std::make_shared<Event>();
  engine.on_layer_created([this](const std::shared_ptr<Layer>& layer) {
    const std::lock_guard guard(state_mutex);
    if (lineage.find(layer->owner()) == nullptr) return;
    lineage.own(layer->owner(), layer->id());
    fresh_layers.push_back(layer->id());
  });
}

StoreCore::~StoreCore() = default;

// --- Names.

void StoreCore::index_names() {
  volume_names.clear();
  snapshot_names.clear();
  for (const auto& [id, row] : volumes) volume_names[row.name] = id;
  for (const auto& [id, node] : lineage.nodes()) {
    if (node.row.kind == NodeKind::kSnapshot) {
      snapshot_names[{node.row.volume, node.row.snapshot}] = id;
    }
  }
}

const VolumeRow* StoreCore::find_volume(const std::string& name) const {
  const auto found = volume_names.find(name);
  return found == volume_names.end() ? nullptr : &volumes.at(found->second);
}

Result<NodeId> StoreCore::resolve(const NodeName& name) const {
  const VolumeRow* volume = find_volume(name.volume);
  if (volume == nullptr) {
    return error(Code::kNotFound, "there is no volume {}", quoted(name.volume));
  }
  if (!name.is_snapshot()) {
    if (volume->head != kNoNode) return volume->head;
    return error(Code::kNotFound, "volume {} was deleted; its snapshots remain: clone one of them",
                 quoted(name.volume));
  }
  const auto found = snapshot_names.find({volume->id, name.snapshot});
  if (found != snapshot_names.end()) return found->second;
  return error(Code::kNotFound, "volume {} has no snapshot {}", quoted(name.volume),
               quoted(name.snapshot));
}

Result<NodeId> StoreCore::resolve(std::string_view text) const {
  VT_ASSIGN_OR_RETURN(const NodeName name, parse_node_name(text));
  return resolve(name);
}

NodeName StoreCore::name_of(NodeId id) const {
  const Lineage::Node* node = lineage.find(id);
  if (node == nullptr || node->row.kind == NodeKind::kJunction) return {};
  const auto volume = volumes.find(node->row.volume);
  if (volume == volumes.end()) return {};
  return {volume->second.name, node->row.snapshot};
}

std::string StoreCore::origin_of(NodeId id) const {
  const Lineage::Node* node = lineage.find(id);
  for (; node != nullptr; node = lineage.find(node->row.parent)) {
    if (node->row.kind != NodeKind::kJunction) return name_of(node->row.id).str();
  }
  return {};
}

bool StoreCore::attached(NodeId id) const {
  return std::any_of(attachments.begin(), attachments.end(),
                     [id](const auto& entry) { return entry.second.node == id; });
}

Status StoreCore::check_unused(NodeId id, bool claims_count) const {
  if (attached(id)) {
    return error(Code::kBusy, "{} is attached: detach it first", quoted(name_of(id).str()));
  }
  const auto claimed = claims.find(id);
  if (claimed == claims.end() || !claims_count) return {};
  return error(Code::kBusy, "{} is in use over NBD ({} connection{}): disconnect it first",
               quoted(name_of(id).str()), claimed->second, claimed->second == 1 ? "" : "s");
}

Status StoreCore::check_no_snapshots(const VolumeRow& volume) const {
  const auto first = snapshot_names.lower_bound({volume.id, std::string()});
  if (first == snapshot_names.end() || first->first.first != volume.id) return {};
  return error(Code::kBusy, "volume {} has the snapshot {}", quoted(volume.name),
               quoted(first->first.second));
}

Status StoreCore::check_free_name(const std::string& volume) const {
  VT_RETURN_IF_ERROR(check_name(volume));
  const VolumeRow* taken = find_volume(volume);
  if (taken == nullptr) return {};
  if (taken->head != kNoNode)
    return error(Code::kExists, "volume {} exists already", quoted(volume));
  return error(Code::kExists,
               "volume {} was deleted, but its snapshots still use the name: delete them first",
               quoted(volume));
}

Status StoreCore::check_free_snapshot(const VolumeRow& volume, const std::string& snapshot) const {
  VT_RETURN_IF_ERROR(check_name(snapshot));
  if (!snapshot_names.contains({volume.id, snapshot})) return {};
  return error(Code::kExists, "volume {} has a snapshot {} already", quoted(volume.name),
               quoted(snapshot));
}

// --- Commits.

Task<Result<NodeId>> StoreCore::new_node_id() {
  if (node_ids.empty()) {
    std::vector<NodeId> ids;
    VT_CO_RETURN_IF_ERROR(co_await engine.commit([&ids](CatalogDb& db) -> Status {
      for (std::size_t i = 0; i < kNodeIdBatch; ++i) {
        VT_ASSIGN_OR_RETURN(const NodeId id, db.next_id("node"));
        ids.push_back(id);
      }
      return {};
    }));
    node_ids.assign(ids.rbegin(), ids.rend());
  }
  const NodeId id = node_ids.back();
  node_ids.pop_back();
  co_return id;
}

Task<Status> StoreCore::load_indexes(Lineage& next, std::vector<LayerId> ids, bool durable) {
  for (const LayerId id : ids) {
    const std::shared_ptr<Layer> layer = engine.layers().find(id);
    if (layer == nullptr) co_return error(Code::kDamaged, "layer {:08x} has no catalog row", id);
    VT_CO_RETURN_IF_ERROR(co_await layer->ensure_index(engine.catalog()));
    const std::lock_guard guard(layer->mutex);
    next.set_index(id, durable ? layer->state.durable_index : layer->state.index);
  }
  co_return Status();
}

Task<Status> StoreCore::flush_open(const std::vector<NodeId>& nodes) {
  for (const NodeId node : nodes) {
    const std::shared_ptr<Volume> volume = open_volume(node);
    if (volume != nullptr && !volume->dead()) VT_CO_RETURN_IF_ERROR(co_await volume->flush());
  }
  co_return Status();
}

ErasePolicy StoreCore::policy_for(NodeId node, std::optional<ErasePolicy> wanted) const {
  if (wanted) return *wanted;
  const std::lock_guard guard(state_mutex);
  const Lineage::Node* found = lineage.find(node);
  if (found != nullptr) {
    const auto volume = volumes.find(found->row.volume);
    if (volume != volumes.end() && volume->second.erase_policy) return *volume->second.erase_policy;
  }
  return erase_policy;
}

Lineage StoreCore::copy_lineage() {
  const std::lock_guard guard(state_mutex);
  fresh_layers.clear();
  return lineage;
}

void StoreCore::publish(Lineage next, const std::function<void()>& update_names) {
  const std::lock_guard guard(state_mutex);
  for (const LayerId id : fresh_layers) {
    // Made while the change ran: unless the change has dealt with it, it is still its maker's.
    const std::shared_ptr<Layer> layer = engine.layers().find(id);
    if (layer == nullptr) continue;
    const Lineage::Node* owner = next.find(layer->owner());
    if (owner == nullptr) continue;
    if (std::find(owner->owned.begin(), owner->owned.end(), id) == owner->owned.end()) {
      next.own(layer->owner(), id);
    }
  }
  lineage = std::move(next);
  if (update_names) update_names();
  index_names();
  generation.fetch_add(1, std::memory_order_release);
}

namespace {

// Rewrites the index rows of a layer that lost blocks: only the regions that differ.
Status put_index_changes(CatalogDb& db, LayerId layer, const ExtentMap& before,
                         const ExtentMap& after) {
  std::set<std::uint64_t> regions;
  for_each_difference(before, after, [&regions](const BlockRange& range) {
    for (std::uint64_t r = range.first / kRegionBlocks; r <= (range.end() - 1) / kRegionBlocks;
         ++r) {
      regions.insert(r);
    }
  });
  for (const std::uint64_t region : regions) {
    VT_RETURN_IF_ERROR(db.put_region({layer, region, encode_region(after, region), true}));
  }
  return {};
}

Status put_plan(CatalogDb& db, const Lineage& next, const LineagePlan& plan,
                const std::map<LayerId, ExtentMap>& before) {
  for (const NodeId id : plan.changed_nodes) VT_RETURN_IF_ERROR(db.put_node(next.find(id)->row));
  for (const auto& [id, index] : plan.new_indexes) {
    VT_RETURN_IF_ERROR(put_index_changes(db, id, before.at(id), index));
  }
  return {};
}

Status remove_planned(CatalogDb& db, const LineagePlan& plan) {
  for (const auto& entry : plan.erased_layers) VT_RETURN_IF_ERROR(db.remove_layer(entry.first));
  for (const NodeId id : plan.removed_nodes) {
    VT_RETURN_IF_ERROR(db.remove_saved_map(id));
    VT_RETURN_IF_ERROR(db.remove_node(id));
  }
  return {};
}

Status put_erase_job(CatalogDb& db, StoreCore::EraseJob& job, const LineagePlan& plan) {
  if (plan.erased_layers.empty() && plan.erased_ranges.empty()) return {};
  VT_ASSIGN_OR_RETURN(job.request.id, db.next_id("erase"));
  VT_RETURN_IF_ERROR(db.put_erase_request(job.request));
  job.items.clear();
  for (const auto& [id, blocks] : plan.erased_layers) {
    EraseItemRow item;
    item.layer = id;
    item.whole_layer = true;
    item.estimated_bytes = blocks * kBlockBytes;
    job.items.push_back(std::move(item));
  }
  for (const auto& [id, ranges] : plan.erased_ranges) {
    EraseItemRow item;
    item.layer = id;
    item.estimated_bytes = ranges.mapped_blocks() * kBlockBytes;
    std::vector<std::string> chunks = encode_map(ranges, SIZE_MAX);
    item.ranges = std::move(chunks.front());
    job.items.push_back(std::move(item));
  }
  for (EraseItemRow& item : job.items) {
    VT_ASSIGN_OR_RETURN(item.id, db.next_id("item"));
    item.request = job.request.id;
    VT_RETURN_IF_ERROR(db.put_erase_item(item));
  }
  return {};
}

}  // namespace

Task<Result<std::uint64_t>> StoreCore::commit_change(Change change) {
  const LineagePlan& plan = change.plan;
  std::map<LayerId, ExtentMap> before;
  for (const auto& entry : plan.new_indexes) {
    const std::shared_ptr<Layer> layer = engine.layers().find(entry.first);
    const std::lock_guard guard(layer->mutex);
    before[entry.first] = layer->state.durable_index;
  }
  std::vector<LayerRow> moved;
  for (const auto& [id, owner] : plan.moved_layers) {
    LayerRow row = row_of(*engine.layers().find(id));
    row.owner = owner;
    moved.push_back(row);
  }
  EraseJob job;
  job.request.what = std::move(change.what);
  job.request.policy = change.erase.policy;
  job.request.first_bytes = change.erase.first_bytes;
  job.request.io_priority = change.erase.io_priority;
  job.request.requested_ns = engine.runtime().wall_now().count();
  const bool frees =
      !plan.erased_layers.empty() || !plan.erased_ranges.empty() || !plan.removed_nodes.empty();
  const Catalog::Change write_rows = [&](CatalogDb& db) -> Status {
    if (change.extra) VT_RETURN_IF_ERROR(change.extra(db));
    VT_RETURN_IF_ERROR(put_plan(db, change.next, plan, before));
    for (const LayerRow& row : moved) VT_RETURN_IF_ERROR(db.put_layer(row));
    VT_RETURN_IF_ERROR(put_erase_job(db, job, plan));
    VT_RETURN_IF_ERROR(remove_planned(db, plan));
    return change.after_plan ? change.after_plan(db) : Status();
  };
  Status committed;  // (no ?: around co_await: GCC 12 destroys its temporaries twice)
  if (frees) {
    committed = co_await engine.commit_freeing(write_rows);
  } else {
    committed = co_await engine.commit(write_rows);
  }
  if (!committed.ok()) {
    co_return committed;
  }
  apply_indexes(plan, before);
  hand_over_layers(change.next, plan);
  publish(std::move(change.next), change.update_names);
  if (change.committed) co_await change.committed();
  // From here on no map leads to them; reads under way hold their own references.
  for (const auto& entry : plan.erased_layers) engine.layers().remove(entry.first);
  if (job.items.empty()) co_return std::uint64_t{0};
  const std::uint64_t request = job.request.id;
  eraser.add(std::move(job.request), std::move(job.items));
  wake_eraser();
  co_return request;
}

// The live index may be ahead of the durable one: it takes the plan's differences, not the plan's
// index.
void StoreCore::apply_indexes(const LineagePlan& plan, const std::map<LayerId, ExtentMap>& before) {
  for (const auto& [id, after] : plan.new_indexes) {
    const std::shared_ptr<Layer> layer = engine.layers().find(id);
    const std::lock_guard guard(layer->mutex);
    Layer::State& state = layer->state;
    const ExtentMap& index = after;
    for_each_difference(before.at(id), index, [&state, &index](const BlockRange& range) {
      index.for_each(range.first, range.count, [&state](const Extent& extent) {
        state.index.assign(extent.first, extent.count, extent.value);
      });
      for (std::uint64_t region = range.first / kRegionBlocks;
           region <= (range.end() - 1) / kRegionBlocks; ++region) {
        state.dirty_regions.insert(region);  // as put_index_changes wrote it
        state.settling_regions.erase(region);
      }
    });
    state.durable_index = index;
  }
}

// Who owns a layer may write into it in place: an open volume learns of its new layers at once,
// with its map locked.
void StoreCore::hand_over_layers(const Lineage& next, const LineagePlan& plan) {
  std::map<NodeId, std::vector<std::shared_ptr<Layer>>> gained;
  for (const auto& [id, owner] : plan.moved_layers) {
    gained[owner].push_back(engine.layers().find(id));
  }
  for (auto& [owner, layers] : gained) {
    const std::shared_ptr<Volume> volume = open_volume(owner);
    if (volume != nullptr) {
      volume->adopt(std::move(layers), next.find(owner)->row.parent != kNoNode);
    } else {
      for (const auto& layer : layers) layer->set_owner(owner);
    }
  }
  const std::lock_guard guard(state_mutex);
  for (const NodeId id : plan.removed_nodes) {
    saved_maps.erase(id);
    std::erase_if(map_cache, [id](const auto& entry) { return entry.first == id; });
    devices.erase(id);
  }
}

// --- Maps and open nodes.

void StoreCore::cache_map(NodeId node, ExtentMap map) {
  const std::lock_guard guard(state_mutex);
  std::erase_if(map_cache, [node](const auto& entry) { return entry.first == node; });
  map_cache.emplace_front(node, std::move(map));
  if (map_cache.size() > kMapCacheEntries) map_cache.pop_back();
}

Task<Result<ExtentMap>> StoreCore::build_map(NodeId node) {
  std::vector<NodeId> path;  // the nodes to merge, newest first
  ExtentMap map;
  NodeId saved = kNoNode;
  {
    const std::lock_guard guard(state_mutex);
    for (const NodeId id : lineage.ancestry(node)) {
      const auto cached = std::find_if(map_cache.begin(), map_cache.end(),
                                       [id](const auto& entry) { return entry.first == id; });
      if (cached != map_cache.end()) {
        map = cached->second;
        break;
      }
      if (saved_maps.contains(id)) {
        saved = id;
        break;
      }
      path.push_back(id);
    }
  }
  if (saved != kNoNode) {
    using Chunks = std::optional<std::vector<std::string>>;
    VT_CO_ASSIGN_OR_RETURN(Chunks chunks,
                           co_await engine.catalog().read<Chunks>(
                               [saved](CatalogDb& db) { return db.saved_map(saved); }));
    if (!chunks) co_return error(Code::kDamaged, "the saved map of node {} is missing", saved);
    VT_CO_ASSIGN_OR_RETURN(map, decode_map(*chunks));
  }
  for (std::size_t i = path.size(); i-- > 0;) {
    std::vector<LayerId> owned;
    {
      const std::lock_guard guard(state_mutex);
      owned = lineage.find(path[i])->owned;
    }
    for (const LayerId id : owned) {
      const std::shared_ptr<Layer> layer = engine.layers().find(id);
      if (layer == nullptr) co_return error(Code::kDamaged, "layer {:08x} has no row", id);
      VT_CO_RETURN_IF_ERROR(co_await layer->ensure_index(engine.catalog()));
      const std::lock_guard guard(layer->mutex);
      apply_layer(map, layer->state.index, id);
    }
  }
  co_return map;
}

std::shared_ptr<Volume> StoreCore::open_volume(NodeId node) const {
  const std::lock_guard guard(state_mutex);
  return open_volume_locked(node);
}

std::shared_ptr<Volume> StoreCore::open_volume_locked(NodeId node) const {
  const auto found = devices.find(node);
  return found == devices.end() ? nullptr : found->second;
}

Task<Result<std::shared_ptr<Volume>>> StoreCore::open_node(NodeId node) {
  if (auto open = open_volume(node)) co_return open;
  NodeRow row;
  std::vector<LayerId> owned;
  std::size_t unsaved_depth = 0;
  {
    const std::lock_guard guard(state_mutex);
    const Lineage::Node* found = lineage.find(node);
    row = found->row;
    owned = found->owned;
    for (const NodeId id : lineage.ancestry(node)) {
      if (saved_maps.contains(id)) break;
      ++unsaved_depth;
    }
  }
  // Deep histories open fast the next time: the parent is sealed, so its merged map holds for ever.
  if (unsaved_depth > kSaveMapDepth && row.parent != kNoNode && !engine.read_only()) {
    VT_CO_ASSIGN_OR_RETURN(ExtentMap map, co_await build_map(row.parent));
    const std::vector<std::string> chunks = encode_map(map);
    const NodeId parent = row.parent;
    VT_CO_RETURN_IF_ERROR(co_await engine.commit(
        [parent, &chunks](CatalogDb& db) { return db.put_saved_map(parent, chunks); }));
    {
      const std::lock_guard guard(state_mutex);
      saved_maps.insert(parent);
    }
    cache_map(parent, std::move(map));
  }
  VolumeState state;
  state.node = node;
  state.writable = row.kind == NodeKind::kHead;
  state.has_parent = row.parent != kNoNode;
  state.size_bytes = row.size_bytes;
  {
    const std::lock_guard guard(state_mutex);
    state.qos = limits_of(row);
  }
  VT_CO_ASSIGN_OR_RETURN(state.map, co_await build_map(node));
  for (const LayerId id : owned) state.owned.push_back(engine.layers().find(id));
  // Its newest layer goes on taking new blocks, unless some of its blocks wait for the eraser.
  state.newest_is_active =
      state.writable && !owned.empty() && state.owned.back()->size_bytes() >= row.size_bytes &&
      !state.owned.back()->failed() && eraser.pending_ranges(owned.back()).empty();
  auto volume = std::make_shared<Volume>(engine, std::move(state));
  const std::lock_guard guard(state_mutex);
  devices[node] = volume;
  if (limits_lifted) volume->set_qos({});
  volume->set_promise_left(promise_left(row.volume));
  co_return volume;
}

}  // namespace voltree
