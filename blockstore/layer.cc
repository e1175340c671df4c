#include "blockstore/layer.h"

#include <algorithm>

#include "blockstore/format/region_format.h"

namespace voltree {
namespace {

constexpr std::uint64_t kSumBytes = sizeof(std::uint64_t);
// Address space kept for a layer's sums, so that growing it never moves the mapping: four times the
// size, at least what a 64 GiB volume needs.
constexpr std::uint64_t kReserveFactor = 4;
constexpr std::uint64_t kReserveMinBytes = (std::uint64_t{64} << 30) / kBlockBytes * kSumBytes;

std::uint64_t reserve_bytes(std::uint64_t size_bytes) {
  return std::max(Layer::sum_file_bytes(size_bytes) * kReserveFactor, kReserveMinBytes);
}

std::string folder_of(const std::string& store_directory, LayerId id) {
  return fmt::format("{}/layers/{:02x}", store_directory, id & 0xff);
}

}  // namespace

Layer::Layer(Runtime& runtime, std::string store_directory, const LayerRow& row, bool writable)
    : runtime_(runtime),
      store_directory_(std::move(store_directory)),
      writable_(writable),
      id_(row.id),
      created_ns_(row.created_ns),
      size_bytes_(row.size_bytes),
      owner_(row.owner) {
  state.unsettled = row.unsettled;
}

std::string Layer::data_path(const std::string& store_directory, LayerId id) {
  return fmt::format("{}/{:08x}", folder_of(store_directory, id), id);
}

std::string Layer::sum_path(const std::string& store_directory, LayerId id) {
  return data_path(store_directory, id) + ".sum";
}

std::uint64_t Layer::data_file_bytes(std::uint64_t size_bytes) {
  return blocks_of_bytes(size_bytes) * kBlockBytes;
}

std::uint64_t Layer::sum_file_bytes(std::uint64_t size_bytes) {
  return std::max(blocks_of_bytes(size_bytes) * kSumBytes, kBlockBytes);
}

// A crash between making the files and the catalog row leaves files that no row names: they are
// started over.
Status Layer::make_place(FileSystem& fs, const std::string& store_directory, LayerId id,
                         SyncWatch& syncs) {
  const std::string folder = folder_of(store_directory, id);
  VT_ASSIGN_OR_RETURN(const bool folder_exists, fs.exists(folder));
  if (!folder_exists) {
    VT_RETURN_IF_ERROR(fs.make_dir(folder));
    VT_RETURN_IF_ERROR(syncs(fs.sync_dir(store_directory + "/layers")));
  }
  return unlink_files(fs, store_directory, id, syncs);
}

Status Layer::create_files(SyncWatch& syncs) {
  FileSystem& fs = runtime_.fs();
  const std::string folder = folder_of(store_directory_, id_);
  VT_RETURN_IF_ERROR(make_place(fs, store_directory_, id_, syncs));
  VT_ASSIGN_OR_RETURN(
      auto data, fs.open(data_path(store_directory_, id_), {.create = true, .exclusive = true}));
  VT_RETURN_IF_ERROR(data->truncate(data_file_bytes(size_bytes())));
  VT_RETURN_IF_ERROR(syncs(data->sync_sync()));
  VT_ASSIGN_OR_RETURN(
      auto sums, fs.open(sum_path(store_directory_, id_), {.create = true, .exclusive = true}));
  VT_RETURN_IF_ERROR(sums->truncate(sum_file_bytes(size_bytes())));
  VT_RETURN_IF_ERROR(syncs(sums->sync_sync()));
  VT_RETURN_IF_ERROR(syncs(fs.sync_dir(folder)));
  VT_RETURN_IF_ERROR(open_files());
  const std::lock_guard lock(mutex);
  state.index_loaded = true;
  index_ready_.store(true, std::memory_order_release);
  opened_.store(true, std::memory_order_release);
  return {};
}

Status Layer::unlink_files(FileSystem& fs, const std::string& store_directory, LayerId id,
                           SyncWatch& syncs) {
  bool removed = false;
  for (const std::string& path : {data_path(store_directory, id), sum_path(store_directory, id)}) {
    VT_ASSIGN_OR_RETURN(const bool there, fs.exists(path));
    if (!there) continue;
    VT_RETURN_IF_ERROR(fs.unlink(path));
    removed = true;
  }
  return removed ? syncs(fs.sync_dir(folder_of(store_directory, id))) : Status();
}

Status Layer::open_files() {
  FileSystem& fs = runtime_.fs();
  const std::string path = data_path(store_directory_, id_);
  VT_ASSIGN_OR_RETURN(const bool there, fs.exists(path));
  if (!there) {
    return error(Code::kDamaged, "layer file {} is missing: restore it, or delete what uses it",
                 path);
  }
  VT_ASSIGN_OR_RETURN(direct_file_, fs.open(path, {.writable = writable_, .direct = true}));
  VT_ASSIGN_OR_RETURN(cached_file_, fs.open(path, {.writable = writable_}));
  VT_ASSIGN_OR_RETURN(const std::uint64_t length, cached_file_->size_bytes());
  const std::uint64_t wanted = data_file_bytes(size_bytes());
  if (length < wanted) {
    return error(Code::kDamaged, "layer file {} is {} bytes long, but must have {}", path, length,
                 wanted);
  }
  return open_sums();
}

// Mapping makes the file, and makes it longer: what is missing must be noticed before.
Status Layer::open_sums() {
  FileSystem& fs = runtime_.fs();
  const std::string path = sum_path(store_directory_, id_);
  VT_ASSIGN_OR_RETURN(const bool there, fs.exists(path));
  if (!there) {
    return error(Code::kDamaged, "{} is missing: restore it, or delete what uses it", path);
  }
  {
    VT_ASSIGN_OR_RETURN(const auto file, fs.open(path, {.writable = false}));
    VT_ASSIGN_OR_RETURN(const std::uint64_t length, file->size_bytes());
    sums_were_short_ = length < sum_file_bytes(size_bytes());
  }
  if (!writable_) {
    if (sums_were_short_) return error(Code::kDamaged, "{} is too short", path);
    VT_ASSIGN_OR_RETURN(sums_, fs.map_read_only(path));
    return {};
  }
  sums_reserve_bytes_ = reserve_bytes(size_bytes());
  VT_ASSIGN_OR_RETURN(sums_, fs.map(path, sum_file_bytes(size_bytes()), sums_reserve_bytes_));
  return {};
}

Status Layer::failure() const {
  const std::lock_guard lock(failure_mutex_);
  return failure_;
}

void Layer::fail(Status why) {
  const std::lock_guard lock(failure_mutex_);
  failure_ = std::move(why);
  failed_.store(true, std::memory_order_release);
}

Task<Status> Layer::ensure_open() {
  if (opened_.load(std::memory_order_acquire)) co_return Status();
  auto guard = co_await open_mutex_.lock();
  if (opened_.load(std::memory_order_acquire)) co_return Status();
  if (failed()) co_return failure();
  Status status = co_await runtime_.run_blocking([this] { return open_files(); });
  if (status.ok()) opened_.store(true, std::memory_order_release);
  if (status.code() == Code::kDamaged) fail(status);
  co_return status;
}

Result<bool> Layer::grow(std::uint64_t size_bytes) {
  if (size_bytes <= this->size_bytes()) return true;
  if (sum_file_bytes(size_bytes) > sums_reserve_bytes_) return false;
  VT_RETURN_IF_ERROR(cached_file_->truncate(data_file_bytes(size_bytes)));
  VT_RETURN_IF_ERROR(sums_->grow(sum_file_bytes(size_bytes)));
  size_bytes_.store(size_bytes, std::memory_order_release);
  return true;
}

std::uint64_t Layer::sum(std::uint64_t block) const {
  auto* entries = reinterpret_cast<std::uint64_t*>(sums_->data());
  return std::atomic_ref<std::uint64_t>(entries[block]).load(std::memory_order_acquire);
}

void Layer::set_sum(std::uint64_t block, std::uint64_t value) {
  auto* entries = reinterpret_cast<std::uint64_t*>(sums_->data());
  std::atomic_ref<std::uint64_t>(entries[block]).store(value, std::memory_order_release);
}

Task<Status> Layer::touch_sums(BlockRange range, bool for_write) {
  const std::uint64_t offset = range.first * kSumBytes;
  const std::uint64_t length = range.count * kSumBytes;
  if (sums_->resident(offset, length, for_write)) co_return Status();
  co_return co_await runtime_.run_blocking([this, offset, length, for_write] {
    return sums_->populate_sync(offset, length, for_write);
  });
}

Task<Status> Layer::ensure_index(Catalog& catalog) {
  if (index_ready_.load(std::memory_order_acquire)) co_return Status();
  auto guard = co_await open_mutex_.lock();
  if (index_ready_.load(std::memory_order_acquire)) co_return Status();
  const LayerId id = id_;
  VT_CO_ASSIGN_OR_RETURN(const std::vector<RegionRow> rows,
                         co_await catalog.read<std::vector<RegionRow>>(
                             [id](CatalogDb& db) { return db.regions(id); }));
  ExtentMap index;
  std::set<std::uint64_t> dirty;
  for (const RegionRow& row : rows) {
    const auto bytes = std::as_bytes(std::span(row.state.data(), row.state.size()));
    Status decoded = decode_region(bytes, row.region, index);
    if (!decoded.ok()) co_return decoded.with_context(fmt::format("index of layer {:08x}", id_));
    if (row.dirty) dirty.insert(row.region);
  }
  const std::lock_guard lock(mutex);
  state.index = index;
  state.durable_index = std::move(index);
  state.dirty_regions = std::move(dirty);
  state.index_loaded = true;
  index_ready_.store(true, std::memory_order_release);
  co_return Status();
}

void LayerTable::add(std::shared_ptr<Layer> layer) {
  const std::lock_guard lock(mutex_);
  const LayerId id = layer->id();
  layers_[id] = std::move(layer);
}

void LayerTable::remove(LayerId id) {
  const std::lock_guard lock(mutex_);
  layers_.erase(id);
}

std::shared_ptr<Layer> LayerTable::find(LayerId id) const {
  const std::lock_guard lock(mutex_);
  const auto found = layers_.find(id);
  return found == layers_.end() ? nullptr : found->second;
}

std::vector<std::shared_ptr<Layer>> LayerTable::all() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<Layer>> layers;
  layers.reserve(layers_.size());
  for (const auto& entry : layers_) layers.push_back(entry.second);
  return layers;
}

std::vector<std::shared_ptr<Layer>> LayerTable::failed() const {
  std::vector<std::shared_ptr<Layer>> layers = all();
  std::erase_if(layers, [](const auto& layer) { return !layer->failed(); });
  std::sort(layers.begin(), layers.end(),
            [](const auto& a, const auto& b) { return a->id() < b->id(); });
  return layers;
}

}  // namespace voltree
