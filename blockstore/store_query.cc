// Questions about a store, attachments, and the eraser's door.
#include <algorithm>

#include "blockstore/store_core.h"
#include "blockstore/store_scrub.h"

namespace voltree {
namespace {

// The lineage with every index that the deletes of `nodes` look at: exclusive bytes are a delete
// that is not committed.
Task<Result<std::uint64_t>> freed_by(StoreCore& core, std::vector<NodeId> nodes) {
  Lineage next = core.copy_lineage();
  LineagePlan plan;
  for (const NodeId id : nodes) {
    for (const LayerId layer_id : next.needed_for_remove(id)) {
      if (next.has_index(layer_id)) continue;
      VT_CO_RETURN_IF_ERROR(
          co_await core.load_indexes(next, std::vector<LayerId>(1, layer_id), false));
    }
    next.remove(id, plan);
  }
  co_return plan.freed_blocks* kBlockBytes;
}

Task<Result<ExtentMap>> map_now(StoreCore& core, NodeId id) {
  if (const auto volume = core.open_volume(id)) co_return volume->map();
  co_return co_await core.build_map(id);
}

std::string_view consequence_of(GuardState state) {
  switch (state) {
    case GuardState::kRoom:
    case GuardState::kWarn:
      break;
    case GuardState::kFull:
      return ": writes fail with ENOSPC until something is deleted";
    case GuardState::kStop:
      return ", the pool guard gives out nothing more";
  }
  return "";
}

}  // namespace

NodeInfo StoreCore::info_of(NodeId id) const {
  return info_of(id, lineage.depth(id), engine.layers().failed());
}

NodeInfo StoreCore::info_of(NodeId id, std::uint32_t depth, const FailedLayers& failed) const {
  const Lineage::Node& node = *lineage.find(id);
  NodeInfo info;
  info.name = name_of(id);
  info.id = id;
  info.kind = node.row.kind;
  info.parent = node.row.parent;
  info.origin = origin_of(node.row.parent);
  info.size_bytes = node.row.size_bytes;
  info.created_ns = node.row.created_ns;
  info.depth = depth;
  info.open = devices.contains(id);
  info.attached = attached(id);
  if (const auto claimed = claims.find(id); claimed != claims.end()) {
    info.connections = claimed->second;
  }
  if (node.row.kind == NodeKind::kHead) info.settings = settings_of(node.row);
  std::vector<NodeId> below(node.children);
  while (!below.empty()) {
    const Lineage::Node& child = *lineage.find(below.back());
    below.pop_back();
    if (child.row.kind == NodeKind::kJunction) {
      below.insert(below.end(), child.children.begin(), child.children.end());
    } else {
      info.children.push_back(name_of(child.row.id).str());
    }
  }
  std::sort(info.children.begin(), info.children.end());
  if (failed.empty()) return info;
  const std::vector<NodeId> path = lineage.ancestry(id);
  for (const std::shared_ptr<Layer>& layer : failed) {
    if (std::find(path.begin(), path.end(), layer->owner()) == path.end()) continue;
    info.failed_layers.push_back(layer->id());
  }
  return info;
}

Task<Result<NodeInfo>> Store::info(std::string name) {
  const std::lock_guard lock(core_->state_mutex);
  VT_CO_ASSIGN_OR_RETURN(const NodeId id, core_->resolve(name));
  co_return core_->info_of(id);
}

Task<std::vector<NodeInfo>> Store::list(bool with_junctions) {
  const StoreCore& core = *core_;
  std::vector<NodeInfo> all;
  const std::lock_guard lock(core.state_mutex);
  const std::map<NodeId, std::uint32_t> depths = core.lineage.depths();
  const StoreCore::FailedLayers failed = core.engine.layers().failed();
  for (const auto& entry : core.lineage.nodes()) {
    if (entry.second.row.kind == NodeKind::kJunction && !with_junctions) continue;
    all.push_back(core.info_of(entry.first, depths.at(entry.first), failed));
  }
  std::sort(all.begin(), all.end(), [](const NodeInfo& a, const NodeInfo& b) {
    return std::tie(a.name.volume, a.name.snapshot, a.id) <
           std::tie(b.name.volume, b.name.snapshot, b.id);
  });
  co_return all;
}

Task<std::vector<NodeName>> Store::names() {
  const StoreCore& core = *core_;
  std::vector<NodeName> all;
  const std::lock_guard lock(core.state_mutex);
  for (const auto& [name, volume] : core.volume_names) {
    if (core.volumes.at(volume).head != kNoNode) all.push_back({name, {}});
    for (auto at = core.snapshot_names.lower_bound({volume, {}});
         at != core.snapshot_names.end() && at->first.first == volume; ++at) {
      all.push_back({name, at->first.second});
    }
  }
  co_return all;
}

Task<std::vector<NodeName>> Store::snapshots_of(std::string volume) {
  const StoreCore& core = *core_;
  std::vector<NodeName> all;
  const std::lock_guard lock(core.state_mutex);
  const auto found = core.volume_names.find(volume);
  if (found == core.volume_names.end()) co_return all;
  for (auto at = core.snapshot_names.lower_bound({found->second, {}});
       at != core.snapshot_names.end() && at->first.first == found->second; ++at) {
    all.push_back({volume, at->first.second});
  }
  co_return all;
}

Task<Result<NodeUsage>> Store::usage(std::string name) {
  StoreCore& core = *core_;
  const AsyncMutex::Guard guard = co_await core.ops_mutex.lock();
  NodeId id = kNoNode;
  NodeUsage usage;
  {
    const std::lock_guard lock(core.state_mutex);
    VT_CO_ASSIGN_OR_RETURN(id, core.resolve(name));
    usage.virtual_bytes = core.lineage.find(id)->row.size_bytes;
  }
  if (const auto volume = core.open_volume(id)) {
    usage.referenced_bytes = volume->referenced_bytes();
  } else {
    VT_CO_ASSIGN_OR_RETURN(const ExtentMap map, co_await core.build_map(id));
    usage.referenced_bytes = map.mapped_blocks() * kBlockBytes;
  }
  VT_CO_ASSIGN_OR_RETURN(usage.exclusive_bytes,
                         co_await freed_by(core, std::vector<NodeId>(1, id)));
  co_return usage;
}

Task<Result<std::uint64_t>> Store::exclusive_of(std::vector<std::string> names) {
  StoreCore& core = *core_;
  const AsyncMutex::Guard guard = co_await core.ops_mutex.lock();
  std::vector<NodeId> nodes;
  {
    const std::lock_guard lock(core.state_mutex);
    for (const std::string& name : names) {
      VT_CO_ASSIGN_OR_RETURN(const NodeId id, core.resolve(name));
      if (std::find(nodes.begin(), nodes.end(), id) == nodes.end()) nodes.push_back(id);
    }
  }
  co_return co_await freed_by(core, std::move(nodes));
}

Task<Result<ExtentPage>> Store::extents(std::string name, ListPart part) {
  StoreCore& core = *core_;
  const AsyncMutex::Guard guard = co_await core.ops_mutex.lock();
  NodeId id = kNoNode;
  {
    const std::lock_guard lock(core.state_mutex);
    VT_CO_ASSIGN_OR_RETURN(id, core.resolve(name));
  }
  VT_CO_ASSIGN_OR_RETURN(const ExtentMap map, co_await map_now(core, id));
  ExtentPage page;
  std::map<LayerId, std::size_t> numbers;
  for (auto at = map.next_extent(part.from_bytes / kBlockBytes); at;
       at = map.next_extent(at->end())) {
    const ByteRange range{at->first * kBlockBytes, at->count * kBlockBytes};
    if (page.extents.size() == part.limit) {
      page.next_from_bytes = range.offset_bytes;
      break;
    }
    const auto [number, added] = numbers.try_emplace(at->value, page.files.size());
    if (added) page.files.push_back(Layer::data_path(core.engine.directory(), at->value));
    page.extents.push_back({range, number->second});
  }
  co_return page;
}

Task<Result<DiffPage>> Store::diff(std::string a, std::string b, ListPart part) {
  StoreCore& core = *core_;
  const AsyncMutex::Guard guard = co_await core.ops_mutex.lock();
  std::vector<NodeId> nodes;
  std::uint64_t end_bytes = 0;
  {
    const std::lock_guard lock(core.state_mutex);
    for (const std::string& name : {a, b}) {
      VT_CO_ASSIGN_OR_RETURN(const NodeId id, core.resolve(name));
      nodes.push_back(id);
      end_bytes = std::max(end_bytes, core.lineage.find(id)->row.size_bytes);
    }
  }
  // A block is the same exactly when both see it in the same layer: what a head writes in place is
  // in a layer that nobody else sees.
  std::vector<ExtentMap> maps(2);
  for (std::size_t i = 0; i < 2; ++i) {
    VT_CO_ASSIGN_OR_RETURN(maps[i], co_await map_now(core, nodes[i]));
  }
  const std::uint64_t from_bytes = part.from_bytes / kBlockBytes * kBlockBytes;
  DiffPage page;
  for_each_difference(maps[0], maps[1], [&](const BlockRange& range) {
    std::uint64_t begin = range.first * kBlockBytes;
    const std::uint64_t end = std::min(range.end() * kBlockBytes, end_bytes);
    if (begin >= end) return;
    ++page.range_count;
    page.changed_bytes += end - begin;
    begin = std::max(begin, from_bytes);
    if (begin >= end || page.next_from_bytes) return;
    if (page.ranges.size() == part.limit) {
      page.next_from_bytes = begin;
    } else {
      page.ranges.push_back({begin, end - begin});
    }
  });
  co_return page;
}

Task<Status> Store::start_scrub(std::uint64_t rate_bytes, bool restart) {
  co_return co_await core_->scrubber->start(rate_bytes, restart);
}

Task<void> Store::stop_scrub() { co_await core_->scrubber->stop(); }

Task<Status> Store::wait_scrub() { co_return co_await core_->scrubber->wait(); }

ScrubInfo Store::scrub() const { return core_->scrubber->info(); }

const std::string& Store::uuid() const { return core_->uuid; }

Task<Result<PoolInfo>> Store::pool() {
  StoreCore& core = *core_;
  VT_CO_RETURN_IF_ERROR(co_await core.look_at_host());
  PoolInfo pool;
  std::vector<LayerId> layers;
  {
    const std::lock_guard lock(core.state_mutex);
    pool.directory = core.engine.directory();
    pool.uuid = core.uuid;
    pool.copied_from = core.copied_from;
    pool.erase_policy = core.erase_policy;
    pool.erase_rate_bytes = core.erase_rate_bytes.load();
    pool.warning = core.warning;
    pool.guard = {core.guard_settings, core.guard_state(), core.host_promised_bytes};
    if (pool.guard.state != GuardState::kRoom && pool.warning.empty()) {
      pool.warning = fmt::format("the host has {} free{}", format_size(core.host_free_bytes),
                                 consequence_of(pool.guard.state));
    }
    for (const auto& entry : core.lineage.nodes()) {
      const NodeRow& row = entry.second.row;
      if (row.kind == NodeKind::kHead) {
        ++pool.volumes;
        pool.virtual_bytes += row.size_bytes;
      }
      if (row.kind == NodeKind::kSnapshot) ++pool.snapshots;
    }
  }
  for (const auto& layer : core.engine.layers().all()) layers.push_back(layer->id());
  pool.layers = layers.size();
  for (const Eraser::Queued& queued : core.eraser.queue()) {
    pool.erase_left_bytes += queued.left_bytes;
    for (const EraseItemRow& item : queued.items) {
      if (item.whole_layer) layers.push_back(item.layer);
    }
  }
  pool.read_only = core.engine.read_only();
  if (const Status writable = core.engine.check_writable(); !writable.ok()) {
    pool.warning = std::string(writable.message());
  }
  FileSystem& fs = core.engine.runtime().fs();
  VT_CO_RETURN_IF_ERROR(co_await core.engine.runtime().run_blocking([&]() -> Status {
    VT_ASSIGN_OR_RETURN(pool.host, fs.info(pool.directory));
    for (const LayerId id : layers) {
      for (const std::string& path :
           {Layer::data_path(pool.directory, id), Layer::sum_path(pool.directory, id)}) {
        auto file = fs.open(path, {.writable = false});
        if (!file.ok()) continue;  // erased meanwhile, or missing: check() names that
        VT_ASSIGN_OR_RETURN(const std::uint64_t bytes, (*file)->allocated_bytes());
        pool.allocated_bytes += bytes;
      }
    }
    return {};
  }));
  co_return pool;
}

StoreCounters Store::counters() const {
  const EngineCounters& from = core_->engine.counters();
  StoreCounters to;
  to.reads = from.reads;
  to.read_bytes = from.read_bytes;
  to.writes = from.writes;
  to.written_bytes = from.written_bytes;
  to.flushes = from.flushes;
  to.zeroes = from.zeroes;
  to.redirected_blocks = from.redirected_blocks;
  to.checksum_rereads = from.checksum_rereads;
  to.checksum_errors = from.checksum_errors;
  to.recovered_blocks = from.recovered_blocks;
  to.restamped_blocks = from.restamped_blocks;
  to.catalog_commits = core_->engine.catalog().commit_count();
  return to;
}

bool Store::read_only() const { return core_->engine.read_only(); }

std::uint64_t Store::generation() const {
  return core_->generation.load(std::memory_order_acquire);
}

// --- Attachments.

Task<Result<std::uint64_t>> Store::add_attachment(std::string name, AttachmentRow row) {
  StoreCore& core = *core_;
  const AsyncMutex::Guard guard = co_await core.ops_mutex.lock();
  VT_CO_RETURN_IF_ERROR(core.engine.check_writable());
  {
    const std::lock_guard lock(core.state_mutex);
    VT_CO_ASSIGN_OR_RETURN(row.node, core.resolve(name));
  }
  row.boot_id = core.engine.runtime().boot_id();
  row.created_ns = core.engine.runtime().wall_now().count();
  VT_CO_RETURN_IF_ERROR(co_await core.engine.commit([&row](CatalogDb& db) -> Status {
    VT_ASSIGN_OR_RETURN(row.id, db.next_id("attachment"));
    return db.put_attachment(row);
  }));
  const std::lock_guard lock(core.state_mutex);
  core.attachments[row.id] = row;
  co_return row.id;
}

Task<Status> Store::update_attachment(AttachmentRow row) {
  StoreCore& core = *core_;
  const AsyncMutex::Guard guard = co_await core.ops_mutex.lock();
  {
    const std::lock_guard lock(core.state_mutex);
    if (!core.attachments.contains(row.id)) {
      co_return error(Code::kNotFound, "there is no attachment {}", row.id);
    }
  }
  VT_CO_RETURN_IF_ERROR(
      co_await core.engine.commit([&row](CatalogDb& db) { return db.put_attachment(row); }));
  const std::lock_guard lock(core.state_mutex);
  core.attachments[row.id] = row;
  co_return Status();
}

Task<Status> Store::remove_attachment(std::uint64_t id) {
  StoreCore& core = *core_;
  const AsyncMutex::Guard guard = co_await core.ops_mutex.lock();
  {
    const std::lock_guard lock(core.state_mutex);
    if (!core.attachments.contains(id)) {
      co_return error(Code::kNotFound, "there is no attachment {}", id);
    }
  }
  VT_CO_RETURN_IF_ERROR(
      co_await core.engine.commit([id](CatalogDb& db) { return db.remove_attachment(id); }));
  const std::lock_guard lock(core.state_mutex);
  core.attachments.erase(id);
  co_return Status();
}

Task<std::vector<std::pair<NodeName, AttachmentRow>>> Store::attachments() {
  const std::lock_guard lock(core_->state_mutex);
  std::vector<std::pair<NodeName, AttachmentRow>> all;
  for (const auto& entry : core_->attachments) {
    all.emplace_back(core_->name_of(entry.second.node), entry.second);
  }
  co_return all;
}

// --- Erase.

Task<std::vector<EraseStatus>> Store::erase_queue() {
  std::vector<EraseStatus> all;
  for (const Eraser::Queued& queued : core_->eraser.queue()) {
    all.push_back({queued.request, queued.left_bytes, queued.items.size()});
  }
  co_return all;
}

Task<Status> Store::wait_erased(std::uint64_t request) {
  // Somebody waits: no rate limit.
  co_return co_await core_->eraser.drain(request, [] { return std::uint64_t{0}; });
}

Task<Result<std::vector<std::string>>> Store::certificates(std::uint64_t after_id,
                                                           std::size_t limit) {
  using Rows = std::vector<CertificateRow>;
  VT_CO_ASSIGN_OR_RETURN(const Rows rows,
                         co_await core_->engine.catalog().read<Rows>(
                             [=](CatalogDb& db) { return db.certificates(after_id, limit); }));
  std::vector<std::string> texts;
  for (const CertificateRow& row : rows) texts.push_back(row.json);
  co_return texts;
}

Task<Status> Store::set_erase(std::optional<ErasePolicy> policy,
                              std::optional<std::uint64_t> rate_bytes) {
  StoreCore& core = *core_;
  VT_CO_RETURN_IF_ERROR(co_await core.engine.commit([&](CatalogDb& db) -> Status {
    if (policy) {
      VT_RETURN_IF_ERROR(db.put_setting("erase_policy", std::string(erase_policy_name(*policy))));
    }
    return rate_bytes ? db.put_setting("erase_rate_bytes", std::to_string(*rate_bytes)) : Status();
  }));
  const std::lock_guard lock(core.state_mutex);
  if (policy) core.erase_policy = *policy;
  if (rate_bytes) core.erase_rate_bytes = *rate_bytes;
  co_return Status();
}

Task<Status> Store::settle() { return core_->settle_all(); }

Task<Status> Store::sweep() { return core_->sweep(); }

}  // namespace voltree
