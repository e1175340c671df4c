// The data path of a volume: whole blocks, in and out. See volume.h for the order of steps.
#include <algorithm>
#include <cstring>

#include "blockstore/aligned_io.h"
#include "blockstore/base/checksum.h"
#include "blockstore/volume.h"

namespace voltree {
namespace {

constexpr std::uint64_t kShareStepBlocks = 1024;  // 4 MiB: read back at once for their sums

IoRequest io_request(IoKind kind, File& file, std::byte* data, BlockRange range) {
  IoRequest request;
  request.kind = kind;
  request.file = &file;
  request.data = data;
  request.offset_bytes = range.first * kBlockBytes;
  request.length_bytes = range.count * kBlockBytes;
  return request;
}

std::span<const std::byte> block_at(const std::byte* data, std::uint64_t index) {
  return {data + index * kBlockBytes, kBlockBytes};
}

}  // namespace

// --- Reads.

std::vector<Volume::Segment> Volume::look_up(BlockRange range) const {
  std::vector<Segment> segments;
  const std::lock_guard lock(mutex_);
  map_.for_each(range.first, range.count, [&](const Extent& extent) {
    Segment segment{{extent.first, extent.count}, nullptr, false};
    if (extent.value != kNoLayer) {
      segment.layer = engine_.layers().find(extent.value);
      assert(segment.layer != nullptr);  // a mapped layer lives at least as long as the mapping
      segment.own = owns(*segment.layer);
    }
    segments.push_back(std::move(segment));
  });
  return segments;
}

Task<Status> Volume::read_segments(const std::vector<Segment>& segments, BlockRange range,
                                   std::byte* out, std::vector<std::uint64_t>& mismatches) {
  IoBatch batch;
  for (const Segment& segment : segments) {
    std::byte* where = out + (segment.range.first - range.first) * kBlockBytes;
    if (segment.layer == nullptr) {
      std::memset(where, 0, segment.range.count * kBlockBytes);
      continue;
    }
    VT_CO_RETURN_IF_ERROR(co_await segment.layer->ensure_open());
    VT_CO_RETURN_IF_ERROR(co_await segment.layer->touch_sums(segment.range, false));
    batch.requests().push_back(
        io_request(IoKind::kRead, segment.layer->file(segment.own), where, segment.range));
  }
  VT_CO_RETURN_IF_ERROR(co_await batch);
  for (const Segment& segment : segments) {
    if (segment.layer == nullptr) continue;
    for (std::uint64_t block = segment.range.first; block < segment.range.end(); ++block) {
      if (block_checksum(block_at(out, block - range.first)) != segment.layer->sum(block)) {
        mismatches.push_back(block);
      }
    }
  }
  co_return Status();
}

Task<Status> Volume::read_blocks(BlockRange range, std::byte* out) {
  std::vector<std::uint64_t> mismatches;
  {
    const Gate::Token token = engine_.read_gate().enter();
    VT_CO_RETURN_IF_ERROR(check_alive(false));
    const std::vector<Segment> segments = look_up(range);
    VT_CO_RETURN_IF_ERROR(co_await read_segments(segments, range, out, mismatches));
  }
  // A mismatch may be a write of the same block passing by: data and sum agree under the range lock
  // (I9).
  for (const std::uint64_t block : mismatches) {
    engine_.counters().checksum_rereads.fetch_add(1, std::memory_order_relaxed);
    const RangeLock::Guard guard = co_await range_lock_.lock({block, 1});
    VT_CO_RETURN_IF_ERROR(
        co_await read_blocks_locked({block, 1}, out + (block - range.first) * kBlockBytes));
  }
  co_return Status();
}

Task<Status> Volume::read_blocks_locked(BlockRange range, std::byte* out) {
  const Gate::Token token = engine_.read_gate().enter();
  VT_CO_RETURN_IF_ERROR(check_alive(false));
  const std::vector<Segment> segments = look_up(range);
  std::vector<std::uint64_t> mismatches;
  VT_CO_RETURN_IF_ERROR(co_await read_segments(segments, range, out, mismatches));
  if (mismatches.empty()) co_return Status();
  engine_.counters().checksum_errors.fetch_add(mismatches.size(), std::memory_order_relaxed);
  LayerId layer = kNoLayer;
  for (const Segment& segment : segments) {
    if (segment.layer != nullptr && mismatches.front() >= segment.range.first) {
      layer = segment.layer->id();
    }
  }
  co_return error(Code::kDamaged, "block {} does not match its checksum (layer {:08x})",
                  mismatches.front(), layer);
}

// --- Writes.

Volume::Wanted Volume::layer_wants(const std::shared_ptr<Layer>& layer, BlockRange range,
                                   bool in_place) {
  const std::lock_guard lock(layer->mutex);
  const Layer::State& state = layer->state;
  if (!state.unsettled) return {Need::kUnsettled, layer, {}};
  if (!in_place) return {};
  Wanted wanted{Need::kDirtyMark, layer, {}};
  const std::uint64_t last = (range.end() - 1) / kRegionBlocks;
  for (std::uint64_t region = range.first / kRegionBlocks; region <= last; ++region) {
    if (state.dirty_regions.contains(region)) continue;
    // Nothing of the region is durably present: there is no claim that a torn write could break.
    const auto next = state.durable_index.next_extent(region * kRegionBlocks);
    if (!next || next->first >= (region + 1) * kRegionBlocks) continue;
    wanted.regions.push_back(region);
  }
  return wanted.regions.empty() ? Wanted{} : wanted;
}

Volume::Wanted Volume::plan_write(BlockRange range, bool zeroes, WritePlan& plan) {
  const std::lock_guard lock(mutex_);
  plan.segments.clear();
  plan.in_place = false;
  Wanted wanted;
  std::uint64_t new_blocks = 0;
  if (active_ != nullptr && active_->failed()) active_ = nullptr;
  if (dead()) return {Need::kAlive, nullptr, {}};
  if (range.end() > blocks_of_bytes(size_bytes())) return {Need::kRoom, nullptr, {}};
  map_.for_each(range.first, range.count, [&](const Extent& extent) {
    Segment segment{{extent.first, extent.count}, nullptr, false};
    if (extent.value != kNoLayer) {
      segment.layer = engine_.layers().find(extent.value);
      segment.own = owns(*segment.layer);
    }
    if (zeroes && segment.layer == nullptr) return true;  // zero already
    if (!segment.own) segment.layer = active_;            // redirect
    if (!segment.own && !zeroes) new_blocks += segment.range.count;
    if (segment.layer == nullptr) {
      wanted.need = Need::kActiveLayer;
      return false;
    }
    wanted = layer_wants(segment.layer, segment.range, segment.own);
    if (wanted.need != Need::kNothing) return false;
    plan.in_place |= segment.own;
    Segment* last = plan.segments.empty() ? nullptr : &plan.segments.back();
    if (last != nullptr && last->layer == segment.layer && last->own == segment.own &&
        last->range.end() == segment.range.first) {
      last->range.count += segment.range.count;
    } else {
      plan.segments.push_back(std::move(segment));
    }
    return true;
  });
  if (wanted.need != Need::kNothing) return wanted;
  if (new_blocks != 0 &&
      !engine_.guard().take(new_blocks * kBlockBytes,
                            promise_left_bytes_.load(std::memory_order_relaxed))) {
    return {Need::kSpace, nullptr, {}};
  }
  plan.has_parent = has_parent_;
  plan.oldest_owned = owned_.empty() ? nullptr : owned_.front().get();
  plan.epoch = epoch_;
  plan.token = write_gate_.enter();
  return {};
}

// Plans until everything that the plan rests on is there; the steps in between are rare and go to
// the catalog.
Task<Status> Volume::make_plan(BlockRange range, bool zeroes, WritePlan& plan) {
  bool looked = false;
  for (;;) {
    VT_CO_RETURN_IF_ERROR(check_alive(true));
    Wanted wanted = plan_write(range, zeroes, plan);
    switch (wanted.need) {
      case Need::kNothing:
        co_return Status();
      case Need::kAlive:
        co_return check_alive(true);
      case Need::kRoom:
        co_return error(Code::kInvalid, "the volume shrank under a write");
      case Need::kActiveLayer:
        VT_CO_RETURN_IF_ERROR(co_await ensure_active());
        break;
      case Need::kUnsettled:
        VT_CO_RETURN_IF_ERROR(co_await engine_.mark_unsettled(*wanted.layer));
        break;
      case Need::kDirtyMark:
        VT_CO_RETURN_IF_ERROR(
            co_await engine_.mark_dirty(*wanted.layer, std::move(wanted.regions)));
        break;
      case Need::kSpace:
        if (looked) co_return error(Code::kNoSpace, "the pool guard keeps what the host has left");
        looked = true;
        VT_CO_RETURN_IF_ERROR(co_await engine_.look_at_host());
        break;
    }
  }
}

Task<Status> Volume::ensure_active() {
  const AsyncMutex::Guard guard = co_await active_mutex_.lock();
  VT_CO_RETURN_IF_ERROR(check_alive(true));
  if (active_layer() != nullptr) co_return Status();
  VT_CO_ASSIGN_OR_RETURN(std::shared_ptr<Layer> layer,
                         co_await engine_.create_layer(node_, size_bytes()));
  const std::lock_guard lock(mutex_);
  if (active_ != nullptr) co_return Status();  // a fork brought one; this one stays empty and owned
  owned_.push_back(layer);
  active_ = std::move(layer);
  co_return Status();
}

void Volume::map_assign(BlockRange range, LayerId value, std::uint64_t epoch) {
  if (epoch > replaced_epoch_) map_.assign(range.first, range.count, value);
  if (fork_map_ && epoch <= fork_epoch_) fork_map_->assign(range.first, range.count, value);
}

// What a zeroed block becomes in its layer: absent where nothing older could show through, else a
// tombstone.
std::uint32_t Volume::zero_value(const WritePlan& plan, const Segment& segment) {
  const bool bottom = !plan.has_parent && segment.layer.get() == plan.oldest_owned;
  return segment.own && bottom ? kIndexAbsent : kIndexTombstone;
}

void Volume::finish_write(const WritePlan& plan, bool zeroes) {
  const std::lock_guard lock(mutex_);
  for (const Segment& segment : plan.segments) {
    const std::lock_guard layer_lock(segment.layer->mutex);
    Layer::State& state = segment.layer->state;
    state.needs_sync = true;
    if (segment.own && !zeroes) continue;  // in place: nothing but the data has changed
    const std::uint32_t value = zeroes ? zero_value(plan, segment) : kIndexData;
    state.index.assign(segment.range.first, segment.range.count, value);
    const std::uint64_t last = (segment.range.end() - 1) / kRegionBlocks;
    for (std::uint64_t region = segment.range.first / kRegionBlocks; region <= last; ++region) {
      state.pending_regions.insert(region);
    }
    map_assign(segment.range, zeroes ? kNoLayer : segment.layer->id(), plan.epoch);
    if (!segment.own) {
      engine_.counters().redirected_blocks.fetch_add(segment.range.count,
                                                     std::memory_order_relaxed);
    }
  }
}

Task<Status> Volume::write_blocks_locked(BlockRange range, const std::byte* data) {
  WritePlan plan;
  VT_CO_RETURN_IF_ERROR(co_await make_plan(range, false, plan));
  if (!plan.in_place || range.count <= InflightTable::kBlocksMax) {
    co_return co_await write_planned(plan, range, data);
  }
  plan = {};
  for (std::uint64_t at = range.first; at < range.end(); at += InflightTable::kBlocksMax) {
    const BlockRange part{at, std::min(range.end() - at, InflightTable::kBlocksMax)};
    VT_CO_RETURN_IF_ERROR(co_await make_plan(part, false, plan));
    VT_CO_RETURN_IF_ERROR(
        co_await write_planned(plan, part, data + (at - range.first) * kBlockBytes));
    plan = {};
  }
  co_return Status();
}

Task<Status> Volume::write_planned(const WritePlan& plan, BlockRange range, const std::byte* data) {
  std::vector<std::uint64_t> sums(range.count);
  for (std::uint64_t i = 0; i < range.count; ++i) sums[i] = block_checksum(block_at(data, i));
  IoBatch batch;
  for (const Segment& segment : plan.segments) {
    VT_CO_RETURN_IF_ERROR(co_await segment.layer->ensure_open());
    VT_CO_RETURN_IF_ERROR(co_await segment.layer->touch_sums(segment.range, true));
    auto* from = const_cast<std::byte*>(data) + (segment.range.first - range.first) * kBlockBytes;
    batch.requests().push_back(
        io_request(IoKind::kWrite, segment.layer->file(true), from, segment.range));
  }
  InflightTable::Slot slot;
  if (plan.in_place) {
    slot = co_await engine_.inflight().acquire(node_, range, sums);
    VT_CO_RETURN_IF_ERROR(engine_.check_stored(engine_.inflight().map()));
  }
  Status written = co_await batch;
  if (!written.ok()) {
    if (plan.in_place) co_await stamp_what_was_written(plan, range, sums, batch);
    co_return written;
  }
  for (const Segment& segment : plan.segments) {
    for (std::uint64_t block = segment.range.first; block < segment.range.end(); ++block) {
      segment.layer->set_sum(block, sums[block - range.first]);
    }
  }
  // Not before all of them are stored: what was overwritten in place may have been acknowledged.
  for (const Segment& segment : plan.segments) {
    VT_CO_RETURN_IF_ERROR(engine_.check_stored(segment.layer->sums()));
  }
  finish_write(plan, false);
  co_return Status();
}

// A write that failed may have got to some of its blocks in place (the host was full elsewhere):
// those have their new contents, and their sums must say so. What matches neither sum is torn, or
// was damaged before, and stays damaged (I9). A part that did not fail is not read: a host that
// fails may not let us.
Task<void> Volume::stamp_what_was_written(const WritePlan& plan, BlockRange range,
                                          const std::vector<std::uint64_t>& sums, IoBatch& batch) {
  AlignedBuffer buffer(kBlockBytes);
  for (std::size_t i = 0; i < plan.segments.size(); ++i) {
    const Segment& segment = plan.segments[i];
    if (!segment.own) continue;
    const bool whole = batch.requests()[i].status.ok();
    for (std::uint64_t block = segment.range.first; block < segment.range.end(); ++block) {
      const std::uint64_t sum = sums[block - range.first];
      if (!whole) {
        const Status read =
            co_await segment.layer->file(true).read(buffer.span(), block * kBlockBytes);
        if (!read.ok() || block_checksum(buffer.span()) != sum) continue;
      }
      segment.layer->set_sum(block, sum);
      const std::lock_guard lock(segment.layer->mutex);
      segment.layer->state.needs_sync = true;
    }
    (void)engine_.check_stored(segment.layer->sums());
  }
}

Task<Status> Volume::share_blocks_locked(BlockRange range, File& source) {
  WritePlan plan;
  VT_CO_RETURN_IF_ERROR(co_await make_plan(range, false, plan));
  if (plan.in_place) co_return error(Code::kInvalid, "the volume has been written to there");
  std::vector<std::uint64_t> sums;
  AlignedBuffer buffer(std::min(range.count, kShareStepBlocks) * kBlockBytes);
  for (const Segment& segment : plan.segments) {
    VT_CO_RETURN_IF_ERROR(co_await segment.layer->ensure_open());
    File& file = segment.layer->file(true);
    const std::uint64_t at_bytes = segment.range.first * kBlockBytes;
    const std::uint64_t length_bytes = segment.range.count * kBlockBytes;
    VT_CO_RETURN_IF_ERROR(co_await engine_.runtime().run_blocking(
        [&] { return file.clone_range_sync(source, at_bytes, length_bytes, at_bytes); }));
    // The sums are of what the layer has: `source` may be written to at any time.
    for (std::uint64_t block = segment.range.first; block < segment.range.end();) {
      const BlockRange step{block, std::min(segment.range.end() - block, kShareStepBlocks)};
      VT_CO_RETURN_IF_ERROR(co_await file.read(buffer.span().first(step.count * kBlockBytes),
                                               step.first * kBlockBytes));
      for (; block < step.end(); ++block) {
        sums.push_back(block_checksum(block_at(buffer.data(), block - step.first)));
      }
    }
    VT_CO_RETURN_IF_ERROR(co_await segment.layer->touch_sums(segment.range, true));
  }
  for (const Segment& segment : plan.segments) {
    for (std::uint64_t block = segment.range.first; block < segment.range.end(); ++block) {
      segment.layer->set_sum(block, sums[block - range.first]);
    }
    VT_CO_RETURN_IF_ERROR(engine_.check_stored(segment.layer->sums()));
  }
  finish_write(plan, false);
  co_return Status();
}

Task<Status> Volume::zero_blocks_locked(BlockRange range) {
  WritePlan plan;
  VT_CO_RETURN_IF_ERROR(co_await make_plan(range, true, plan));
  for (const Segment& segment : plan.segments) {
    VT_CO_RETURN_IF_ERROR(co_await segment.layer->ensure_open());
    VT_CO_RETURN_IF_ERROR(co_await segment.layer->touch_sums(segment.range, true));
  }
  // Map, then sums, then the hole: a daemon that dies in between leaves blocks that are absent,
  // never blocks whose data is gone but whose sum is there.
  finish_write(plan, true);
  IoBatch batch;
  std::vector<std::uint64_t> sums;  // of what is punched, before
  for (const Segment& segment : plan.segments) {
    const bool tombstone = zero_value(plan, segment) == kIndexTombstone;
    for (std::uint64_t block = segment.range.first; block < segment.range.end(); ++block) {
      if (segment.own) sums.push_back(segment.layer->sum(block));
      segment.layer->set_sum(block, tombstone ? kSumTombstone : kSumAbsent);
    }
    VT_CO_RETURN_IF_ERROR(engine_.check_stored(segment.layer->sums()));
    if (segment.own) {
      batch.requests().push_back(
          io_request(IoKind::kPunchHole, segment.layer->file(true), nullptr, segment.range));
    }
  }
  const Status punched = co_await batch;
  // A flush may have taken the map and synced the file meanwhile: the hole is the next one's (I2).
  for (const Segment& segment : plan.segments) {
    const std::lock_guard lock(segment.layer->mutex);
    segment.layer->state.needs_sync |= segment.own;
  }
  if (!punched.ok()) co_await put_back_what_stayed(plan, sums);
  co_return punched;
}

// Where a hole could not be made the old data is there still, and counts again: the next discard
// would find nothing to do and be acknowledged, and after a failure recovery goes by the data (I5).
Task<void> Volume::put_back_what_stayed(const WritePlan& plan,
                                        const std::vector<std::uint64_t>& sums) {
  AlignedBuffer buffer(kBlockBytes);
  auto sum = sums.begin();
  for (const Segment& segment : plan.segments) {
    if (!segment.own) continue;
    for (std::uint64_t block = segment.range.first; block < segment.range.end(); ++block, ++sum) {
      const Status read =
          co_await segment.layer->file(true).read(buffer.span(), block * kBlockBytes);
      if (read.ok() && all_zero(buffer.span())) continue;
      segment.layer->set_sum(block, *sum);
      const std::lock_guard lock(mutex_);
      const std::lock_guard layer_lock(segment.layer->mutex);
      segment.layer->state.index.assign(block, 1, kIndexData);
      segment.layer->state.pending_regions.insert(block / kRegionBlocks);
      map_assign({block, 1}, segment.layer->id(), plan.epoch);
    }
    (void)engine_.check_stored(segment.layer->sums());
  }
}

}  // namespace voltree
