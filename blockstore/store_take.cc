// Taking in a file of the host as a volume: the file becomes the volume's only layer, and its bytes
// stay where they are.
//
// The order is what a crash may find (I1, I3, I7). With nobody else having it open, the file is
// made durable and summed, and gets a second name, in layers/. One commit has the volume and the
// mark that its layer is taken. Then the old name goes, and after it the mark. Until there is no
// mark, nothing is written to the file, and nobody sees the volume. A crash that leaves
//  - no mark: a layer file that no row names goes when it has another name (recovery.cc);
//  - the mark, and two names: the volume goes and the file is its owner's again, as it was;
//  - the mark, and one name: the volume is whole, and the mark goes.
#include "blockstore/store_take.h"

#include <algorithm>
#include <utility>

#include "blockstore/base/checksum.h"
#include "blockstore/format/region_format.h"

namespace voltree {
namespace {

// A folder that is gone has no names to keep.
Status sync_old_folder(FileSystem& fs, const std::string& path, SyncWatch& syncs) {
  const std::string folder = parent_folder(path);
  VT_ASSIGN_OR_RETURN(const bool there, fs.exists(folder));
  return there ? syncs(fs.sync_dir(folder)) : Status();
}

// Of this store, or of another one.
Status check_no_store(FileSystem& fs, const std::string& path) {
  std::string folder = parent_folder(path);
  constexpr int kDepth = 3;  // STORE/layers/XX/ID
  for (int i = 0; i < kDepth; ++i, folder = parent_folder(folder)) {
    VT_ASSIGN_OR_RETURN(const bool store, fs.exists(folder + "/catalog.db"));
    if (store) return error(Code::kNotSupported, "{} is a part of the store {}", path, folder);
    if (folder == "/") break;
  }
  return {};
}

}  // namespace

// (Though it is as long as that: an earlier sync of its length may have failed, I10.)
Status adapt_taken_file(File& file, std::uint64_t size_bytes, SyncWatch& syncs) {
  VT_RETURN_IF_ERROR(file.make_ours());
  VT_RETURN_IF_ERROR(file.truncate(Layer::data_file_bytes(size_bytes)));
  return syncs(file.sync_sync());
}

Task<Status> FileTaking::run() {
  VT_CO_RETURN_IF_ERROR(check_volume());
  VT_CO_RETURN_IF_ERROR(
      co_await core_.engine.run_syncing([this](SyncWatch&) { return open_file(); }));
  VT_CO_ASSIGN_OR_RETURN(layer_, co_await core_.engine.new_layer_id());
  Status done = co_await sum_file();
  if (done.ok()) {
    const AsyncMutex::Guard guard = co_await core_.ops_mutex.lock();
    done = co_await take();
  }
  file_.reset();
  co_return done;
}

Status FileTaking::check_volume() const {
  VT_RETURN_IF_ERROR(core_.engine.check_writable());
  const std::lock_guard lock(core_.state_mutex);
  return core_.check_free_name(volume_);
}

// Nothing of it has changed when this fails.
Status FileTaking::open_file() {
  // Direct: the sums are of what the disk has, whatever became of earlier syncs of the file.
  VT_ASSIGN_OR_RETURN(file_, fs_.open(opened_as_, {.direct = true}));
  VT_ASSIGN_OR_RETURN(path_, file_->path_now());
  if (sums_from_.empty()) VT_RETURN_IF_ERROR(check_no_store(fs_, path_));
  VT_RETURN_IF_ERROR(file_->take_lease());
  VT_RETURN_IF_ERROR(check_alone(1));
  VT_ASSIGN_OR_RETURN(length_bytes_, file_->size_bytes());
  if (options_.size_bytes == 0) {
    options_.size_bytes = (length_bytes_ + kSectorBytes - 1) / kSectorBytes * kSectorBytes;
  }
  if (options_.size_bytes < length_bytes_) {
    return error(Code::kInvalid, "{} has {} bytes, more than a volume of {}", path_, length_bytes_,
                 options_.size_bytes);
  }
  VT_RETURN_IF_ERROR(core_.check_size_fits(options_.size_bytes));
  VT_RETURN_IF_ERROR(settings_.check(options_.size_bytes));
  // It is its owner's still: what he has lost of it is no failure of the store. (Another store has
  // synced what it gives.)
  return sums_from_.empty() ? file_->sync_sync() : Status();
}

Status FileTaking::check_alone(std::uint64_t names) {
  VT_RETURN_IF_ERROR(file_->check_lease());
  VT_ASSIGN_OR_RETURN(const std::uint64_t links, file_->links());
  if (links == names) return {};
  return error(Code::kNotSupported, "{} has {} more names (hard links)", path_, links - names);
}

// Holes stay holes. The sums are durable before anything names them.
Task<Status> FileTaking::sum_file() {
  Status done = co_await core_.engine.run_syncing([this](SyncWatch& syncs) -> Status {
    VT_RETURN_IF_ERROR(Layer::make_place(fs_, core_.engine.directory(), layer_, syncs));
    VT_ASSIGN_OR_RETURN(sums_, fs_.open(Layer::sum_path(core_.engine.directory(), layer_),
                                        {.create = true, .exclusive = true}));
    return sums_->truncate(Layer::sum_file_bytes(options_.size_bytes));
  });
  if (done.ok() && !sums_from_.empty()) {
    done = co_await core_.engine.run_syncing([this](SyncWatch&) { return copy_sums(); });
  }
  const std::uint64_t end_bytes = sums_from_.empty() ? length_bytes_ : 0;
  for (std::uint64_t at_bytes = 0; done.ok() && at_bytes < end_bytes;) {
    done = co_await core_.engine.run_syncing(
        [this, &at_bytes](SyncWatch&) { return sum_step(at_bytes); });
  }
  if (done.ok()) {
    done = co_await core_.engine.run_syncing(
        [this](SyncWatch& syncs) { return syncs(sums_->sync_sync()); });
  }
  sums_.reset();
  if (!done.ok()) co_await remove_layer_files();
  co_return done;
}

Status FileTaking::sum_step(std::uint64_t& at_bytes) {
  VT_ASSIGN_OR_RETURN(const BlockRange found, next_data(*file_, at_bytes, length_bytes_));
  const BlockRange step{found.first, std::min(found.count, kStepBlocks)};
  at_bytes = step.count == 0 ? length_bytes_ : step.end() * kBlockBytes;
  if (options_.progress) {
    VT_RETURN_IF_ERROR(options_.progress(std::min(at_bytes, length_bytes_), length_bytes_));
  }
  if (step.count == 0) return {};
  const auto bytes = buffer_.span().first(step.count * kBlockBytes);
  VT_RETURN_IF_ERROR(file_->read_sync(bytes, step.first * kBlockBytes));
  std::vector<std::uint64_t> sums(step.count);
  for (std::uint64_t i = 0; i < step.count; ++i) {
    sums[i] = block_checksum(bytes.subspan(i * kBlockBytes, kBlockBytes));
  }
  index_.assign(step.first, step.count, kIndexData);
  return sums_->write_sync(std::as_bytes(std::span(sums)), step.first * sizeof(std::uint64_t));
}

// What the sums say is there, is, and what does not match them stays damaged (I9). A tombstone at
// the bottom is as good as nothing.
Status FileTaking::copy_sums() {
  constexpr std::uint64_t kSumBytes = sizeof(std::uint64_t);
  VT_ASSIGN_OR_RETURN(const auto from, fs_.open(sums_from_, {.writable = false}));
  VT_ASSIGN_OR_RETURN(const std::uint64_t there_bytes, from->size_bytes());
  const std::uint64_t end_bytes = blocks_of_bytes(options_.size_bytes) * kSumBytes;
  if (there_bytes < end_bytes) {
    return error(Code::kDamaged, "{} is {} bytes long, but must have {}", sums_from_, there_bytes,
                 end_bytes);
  }
  for (std::uint64_t at_bytes = 0; at_bytes < end_bytes;) {
    VT_ASSIGN_OR_RETURN(const BlockRange found, next_data(*from, at_bytes, end_bytes));
    if (found.count == 0) break;
    const BlockRange step{found.first, std::min(found.count, kStepBlocks)};
    at_bytes = step.end() * kBlockBytes;
    const std::uint64_t first_bytes = step.first * kBlockBytes;
    std::vector<std::uint64_t> sums((std::min(at_bytes, end_bytes) - first_bytes) / kSumBytes);
    VT_RETURN_IF_ERROR(from->read_sync(std::as_writable_bytes(std::span(sums)), first_bytes));
    for (std::uint64_t i = 0; i < sums.size(); ++i) {
      if (sums[i] == kSumTombstone) sums[i] = kSumAbsent;
      if (sums[i] != kSumAbsent) index_.assign(first_bytes / kSumBytes + i, 1, kIndexData);
    }
    VT_RETURN_IF_ERROR(sums_->write_sync(std::as_bytes(std::span(sums)), first_bytes));
  }
  return {};
}

// Under ops_mutex, to the end: the name is free, and nobody sees the volume before it is whole.
Task<Status> FileTaking::take() {
  Status done = check_volume();
  if (done.ok()) done = co_await core_.check_provision(options_.size_bytes);
  if (done.ok()) done = co_await make_rows();
  if (done.ok()) {
    done =
        co_await core_.engine.run_syncing([this](SyncWatch& syncs) { return name_layer(syncs); });
  }
  if (done.ok()) done = co_await core_.engine.commit([this](CatalogDb& db) { return put(db); });
  if (!done.ok()) {
    // (When the commit's outcome is not known, its rows may be there: the next open will see.)
    if (!core_.engine.read_only()) co_await remove_layer_files();
    co_return done;
  }
  done =
      co_await core_.engine.run_syncing([this](SyncWatch& syncs) { return lose_old_name(syncs); });
  if (done.ok()) {
    done = co_await core_.engine.commit_freeing(
        [this](CatalogDb& db) { return db.remove_taken_layer(layer_); });
  }
  if (!done.ok()) {
    const Status undone = co_await undo();
    if (undone.ok()) co_return done;
    co_return Status(done.code(),
                     fmt::format("{}; {} cannot be given back ({}): the next open of the store "
                                 "will take it or leave it",
                                 done.message(), path_, undone.message()));
  }
  file_.reset();  // with its lease: the volume opens it anew
  publish();
  co_return Status();
}

Task<Status> FileTaking::make_rows() {
  VT_CO_ASSIGN_OR_RETURN(
      rows_, co_await core_.new_volume(volume_, options_.size_bytes, settings_.erase_policy));
  row_ = {layer_, rows_.head.id, options_.size_bytes, false, rows_.volume.created_ns};
  co_return Status();
}

Status FileTaking::name_layer(SyncWatch& syncs) {
  const std::string data = Layer::data_path(core_.engine.directory(), layer_);
  VT_RETURN_IF_ERROR(file_->link(data));
  VT_RETURN_IF_ERROR(syncs(fs_.sync_dir(parent_folder(data))));
  return check_alone(2);
}

Status FileTaking::put(CatalogDb& db) const {
  VT_RETURN_IF_ERROR(rows_.put(db));
  VT_RETURN_IF_ERROR(settings_.put(db, rows_.volume.id));
  VT_RETURN_IF_ERROR(db.put_layer(row_));
  for (auto at = index_.next_extent(0); at;) {
    const std::uint64_t region = at->first / kRegionBlocks;
    VT_RETURN_IF_ERROR(db.put_region({layer_, region, encode_region(index_, region), false}));
    at = index_.next_extent((region + 1) * kRegionBlocks);
  }
  return db.put_taken_layer({layer_, path_});
}

Status FileTaking::lose_old_name(SyncWatch& syncs) {
  VT_RETURN_IF_ERROR(file_->unlink_name(path_));
  unlinked_ = true;
  VT_RETURN_IF_ERROR(sync_old_folder(fs_, path_, syncs));
  VT_RETURN_IF_ERROR(check_alone(1));
  return adapt_taken_file(*file_, options_.size_bytes, syncs);
}

// The file is what it was before the volume goes, and its old name durable before the layer's
// goes.
Task<Status> FileTaking::undo() {
  VT_CO_RETURN_IF_ERROR(core_.engine.check_writable());
  VT_CO_RETURN_IF_ERROR(co_await core_.engine.run_syncing([this](SyncWatch& syncs) -> Status {
    if (!unlinked_) return {};
    VT_ASSIGN_OR_RETURN(const std::uint64_t now_bytes, file_->size_bytes());
    if (now_bytes != length_bytes_) VT_RETURN_IF_ERROR(file_->truncate(length_bytes_));
    VT_RETURN_IF_ERROR(file_->link(path_));
    return syncs(fs_.sync_dir(parent_folder(path_)));
  }));
  VT_CO_RETURN_IF_ERROR(co_await core_.engine.commit_freeing([this](CatalogDb& db) -> Status {
    VT_RETURN_IF_ERROR(db.remove_layer(layer_));
    VT_RETURN_IF_ERROR(db.remove_volume(rows_.volume.id));
    return db.remove_node(rows_.head.id);
  }));
  co_await remove_layer_files();
  co_return Status();
}

// Only names: the file has its other one. What cannot be removed now the next open removes.
Task<void> FileTaking::remove_layer_files() {
  const Status removed = co_await core_.engine.run_syncing([this](SyncWatch& syncs) {
    return Layer::unlink_files(fs_, core_.engine.directory(), layer_, syncs);
  });
  if (!removed.ok()) core_.recovery_due = true;
}

void FileTaking::publish() {
  auto layer = std::make_shared<Layer>(core_.engine.runtime(), core_.engine.directory(), row_);
  Lineage next = core_.copy_lineage();
  next.add(rows_.head);
  next.own(rows_.head.id, layer_);
  core_.publish(std::move(next), [this, &layer] {
    core_.volumes[rows_.volume.id] = rows_.volume;
    core_.put_settings(rows_.volume.id, settings_);
    core_.engine.layers().add(layer);
  });
}

namespace {

// What becomes of a layer with the mark.
struct TakenLayer {
  TakenLayerRow taken;
  LayerRow layer;
  VolumeId volume = 0;
  bool is_ours = false;
};

std::vector<TakenLayer> taken_layers(const CatalogImage& image) {
  std::vector<TakenLayer> all;
  for (const TakenLayerRow& row : image.taken_layers) {
    TakenLayer one{row, {}, 0, false};
    for (const LayerRow& layer : image.layers) {
      if (layer.id == row.layer) one.layer = layer;
    }
    for (const NodeRow& node : image.nodes) {
      if (node.id == one.layer.owner) one.volume = node.volume;
    }
    all.push_back(std::move(one));
  }
  return all;
}

// Its names, whatever they are, are durable from here on.
Status settle_names(FileSystem& fs, const std::string& directory, TakenLayer& one,
                    SyncWatch& syncs) {
  VT_RETURN_IF_ERROR(sync_old_folder(fs, one.taken.path, syncs));
  const std::string data = Layer::data_path(directory, one.layer.id);
  VT_ASSIGN_OR_RETURN(const bool there, fs.exists(data));
  one.is_ours = true;
  if (!there) return {};  // find_missing_layers() will tell
  VT_ASSIGN_OR_RETURN(auto file, fs.open(data, {}));
  VT_ASSIGN_OR_RETURN(const std::uint64_t links, file->links());
  one.is_ours = links == 1;
  return one.is_ours ? adapt_taken_file(*file, one.layer.size_bytes, syncs) : Status();
}

}  // namespace

Task<Status> Store::take_file(std::string volume, std::string file, TakeOptions options) {
  FileTaking taking(*core_, std::move(volume), std::move(file), std::move(options));
  co_return co_await taking.run();
}

Task<Status> StoreCore::settle_taken(CatalogImage& image) {
  std::vector<TakenLayer> all = taken_layers(image);
  if (all.empty()) co_return Status();
  FileSystem& fs = engine.runtime().fs();
  VT_CO_RETURN_IF_ERROR(co_await engine.run_syncing([&](SyncWatch& syncs) -> Status {
    for (TakenLayer& one : all) {
      VT_RETURN_IF_ERROR(settle_names(fs, engine.directory(), one, syncs));
    }
    return {};
  }));
  VT_CO_RETURN_IF_ERROR(co_await engine.commit_freeing([&all](CatalogDb& db) -> Status {
    for (const TakenLayer& one : all) {
      VT_RETURN_IF_ERROR(db.remove_taken_layer(one.layer.id));
      if (one.is_ours) continue;
      VT_RETURN_IF_ERROR(db.remove_layer(one.layer.id));
      VT_RETURN_IF_ERROR(db.remove_volume(one.volume));
      VT_RETURN_IF_ERROR(db.remove_node(one.layer.owner));
    }
    return {};
  }));
  image.taken_layers.clear();
  for (const TakenLayer& one : all) {
    if (one.is_ours) continue;
    std::erase_if(image.layers, [&](const LayerRow& row) { return row.id == one.layer.id; });
    std::erase_if(image.nodes, [&](const NodeRow& row) { return row.id == one.layer.owner; });
    std::erase_if(image.volumes, [&](const VolumeRow& row) { return row.id == one.volume; });
    const auto is_its = [&one](const auto& row) { return row.volume == one.volume; };
    std::erase_if(image.volume_limits, is_its);
    std::erase_if(image.volume_notes, is_its);
    std::erase_if(image.volume_reserves, is_its);
    warn(fmt::format("{} was being taken in when the store stopped: it is not, and what it was",
                     one.taken.path));
    VT_CO_RETURN_IF_ERROR(co_await engine.run_syncing([&](SyncWatch& syncs) {
      return Layer::unlink_files(fs, engine.directory(), one.layer.id, syncs);
    }));
  }
  co_return Status();
}

}  // namespace voltree
