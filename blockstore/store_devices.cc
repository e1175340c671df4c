// Devices of a store: opening them, claiming them, and what their extent maps tell.
#include <algorithm>

#include "blockstore/store_core.h"

namespace voltree {
namespace {

// How many runs one question looks at: it is answered on the thread that serves everybody.
constexpr std::size_t kRunsLookedAt = 16'384;

// Collects runs, joining neighbours with the same value; clips to the bytes that were asked for.
class RunList {
 public:
  RunList(std::uint64_t begin_bytes, std::uint64_t end_bytes, std::size_t max_runs)
      : begin_bytes_(begin_bytes), end_bytes_(end_bytes), max_runs_(max_runs) {}

  // False: full.
  bool push(const BlockRange& range, std::uint32_t value) {
    const std::uint64_t begin = std::max(range.first * kBlockBytes, begin_bytes_);
    const std::uint64_t end = std::min(range.end() * kBlockBytes, end_bytes_);
    if (begin >= end) return true;
    if (!runs_.empty() && runs_.back().value == value) {
      runs_.back().length_bytes += end - begin;
      return true;
    }
    if (runs_.size() == max_runs_) return false;
    runs_.push_back({begin, end - begin, value});
    return true;
  }
  std::vector<ValueRun> take() { return std::move(runs_); }

 private:
  const std::uint64_t begin_bytes_;
  const std::uint64_t end_bytes_;
  const std::size_t max_runs_;
  std::vector<ValueRun> runs_;
};

Status check_device(const Volume& volume) {
  if (!volume.dead()) return {};
  return error(Code::kGone, "this volume or snapshot was deleted while it was open");
}

std::uint64_t clipped_end(const BlockDevice& device, ByteRange range) {
  const std::uint64_t size = device.size_bytes();
  if (range.offset_bytes >= size) return range.offset_bytes;
  return range.offset_bytes + std::min(range.length_bytes, size - range.offset_bytes);
}

// Keeps the device and its claim together.
struct Claim {
  StoreCore& core;
  NodeId node;
  std::shared_ptr<Volume> volume;
  Claim(StoreCore& of, NodeId id, std::shared_ptr<Volume> claimed)
      : core(of), node(id), volume(std::move(claimed)) {}
  Claim(const Claim&) = delete;
  Claim& operator=(const Claim&) = delete;
  ~Claim() {
    const std::lock_guard lock(core.state_mutex);
    const auto at = core.claims.find(node);
    if (--at->second == 0) core.claims.erase(at);
  }
};

}  // namespace

Task<Result<std::shared_ptr<BlockDevice>>> Store::open_device(std::string name) {
  StoreCore& core = *core_;
  {
    const std::lock_guard lock(core.state_mutex);
    VT_CO_ASSIGN_OR_RETURN(const NodeId id, core.resolve(name));
    const auto open = core.devices.find(id);
    if (open != core.devices.end()) co_return std::shared_ptr<BlockDevice>(open->second);
  }
  const AsyncMutex::Guard guard = co_await core.ops_mutex.lock();
  NodeId id = kNoNode;
  {
    const std::lock_guard lock(core.state_mutex);
    if (core.closed) co_return error(Code::kCancelled, "the store is closing");
    VT_CO_ASSIGN_OR_RETURN(id, core.resolve(name));
  }
  VT_CO_ASSIGN_OR_RETURN(const std::shared_ptr<Volume> volume, co_await core.open_node(id));
  co_return std::shared_ptr<BlockDevice>(volume);
}

Task<Result<ClaimedDevice>> Store::claim_device(std::string name) {
  StoreCore& core = *core_;
  // Against deletes, which ask for claims under the same lock.
  const AsyncMutex::Guard guard = co_await core.ops_mutex.lock();
  NodeId id = kNoNode;
  {
    const std::lock_guard lock(core.state_mutex);
    if (core.closed) co_return error(Code::kCancelled, "the store is closing");
    VT_CO_ASSIGN_OR_RETURN(id, core.resolve(name));
  }
  VT_CO_ASSIGN_OR_RETURN(std::shared_ptr<Volume> volume, co_await core.open_node(id));
  const std::lock_guard lock(core.state_mutex);
  ++core.claims[id];
  auto claim = std::make_shared<Claim>(core, id, std::move(volume));
  BlockDevice* device = claim->volume.get();
  co_return ClaimedDevice{std::shared_ptr<BlockDevice>(std::move(claim), device), core.info_of(id)};
}

Result<std::vector<ValueRun>> Store::changes(const BlockDevice& base, const BlockDevice& device,
                                             ByteRange range, std::size_t max_runs) {
  const auto& before = static_cast<const Volume&>(base);
  const auto& after = static_cast<const Volume&>(device);
  // The maps first: layers of a snapshot that is deleted go to who comes after it and are then
  // written in place, so that what `dead` says must be younger than what is compared.
  const ExtentMap old_map = before.map();
  const ExtentMap new_map = after.map();
  const std::uint64_t old_size = base.size_bytes();
  const std::uint64_t end_bytes = clipped_end(device, range);
  RunList runs(range.offset_bytes, end_bytes, max_runs);
  std::uint64_t block = range.offset_bytes / kBlockBytes;
  const std::uint64_t end = blocks_of_bytes(end_bytes);
  for (std::size_t looked = 0; block < end && looked < kRunsLookedAt; ++looked) {
    const Extent was = old_map.run_at(block, end);
    const Extent is = new_map.run_at(block, end);
    std::uint64_t next = std::min(was.end(), is.end());
    // What lies beyond the old end is new, be it holes.
    const std::uint64_t old_end = blocks_of_bytes(old_size);
    if (block < old_end) next = std::min(next, old_end);
    const bool changed = was.value != is.value || block >= old_end;
    if (!runs.push({block, next - block}, changed ? 1 : 0)) break;
    block = next;
  }
  VT_RETURN_IF_ERROR(check_device(before));
  VT_RETURN_IF_ERROR(check_device(after));
  return runs.take();
}

Result<std::vector<ValueRun>> Store::depths(const BlockDevice& device, ByteRange range,
                                            std::size_t max_runs) const {
  const auto& volume = static_cast<const Volume&>(device);
  std::map<NodeId, std::uint32_t> depth_of;
  {
    const std::lock_guard lock(core_->state_mutex);
    for (const NodeId node : core_->lineage.ancestry(volume.node())) {
      depth_of.emplace(node, static_cast<std::uint32_t>(depth_of.size() + 1));
    }
  }
  const ExtentMap map = volume.map();
  const std::uint64_t end_bytes = clipped_end(device, range);
  RunList runs(range.offset_bytes, end_bytes, max_runs);
  std::uint64_t block = range.offset_bytes / kBlockBytes;
  const std::uint64_t end = blocks_of_bytes(end_bytes);
  for (std::size_t looked = 0; block < end && looked < kRunsLookedAt; ++looked) {
    const Extent run = map.run_at(block, end);
    std::uint32_t depth = 0;
    if (run.value != kNoLayer) {
      const std::shared_ptr<Layer> layer = core_->engine.layers().find(run.value);
      const auto found = layer ? depth_of.find(layer->owner()) : depth_of.end();
      // A snapshot may be under way: what was the node's own is its parent's in a moment.
      depth = found != depth_of.end() ? found->second : 1;
    }
    if (!runs.push({run.first, run.count}, depth)) break;
    block = run.end();
  }
  VT_RETURN_IF_ERROR(check_device(volume));
  return runs.take();
}

}  // namespace voltree
