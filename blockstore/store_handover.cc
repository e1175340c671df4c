#include "blockstore/store_handover.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <set>
#include <sstream>

#include "blockstore/base/checksum.h"
#include "blockstore/store_core.h"
#include "blockstore/store_take.h"

namespace voltree {
namespace {

constexpr std::string_view kMagic = "voltree leaving 1";
constexpr std::uint64_t kNoteMaxBytes = std::uint64_t{256}
                                        << 10;  // more than all settings there may be

std::string folder_of(const Engine& engine) { return engine.directory() + "/leaving"; }

std::string path_of(const Engine& engine, LayerId layer, std::string_view what) {
  return fmt::format("{}/{:08x}.{}", folder_of(engine), layer, what);
}

// What is noted of a volume is beside its sums.
std::string note_of(const std::string& sums) {
  return sums.substr(0, sums.size() - std::string_view("sum").size()) + "volume";
}

// docs/FORMAT.md, "Volumes that leave".
std::string encode(const GivenVolume& given) {
  const std::string text =
      fmt::format("{}\n{}\n{}\n{}", kMagic, given.name, given.size_bytes, given.settings.encode());
  return text + fmt::format("{:016x}\n", keyed_checksum(text, 0, 0));
}

// Nothing for what is torn, or not ours: it says exactly what encode() makes of it.
std::optional<GivenVolume> decode(const std::string& text) {
  std::istringstream lines(text);
  std::string line;
  GivenVolume given;
  std::getline(lines, line);
  std::getline(lines, given.name);
  std::getline(lines, line);
  std::istringstream(line) >> given.size_bytes;
  std::string settings;
  while (std::getline(lines, line) && !lines.eof() && lines.peek() != EOF) settings += line + "\n";
  given.settings = VolumeSettings::parse(settings);
  const bool whole = check_name(given.name).ok() && check_volume_size(given.size_bytes).ok() &&
                     encode(given) == text;
  return whole ? std::optional(given) : std::nullopt;
}

Result<std::optional<GivenVolume>> read_note(Engine& engine, LayerId layer) {
  FileSystem& fs = engine.runtime().fs();
  const std::string path = path_of(engine, layer, "volume");
  VT_ASSIGN_OR_RETURN(const bool there, fs.exists(path));
  if (!there) return std::optional<GivenVolume>();
  VT_ASSIGN_OR_RETURN(const auto file, fs.open(path, {.writable = false}));
  VT_ASSIGN_OR_RETURN(const std::uint64_t length, file->size_bytes());
  std::string text(std::min(length, kNoteMaxBytes), '\0');
  VT_RETURN_IF_ERROR(
      file->read_sync(std::as_writable_bytes(std::span(text.data(), text.size())), 0));
  std::optional<GivenVolume> given = decode(text);
  if (given) {
    given->data = path_of(engine, layer, "data");
    given->sums = path_of(engine, layer, "sum");
  }
  return given;
}

// The layers that have any file in leaving/.
Result<std::set<LayerId>> leaving_layers(Engine& engine) {
  FileSystem& fs = engine.runtime().fs();
  std::set<LayerId> layers;
  VT_ASSIGN_OR_RETURN(const bool there, fs.exists(folder_of(engine)));
  if (!there) return layers;
  VT_ASSIGN_OR_RETURN(const auto names, fs.list_dir(folder_of(engine)));
  constexpr std::size_t kIdDigits = 8;
  for (const std::string& name : names) {
    LayerId id = kNoLayer;
    const auto [end, bad] = std::from_chars(
        name.data(), name.data() + std::min(name.size(), kIdDigits), id, /*base=*/16);
    const bool known = bad == std::errc() && end == name.data() + kIdDigits && id != kNoLayer &&
                       name.size() > kIdDigits && name[kIdDigits] == '.';
    if (known) layers.insert(id);
  }
  return layers;
}

Status unlink_leaving(Engine& engine, LayerId layer, SyncWatch& syncs) {
  FileSystem& fs = engine.runtime().fs();
  for (const char* what : {"data", "sum", "volume"}) {
    const std::string path = path_of(engine, layer, what);
    VT_ASSIGN_OR_RETURN(const bool there, fs.exists(path));
    if (there) VT_RETURN_IF_ERROR(fs.unlink(path));
  }
  return syncs(fs.sync_dir(folder_of(engine)));
}

// Under ops_mutex: nothing is being given. Names that giving could not take away go now.
Result<GivenVolume> find_given(Engine& engine, const std::string& name, SyncWatch& syncs) {
  VT_ASSIGN_OR_RETURN(const std::set<LayerId> layers, leaving_layers(engine));
  std::optional<GivenVolume> found;
  for (const LayerId layer : layers) {
    VT_ASSIGN_OR_RETURN(const std::optional<GivenVolume> given, read_note(engine, layer));
    VT_ASSIGN_OR_RETURN(const bool there,
                        engine.runtime().fs().exists(path_of(engine, layer, "data")));
    // (One that could not be given is a layer still.)
    const bool ours = engine.layers().find(layer) != nullptr;
    if (ours) VT_RETURN_IF_ERROR(unlink_leaving(engine, layer, syncs));
    if (ours || !there || !given || given->name != name) continue;
    VT_RETURN_IF_ERROR(
        Layer::unlink_files(engine.runtime().fs(), engine.directory(), layer, syncs));
    found = given;
  }
  if (found) return *found;
  return error(Code::kNotFound, "no volume {} is leaving", quoted(name));
}

Task<Result<GivenVolume>> find_given(StoreCore& core, std::string name) {
  Result<GivenVolume> found = error(Code::kNotFound, "not looked for");
  const Status looked = co_await core.engine.run_syncing([&](SyncWatch& syncs) {
    found = find_given(core.engine, name, syncs);
    return found.status();
  });
  if (!looked.ok()) co_return looked;
  co_return found;
}

class Giving {
 public:
  Giving(StoreCore& core, std::string name) : core_(core), engine_(core.engine) {
    given_.name = std::move(name);
  }

  // Under ops_mutex.
  Task<Result<GivenVolume>> run() {
    VT_CO_RETURN_IF_ERROR(engine_.check_writable());
    VT_CO_RETURN_IF_ERROR(find());
    VT_CO_RETURN_IF_ERROR(co_await be_alone());
    Status done =
        co_await engine_.run_syncing([this](SyncWatch& syncs) { return link_files(syncs); });
    if (done.ok()) done = co_await commit();
    if (!done.ok()) {
      // (When the commit's outcome is not known: the next open will see.)
      if (!engine_.read_only()) {
        (void)co_await engine_.run_syncing(
            [this](SyncWatch& syncs) { return unlink_leaving(engine_, layer_->id(), syncs); });
      }
      co_return done;
    }
    const Status unlinked = co_await engine_.run_syncing([this](SyncWatch& syncs) {
      return Layer::unlink_files(engine_.runtime().fs(), engine_.directory(), layer_->id(), syncs);
    });
    // It is given all the same: whoever takes it will see that it has another name.
    if (!unlinked.ok()) core_.recovery_due = true;
    co_return given_;
  }

 private:
  Status find() {
    const std::lock_guard lock(core_.state_mutex);
    VT_ASSIGN_OR_RETURN(head_, core_.find_head(given_.name));
    VT_RETURN_IF_ERROR(core_.check_unused(head_.id));
    const Lineage::Node& node = *core_.lineage.find(head_.id);
    const bool alone = core_.check_no_snapshots(core_.volumes.at(head_.volume)).ok() &&
                       node.row.parent == kNoNode && node.owned.size() == 1;
    layer_ = alone ? engine_.layers().find(node.owned.front()) : nullptr;
    const bool fits = layer_ != nullptr && !layer_->failed() &&
                      layer_->size_bytes() == head_.size_bytes &&
                      core_.eraser.pending_ranges(layer_->id()).empty();
    if (!fits) {
      return error(Code::kNotSupported, "volume {} is more than one whole layer of its own",
                   quoted(given_.name));
    }
    given_.size_bytes = head_.size_bytes;
    given_.settings = core_.settings_of(head_);
    given_.data = path_of(engine_, layer_->id(), "data");
    given_.sums = path_of(engine_, layer_->id(), "sum");
    return {};
  }

  // Nobody has its device or its layer from here on, and both files are durable.
  Task<Status> be_alone() {
    const NodeId head = head_.id;
    {
      const std::lock_guard lock(core_.state_mutex);
      const auto found = core_.devices.find(head);
      if (found != core_.devices.end() && found->second.use_count() > 1) co_return in_use();
    }
    if (const std::shared_ptr<Volume> volume = core_.open_volume(head)) {
      std::vector<NodeId> nodes;
      nodes.push_back(head);
      co_await core_.kill_devices(nodes);
      const Status flushed = co_await volume->flush_shared();
      if (!flushed.ok()) {
        volume->revive();
        co_return flushed;
      }
      const std::lock_guard lock(core_.state_mutex);
      // The table's reference and ours; whoever opens it from here on waits for ops_mutex.
      if (volume.use_count() > 2) {
        volume->revive();
        co_return in_use();
      }
      core_.devices.erase(head);
      std::erase_if(core_.map_cache, [head](const auto& entry) { return entry.first == head; });
    }
    VT_CO_RETURN_IF_ERROR(co_await layer_->ensure_index(engine_.catalog()));
    VT_CO_RETURN_IF_ERROR(co_await engine_.settle(*layer_, nullptr));
    if (row_of(*layer_).unsettled) co_return in_use();
    // The table's reference and ours.
    if (layer_.use_count() > 2) co_return in_use();
    co_return Status();
  }

  Status in_use() const {
    return error(Code::kBusy, "volume {} is open, or being read", quoted(given_.name));
  }

  Status link_files(SyncWatch& syncs) {
    FileSystem& fs = engine_.runtime().fs();
    VT_RETURN_IF_ERROR(fs.make_dir(folder_of(engine_)));
    VT_RETURN_IF_ERROR(syncs(fs.sync_dir(engine_.directory())));
    VT_RETURN_IF_ERROR(unlink_leaving(engine_, layer_->id(), syncs));
    const std::string text = encode(given_);
    {
      VT_ASSIGN_OR_RETURN(auto note, fs.open(path_of(engine_, layer_->id(), "volume"),
                                             {.create = true, .exclusive = true}));
      VT_RETURN_IF_ERROR(note->write_sync(std::as_bytes(std::span(text.data(), text.size())), 0));
      VT_RETURN_IF_ERROR(syncs(note->sync_sync()));
    }
    VT_ASSIGN_OR_RETURN(auto data,
                        fs.open(Layer::data_path(engine_.directory(), layer_->id()), {}));
    VT_RETURN_IF_ERROR(data->link(given_.data));
    VT_ASSIGN_OR_RETURN(auto sums, fs.open(Layer::sum_path(engine_.directory(), layer_->id()), {}));
    VT_RETURN_IF_ERROR(sums->link(given_.sums));
    return syncs(fs.sync_dir(folder_of(engine_)));
  }

  Task<Status> commit() {
    Lineage next = core_.copy_lineage();
    VT_CO_RETURN_IF_ERROR(
        co_await core_.load_indexes(next, next.needed_for_remove(head_.id), true));
    LineagePlan plan;  // its one layer is garbage of nobody's
    next.remove(head_.id, plan);
    const LayerId layer = layer_->id();
    VT_CO_RETURN_IF_ERROR(co_await engine_.commit_freeing([this, layer](CatalogDb& db) -> Status {
      VT_RETURN_IF_ERROR(db.remove_layer(layer));
      VT_RETURN_IF_ERROR(db.remove_volume(head_.volume));
      VT_RETURN_IF_ERROR(db.remove_saved_map(head_.id));
      return db.remove_node(head_.id);
    }));
    core_.publish(std::move(next), [this, layer] {
      core_.volumes.erase(head_.volume);
      core_.limits.erase(head_.volume);
      core_.notes.erase(head_.volume);
      core_.reserves.erase(head_.volume);
      core_.saved_maps.erase(head_.id);
      engine_.layers().remove(layer);
    });
    co_return Status();
  }

  StoreCore& core_;
  Engine& engine_;
  GivenVolume given_;
  NodeRow head_;
  std::shared_ptr<Layer> layer_;
};

}  // namespace

Task<Result<GivenVolume>> StoreHandover::given(Store& store, std::string volume) {
  StoreCore& core = *store.core_;
  const AsyncMutex::Guard guard = co_await core.ops_mutex.lock();
  co_return co_await find_given(core, std::move(volume));
}

Task<Result<GivenVolume>> StoreHandover::give(Store& store, std::string volume) {
  StoreCore& core = *store.core_;
  const AsyncMutex::Guard guard = co_await core.ops_mutex.lock();
  auto before = co_await find_given(core, volume);
  if (before.ok() || before.status().code() != Code::kNotFound) co_return before;
  Giving giving(core, std::move(volume));
  co_return co_await giving.run();
}

Task<Status> StoreHandover::take(Store& store, GivenVolume volume) {
  FileTaking taking(*store.core_, volume.name, volume.data, {volume.size_bytes, {}, {}},
                    volume.sums, volume.settings);
  VT_CO_RETURN_IF_ERROR(co_await taking.run());
  // What could not be taken away is no volume, and goes when its store is opened.
  (void)co_await store.core_->engine.runtime().run_blocking([&]() -> Status {
    FileSystem& fs = store.core_->engine.runtime().fs();
    VT_RETURN_IF_ERROR(fs.unlink(volume.sums));
    return fs.unlink(note_of(volume.sums));
  });
  co_return Status();
}

Result<std::vector<GivenVolume>> given_volumes(StoreCore& core) {
  VT_ASSIGN_OR_RETURN(const std::set<LayerId> layers, leaving_layers(core.engine));
  std::vector<GivenVolume> all;
  for (const LayerId layer : layers) {
    if (core.engine.layers().find(layer) != nullptr) continue;  // it could not be given
    VT_ASSIGN_OR_RETURN(const std::optional<GivenVolume> given, read_note(core.engine, layer));
    if (!given) continue;
    VT_ASSIGN_OR_RETURN(const bool there, core.engine.runtime().fs().exists(given->data));
    if (there) all.push_back(*given);
  }
  return all;
}

// The catalog says whether a volume was given: its layer is a row, or not.
Task<Status> settle_leaving(StoreCore& core, const CatalogImage& image) {
  co_return co_await core.engine.run_syncing([&](SyncWatch& syncs) -> Status {
    Engine& engine = core.engine;
    FileSystem& fs = engine.runtime().fs();
    VT_ASSIGN_OR_RETURN(const std::set<LayerId> layers, leaving_layers(engine));
    // Names that a dead daemon has made or taken away may not be durable.
    if (!layers.empty()) VT_RETURN_IF_ERROR(syncs(fs.sync_dir(folder_of(engine))));
    for (const LayerId layer : layers) {
      const bool ours = std::any_of(image.layers.begin(), image.layers.end(),
                                    [layer](const LayerRow& row) { return row.id == layer; });
      VT_ASSIGN_OR_RETURN(const bool in_place,
                          fs.exists(Layer::data_path(engine.directory(), layer)));
      VT_ASSIGN_OR_RETURN(const bool there, fs.exists(path_of(engine, layer, "data")));
      if (!ours && there) {
        VT_RETURN_IF_ERROR(Layer::unlink_files(fs, engine.directory(), layer, syncs));
      } else if (!ours || in_place) {
        VT_RETURN_IF_ERROR(unlink_leaving(engine, layer, syncs));
      }
    }
    return {};
  });
}

}  // namespace voltree
