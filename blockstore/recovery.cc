// What happens when a store was not closed (DESIGN section 4). Two cases, told apart by the
// kernel's boot id:
//
//  - The daemon died, the kernel did not (I5). The page cache is intact: the .sum files tell what
//  each layer holds, and the
//    in-flight table which blocks an interrupted in-place write may have left with an old sum.
//  After a failed sync the page cache may have given up what it could not write. The mark that the
//  failure left makes us doubt it: nothing goes because a sum is missing, and a block comes only if
//  it matches its sum. So it is when the host's file system was mounted anew meanwhile: after its
//  forced shutdown the page cache is gone, though the boot is the same.
//  - The power failed. Presence comes from the catalog alone (I1): sums of blocks that it does not
//  name are cleared,
//    and in dirty regions, where sums may lag behind data, they are stamped anew and counted.
//
// Only layers with the unsettled flag were written to since they last settled; no other is looked
// at.
#include <algorithm>

#include "blockstore/aligned_io.h"
#include "blockstore/base/checksum.h"
#include "blockstore/format/region_format.h"
#include "blockstore/store_core.h"
#include "blockstore/store_repair_layers.h"

namespace voltree {
namespace {

constexpr std::uint64_t kStepBlocks = 256;  // 1 MiB a read
constexpr std::uint64_t kSumBytes = sizeof(std::uint64_t);

// The block ranges whose sums have ever been stored. Blocking.
Result<std::vector<BlockRange>> stored_sums(Layer& layer) {
  std::vector<BlockRange> ranges;
  const std::uint64_t blocks = blocks_of_bytes(layer.size_bytes());
  for (std::uint64_t at = 0; at < layer.sums().size_bytes();) {
    VT_ASSIGN_OR_RETURN(const std::uint64_t data, layer.sums().seek_data(at));
    if (data >= layer.sums().size_bytes()) break;
    VT_ASSIGN_OR_RETURN(const std::uint64_t hole, layer.sums().seek_hole(data));
    const std::uint64_t first = data / kSumBytes;
    const std::uint64_t end = std::min(blocks, (hole + kSumBytes - 1) / kSumBytes);
    if (first < end) ranges.push_back({first, end - first});
    at = hole;
  }
  return ranges;
}

std::uint32_t value_of_sum(std::uint64_t sum) {
  if (sum == kSumAbsent) return kIndexAbsent;
  return sum == kSumTombstone ? kIndexTombstone : kIndexData;
}

}  // namespace

Task<Status> StoreCore::recover(bool same_boot) {
  for (const std::shared_ptr<Layer>& layer : engine.layers().all()) {
    if (!layer->state.unsettled || layer->failed()) continue;
    VT_CO_RETURN_IF_ERROR(co_await layer->ensure_index(engine.catalog()));
    const Status recovered = co_await recover_layer(*layer, same_boot);
    // One that has lost its files is no reason to keep the others away.
    if (!recovered.ok() && !layer->failed()) co_return recovered;
  }
  if (same_boot) VT_CO_RETURN_IF_ERROR(co_await restamp_left_behind());
  VT_CO_RETURN_IF_ERROR(co_await settle_all());
  co_return co_await remove_stray_files();
}

Task<Status> StoreCore::recover_layer(Layer& layer, bool same_boot) {
  VT_CO_RETURN_IF_ERROR(co_await layer.ensure_open());
  if (!same_boot) co_return co_await restore_sums(layer);
  const Status drained = co_await engine.runtime().run_blocking(
      [&layer] { return layer.file(true).drain_foreign_io(); });
  VT_CO_RETURN_IF_ERROR(drained);
  // A sealed layer's index was whole when its fork was committed. And sums that were cut off would
  // say that what they covered was discarded: the catalog knows better.
  const bool sealed = lineage.find(layer.owner())->row.kind != NodeKind::kHead;
  const bool adopts = !sealed && !layer.sums_were_short();
  if (adopts && !doubted) VT_CO_RETURN_IF_ERROR(co_await adopt_sums(layer));
  if (adopts && doubted) VT_CO_RETURN_IF_ERROR(co_await adopt_what_matches(layer));
  if (doubted) VT_CO_RETURN_IF_ERROR(co_await restore_sums(layer));
  co_return Status();
}

Task<Status> StoreCore::adopt_sums(Layer& layer) {
  const ExtentMap pending_erase = eraser.pending_ranges(layer.id());
  ExtentMap index;
  {
    const std::lock_guard guard(layer.mutex);
    index = layer.state.index;
  }
  VT_CO_ASSIGN_OR_RETURN(const auto ranges, co_await engine.runtime().run_blocking(
                                                [&layer] { return stored_sums(layer); }));
  ExtentMap seen;  // blocks with stored sums
  VT_CO_RETURN_IF_ERROR(co_await engine.runtime().run_blocking([&]() -> Status {
    for (const BlockRange& range : ranges) {
      seen.assign(range.first, range.count, 1);
      for (std::uint64_t block = range.first; block < range.end(); ++block) {
        const std::uint32_t value = value_of_sum(layer.sum(block));
        const std::uint32_t known = index.at(block);
        if (value == known || pending_erase.at(block) != 0) continue;
        // Large zeroed ranges are in the catalog only: a tombstone without a stored sum is a
        // tombstone.
        if (value == kIndexAbsent && known == kIndexTombstone) continue;
        index.assign(block, 1, value);
      }
    }
    return layer.sums().failure();
  }));
  VT_CO_RETURN_IF_ERROR(co_await adopt_discards(layer, seen, index));
  co_return co_await adopt_index(layer, std::move(index));
}

// A host that stores no zeros (ZFS, where it compresses) makes a hole of sums that are all 0. Where
// that came of discards their regions are marked and the data is gone, too. Otherwise the sums are
// lost: the catalog knows better, and the blocks are errors (I9).
Task<Status> StoreCore::adopt_discards(Layer& layer, const ExtentMap& seen, ExtentMap& index) {
  std::vector<BlockRange> unseen;
  index.for_each_extent([&](const Extent& extent) {
    if (extent.value != kIndexData) return;
    seen.for_each(extent.first, extent.count, [&unseen](const Extent& part) {
      if (part.value == 0) unseen.push_back({part.first, part.count});
    });
  });
  std::set<std::uint64_t> dirty;
  {
    const std::lock_guard guard(layer.mutex);
    dirty = layer.state.dirty_regions;
  }
  AlignedBuffer buffer(kBlockBytes);
  for (const BlockRange& range : unseen) {
    for (std::uint64_t block = range.first; block < range.end(); ++block) {
      if (!dirty.contains(block / kRegionBlocks)) continue;
      const Status read = co_await layer.file(true).read(buffer.span(), block * kBlockBytes);
      if (read.ok() && all_zero(buffer.span())) index.assign(block, 1, kIndexTombstone);
    }
  }
  co_return Status();
}

// What writes in place were about to store as sums of this layer's blocks when the daemon died.
StoreCore::SumsUnderWay StoreCore::sums_under_way(const Layer& layer) {
  SumsUnderWay sums;
  for (const InflightTable::Entry& entry : engine.inflight().left_behind()) {
    if (entry.node != layer.owner()) continue;
    for (std::size_t i = 0; i < entry.sums.size(); ++i) {
      sums.emplace(entry.range.first + i, entry.sums[i]);
    }
  }
  return sums;
}

Task<Status> StoreCore::adopt_what_matches(Layer& layer) {
  const ExtentMap pending_erase = eraser.pending_ranges(layer.id());
  ExtentMap index;
  {
    const std::lock_guard guard(layer.mutex);
    index = layer.state.index;
  }
  VT_CO_ASSIGN_OR_RETURN(const auto ranges, co_await engine.runtime().run_blocking(
                                                [&layer] { return stored_sums(layer); }));
  const SumsUnderWay under_way = sums_under_way(layer);
  AlignedBuffer buffer(kBlockBytes);
  for (const BlockRange& range : ranges) {
    for (std::uint64_t block = range.first; block < range.end(); ++block) {
      VT_CO_RETURN_IF_ERROR(co_await layer.touch_sums({block, 1}, false));
      const std::uint32_t value = value_of_sum(layer.sum(block));
      VT_CO_RETURN_IF_ERROR(layer.sums().failure());
      const std::uint32_t known = index.at(block);
      if (value == known || value == kIndexAbsent || known == kIndexData) continue;
      if (pending_erase.at(block) != 0) continue;
      if (value == kIndexData) {
        VT_CO_RETURN_IF_ERROR(co_await layer.file(true).read(buffer.span(), block * kBlockBytes));
        const std::uint64_t there = block_checksum(buffer.span());
        if (there != layer.sum(block)) {
          if (!under_way.contains({block, there})) continue;
          VT_CO_RETURN_IF_ERROR(co_await layer.touch_sums({block, 1}, true));
          layer.set_sum(block, there);
        }
        // Written again, so that the sync that follows has something to make durable.
        VT_CO_RETURN_IF_ERROR(co_await layer.file(true).write(buffer.span(), block * kBlockBytes));
      }
      index.assign(block, 1, value);
    }
  }
  co_return co_await adopt_index(layer, std::move(index));
}

// `index` is what the layer holds, and becomes durable.
Task<Status> StoreCore::adopt_index(Layer& layer, ExtentMap index) {
  ExtentMap before;
  {
    const std::lock_guard guard(layer.mutex);
    before = layer.state.index;
  }
  std::set<std::uint64_t> regions;
  std::uint64_t recovered = 0;
  for_each_difference(before, index, [&](const BlockRange& range) {
    recovered += range.count;
    for (std::uint64_t r = range.first / kRegionBlocks; r <= (range.end() - 1) / kRegionBlocks;
         ++r) {
      regions.insert(r);
    }
  });
  engine.counters().recovered_blocks.fetch_add(recovered, std::memory_order_relaxed);
  Status synced = co_await layer.file(true).sync_data();  // I1: data first
  if (!synced.ok()) {
    engine.fail(synced);
    co_return synced;
  }
  const LayerId id = layer.id();
  VT_CO_RETURN_IF_ERROR(co_await engine.commit_freeing([&](CatalogDb& db) -> Status {
    for (const std::uint64_t region : regions) {
      VT_RETURN_IF_ERROR(db.put_region({id, region, encode_region(index, region), true}));
    }
    return {};
  }));
  const std::lock_guard guard(layer.mutex);
  layer.state.index = index;
  layer.state.durable_index = index;
  layer.state.dirty_regions.insert(regions.begin(), regions.end());
  co_return Status();
}

Task<Status> StoreCore::restamp_left_behind() {
  for (const InflightTable::Entry& entry : engine.inflight().left_behind()) {
    const Lineage::Node* node = lineage.find(entry.node);
    if (node == nullptr || entry.range.count > kRegionBlocks * kRegionBlocks) continue;
    for (const LayerId id : node->owned) {
      const std::shared_ptr<Layer> layer = engine.layers().find(id);
      if (layer->failed()) continue;
      VT_CO_RETURN_IF_ERROR(co_await layer->ensure_index(engine.catalog()));
      const Status opened = co_await layer->ensure_open();
      if (layer->failed()) continue;
      VT_CO_RETURN_IF_ERROR(opened);
      if (entry.range.end() > blocks_of_bytes(layer->size_bytes())) continue;
      VT_CO_RETURN_IF_ERROR(co_await restamp(*layer, entry.range, false));
    }
  }
  co_return Status();
}

// Stamps every block of data in `range` whose sum does not match what is there.
Task<Status> StoreCore::restamp(Layer& layer, BlockRange range, bool write_back) {
  ExtentMap index;
  {
    const std::lock_guard guard(layer.mutex);
    index = layer.state.index;
  }
  std::vector<BlockRange> data;
  index.for_each(range.first, range.count, [&data](const Extent& extent) {
    for (std::uint64_t at = extent.first; extent.value == kIndexData && at < extent.end();
         at += kStepBlocks) {
      data.push_back({at, std::min(kStepBlocks, extent.end() - at)});
    }
  });
  AlignedBuffer buffer(kStepBlocks * kBlockBytes);
  for (const BlockRange& step : data) {
    VT_CO_RETURN_IF_ERROR(co_await layer.touch_sums(step, true));
    const auto bytes = buffer.span().first(step.count * kBlockBytes);
    const Status read = co_await layer.file(true).read(bytes, step.first * kBlockBytes);
    if (read.ok() && write_back) {
      VT_CO_RETURN_IF_ERROR(co_await layer.file(true).write(bytes, step.first * kBlockBytes));
    }
    for (std::uint64_t i = 0; i < step.count; ++i) {
      const auto block = bytes.subspan(i * kBlockBytes, kBlockBytes);
      // A sector that cannot be read is its block's misfortune, which its reader is told.
      if (!read.ok() &&
          !(co_await layer.file(true).read(block, (step.first + i) * kBlockBytes)).ok()) {
        continue;
      }
      const std::uint64_t sum = block_checksum(block);
      if (sum == layer.sum(step.first + i)) continue;
      layer.set_sum(step.first + i, sum);
      engine.counters().restamped_blocks.fetch_add(1, std::memory_order_relaxed);
    }
    VT_CO_RETURN_IF_ERROR(layer.sums().failure());
  }
  co_return Status();
}

Task<Status> StoreCore::restore_sums(Layer& layer) {
  ExtentMap index;
  std::set<std::uint64_t> dirty;
  {
    const std::lock_guard guard(layer.mutex);
    index = layer.state.index;
    dirty = layer.state.dirty_regions;
  }
  VT_CO_ASSIGN_OR_RETURN(const auto ranges, co_await engine.runtime().run_blocking(
                                                [&layer] { return stored_sums(layer); }));
  VT_CO_RETURN_IF_ERROR(co_await engine.runtime().run_blocking([&]() -> Status {
    for (const BlockRange& range : ranges) {
      for (std::uint64_t block = range.first; block < range.end(); ++block) {
        const std::uint32_t value = index.at(block);
        if (value == kIndexData) continue;
        const std::uint64_t sum = value == kIndexTombstone ? kSumTombstone : kSumAbsent;
        if (layer.sum(block) != sum) layer.set_sum(block, sum);
      }
    }
    return layer.sums().failure();
  }));
  const std::uint64_t end = blocks_of_bytes(layer.size_bytes());
  for (const std::uint64_t region : dirty) {
    const std::uint64_t first = region * kRegionBlocks;
    if (first >= end) continue;
    const BlockRange range{first, std::min(kRegionBlocks, end - first)};
    VT_CO_RETURN_IF_ERROR(co_await restamp(layer, range, doubted));
    if (!doubted) continue;
    VT_CO_RETURN_IF_ERROR(co_await engine.run_syncing([this, &layer, range](SyncWatch& syncs) {
      return write_again(engine.runtime().fs(), Layer::sum_path(engine.directory(), layer.id()),
                         syncs, range.first * kSumBytes, range.count * kSumBytes);
    }));
  }
  co_return Status();
}

Status write_again(FileSystem& fs, const std::string& path, SyncWatch& syncs,
                   std::uint64_t offset_bytes, std::uint64_t length_bytes) {
  constexpr std::uint64_t kStepBytes = kStepBlocks * kBlockBytes;
  VT_ASSIGN_OR_RETURN(const bool there, fs.exists(path));
  if (!there) return {};
  VT_ASSIGN_OR_RETURN(auto file, fs.open(path, {}));
  VT_ASSIGN_OR_RETURN(const std::uint64_t size_bytes, file->size_bytes());
  std::vector<std::byte> bytes;
  for (std::uint64_t done = 0; done < length_bytes && offset_bytes + done < size_bytes;
       done += bytes.size()) {
    const std::uint64_t at = offset_bytes + done;
    bytes.resize(std::min({kStepBytes, length_bytes - done, size_bytes - at}));
    VT_RETURN_IF_ERROR(file->read_sync(bytes, at));
    VT_RETURN_IF_ERROR(file->write_sync(bytes, at));
  }
  return syncs(file->sync_sync());
}

Result<std::vector<LayerId>> stray_layers(StoreCore& core) {
  std::set<LayerId> known;
  for (const auto& layer : core.engine.layers().all()) known.insert(layer->id());
  for (const Eraser::Queued& queued : core.eraser.queue()) {
    for (const EraseItemRow& item : queued.items) known.insert(item.layer);
  }
  std::vector<LayerId> stray;
  VT_ASSIGN_OR_RETURN(const auto files,
                      layer_files(core.engine.runtime().fs(), core.engine.directory()));
  for (const auto& [id, there] : files) {
    if (there.data && !known.contains(id)) stray.push_back(id);  // the sums go with their layer
  }
  return stray;
}

namespace {

// A file that is taken in has its sums before it has a name in layers/.
Status remove_stray_sums(StoreCore& core, SyncWatch& syncs) {
  FileSystem& fs = core.engine.runtime().fs();
  std::set<LayerId> erased;
  for (const Eraser::Queued& queued : core.eraser.queue()) {
    for (const EraseItemRow& item : queued.items) erased.insert(item.layer);
  }
  VT_ASSIGN_OR_RETURN(const auto files, layer_files(fs, core.engine.directory()));
  for (const auto& [id, there] : files) {
    if (there.data || erased.contains(id) || core.engine.layers().find(id) != nullptr) continue;
    VT_RETURN_IF_ERROR(Layer::unlink_files(fs, core.engine.directory(), id, syncs));
  }
  return {};
}

}  // namespace

// A layer whose making was cut off leaves empty files that nothing names, and a file that was being
// taken in a second name, which goes, for its owner has the other. What else holds data is left for
// check().
Task<Status> StoreCore::remove_stray_files() {
  co_return co_await engine.run_syncing([this](SyncWatch& syncs) -> Status {
    FileSystem& fs = engine.runtime().fs();
    // A folder that a daemon made and did not live to sync is there, but not for good.
    VT_RETURN_IF_ERROR(syncs(fs.sync_dir(engine.directory() + "/layers")));
    VT_RETURN_IF_ERROR(remove_stray_sums(*this, syncs));
    VT_ASSIGN_OR_RETURN(const std::vector<LayerId> stray, stray_layers(*this));
    for (const LayerId id : stray) {
      VT_ASSIGN_OR_RETURN(auto file, fs.open(Layer::data_path(engine.directory(), id), {}));
      VT_ASSIGN_OR_RETURN(const std::uint64_t bytes, file->allocated_bytes());
      VT_ASSIGN_OR_RETURN(const std::uint64_t links, file->links());
      if (bytes != 0 && links == 1) continue;
      VT_RETURN_IF_ERROR(Layer::unlink_files(fs, engine.directory(), id, syncs));
    }
    return {};
  });
}

}  // namespace voltree
