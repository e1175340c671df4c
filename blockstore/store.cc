// The life of a store: make, open, close.
#include "blockstore/store.h"

#include <algorithm>
#include <optional>
#include <sstream>

#include "blockstore/catalog_log.h"
#include "blockstore/check_blocks.h"
#include "blockstore/lineage_copy.h"
#include "blockstore/store_core.h"
#include "blockstore/store_handover.h"
#include "blockstore/store_repair_layers.h"
#include "blockstore/store_scrub.h"

namespace voltree {
namespace {

// Of missing layers so many are named in the warning.
constexpr std::size_t kWarnedLayersMax = 3;

std::string host_warning(const FsInfo& info) {
  if (!info.copy_on_write) return {};
  return fmt::format(
      "the store lies on {}, which writes new data beside the old: erasing can not promise that "
      "old "
      "bytes are gone",
      info.type);
}

// Setting `place`: which file the catalog was when the store was last open.
std::string place_text(const FileIdentity& place) {
  return fmt::format("{} {} {}", place.device, place.inode, place.born_ns);
}

std::optional<FileIdentity> parse_place(const std::string& text) {
  std::istringstream fields(text);
  FileIdentity place;
  fields >> place.device >> place.inode >> place.born_ns;
  return fields ? std::optional(place) : std::nullopt;
}

// What run/needs_check says; it is empty, or not there, after a failure.
Result<std::string> read_needs_check(FileSystem& fs, const std::string& directory, bool there) {
  constexpr std::uint64_t kTextMaxBytes = 1000;
  std::string text;
  if (there) {
    VT_ASSIGN_OR_RETURN(auto file,
                        fs.open(Engine::needs_check_path(directory), {.writable = false}));
    VT_ASSIGN_OR_RETURN(const std::uint64_t length, file->size_bytes());
    text.resize(std::min(length, kTextMaxBytes));
    VT_RETURN_IF_ERROR(
        file->read_sync(std::as_writable_bytes(std::span(text.data(), text.size())), 0));
  }
  if (!text.empty()) return text;
  return std::string(
      "the store went read-only after a failure when it was last open: run `voltree check --data`");
}

std::string copy_warning(const std::string& uuid, const std::string& from, bool clean) {
  if (clean) {
    return fmt::format(
        "this store was copied, or moved to another file system, since it was last "
        "open: it has a uuid of its own now, {} (it was {})",
        uuid, from);
  }
  return fmt::format(
      "this store is a copy of {} that was taken while that was open: it was "
      "recovered as after a power failure, and has a uuid of its own, {}; run "
      "`voltree check --data`",
      from, uuid);
}

// Nothing is there, or what an init that was cut off has left.
Status check_empty(FileSystem& fs, const std::string& directory) {
  VT_ASSIGN_OR_RETURN(const auto names, fs.list_dir(directory));
  const auto has = [&names](const char* name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  if (has("catalog.db")) return error(Code::kExists, "there is a store in {} already", directory);
  if (has("layers")) {
    VT_ASSIGN_OR_RETURN(const auto layers, fs.list_dir(directory + "/layers"));
    if (!layers.empty()) {
      return error(Code::kExists,
                   "{} has layers of a store, and no catalog.db: restore that, or empty the folder",
                   directory);
    }
  }
  for (const std::string& name : names) {
    const bool ours = name == "layers" || name == "run" || name == "LOCK" || name == "reserve" ||
                      name.starts_with("catalog.db.new") || name.starts_with("lineage");
    if (ours) continue;
    return error(Code::kExists, "{} is not empty: a store needs a folder of its own", directory);
  }
  return {};
}

CatalogDb::Settings first_settings(Runtime& runtime, const StoreCreateOptions& options) {
  return {{"uuid", make_uuid(runtime)},
          {"boot_id", runtime.boot_id()},
          {"clean", "1"},
          {"erase_policy", std::string(erase_policy_name(options.erase_policy))},
          {"erase_rate_bytes", std::to_string(options.erase_rate_bytes)}};
}

}  // namespace

std::string make_uuid(Runtime& runtime) {
  std::uint64_t high = runtime.random_u64();
  std::uint64_t low = runtime.random_u64();
  high = (high & ~0xf000ULL) | 0x4000ULL;      // version 4 (RFC 9562, section 5.4)
  low = (low & ~(3ULL << 62)) | (2ULL << 62);  // its variant
  return fmt::format("{:08x}-{:04x}-{:04x}-{:04x}-{:012x}", high >> 32, (high >> 16) & 0xffff,
                     high & 0xffff, low >> 48, low & 0xffffffffffffULL);
}

Status Store::create(Runtime& runtime, const std::string& directory, StoreCreateOptions options) {
  FileSystem& fs = runtime.fs();
  VT_ASSIGN_OR_RETURN(const bool there, fs.exists(directory));
  if (!there) VT_RETURN_IF_ERROR(fs.make_dir(directory));
  VT_RETURN_IF_ERROR(check_empty(fs, directory));
  // An earlier init may have made the folder and not its name durable. Somebody else's folder in a
  // folder that we may not read is theirs to have made.
  Status named = fs.sync_dir(parent_folder(directory));
  if (!named.ok() && (!there || named.code() != Code::kPermission)) return named;
  VT_ASSIGN_OR_RETURN(const FsInfo info, fs.info(directory));
  if (!info.sparse_files) {
    return error(Code::kNotSupported,
                 "{} lies on {}, which has no sparse files: use ext4, XFS, btrfs or tmpfs",
                 directory, info.type);
  }
  VT_RETURN_IF_ERROR(fs.make_dir(directory + "/layers"));
  VT_RETURN_IF_ERROR(fs.make_dir(directory + "/run"));
  VT_ASSIGN_OR_RETURN(auto lock_file, fs.open(directory + "/LOCK", {.create = true}));
  VT_RETURN_IF_ERROR(lock_file->sync_sync());
  std::unique_ptr<StoreLock> lock;  // against another init
  if (fs.on_host()) {
    VT_ASSIGN_OR_RETURN(lock, StoreLock::take(directory));
  }
  SyncWatch syncs;
  VT_RETURN_IF_ERROR(Engine::make_reserve(fs, directory, syncs));
  // The catalog comes last, and the names of all before it are synced with its own: a folder
  // without one is no store.
  const std::string catalog = directory + "/catalog.db";
  return CatalogDb::create(fs, catalog, first_settings(runtime, options)).status();
}

Store::Store(std::unique_ptr<StoreCore> core) : core_(std::move(core)) {}

Store::~Store() = default;

Task<Result<std::unique_ptr<Store>>> Store::open(Runtime& runtime, const std::string& directory,
                                                 StoreOpenOptions options) {
  auto core = std::make_unique<StoreCore>(runtime, directory);
  VT_CO_RETURN_IF_ERROR(co_await core->open(options));
  co_return std::unique_ptr<Store>(new Store(std::move(core)));
}

Task<Status> StoreCore::open(StoreOpenOptions options) {
  Runtime& runtime = engine.runtime();
  const std::string& directory = engine.directory();
  std::unique_ptr<CatalogDb> db;
  VT_CO_RETURN_IF_ERROR(co_await engine.run_syncing([&](SyncWatch& syncs) -> Status {
    VT_ASSIGN_OR_RETURN(const bool there, runtime.fs().exists(directory + "/catalog.db"));
    if (!there) {
      // An init that was cut off has left an empty one.
      VT_ASSIGN_OR_RETURN(const auto layers, layer_files(runtime.fs(), directory));
      if (!layers.empty()) {
        return error(Code::kDamaged, "{} is a store without its catalog.db: see `voltree repair`",
                     directory);
      }
      return error(Code::kNotFound, "there is no store in {}: make one with `voltree init`",
                   directory);
    }
    VT_ASSIGN_OR_RETURN(const FsInfo info, runtime.fs().info(directory));
    if (info.read_only) return open_read_only(db);
    if (runtime.fs().on_host()) {
      VT_ASSIGN_OR_RETURN(lock, StoreLock::take(directory));
    }
    VT_RETURN_IF_ERROR(runtime.fs().make_dir(directory + "/run"));
    file_size_max_bytes = info.file_size_max_bytes / kBlockBytes * kBlockBytes;
    warning = host_warning(info);
    VT_ASSIGN_OR_RETURN(const bool needs_check,
                        runtime.fs().exists(Engine::needs_check_path(directory)));
    VT_ASSIGN_OR_RETURN(auto table, InflightTable::open(runtime.fs(), directory + "/run/inflight"));
    mount_id = info.mount_id;
    doubted = needs_check || table->failed();
    if (doubted) {
      VT_ASSIGN_OR_RETURN(warning, read_needs_check(runtime.fs(), directory, needs_check));
    }
    engine.set_inflight(std::move(table));
    // I10: what a sync could not make durable, another sync alone does not.
    if (doubted) {
      for (const char* file : {"/catalog.db-wal", "/catalog.db"}) {
        VT_RETURN_IF_ERROR(write_again(runtime.fs(), directory + file, syncs));
      }
    }
    VT_RETURN_IF_ERROR(trim_log(runtime.fs(), directory + "/catalog.db-wal", syncs));
    VT_ASSIGN_OR_RETURN(db, CatalogDb::open(runtime.fs(), directory + "/catalog.db"));
    // Until close() has moved it: what goes wrong with it on another way out is seen by nobody.
    db->keep_log(true);
    VT_ASSIGN_OR_RETURN(place, runtime.fs().identity(directory + "/catalog.db"));
    VT_ASSIGN_OR_RETURN(storage, runtime.fs().storage(directory));
    const std::uint64_t unknown = db->format().read_only_compatible & ~kKnownReadOnlyCompatible;
    if (unknown == 0) return {};
    return error(
        Code::kNotSupported,
        "the store has features (read-only compatible word {:#x}) that this version can not "
        "write: open it with the version that made them",
        unknown);
  }));
  engine.set_catalog(std::make_unique<Catalog>(runtime, std::move(db)));
  VT_CO_RETURN_IF_ERROR(co_await load());
  if (options.background_work && !engine.media_read_only()) {
    if (scrubber->interrupted()) (void)co_await scrubber->start(scrubber->info().rate_bytes, false);
    background_started = true;
    spawn(runtime.executor(0), background_loop());
    spawn(runtime.executor(0), eraser_loop());
  }
  co_return Status();
}

// What was closed in order needs no recovery, and can be read where nothing can be written.
Status StoreCore::open_read_only(std::unique_ptr<CatalogDb>& db) {
  FileSystem& fs = engine.runtime().fs();
  const std::string& directory = engine.directory();
  engine.set_media_read_only();
  warn(std::string(engine.check_writable().message()) + ": it can be read");
  if (fs.on_host()) {
    VT_ASSIGN_OR_RETURN(lock, StoreLock::share(directory));
  }
  VT_ASSIGN_OR_RETURN(const bool log, fs.exists(directory + "/catalog.db-wal"));
  if (log) return must_recover();
  VT_ASSIGN_OR_RETURN(db, CatalogDb::open(fs, directory + "/catalog.db", /*read_only=*/true));
  return {};
}

Status StoreCore::must_recover() const {
  return error(Code::kReadOnly,
               "{} lies on a file system that is mounted read-only, and was not closed in order: "
               "mount it writable once, or copy it, so that it can be recovered",
               engine.directory());
}

Task<Status> StoreCore::load() {
  struct Loaded {
    CatalogImage image;
    GuardSettings guard;
    std::vector<NodeId> saved;
  };
  VT_CO_ASSIGN_OR_RETURN(
      Loaded loaded,
      co_await engine.catalog().read<Loaded>([this](CatalogDb& db) -> Result<Loaded> {
        Loaded all;
        VT_ASSIGN_OR_RETURN(all.image, db.load());
        for (const char* key : {"uuid", "boot_id", "clean", "erase_policy", "erase_rate_bytes"}) {
          if (all.image.settings.contains(key)) continue;
          return error(Code::kDamaged, "the catalog lacks the setting {}", key);
        }
        VT_ASSIGN_OR_RETURN(all.guard, read_guard_settings(db));
        VT_ASSIGN_OR_RETURN(all.saved, db.saved_map_nodes());
        if (engine.media_read_only()) return all;
        engine.catalog().keep_copy(
            std::make_unique<LineageCopy>(engine.runtime(), engine.directory(),
                                          [this] { engine.inflight().set_failed(true); }),
            all.image);
        return all;
      }));
  if (engine.media_read_only()) {
    if (!loaded.image.taken_layers.empty()) co_return must_recover();
  } else {
    VT_CO_RETURN_IF_ERROR(co_await settle_taken(loaded.image));
    VT_CO_RETURN_IF_ERROR(co_await settle_leaving(*this, loaded.image));
  }
  std::map<std::string, std::string>& settings = loaded.image.settings;
  uuid = settings["uuid"];
  VT_CO_ASSIGN_OR_RETURN(erase_policy, parse_erase_policy(settings["erase_policy"]));
  erase_rate_bytes = std::strtoull(settings["erase_rate_bytes"].c_str(), nullptr, 10);
  // Parents before children: a node is added below one that is there. Ids do not tell (a head may
  // be reverted).
  std::multimap<NodeId, NodeRow> by_parent;
  for (const NodeRow& row : loaded.image.nodes) by_parent.emplace(row.parent, row);
  std::vector<NodeId> parents{kNoNode};
  while (!parents.empty()) {
    const NodeId parent = parents.back();
    parents.pop_back();
    const auto [begin, end] = by_parent.equal_range(parent);
    for (auto it = begin; it != end; ++it) {
      lineage.add(it->second);
      parents.push_back(it->second.id);
    }
  }
  if (lineage.nodes().size() != loaded.image.nodes.size()) {
    co_return error(Code::kDamaged, "the catalog has nodes whose ancestry has no root");
  }
  for (const LayerRow& row : loaded.image.layers) {
    if (lineage.find(row.owner) == nullptr) {
      co_return error(Code::kDamaged, "layer {:08x} belongs to node {}, which is not there", row.id,
                      row.owner);
    }
    engine.layers().add(std::make_shared<Layer>(engine.runtime(), engine.directory(), row,
                                                !engine.media_read_only()));
    lineage.own(row.owner, row.id);
  }
  for (const VolumeRow& row : loaded.image.volumes) volumes[row.id] = row;
  for (const AttachmentRow& row : loaded.image.attachments) attachments[row.id] = row;
  VT_CO_RETURN_IF_ERROR(load_limits(loaded.image.volume_limits));
  for (VolumeNoteRow& row : loaded.image.volume_notes) {
    notes[row.volume][row.key] = std::move(row.text);
  }
  guard_settings = loaded.guard;
  for (const VolumeReserveRow& row : loaded.image.volume_reserves) {
    reserves[row.volume] = row.reserve_bytes;
  }
  saved_maps.insert(loaded.saved.begin(), loaded.saved.end());
  index_names();
  eraser.load(std::move(loaded.image.erase_requests), loaded.image.erase_items);
  scrubber->load(settings["scrub"]);
  co_return co_await take_over(loaded.image);
}

// Numbers of devices hold for one boot. In it another number is another file system, but for one
// that is on the very same storage, and is there under its old number no more.
Task<bool> StoreCore::is_copy(FileIdentity was, std::string storage_was, bool same_boot) {
  if (was.inode != place.inode || was.born_ns != place.born_ns) co_return true;
  if (!same_boot || was.device == place.device) co_return false;
  if (storage.empty() || storage != storage_was) co_return true;
  FileSystem& fs = engine.runtime().fs();
  const auto there =
      co_await engine.runtime().run_blocking([&fs, &was] { return fs.storage_of(was.device); });
  co_return !there.ok() || *there == storage;
}

// A copy has its own uuid, so that nobody takes it for the store that it was made of, and none of
// the devices that are booked there. What a copy of an open store holds is what a power loss
// leaves: the pages that a dead daemon has left in memory are the other store's.
Task<Status> StoreCore::take_over(CatalogImage& image) {
  std::map<std::string, std::string>& settings = image.settings;
  const std::string boot_id = engine.runtime().boot_id();
  const bool same_boot = settings["boot_id"] == boot_id;
  const bool clean = settings["clean"] == "1";
  const std::optional<FileIdentity> was = parse_place(settings["place"]);
  if (engine.media_read_only()) {
    if (!clean) co_return must_recover();
    attachments.clear();  // of where it could be written
    co_return co_await find_missing_layers();
  }
  bool copied = false;
  if (was) copied = co_await is_copy(*was, settings["storage"], same_boot);
  copied_from = settings["copied_from"];
  if (copied) {
    copied_from = uuid;
    uuid = make_uuid(engine.runtime());
    attachments.clear();
    warn(copy_warning(uuid, copied_from, clean));
    if (!clean) {
      VT_CO_RETURN_IF_ERROR(co_await engine.run_syncing([this](SyncWatch&) {
        return Engine::ask_for_check(engine.runtime().fs(), engine.directory(), warning);
      }));
    }
  }
  VT_CO_RETURN_IF_ERROR(co_await find_missing_layers());
  // After another boot nothing of a page cache is left to doubt.
  const bool mounted_anew =
      settings["mount_id"] != mount_id || (was && was->device != place.device);
  doubted = doubted || (same_boot && mounted_anew);
  if (!clean) VT_CO_RETURN_IF_ERROR(co_await recover(same_boot && !copied));
  engine.inflight().clear();
  engine.on_guard_asks([this] { return look_at_host(); });
  VT_CO_RETURN_IF_ERROR(co_await look_at_host());
  co_await engine.refill_reserve();
  if (engine.catalog().failed()) engine.fail(engine.catalog().failure());
  if (engine.read_only()) co_return Status();  // it can be read
  co_return co_await engine.commit_freeing([&](CatalogDb& db) -> Status {
    if (copied) {
      VT_RETURN_IF_ERROR(db.put_setting("uuid", uuid));
      VT_RETURN_IF_ERROR(db.put_setting("copied_from", copied_from));
      for (const AttachmentRow& row : image.attachments) {
        VT_RETURN_IF_ERROR(db.remove_attachment(row.id));
      }
    }
    VT_RETURN_IF_ERROR(db.put_setting("place", place_text(place)));
    VT_RETURN_IF_ERROR(db.put_setting("storage", storage));
    VT_RETURN_IF_ERROR(db.put_setting("boot_id", boot_id));
    VT_RETURN_IF_ERROR(db.put_setting("mount_id", mount_id));
    VT_RETURN_IF_ERROR(db.add_compatible(kFeatureLineageCopy));
    return db.put_setting("clean", "0");
  });
}

void StoreCore::warn(const std::string& what) {
  if (!warning.empty()) warning += "; ";
  warning += what;
}

Task<Status> StoreCore::find_missing_layers() {
  using Files = std::map<LayerId, LayerFiles>;
  VT_CO_ASSIGN_OR_RETURN(const Files files, co_await engine.runtime().run_blocking([this] {
    return layer_files(engine.runtime().fs(), engine.directory());
  }));
  for (const std::shared_ptr<Layer>& layer : engine.layers().all()) {
    const auto found = files.find(layer->id());
    if (found != files.end() && found->second.data && found->second.sums) continue;
    const bool data = found != files.end() && found->second.data;
    layer->fail(error(Code::kDamaged, "{} is missing: restore it, or delete what uses it",
                      data ? Layer::sum_path(engine.directory(), layer->id())
                           : Layer::data_path(engine.directory(), layer->id())));
  }
  const FailedLayers failed = engine.layers().failed();
  for (std::size_t i = 0; i < failed.size() && i < kWarnedLayersMax; ++i) {
    VT_CO_RETURN_IF_ERROR(co_await failed[i]->ensure_index(engine.catalog()));
    const auto names = co_await names_seeing(*this, failed[i], failed[i]->state.index);
    warn(fmt::format("{} ({})", failed[i]->failure().message(), seen_by_text(names)));
  }
  if (failed.size() > kWarnedLayersMax) {
    warn(fmt::format("{} more layers are missing: see `voltree check`",
                     failed.size() - kWarnedLayersMax));
  }
  co_return Status();
}

Task<Status> StoreCore::close() {
  if (closed) co_return Status();
  closed = true;
  stopping.store(true, std::memory_order_release);
  co_await scrubber->stop();
  eraser.stop();
  wake_eraser();
  if (background_started) {
    co_await background_ended.wait();
    co_await eraser_ended.wait();
  }
  if (engine.media_read_only()) {
    co_await engine.timers()->drain();
    co_return Status();
  }
  Status status = engine.check_writable();
  // A device that was opened, written to and let go within one upkeep round left its presence with
  // its layers.
  for (const std::shared_ptr<Layer>& layer : engine.layers().all()) {
    bool pending = false;
    {
      const std::lock_guard guard(layer->mutex);
      pending = layer->state.needs_sync || !layer->state.pending_regions.empty();
    }
    if (!status.ok() || !pending) continue;
    const auto opened = co_await open_node(layer->owner());
    status = opened.status();
  }
  if (status.ok()) status = co_await close_idle_devices(true);
  co_await engine.timers()->drain();
  if (status.ok()) status = co_await settle_all();
  if (status.ok() && !recovery_due) {
    status =
        co_await engine.commit_freeing([](CatalogDb& db) { return db.put_setting("clean", "1"); });
  }
  if (status.ok()) co_await engine.catalog().renew_copy();
  co_return status;
}

Task<Status> Store::close() {
  Status status = co_await core_->close();
  StoreCore& core = *core_;
  // The catalog's strand ends off the executor: closing a database checkpoints and syncs.
  const bool writable = !core.engine.read_only();
  const Status checkpointed =
      co_await core.engine.runtime().run_blocking([&core, writable]() -> Status {
        CatalogDb& db = core.engine.catalog().db();
        Status moved = writable ? db.checkpoint() : Status();
        db.keep_log(!writable || !moved.ok());
        core.engine.set_catalog(nullptr);
        core.lock.reset();
        return moved;
      });
  // A full host will have room some day, and the log keeps everything until then.
  if (checkpointed.ok() || checkpointed.code() == Code::kNoSpace) co_return status;
  core.engine.fail(checkpointed);
  co_return checkpointed;
}

}  // namespace voltree
