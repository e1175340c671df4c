// What an open store does in the background.
#include <algorithm>

#include "blockstore/store_core.h"

namespace voltree {
namespace {

constexpr std::chrono::milliseconds kTick{250};
// A region settles, an idle device closes and junctions are swept about this often.
constexpr int kUpkeepTicks = 20;

}  // namespace

void StoreCore::wake_eraser() {
  const std::lock_guard guard(state_mutex);
  eraser_wake->set();
}

Task<void> StoreCore::eraser_loop() {
  while (!stopping.load(std::memory_order_acquire)) {
    std::shared_ptr<Event> wake = std::make_shared<Event>();
    {
      const std::lock_guard guard(state_mutex);
      eraser_wake = wake;
    }
    // A failure stays in the queue; it is tried again when something new comes, or when the store
    // is opened.
    (void)co_await eraser.drain(0, [this] { return erase_rate_bytes.load(); });
    if (stopping.load(std::memory_order_acquire)) break;
    co_await wake->wait();
  }
  eraser_ended.set();
}

Task<void> StoreCore::background_loop() {
  std::uint64_t swept_blocks = 0;
  std::uint64_t swept_generation = 0;
  for (int tick = 1; !stopping.load(std::memory_order_acquire); ++tick) {
    co_await engine.runtime().sleep_for(kTick);
    if (tick % kUpkeepTicks != 0 || engine.read_only()) continue;
    // Failures here have made the store read-only already, or will be met again by whoever needs
    // the work.
    (void)co_await settle_all();
    (void)co_await close_idle_devices(false);
    co_await engine.refill_reserve();
    (void)co_await look_at_host();
    co_await engine.catalog().renew_copy();
    const std::uint64_t blocks = engine.counters().redirected_blocks.load();
    if (blocks != swept_blocks || generation.load() != swept_generation) {
      swept_blocks = blocks;
      (void)co_await sweep();
      swept_generation = generation.load();
    }
  }
  background_ended.set();
}

Task<Status> StoreCore::settle_all() {
  const AsyncMutex::Guard guard = co_await ops_mutex.lock();
  for (const std::shared_ptr<Layer>& layer : engine.layers().all()) {
    {
      const std::lock_guard layer_lock(layer->mutex);
      if (!layer->state.unsettled) continue;
    }
    const std::shared_ptr<Volume> writer = open_volume(layer->owner());
    VT_CO_RETURN_IF_ERROR(co_await layer->ensure_index(engine.catalog()));
    VT_CO_RETURN_IF_ERROR(
        co_await engine.settle(*layer, writer != nullptr ? &writer->write_gate() : nullptr));
  }
  co_return Status();
}

Task<Status> StoreCore::sweep() {
  std::vector<NodeId> nodes;
  {
    const std::lock_guard guard(state_mutex);
    for (const auto& [id, node] : lineage.nodes()) {
      const bool overlap = node.row.kind == NodeKind::kHead && node.owned.size() > 1;
      if (overlap || node.row.kind == NodeKind::kJunction) nodes.push_back(id);
    }
  }
  for (const NodeId id : nodes) {
    const AsyncMutex::Guard guard = co_await ops_mutex.lock();
    VT_CO_RETURN_IF_ERROR(co_await sweep_node(id));
  }
  co_return Status();
}

Task<Status> StoreCore::sweep_node(NodeId id) {
  Change change;
  change.next = copy_lineage();
  if (change.next.find(id) == nullptr) co_return Status();
  const std::vector<LayerId> needed = change.next.needed_for_trim(id);
  std::vector<NodeId> heads;
  heads.reserve(needed.size());
  for (const LayerId layer : needed) heads.push_back(engine.layers().find(layer)->owner());
  std::sort(heads.begin(), heads.end());
  heads.erase(std::unique(heads.begin(), heads.end()), heads.end());
  VT_CO_RETURN_IF_ERROR(co_await flush_open(heads));
  std::vector<AsyncMutex::Guard> flush_guards;
  for (const NodeId head : heads) {
    if (const auto volume = open_volume(head)) {
      flush_guards.push_back(co_await volume->flush_mutex().lock());
    }
  }
  VT_CO_RETURN_IF_ERROR(co_await load_indexes(change.next, needed, true));
  change.next.trim(id, change.plan);
  if (change.plan.new_indexes.empty() && change.plan.erased_layers.empty()) co_return Status();
  // A layer that open volumes still refer to stays until they are closed: only its blocks go.
  const std::shared_ptr<Volume> volume = open_volume(id);
  change.what = "blocks that no volume sees any more";
  change.erase.policy = policy_for(id, std::nullopt);
  std::vector<LayerId> erased;
  erased.reserve(change.plan.erased_layers.size());
  for (const auto& entry : change.plan.erased_layers) erased.push_back(entry.first);
  change.committed = [volume, erased]() -> Task<void> {
    if (volume != nullptr) {
      volume->drop_owned(erased);
      co_await volume->write_gate().drain();
    }
    co_return;
  };
  const auto committed = co_await commit_change(std::move(change));
  co_return committed.status();
}

Task<Status> StoreCore::close_idle_devices(bool all) {
  const AsyncMutex::Guard guard = co_await ops_mutex.lock();
  std::vector<std::shared_ptr<Volume>> idle;
  {
    const std::lock_guard lock_state(state_mutex);
    for (const auto& [id, volume] : devices) {
      if (all || volume.use_count() == 1) idle.push_back(volume);
    }
  }
  for (const std::shared_ptr<Volume>& volume : idle) {
    if (all) {
      volume->kill();
      co_await volume->write_gate().drain();
    }
    VT_CO_RETURN_IF_ERROR(co_await volume->flush_shared());
    const std::lock_guard lock_state(state_mutex);
    // Two references are the table's and ours: nobody has opened it meanwhile.
    if (all || volume.use_count() == 2) devices.erase(volume->node());
  }
  co_return Status();
}

}  // namespace voltree
