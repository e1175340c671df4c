// check(): whether the store is what it must be. Online: it runs beside readers and writers.
#include <algorithm>
#include <map>

#include "blockstore/base/checksum.h"
#include "blockstore/check_blocks.h"
#include "blockstore/store_core.h"
#include "blockstore/store_handover.h"

namespace voltree {
namespace {

constexpr std::size_t kFindingsMax = 1000;

class Checker {
 public:
  Checker(StoreCore& core, CheckOptions options) : core_(core), options_(std::move(options)) {}

  Task<Result<CheckReport>> run() {
    VT_CO_RETURN_IF_ERROR(co_await check_catalog());
    check_lineage();
    for (const std::shared_ptr<Layer>& layer : core_.engine.layers().all()) {
      VT_CO_RETURN_IF_ERROR(co_await check_layer(layer));
    }
    VT_CO_RETURN_IF_ERROR(co_await check_strays());
    VT_CO_RETURN_IF_ERROR(co_await check_visibility());
    if (options_.data) {
      for (const std::shared_ptr<Layer>& layer : core_.engine.layers().all()) {
        VT_CO_RETURN_IF_ERROR(co_await check_data(layer));
      }
    }
    if (options_.data && report_.sound()) co_await forget_failure();
    co_return std::move(report_);
  }

 private:
  template <typename... Args>
  void damage(fmt::format_string<Args...> format, Args&&... args) {
    report_.findings.push_back({true, fmt::format(format, std::forward<Args>(args)...)});
  }
  template <typename... Args>
  void hint(fmt::format_string<Args...> format, Args&&... args) {
    report_.findings.push_back({false, fmt::format(format, std::forward<Args>(args)...)});
  }

  Task<Status> check_catalog() {
    using Lines = std::vector<std::string>;
    VT_CO_ASSIGN_OR_RETURN(const Lines lines,
                           co_await core_.engine.catalog().read<Lines>(
                               [](CatalogDb& db) { return db.integrity_check(); }));
    for (const std::string& line : lines) damage("catalog: {}", line);
    co_return Status();
  }

  void check_lineage() {
    const std::lock_guard lock(core_.state_mutex);
    for (const auto& [id, node] : core_.lineage.nodes()) {
      ++report_.nodes;
      const std::string name = core_.name_of(id).str();
      if (node.row.kind == NodeKind::kHead && !node.children.empty()) {
        damage("volume {} has children, though only snapshots may", quoted(name));
      }
      if (node.row.kind == NodeKind::kJunction && node.children.size() < 2) {
        damage("junction {} has {} children instead of two or more", id, node.children.size());
      }
      if (node.row.kind != NodeKind::kJunction && !core_.volumes.contains(node.row.volume)) {
        damage("node {} belongs to volume {}, which is not there", id, node.row.volume);
      }
    }
    for (const auto& [id, volume] : core_.volumes) {
      const Lineage::Node* head = core_.lineage.find(volume.head);
      if (volume.head != kNoNode && (head == nullptr || head->row.kind != NodeKind::kHead)) {
        damage("volume {} has no head", quoted(volume.name));
      }
    }
  }

  // Index against sums: every block of data has a sum, and no other block has one.
  Task<Status> check_layer(std::shared_ptr<Layer> checked) {
    Layer& layer = *checked;
    ++report_.layers;
    Status opened = co_await layer.ensure_index(core_.engine.catalog());
    if (opened.ok()) opened = co_await layer.ensure_open();
    if (!opened.ok()) {
      broken_.insert(layer.id());
      ExtentMap all;
      {
        const std::lock_guard lock(layer.mutex);
        all = layer.state.index;
      }
      const auto names = co_await names_seeing(core_, checked, all);
      damage("layer {:08x}: {} ({})", layer.id(), opened.message(), seen_by_text(names));
      co_return Status();
    }
    ExtentMap index;
    {
      const std::lock_guard lock(layer.mutex);
      index = layer.state.index;
    }
    const std::uint64_t end = blocks_of_bytes(layer.size_bytes());
    if (index.end_block() > end) {
      damage("layer {:08x}: its index goes beyond its {} blocks", layer.id(), end);
      broken_.insert(layer.id());
      co_return Status();
    }
    std::vector<Extent> extents;
    index.for_each_extent([&extents](const Extent& extent) { extents.push_back(extent); });
    for (const Extent& extent : extents) {
      if (extent.value != kIndexData) continue;
      report_.blocks += extent.count;
      VT_CO_RETURN_IF_ERROR(co_await layer.touch_sums({extent.first, extent.count}, false));
      for (std::uint64_t block = extent.first; block < extent.end(); ++block) {
        if (layer.sum(block) > kSumTombstone) continue;
        VT_CO_RETURN_IF_ERROR(layer.sums().failure());
        {  // it may have been discarded since the index was copied
          const std::lock_guard lock(layer.mutex);
          if (layer.state.index.at(block) != kIndexData) continue;
        }
        damage("layer {:08x}: block {} is in the index but has no checksum", layer.id(), block);
        if (report_.findings.size() > kFindingsMax) co_return Status();
      }
    }
    co_return Status();
  }

  // All of the store has been read and is well: what a failure of an earlier run left to look at
  // has been looked at.
  Task<void> forget_failure() {
    (void)co_await core_.engine.runtime().run_blocking([this]() -> Status {
      FileSystem& fs = core_.engine.runtime().fs();
      const std::string path = Engine::needs_check_path(core_.engine.directory());
      VT_ASSIGN_OR_RETURN(const bool there, fs.exists(path));
      if (core_.engine.read_only()) return {};
      core_.engine.inflight().set_failed(false);
      return there ? fs.unlink(path) : Status();
    });
  }

  Task<Status> check_strays() {
    VT_CO_ASSIGN_OR_RETURN(const auto stray, co_await core_.engine.runtime().run_blocking(
                                                 [this] { return stray_layers(core_); }));
    for (const LayerId id : stray) {
      if (core_.engine.layers().find(id) != nullptr) continue;  // made meanwhile
      hint("{} belongs to no volume: it can be removed",
           Layer::data_path(core_.engine.directory(), id));
    }
    VT_CO_ASSIGN_OR_RETURN(const auto given, co_await core_.engine.runtime().run_blocking(
                                                 [this] { return given_volumes(core_); }));
    for (const GivenVolume& volume : given) {
      hint("volume {} left for another store, which has not taken it: it is {}; move it again",
           quoted(volume.name), volume.data);
    }
    co_return Status();
  }

  // The invariant of lineage.h: what nobody sees is on the erase queue, or will be at the next
  // sweep.
  Task<Status> check_visibility() {
    const AsyncMutex::Guard guard = co_await core_.ops_mutex.lock();
    Lineage next = core_.copy_lineage();
    std::vector<LayerId> layers;
    for (const auto& entry : next.nodes()) {
      for (const LayerId layer : entry.second.owned) {
        if (!broken_.contains(layer)) layers.push_back(layer);
      }
    }
    if (!broken_.empty()) co_return Status();
    VT_CO_RETURN_IF_ERROR(co_await core_.load_indexes(next, layers, true));
    std::vector<NodeId> nodes;
    for (const auto& entry : next.nodes()) nodes.push_back(entry.first);
    LineagePlan plan;
    for (const NodeId id : nodes) next.trim(id, plan);
    if (plan.freed_blocks != 0) {
      hint("{} are seen by no volume and go to the eraser at the next sweep",
           format_size(plan.freed_blocks * kBlockBytes));
    }
    co_return Status();
  }

  Task<Status> check_data(std::shared_ptr<Layer> layer) {
    if (broken_.contains(layer->id())) co_return Status();
    std::map<std::string, ExtentMap> bad;  // by why
    BlockCheck check;
    check.damaged = [&bad](std::uint64_t block, std::string_view why) {
      bad[std::string(why)].assign(block, 1, 1);
    };
    check.step = [this](std::uint64_t bytes, std::uint64_t) { return after_step(bytes); };
    VT_CO_RETURN_IF_ERROR(co_await check_blocks(core_, layer, 0, check));
    for (const auto& [why, blocks] : bad) {
      const std::size_t room = kFindingsMax - std::min(kFindingsMax, report_.findings.size());
      const auto runs = co_await seen_runs(core_, layer, blocks, room);
      for (const SeenRun& run : runs) {
        const std::string which =
            run.blocks.count == 1
                ? fmt::format("block {}", run.blocks.first)
                : fmt::format("blocks {} to {}", run.blocks.first, run.blocks.end() - 1);
        damage("layer {:08x}: {}: {}; {}", layer->id(), which, why, seen_by_text(run.names));
      }
      if (runs.empty()) damage("layer {:08x}: more blocks are damaged", layer->id());
    }
    co_return Status();
  }

  Task<bool> after_step(std::uint64_t bytes) {
    report_.verified_bytes += bytes;
    if (options_.progress) options_.progress(report_.verified_bytes, report_.blocks * kBlockBytes);
    co_return true;
  }

  StoreCore& core_;
  CheckOptions options_;
  CheckReport report_;
  std::set<LayerId> broken_;
};

}  // namespace

bool CheckReport::sound() const {
  return std::none_of(findings.begin(), findings.end(),
                      [](const CheckFinding& finding) { return finding.damage; });
}

Task<Result<CheckReport>> Store::check(CheckOptions options) {
  Checker checker(*core_, std::move(options));
  co_return co_await checker.run();
}

}  // namespace voltree
