#include "blockstore/check_blocks.h"

#include <algorithm>

#include "blockstore/aligned_io.h"
#include "blockstore/base/checksum.h"

namespace voltree {
namespace {

constexpr std::uint64_t kStepBlocks = 256;  // 1 MiB a read
constexpr std::size_t kNamesMax = 20;

// What is on its way to the eraser is nobody's. A token of the read gate that was taken before this
// was asked keeps the eraser away.
bool still_there(StoreCore& core, const std::shared_ptr<Layer>& layer) {
  return core.engine.layers().find(layer->id()) == layer;
}

// Blocks of the step that do not match at first sight, or could not be read.
Task<Status> read_step(StoreCore& core, const std::shared_ptr<Layer>& layer, BlockRange step,
                       std::span<std::byte> bytes, std::vector<std::uint64_t>& suspects) {
  const Gate::Token token = core.engine.read_gate().enter();
  if (!still_there(core, layer)) co_return error(Code::kGone, "the layer is gone");
  VT_CO_RETURN_IF_ERROR(co_await layer->touch_sums(step, false));
  const Status read = co_await layer->file(true).read(bytes, step.first * kBlockBytes);
  for (std::uint64_t i = 0; i < step.count; ++i) {
    const auto block = bytes.subspan(i * kBlockBytes, kBlockBytes);
    if (read.ok() && block_checksum(block) == layer->sum(step.first + i)) continue;
    suspects.push_back(step.first + i);
  }
  co_return Status();
}

// A mismatch may be a write passing by: data and sum agree under the range lock. The lock comes
// first, as it does for readers.
Task<Status> look_again(StoreCore& core, const std::shared_ptr<Layer>& layer, std::uint64_t block,
                        const BlockCheck& with) {
  const std::shared_ptr<Volume> volume = core.open_volume(layer->owner());
  RangeLock::Guard guard;
  if (volume != nullptr) guard = co_await volume->range_lock().lock({block, 1});
  const Gate::Token token = core.engine.read_gate().enter();
  if (!still_there(core, layer)) co_return error(Code::kGone, "the layer is gone");
  {
    const std::lock_guard lock(layer->mutex);
    if (layer->state.index.at(block) != kIndexData) co_return Status();
  }
  AlignedBuffer buffer(kBlockBytes);
  const Status read = co_await layer->file(true).read(buffer.span(), block * kBlockBytes);
  const bool matches = read.ok() && block_checksum(buffer.span()) == layer->sum(block);
  VT_CO_RETURN_IF_ERROR(layer->sums().failure());
  if (!read.ok()) {
    with.damaged(block, read.message());
  } else if (!matches) {
    with.damaged(block, "checksum mismatch");
  }
  co_return Status();
}

Task<Status> check_step(StoreCore& core, const std::shared_ptr<Layer>& layer, BlockRange step,
                        AlignedBuffer& buffer, const BlockCheck& with) {
  std::vector<std::uint64_t> suspects;
  const auto bytes = buffer.span().first(step.count * kBlockBytes);
  VT_CO_RETURN_IF_ERROR(co_await read_step(core, layer, step, bytes, suspects));
  for (const std::uint64_t block : suspects) {
    VT_CO_RETURN_IF_ERROR(co_await look_again(core, layer, block, with));
  }
  co_return Status();
}

}  // namespace

Task<Status> check_blocks(StoreCore& core, std::shared_ptr<Layer> layer, std::uint64_t from_block,
                          BlockCheck with) {
  VT_CO_RETURN_IF_ERROR(co_await layer->ensure_open());
  VT_CO_RETURN_IF_ERROR(co_await layer->ensure_index(core.engine.catalog()));
  ExtentMap index;
  {
    const std::lock_guard lock(layer->mutex);
    index = layer->state.index;
  }
  AlignedBuffer buffer(kStepBlocks * kBlockBytes);
  for (auto at = index.next_extent(from_block); at; at = index.next_extent(from_block)) {
    const BlockRange step{at->first, std::min(kStepBlocks, at->count)};
    from_block = step.end();
    if (at->value != kIndexData) {
      from_block = at->end();
      continue;
    }
    const Status checked = co_await check_step(core, layer, step, buffer, with);
    if (checked.code() == Code::kGone) co_return Status();
    VT_CO_RETURN_IF_ERROR(checked);
    const bool go_on = co_await with.step(step.count * kBlockBytes, from_block);
    if (!go_on) co_return Status();
  }
  co_return Status();
}

namespace {

// The lineage with the indexes of all that lies at or below the layer's owner.
Task<Lineage> lineage_below(StoreCore& core, std::shared_ptr<Layer> layer) {
  Lineage lineage;
  {
    const std::lock_guard lock(core.state_mutex);
    lineage = core.lineage;
  }
  std::vector<NodeId> below;
  if (lineage.find(layer->owner()) != nullptr) below.push_back(layer->owner());
  for (std::size_t i = 0; i < below.size(); ++i) {
    const Lineage::Node& node = *lineage.find(below[i]);
    below.insert(below.end(), node.children.begin(), node.children.end());
    // What goes meanwhile, or cannot be read, shadows nothing: a name too many at worst.
    for (const LayerId id : node.owned) {
      (void)co_await core.load_indexes(lineage, std::vector<LayerId>(1, id), false);
    }
  }
  co_return lineage;
}

std::vector<std::string> names_in(const StoreCore& core, const Lineage& lineage, const Layer& layer,
                                  const ExtentMap& blocks) {
  std::vector<std::string> names;
  const NodeId owner = layer.owner();
  if (lineage.find(owner) == nullptr) return names;
  const std::map<NodeId, ExtentMap> seen = lineage.seen_by(owner, layer.id(), blocks);
  const std::lock_guard lock(core.state_mutex);
  for (const auto& entry : seen) {
    std::string name = core.name_of(entry.first).str();
    if (!name.empty()) names.push_back(std::move(name));
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace

Task<std::vector<std::string>> names_seeing(StoreCore& core, std::shared_ptr<Layer> layer,
                                            ExtentMap blocks) {
  const Lineage lineage = co_await lineage_below(core, layer);
  co_return names_in(core, lineage, *layer, blocks);
}

Task<std::vector<SeenRun>> seen_runs(StoreCore& core, std::shared_ptr<Layer> layer,
                                     ExtentMap blocks, std::size_t max) {
  std::vector<SeenRun> runs;
  if (blocks.empty() || max == 0) co_return runs;
  const Lineage lineage = co_await lineage_below(core, layer);
  blocks.for_each_extent([&](const Extent& extent) {
    ExtentMap run;
    run.assign(extent.first, extent.count, extent.value);
    runs.push_back({{extent.first, extent.count}, names_in(core, lineage, *layer, run)});
    return runs.size() < max;
  });
  co_return runs;
}

std::string seen_by_text(const std::vector<std::string>& names) {
  if (names.empty()) return "seen by no volume";
  const std::size_t shown = std::min(names.size(), kNamesMax);
  std::string text =
      fmt::format("seen by {}", fmt::join(names.begin(), names.begin() + shown, ", "));
  if (shown < names.size()) text += fmt::format(" and {} more", names.size() - shown);
  return text;
}

}  // namespace voltree
