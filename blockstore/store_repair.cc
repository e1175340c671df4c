#include "blockstore/store_repair.h"

#include <algorithm>
#include <ctime>
#include <memory>
#include <set>

#include "blockstore/format/region_format.h"
#include "blockstore/lineage_copy.h"
#include "blockstore/store_core.h"
#include "blockstore/store_repair_layers.h"
#include "blockstore/store_take.h"

namespace voltree {
namespace {

// Ids that a copy which is behind may not know were given.
constexpr std::uint64_t kIdSlack = 4096;

std::string catalog_path(const std::string& directory) { return directory + "/catalog.db"; }

// "20260301T140509Z"
std::string time_suffix(std::chrono::nanoseconds wall_now) {
  const auto seconds = static_cast<std::time_t>(wall_now.count() / 1'000'000'000);
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  return fmt::format("{:04}{:02}{:02}T{:02}{:02}{:02}Z", parts.tm_year + 1900, parts.tm_mon + 1,
                     parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec);
}

// Whether the rows fit together, as Store::open wants them. Fills in the lineage.
Status check_rows(const CatalogImage& image, Lineage& lineage) {
  std::multimap<NodeId, const NodeRow*> by_parent;
  std::set<VolumeId> volumes;
  std::set<std::string> names;
  std::set<std::pair<VolumeId, std::string>> snapshots;
  for (const VolumeRow& row : image.volumes) {
    volumes.insert(row.id);
    if (!names.insert(row.name).second) return error(Code::kDamaged, "a name is there twice");
  }
  for (const NodeRow& row : image.nodes) {
    by_parent.emplace(row.parent, &row);
    if (row.kind != NodeKind::kJunction && !volumes.contains(row.volume)) {
      return error(Code::kDamaged, "node {} belongs to no volume", row.id);
    }
    if (row.kind == NodeKind::kSnapshot && !snapshots.emplace(row.volume, row.snapshot).second) {
      return error(Code::kDamaged, "a snapshot is there twice");
    }
  }
  std::vector<NodeId> parents{kNoNode};
  while (!parents.empty()) {
    const auto [begin, end] = by_parent.equal_range(parents.back());
    parents.pop_back();
    for (auto it = begin; it != end; ++it) {
      lineage.add(*it->second);
      parents.push_back(it->second->id);
    }
  }
  if (lineage.nodes().size() != image.nodes.size()) {
    return error(Code::kDamaged, "there are nodes whose ancestry has no root");
  }
  for (const VolumeRow& row : image.volumes) {
    const Lineage::Node* head = lineage.find(row.head);
    if (row.head != kNoNode && (head == nullptr || head->row.kind != NodeKind::kHead)) {
      return error(Code::kDamaged, "volume {} has no head", quoted(row.name));
    }
  }
  for (const LayerRow& row : image.layers) {
    if (lineage.find(row.owner) == nullptr) {
      return error(Code::kDamaged, "layer {:08x} belongs to node {}, which is not there", row.id,
                   row.owner);
    }
    lineage.own(row.owner, row.id);
  }
  for (const TakenLayerRow& taken : image.taken_layers) {
    const bool there =
        std::any_of(image.layers.begin(), image.layers.end(),
                    [&taken](const LayerRow& layer) { return layer.id == taken.layer; });
    if (!there) return error(Code::kDamaged, "layer {:08x} was taken and is no layer", taken.layer);
  }
  std::set<std::uint64_t> requests;
  for (const EraseRequestRow& row : image.erase_requests) requests.insert(row.id);
  for (const EraseItemRow& row : image.erase_items) {
    if (requests.contains(row.request)) continue;
    return error(Code::kDamaged, "erase item {} belongs to no request", row.id);
  }
  return {};
}

class Repair {
 public:
  Repair(Runtime& runtime, std::string directory, RepairOptions options)
      : runtime_(runtime),
        fs_(runtime.fs()),
        directory_(std::move(directory)),
        options_(std::move(options)) {}

  Result<RepairReport> run() {
    VT_RETURN_IF_ERROR(take_lock());
    VT_RETURN_IF_ERROR(look_at_catalog());
    if (report_.catalog_sound && !options_.force) return std::move(report_);
    read_copy();
    VT_ASSIGN_OR_RETURN(files_, layer_files(fs_, directory_));
    VT_RETURN_IF_ERROR(take_ranges_that_are_erased());
    VT_RETURN_IF_ERROR(recover_unknown_layers());
    VT_RETURN_IF_ERROR(scan_known_layers());
    name_unreadable();
    complete_rows();
    if (options_.apply) VT_RETURN_IF_ERROR(apply());
    return std::move(report_);
  }

 private:
  using Kind = RepairFinding::Kind;
  template <typename... Args>
  void find(Kind kind, fmt::format_string<Args...> format, Args&&... args) {
    report_.findings.push_back({kind, fmt::format(format, std::forward<Args>(args)...)});
  }

  Status take_lock() {
    VT_ASSIGN_OR_RETURN(const bool layers, fs_.exists(directory_ + "/layers"));
    if (!layers) return error(Code::kNotFound, "there is no store in {}", directory_);
    if (!fs_.on_host()) return {};
    VT_RETURN_IF_ERROR(fs_.make_dir(directory_ + "/run"));
    VT_ASSIGN_OR_RETURN(lock_, StoreLock::take(directory_));
    return {};
  }

  Status look_at_catalog() {
    auto db = CatalogDb::open(fs_, catalog_path(directory_));
    if (db.status().code() == Code::kNotSupported) return db.status();
    Status sound = db.ok() ? check_catalog(**db) : db.status();
    report_.catalog_sound = sound.ok();
    if (sound.ok()) return {};
    find(Kind::kNote, "the catalog is not sound: {}", sound.message());
    if (!db.ok()) return {};
    // The copy may be behind: those that the catalog still gives are taken over.
    const auto certificates = (*db)->certificates(0, SIZE_MAX);
    if (certificates.ok()) add_certificates(*certificates);
    return {};
  }

  Status check_catalog(CatalogDb& db) {
    VT_ASSIGN_OR_RETURN(const auto findings, db.integrity_check());
    if (!findings.empty()) return error(Code::kDamaged, "{}", findings.front());
    VT_ASSIGN_OR_RETURN(const CatalogImage image, db.load());
    Lineage lineage;
    VT_RETURN_IF_ERROR(check_rows(image, lineage));
    for (const char* key : {"uuid", "boot_id", "clean", "erase_policy", "erase_rate_bytes"}) {
      if (!image.settings.contains(key)) return error(Code::kDamaged, "it lacks setting {}", key);
    }
    for (const LayerRow& layer : image.layers) {
      VT_ASSIGN_OR_RETURN(const auto regions, db.regions(layer.id));
      ExtentMap index;
      for (const RegionRow& row : regions) {
        const auto bytes = std::as_bytes(std::span(row.state.data(), row.state.size()));
        VT_RETURN_IF_ERROR(decode_region(bytes, row.region, index));
      }
    }
    return db.certificates(0, SIZE_MAX).status();
  }

  void add_certificates(const std::vector<CertificateRow>& rows) {
    for (const CertificateRow& row : rows) certificates_.emplace(row.id, row);
  }

  // Nothing in it is taken when its rows do not fit together: a record is a commit, so they must.
  void read_copy() {
    auto copy = LineageCopy::read(fs_, directory_);
    Status status = copy.status();
    if (copy.ok()) {
      auto image = image_of_copy(copy->state);
      status = image.status();
      if (image.ok()) status = check_rows(*image, lineage_);
      if (status.ok()) image_ = std::move(*image);
      had_certificates_ = !status.ok() || image_.last_ids.contains("certificate");
      if (status.ok()) add_certificates(image_.certificates);
    }
    if (!status.ok()) {
      lineage_ = Lineage();
      find(Kind::kLost, "names, snapshots and the lineage: the lineage copy cannot be used ({})",
           status.message());
      return;
    }
    if (copy->unreadable_bytes != 0) {
      find(Kind::kUncertain,
           "the lineage copy ends after record {}: what follows ({} bytes) is torn or rotten, and "
           "changes of the last moments may be missing",
           copy->records, copy->unreadable_bytes);
    }
    if (image_.settings["clean"] != "1") {
      const bool same_boot = image_.settings["boot_id"] == runtime_.boot_id();
      find(same_boot ? Kind::kNote : Kind::kUncertain, "{}",
           same_boot ? "the store was not closed"
                     : "the store was not closed, and the machine has started again since: what "
                       "was written last may be missing, and the last change of the tree, too");
    }
  }

  // Blocks that wait for the eraser are nobody's, though their sums are there still.
  Status take_ranges_that_are_erased() {
    for (const EraseItemRow& item : image_.erase_items) {
      on_erase_queue_.insert(item.layer);
      if (item.whole_layer) continue;
      const std::vector<std::string> chunks{item.ranges};
      auto ranges = decode_map(chunks);
      if (!ranges.ok()) return ranges.status().with_context("the lineage copy: an erase item");
      ExtentMap& all = erased_[item.layer];
      all = overlay(all, *ranges);
    }
    return {};
  }

  std::function<void(std::uint64_t)> progress() {
    return [this](std::uint64_t bytes) {
      done_bytes_ += bytes;
      if (options_.progress) options_.progress(done_bytes_, 0);
    };
  }

  NodeId next_node() { return ++image_.last_ids["node"]; }

  // Files that the copy does not know: they may hold what was written last.
  Status recover_unknown_layers() {
    std::set<LayerId> known(on_erase_queue_);
    for (const LayerRow& row : image_.layers) known.insert(row.id);
    raise_last_ids();
    for (const auto& [id, files] : files_) {
      if (known.contains(id)) continue;
      if (!files.data || !files.sums) {
        find(Kind::kLost, "layer {:08x}, which nothing names, has lost its {}", id,
             files.data ? "sums: its data is left where it is" : "data");
        continue;
      }
      VT_ASSIGN_OR_RETURN(const bool shared, has_other_names(id));
      if (shared) {
        find(Kind::kNote,
             "layer {:08x}, which nothing names, is a file with another name, too: it is left out",
             id);
        continue;
      }
      auto scan = scan_layer(fs_, directory_, id, 0, {}, progress());
      if (!scan.ok()) {
        find(Kind::kLost, "layer {:08x}, which nothing names: {}", id, scan.status().message());
        continue;
      }
      if (scan->index.empty()) {
        find(Kind::kNote, "layer {:08x} holds nothing and belongs to nobody: it is left out", id);
        continue;
      }
      VT_RETURN_IF_ERROR(add_recovered(id, std::move(*scan)));
    }
    return {};
  }

  // Somebody's file that was being taken in: he has it still.
  Result<bool> has_other_names(LayerId id) {
    VT_ASSIGN_OR_RETURN(auto file, fs_.open(Layer::data_path(directory_, id), {.writable = false}));
    VT_ASSIGN_OR_RETURN(const std::uint64_t links, file->links());
    return links > 1;
  }

  Status add_recovered(LayerId id, LayerScan scan) {
    VolumeRow volume;
    volume.id = ++image_.last_ids["volume"];
    volume.created_ns = runtime_.wall_now().count();
    volume.name = fmt::format("recovered-layer-{}", id);
    const auto taken = [this, &volume] {
      return std::any_of(image_.volumes.begin(), image_.volumes.end(),
                         [&volume](const VolumeRow& row) { return row.name == volume.name; });
    };
    for (int i = 2; taken(); ++i) volume.name = fmt::format("recovered-layer-{}-{}", id, i);
    NodeRow head;
    head.id = volume.head = next_node();
    head.volume = volume.id;
    head.size_bytes = blocks_of_bytes(scan.size_bytes) * kBlockBytes;
    head.created_ns = volume.created_ns;
    lineage_.add(head);
    lineage_.own(head.id, id);
    find(Kind::kUncertain,
         "layer {:08x} belongs to a volume that is not known: its {} blocks are volume {}, without "
         "what lay below them",
         id, data_blocks(scan.index), quoted(volume.name));
    report_.recovered.push_back(volume.name);
    recovered_layers_.insert(id);
    image_.layers.push_back({id, head.id, head.size_bytes, false, head.created_ns});
    image_.nodes.push_back(head);
    image_.volumes.push_back(std::move(volume));
    take_scan(id, std::move(scan));
    return {};
  }

  Status scan_known_layers() {
    for (LayerRow& row : image_.layers) {
      if (lineage_.has_index(row.id)) continue;  // recovered
      const LayerFiles files = files_[row.id];
      if (files.data && files.sums) {
        auto scan =
            scan_layer(fs_, directory_, row.id, row.size_bytes, erased_[row.id], progress());
        if (scan.ok()) {
          row.size_bytes = scan->size_bytes;
          take_scan(row.id, std::move(*scan));
          continue;
        }
        find(Kind::kLost, "layer {:08x}: {}", row.id, scan.status().message());
      } else {
        find(Kind::kLost, "layer {:08x}: its {} missing", row.id,
             files.data   ? "sums are"
             : files.sums ? "data is"
                          : "data and its sums are");
      }
      // Nobody knows what it held: nothing older may show through it.
      LayerScan unknown;
      const std::uint64_t blocks = blocks_of_bytes(row.size_bytes);
      unknown.index.assign(0, blocks, kIndexData);
      unknown.damaged.assign(0, blocks, 1);
      take_scan(row.id, std::move(unknown));
    }
    return {};
  }

  void take_scan(LayerId id, LayerScan scan) {
    report_.blocks += data_blocks(scan.index);
    report_.unreadable_blocks += scan.damaged.mapped_blocks() + scan.unsummed.mapped_blocks();
    if (!scan.damaged.empty()) damaged_[id] = std::move(scan.damaged);
    if (!scan.unsummed.empty()) unsummed_[id] = std::move(scan.unsummed);
    lineage_.set_index(id, scan.index);
    indexes_[id] = std::move(scan.index);
  }

  std::string names_of(const std::map<NodeId, ExtentMap>& nodes) const {
    std::string names;
    for (const auto& entry : nodes) {
      const NodeRow& row = lineage_.find(entry.first)->row;
      if (row.kind == NodeKind::kJunction) continue;
      const auto volume = std::find_if(image_.volumes.begin(), image_.volumes.end(),
                                       [&row](const VolumeRow& v) { return v.id == row.volume; });
      if (!names.empty()) names += ", ";
      names += NodeName{volume->name, row.snapshot}.str();
    }
    return names.empty() ? "nobody" : names;
  }

  void name_unreadable() {
    for (const LayerRow& row : image_.layers) {
      for (const auto& [all, why] :
           {std::pair(&damaged_, "do not match their checksums, or cannot be read"),
            std::pair(&unsummed_, "hold data that no checksum covers")}) {
        const auto found = all->find(row.id);
        if (found == all->end()) continue;
        const ExtentMap& blocks = found->second;
        find(Kind::kUncertain,
             "layer {:08x}: {} blocks from {} to {} {}: reading them is an I/O error; seen by {}",
             row.id, blocks.mapped_blocks(), blocks.next_extent(0)->first, blocks.end_block() - 1,
             why, names_of(lineage_.seen_by(row.owner, row.id, blocks)));
      }
    }
  }

  void raise_last_ids() {
    const auto raise = [this](const char* kind, std::uint64_t id) {
      std::uint64_t& last = image_.last_ids[kind];
      last = std::max(last, id);
    };
    for (const VolumeRow& row : image_.volumes) raise("volume", row.id);
    for (const NodeRow& row : image_.nodes) raise("node", row.id);
    for (const LayerRow& row : image_.layers) raise("layer", row.id);
    for (const auto& entry : files_) raise("layer", entry.first);
    for (const EraseRequestRow& row : image_.erase_requests) raise("erase", row.id);
    for (const EraseItemRow& row : image_.erase_items) raise("item", row.id);
    for (const AttachmentRow& row : image_.attachments) raise("attachment", row.id);
    for (const auto& entry : certificates_) raise("certificate", entry.first);
    // An id is given once, also where the copy was behind.
    for (auto& [kind, id] : image_.last_ids) {
      id = std::min<std::uint64_t>(id + kIdSlack, kind == "layer" ? UINT32_MAX : INT64_MAX / 2);
    }
  }

  void complete_rows() {
    std::map<std::string, std::string>& settings = image_.settings;
    if (!settings.contains("uuid")) settings["uuid"] = make_uuid(runtime_);
    settings["boot_id"] = runtime_.boot_id();
    settings["clean"] = "1";
    settings.erase("place");  // the new catalog is another file
    settings.erase("storage");
    if (!parse_erase_policy(settings["erase_policy"]).ok()) settings["erase_policy"] = "zero";
    settings.try_emplace("erase_rate_bytes", "0");
    for (const NodeRow& row : image_.nodes) {
      if (row.kind == NodeKind::kHead) ++report_.volumes;
      if (row.kind == NodeKind::kSnapshot) ++report_.snapshots;
    }
    report_.layers = image_.layers.size();
    if (certificates_.empty() && had_certificates_) {
      find(Kind::kLost, "the certificates of what was erased are not in the new catalog");
    }
  }

  Status put_rows(CatalogDb& db) {
    for (const auto& [key, value] : image_.settings) {
      VT_RETURN_IF_ERROR(db.put_setting(key, value));
    }
    for (const auto& [kind, id] : image_.last_ids) VT_RETURN_IF_ERROR(db.put_last_id(kind, id));
    std::map<VolumeId, std::vector<VolumeLimitRow>> limits;
    for (const VolumeLimitRow& row : image_.volume_limits) limits[row.volume].push_back(row);
    std::map<VolumeId, std::vector<VolumeNoteRow>> notes;
    for (const VolumeNoteRow& row : image_.volume_notes) notes[row.volume].push_back(row);
    for (const VolumeRow& row : image_.volumes) {
      VT_RETURN_IF_ERROR(db.put_volume(row));
      VT_RETURN_IF_ERROR(db.put_volume_limits(row.id, limits[row.id]));
      VT_RETURN_IF_ERROR(db.put_volume_notes(row.id, notes[row.id]));
    }
    for (const VolumeReserveRow& row : image_.volume_reserves) {
      VT_RETURN_IF_ERROR(db.put_volume_reserve(row.volume, row.reserve_bytes));
    }
    for (const NodeRow& row : image_.nodes) VT_RETURN_IF_ERROR(db.put_node(row));
    for (const AttachmentRow& row : image_.attachments) VT_RETURN_IF_ERROR(db.put_attachment(row));
    for (const EraseRequestRow& row : image_.erase_requests) {
      VT_RETURN_IF_ERROR(db.put_erase_request(row));
    }
    for (const EraseItemRow& row : image_.erase_items) VT_RETURN_IF_ERROR(db.put_erase_item(row));
    for (const auto& entry : certificates_) VT_RETURN_IF_ERROR(db.put_certificate(entry.second));
    return put_layers(db);
  }

  Status put_layers(CatalogDb& db) {
    for (const LayerRow& row : image_.layers) {
      VT_RETURN_IF_ERROR(db.put_layer(row));
      const ExtentMap& index = indexes_.at(row.id);
      for (auto at = index.next_extent(0); at;) {
        const std::uint64_t region = at->first / kRegionBlocks;
        VT_RETURN_IF_ERROR(db.put_region({row.id, region, encode_region(index, region), false}));
        at = index.next_extent((region + 1) * kRegionBlocks);
      }
    }
    for (const TakenLayerRow& row : image_.taken_layers) {
      VT_RETURN_IF_ERROR(db.put_taken_layer(row));
    }
    return {};
  }

  // One of them may be somebody's file that was taken in a moment before the end.
  Status adapt_recovered_layers() {
    SyncWatch syncs;
    for (const LayerRow& row : image_.layers) {
      if (!recovered_layers_.contains(row.id)) continue;
      VT_ASSIGN_OR_RETURN(auto file, fs_.open(Layer::data_path(directory_, row.id), {}));
      VT_RETURN_IF_ERROR(adapt_taken_file(*file, row.size_bytes, syncs));
    }
    return {};
  }

  Status apply() {
    VT_RETURN_IF_ERROR(adapt_recovered_layers());
    const std::string fresh = catalog_path(directory_) + ".repaired";
    for (const char* suffix : {"", "-wal"}) {
      VT_ASSIGN_OR_RETURN(const bool there, fs_.exists(fresh + suffix));
      if (there) VT_RETURN_IF_ERROR(fs_.unlink(fresh + suffix));
    }
    {
      VT_ASSIGN_OR_RETURN(auto db, CatalogDb::create(fs_, fresh));
      VT_RETURN_IF_ERROR(db->begin());
      VT_RETURN_IF_ERROR(put_rows(*db));
      VT_RETURN_IF_ERROR(db->commit());
    }
    VT_ASSIGN_OR_RETURN(const bool log_left, fs_.exists(fresh + "-wal"));
    if (log_left) return error(Code::kIoError, "{} could not be closed", fresh);
    // The database before its log: a catalog without the end of its log would look sound.
    const std::string path = catalog_path(directory_);
    const std::string kept = path + ".damaged-" + time_suffix(runtime_.wall_now());
    VT_ASSIGN_OR_RETURN(const bool kept_database, keep_aside(path, kept));
    if (kept_database) report_.kept_as = kept;
    VT_RETURN_IF_ERROR(keep_aside(path + "-wal", kept + "-wal").status());
    VT_RETURN_IF_ERROR(fs_.sync_dir(directory_));
    VT_RETURN_IF_ERROR(fs_.rename(fresh, path));
    VT_RETURN_IF_ERROR(fs_.sync_dir(directory_));
    report_.applied = true;
    // The next open makes a copy of the new catalog. Until that is in its place, this one is
    // needed.
    const std::string copy = LineageCopy::path(directory_);
    return keep_aside(copy, copy + kept.substr(path.size())).status();
  }

  // True: it was there.
  Result<bool> keep_aside(const std::string& path, const std::string& kept) {
    VT_ASSIGN_OR_RETURN(const bool there, fs_.exists(path));
    if (there) VT_RETURN_IF_ERROR(fs_.rename(path, kept));
    return there;
  }

  Runtime& runtime_;
  FileSystem& fs_;
  const std::string directory_;
  const RepairOptions options_;
  std::unique_ptr<StoreLock> lock_;
  RepairReport report_;
  std::map<std::uint64_t, CertificateRow> certificates_;  // by id
  bool had_certificates_ = true;
  CatalogImage image_;  // of the new catalog
  Lineage lineage_;     // the same rows
  std::map<LayerId, LayerFiles> files_;
  std::set<LayerId> on_erase_queue_;
  std::set<LayerId> recovered_layers_;   // that nothing named
  std::map<LayerId, ExtentMap> erased_;  // blocks that wait for the eraser
  std::map<LayerId, ExtentMap> indexes_, damaged_, unsummed_;
  std::uint64_t done_bytes_ = 0;
};

}  // namespace

Result<RepairReport> repair_store(Runtime& runtime, const std::string& directory,
                                  RepairOptions options) {
  return Repair(runtime, directory, std::move(options)).run();
}

}  // namespace voltree
