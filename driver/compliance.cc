#include "driver/compliance.h"

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "blockstore/base/units.h"
#include "driver/store_driver_impl.h"

namespace voltree {
namespace {

constexpr std::uint64_t kTail = kGiB;                       // where a second GiB begins
constexpr std::uint64_t kLater = std::uint64_t{100} << 20;  // beyond a small image

class Check {
 public:
  Check(VolumeDriver& driver, const ComplianceData& data) : driver_(driver), data_(data) {}

  std::vector<std::string> run() {
    said();
    setting_up();
    stats();
    volumes();
    snapshots();
    clones();
    sizes();
    busy();
    connections();
    snapshot_connections();
    managing();
    managing_snapshots();
    groups();
    images();
    moving();
    the_rest();
    clean_up();
    return std::move(gaps_);
  }

 private:
  // --- Saying what is wrong.
  void gap(std::string_view what, std::string_view instead) {
    gaps_.push_back(fmt::format("{}: {}", what, instead));
  }
  bool holds(std::string_view what, bool is) {
    if (!is) gap(what, "it does not");
    return is;
  }
  bool works(std::string_view what, const DriverStatus& status) {
    if (!status.ok())
      gap(what, fmt::format("{} ({})", name_of(status.exception()), status.message()));
    return status.ok();
  }
  template <typename T>
  bool works(std::string_view what, const Answer<T>& answer) {
    return works(what, answer.status());
  }
  void raises(std::string_view what, Exception wanted, const DriverStatus& status) {
    if (!status.ok() && status.exception() == wanted) return;
    gap(what, fmt::format("{} instead of {}", status.ok() ? "success" : name_of(status.exception()),
                          name_of(wanted)));
  }
  void reads(std::string_view what, const std::string& node, std::uint64_t at, char wanted) {
    const std::optional<char> got = data_.read_block(node, at);
    if (got != wanted) gap(what, "other bytes are read");
  }

  // --- Objects.
  DriverVolume volume(const std::string& name, std::uint64_t size_gib = 1) {
    DriverVolume made;
    made.name = "compliance-" + name;
    made.id = "id-" + name;
    made.size_gib = size_gib;
    made.host = "here@back#pool";
    made.status = "available";
    if (std::find(names_.begin(), names_.end(), made.name) == names_.end()) {
      names_.push_back(made.name);
    }
    return made;
  }
  DriverSnapshot snapshot(const DriverVolume& of, const std::string& name) {
    DriverSnapshot made;
    made.name = "compliance-" + name;
    made.id = "id-" + name;
    made.volume_name = of.name;
    made.volume_size_gib = of.size_gib;
    const auto known = [&](const DriverSnapshot& other) {
      return other.name == made.name && other.volume_name == made.volume_name;
    };
    if (std::none_of(snapshots_.begin(), snapshots_.end(), known)) snapshots_.push_back(made);
    return made;
  }
  static Json connector() {
    return Json{{"ip", "192.0.2.1"},        {"host", "here"},       {"initiator", "iqn.x"},
                {"os_type", "linux"},       {"platform", "x86_64"}, {"multipath", false},
                {"mountpoint", "/dev/vdb"}, {"mode", "rw"}};
  }

  void said() {
    holds("VERSION is set", !driver_.version().empty());
    holds("CI_WIKI_NAME is set", !driver_.ci_wiki_name().empty());
  }

  void setting_up() {
    for (int twice = 0; twice < 2; ++twice) {
      works("do_setup", driver_.do_setup());
      works("check_for_setup_error", driver_.check_for_setup_error());
    }
  }

  void stats() {
    const Json all = driver_.get_volume_stats(true);
    for (const char* field :
         {"volume_backend_name", "vendor_name", "driver_version", "storage_protocol"}) {
      holds(fmt::format("get_volume_stats has {}", field), !text_in(all, field).empty());
    }
    const bool pooled = all.is_object() && all.contains("pools");
    if (pooled && !all["pools"].is_array()) return gap("get_volume_stats", "pools is no list");
    const std::vector<Json> pools =
        pooled ? all["pools"].get<std::vector<Json>>() : std::vector<Json>{all};
    for (const Json& pool : pools) {
      for (const char* field : {"total_capacity_gb", "free_capacity_gb", "provisioned_capacity_gb",
                                "reserved_percentage", "max_over_subscription_ratio",
                                "thin_provisioning_support", "thick_provisioning_support"}) {
        holds(fmt::format("get_volume_stats has {}", field),
              pool.is_object() && pool.contains(field) && !pool[field].is_null());
      }
    }
    holds("get_volume_stats answers from what it has", driver_.get_volume_stats(false) == all);
  }

  void volumes() {
    const DriverVolume disk = volume("disk");
    works("create_volume", driver_.create_volume(disk));
    works("create_volume, told again", driver_.create_volume(disk));
    reads("create_volume: reads as zeros", disk.name, 0, 0);
    holds("write", data_.write_block(disk.name, 0, 's'));
    works("delete_volume", driver_.delete_volume(disk));
    works("delete_volume, told again", driver_.delete_volume(disk));
    works("create_volume after a delete", driver_.create_volume(disk));
    reads("nothing of a deleted volume is read in a new one", disk.name, 0, 0);
    works("delete_volume at last", driver_.delete_volume(disk));
    works("delete_volume of one that never was", driver_.delete_volume(volume("never")));
    works("local_path", [&] {
      works("create_volume", driver_.create_volume(disk));
      return driver_.local_path(disk);
    }());
  }

  void snapshots() {
    const DriverVolume disk = volume("disk");
    const DriverSnapshot first = snapshot(disk, "first");
    holds("write", data_.write_block(disk.name, 0, 'a'));
    works("create_snapshot", driver_.create_snapshot(first));
    works("create_snapshot, told again", driver_.create_snapshot(first));
    holds("write", data_.write_block(disk.name, 0, 'b'));
    works("revert_to_snapshot", driver_.revert_to_snapshot(disk, first));
    reads("revert_to_snapshot brings back what was", disk.name, 0, 'a');
    works("revert_to_snapshot, told again", driver_.revert_to_snapshot(disk, first));
    raises("revert_to_snapshot to none", Exception::kSnapshotNotFound,
           driver_.revert_to_snapshot(disk, snapshot(disk, "none")));
    works("delete_snapshot", driver_.delete_snapshot(first));
    works("delete_snapshot, told again", driver_.delete_snapshot(first));
    raises("create_snapshot of no volume", Exception::kVolumeNotFound,
           driver_.create_snapshot(snapshot(volume("never"), "first")).status());
  }

  void clones() {
    const DriverVolume disk = volume("disk");
    const DriverSnapshot base = snapshot(disk, "base");
    const DriverVolume child = volume("child", 2);
    const DriverVolume twin = volume("twin", 2);
    holds("write", data_.write_block(disk.name, 4096, 'c'));
    works("create_snapshot", driver_.create_snapshot(base));
    works("create_volume_from_snapshot", driver_.create_volume_from_snapshot(child, base));
    works("create_volume_from_snapshot, told again",
          driver_.create_volume_from_snapshot(child, base));
    works("create_cloned_volume", driver_.create_cloned_volume(twin, disk));
    works("create_cloned_volume, told again", driver_.create_cloned_volume(twin, disk));
    for (const DriverVolume& made : {child, twin}) {
      reads("a clone has its source's data", made.name, 4096, 'c');
      reads("a larger clone's tail reads as zeros", made.name, kTail, 0);
      holds("a clone is as large as it was to be", data_.write_block(made.name, kTail, 't'));
      holds("write", data_.write_block(made.name, 4096, 'd'));
    }
    reads("a source knows nothing of its clones' writes", disk.name, 4096, 'c');
    works("delete_snapshot of one with volumes made from it", driver_.delete_snapshot(base));
    works("delete_volume of a source", driver_.delete_volume(disk));
    for (const DriverVolume& made : {child, twin}) {
      reads("a clone outlives its source", made.name, 4096, 'd');
      works("delete_volume of a clone", driver_.delete_volume(made));
    }
    raises("create_volume_from_snapshot of none", Exception::kSnapshotNotFound,
           driver_.create_volume_from_snapshot(child, base).status());
    raises("create_cloned_volume of none", Exception::kVolumeNotFound,
           driver_.create_cloned_volume(twin, disk).status());
  }

  void sizes() {
    const DriverVolume disk = volume("disk");
    works("create_volume", driver_.create_volume(disk));
    holds("write", data_.write_block(disk.name, 0, 'e'));
    works("extend_volume", driver_.extend_volume(disk, 2));
    works("extend_volume, told again", driver_.extend_volume(disk, 2));
    reads("extend_volume keeps the data", disk.name, 0, 'e');
    reads("extend_volume: the tail reads as zeros", disk.name, kTail, 0);
    raises("extend_volume to less", Exception::kInvalidInput, driver_.extend_volume(disk, 1));
    raises("extend_volume of none", Exception::kVolumeNotFound,
           driver_.extend_volume(volume("never"), 2));
    works("delete_volume", driver_.delete_volume(disk));
  }

  void busy() {
    const DriverVolume disk = volume("disk");
    const DriverSnapshot kept = snapshot(disk, "kept");
    works("create_volume", driver_.create_volume(disk));
    works("create_snapshot", driver_.create_snapshot(kept));
    raises("delete_volume of one with snapshots", Exception::kVolumeIsBusy,
           driver_.delete_volume(disk));
    reads("delete_volume that was refused changed nothing", disk.name, 0, 0);
    works("delete_snapshot", driver_.delete_snapshot(kept));
  }

  void connections() {
    DriverVolume disk = volume("disk");
    raises("validate_connector of nobody", Exception::kInvalidConnectorException,
           driver_.validate_connector(Json::object()));
    works("validate_connector", driver_.validate_connector(connector()));
    works("create_export", driver_.create_export(disk, connector()));
    works("create_export, told again", driver_.create_export(disk, connector()));
    const Answer<Json> first = driver_.initialize_connection(disk, connector(), nullptr);
    if (works("initialize_connection", first)) {
      holds("initialize_connection says driver_volume_type",
            !text_in(*first, "driver_volume_type").empty());
      holds("initialize_connection says data",
            first->contains("data") && (*first)["data"].is_object());
      const Answer<Json> second = driver_.initialize_connection(disk, connector(), nullptr);
      holds("initialize_connection answers the same again", second.ok() && *second == *first);
      initiator_updates(driver_.initialize_connection(disk, connector(), Json{{"key", "value"}}));
    }
    works("attach_volume", driver_.attach_volume(disk, "instance", "here", "/dev/vdb"));
    works("ensure_export", driver_.ensure_export(disk));
    works("extend_volume of one that is attached", driver_.extend_volume(disk, 3));
    works("detach_volume", driver_.detach_volume(disk, std::nullopt));
    disk.attachments = {{"here", "one"}, {"here", "two"}};
    Answer<bool> more = driver_.terminate_connection(disk, connector(), false);
    holds("terminate_connection tells of others on the host", more.ok() && *more);
    disk.attachments.pop_back();
    more = driver_.terminate_connection(disk, connector(), false);
    holds("terminate_connection of the last", more.ok() && !*more);
    works("terminate_connection, told again",
          driver_.terminate_connection(disk, connector(), false));
    works("terminate_connection of all", driver_.terminate_connection(disk, nullptr, true));
    works("remove_export", driver_.remove_export(disk));
    works("remove_export, told again", driver_.remove_export(disk));
    works("remove_export of none", driver_.remove_export(volume("never")));
    works("delete_volume after a connection", driver_.delete_volume(disk));
  }

  // What is to be kept for an initiator, where there is anything.
  void initiator_updates(const Answer<Json>& connection) {
    if (!works("initialize_connection with initiator_data", connection)) return;
    if (!connection->contains("initiator_updates")) return;
    const Json& updates = (*connection)["initiator_updates"];
    holds("initiator_updates is an object", updates.is_object());
    for (const auto& [key, value] : updates.items()) {
      const bool known = (key == "set_values" && value.is_object()) ||
                         (key == "remove_values" && value.is_array());
      holds(fmt::format("initiator_updates may have {}", key), known);
    }
  }

  void snapshot_connections() {
    const DriverVolume disk = volume("disk");
    const DriverSnapshot base = snapshot(disk, "base");
    works("create_volume", driver_.create_volume(disk));
    works("create_snapshot", driver_.create_snapshot(base));
    works("create_export_snapshot", driver_.create_export_snapshot(base, connector()));
    works("initialize_connection_snapshot",
          driver_.initialize_connection_snapshot(base, connector()));
    works("terminate_connection_snapshot",
          driver_.terminate_connection_snapshot(base, connector()));
    works("remove_export_snapshot", driver_.remove_export_snapshot(base));
    works("delete_snapshot", driver_.delete_snapshot(base));
  }

  void managing() {
    const DriverVolume disk = volume("disk");
    const DriverVolume taken = volume("taken");
    const Json reference{{"source-name", disk.name}};
    holds("write", data_.write_block(disk.name, 0, 'm'));
    const Answer<std::uint64_t> size = driver_.manage_existing_get_size(reference);
    holds("manage_existing_get_size", size.ok() && *size == 1);
    for (const Json& bad : {Json(nullptr), Json::object(), Json{{"source-name", "compliance-none"}},
                            Json{{"source-name", 7}}}) {
      raises("manage_existing_get_size of nonsense", Exception::kManageExistingInvalidReference,
             driver_.manage_existing_get_size(bad).status());
    }
    const auto listed = driver_.get_manageable_volumes({taken}, {});
    if (works("get_manageable_volumes", listed)) {
      holds("get_manageable_volumes lists it",
            std::any_of(listed->begin(), listed->end(), [&](const Json& entry) {
              return entry["reference"] == reference && entry["size"] == 1 &&
                     entry["safe_to_manage"] == true;
            }));
    }
    works("unmanage", driver_.unmanage(disk));
    works("manage_existing", driver_.manage_existing(taken, reference));
    works("manage_existing, told again", driver_.manage_existing(taken, reference));
    reads("manage_existing keeps the data", taken.name, 0, 'm');
    raises("manage_existing: the old name is gone", Exception::kManageExistingInvalidReference,
           driver_.manage_existing_get_size(reference).status());
    const auto known = driver_.get_manageable_volumes({taken}, {});
    holds("get_manageable_volumes tells what is managed",
          known.ok() && std::any_of(known->begin(), known->end(), [&](const Json& entry) {
            return entry["cinder_id"] == taken.id && entry["safe_to_manage"] == false;
          }));
  }

  void managing_snapshots() {
    const DriverVolume taken = volume("taken");
    const DriverSnapshot old = snapshot(taken, "old");
    const DriverSnapshot fresh = snapshot(taken, "fresh");
    const Json reference{{"source-name", old.name}};
    works("create_snapshot", driver_.create_snapshot(old));
    const auto size = driver_.manage_existing_snapshot_get_size(fresh, reference);
    holds("manage_existing_snapshot_get_size", size.ok() && *size == 1);
    raises("manage_existing_snapshot of another volume's",
           Exception::kManageExistingInvalidReference,
           driver_.manage_existing_snapshot(snapshot(volume("never"), "x"), reference).status());
    works("unmanage_snapshot", driver_.unmanage_snapshot(old));
    const auto listed = driver_.get_manageable_snapshots({}, {});
    if (works("get_manageable_snapshots", listed)) {
      holds("get_manageable_snapshots lists it",
            std::any_of(listed->begin(), listed->end(), [&](const Json& entry) {
              return entry["reference"] == reference &&
                     entry["source_reference"] == Json{{"source-name", taken.name}};
            }));
    }
    works("manage_existing_snapshot", driver_.manage_existing_snapshot(fresh, reference));
    works("manage_existing_snapshot, told again",
          driver_.manage_existing_snapshot(fresh, reference));
    works("delete_snapshot", driver_.delete_snapshot(fresh));
    works("delete_volume", driver_.delete_volume(taken));
  }

  void groups() {
    const DriverGroup group{"group", true};
    const DriverVolume one = volume("one");
    const DriverVolume two = volume("two");
    const std::vector<DriverSnapshot> both{snapshot(one, "both"), snapshot(two, "both")};
    works("create_group", driver_.create_group(group));
    for (const DriverVolume& member : {one, two}) {
      works("create_volume", driver_.create_volume(member));
      holds("write", data_.write_block(member.name, 0, 'g'));
    }
    works("update_group", driver_.update_group(group, {one, two}, {}));
    works("create_group_snapshot", driver_.create_group_snapshot(group, both));
    works("create_group_snapshot, told again", driver_.create_group_snapshot(group, both));
    const DriverVolume first = volume("first");
    const DriverVolume second = volume("second");
    const auto made = driver_.create_group_from_src(group, {first, second}, both, {});
    if (works("create_group_from_src", made)) {
      holds("create_group_from_src tells of each", made->members.size() == 2);
    }
    reads("create_group_from_src has the data", second.name, 0, 'g');
    const auto gone = driver_.delete_group_snapshot(group, both);
    works("delete_group_snapshot", gone);
    works("delete_group_snapshot, told again", driver_.delete_group_snapshot(group, both));
    const DriverVolume third = volume("third");
    works("create_group_from_src of a group",
          driver_.create_group_from_src(group, {third}, {}, {one}));
    const auto deleted = driver_.delete_group(group, {one, two, first, second, third});
    if (works("delete_group", deleted)) {
      holds("delete_group says deleted", text_in(deleted->model_update, "status") == "deleted");
    }
  }

  void images() {
    const DriverVolume disk = volume("imaged");
    const DriverSnapshot base = snapshot(disk, "base");
    const std::string file = data_.folder + "/compliance-image";
    const auto write_image = [&file](std::size_t data_bytes, std::uint64_t size_bytes) {
      std::ofstream(file, std::ios::binary | std::ios::trunc) << std::string(data_bytes, 'i');
      std::error_code failure;
      std::filesystem::resize_file(file, size_bytes, failure);
      return !failure;
    };
    holds("write an image", write_image(kBlockBytes, 2 * kBlockBytes));
    raises("copy_image_to_volume to none", Exception::kVolumeNotFound,
           driver_.copy_image_to_volume(disk, {file, "raw"}));
    works("create_volume", driver_.create_volume(disk));
    for (const std::uint64_t at : {std::uint64_t{0}, std::uint64_t{kBlockBytes}, kLater}) {
      holds("write", data_.write_block(disk.name, at, 'o'));
    }
    works("create_snapshot", driver_.create_snapshot(base));
    raises("copy_image_to_volume of another format than was said", Exception::kImageUnacceptable,
           driver_.copy_image_to_volume(disk, {file, "qcow2"}));
    holds("write an image", write_image(kBlockBytes, kTail + kBlockBytes));
    raises("copy_image_to_volume of one that is too large", Exception::kImageUnacceptable,
           driver_.copy_image_to_volume(disk, {file, "raw"}));
    reads("copy_image_to_volume that was refused changes nothing", disk.name, 0, 'o');
    holds("write an image", write_image(kBlockBytes, 2 * kBlockBytes));
    works("copy_image_to_volume", driver_.copy_image_to_volume(disk, {file, "raw"}));
    works("copy_image_to_volume, told again", driver_.copy_image_to_volume(disk, {file, "raw"}));
    reads("copy_image_to_volume brings the image", disk.name, 0, 'i');
    reads("copy_image_to_volume: a hole reads as zeros", disk.name, kBlockBytes, 0);
    reads("copy_image_to_volume: zeros beyond the image", disk.name, kLater, 0);
    holds("copy_image_to_volume keeps the size", data_.write_block(disk.name, kTail - 4096, 't'));
    works("copy_volume_to_image", driver_.copy_volume_to_image(disk, {file, "raw"}));
    works("copy_volume_to_image, told again", driver_.copy_volume_to_image(disk, {file, "raw"}));
    std::ifstream image(file, std::ios::binary | std::ios::ate);
    holds("copy_volume_to_image: the whole volume",
          image && image.tellg() == std::streamoff(kTail));
    image.seekg(0);
    holds("copy_volume_to_image has the data", image.get() == 'i');
    std::error_code ignored;
    std::filesystem::remove(file, ignored);
    works("revert_to_snapshot after an image", driver_.revert_to_snapshot(disk, base));
    reads("a snapshot outlives an image", disk.name, kLater, 'o');
    works("delete_snapshot", driver_.delete_snapshot(base));
    works("delete_volume", driver_.delete_volume(disk));
    raises("copy_volume_to_image of none", Exception::kVolumeNotFound,
           driver_.copy_volume_to_image(disk, {file, "raw"}));
  }

  void moving() {
    const DriverVolume disk = volume("disk");
    const DriverVolume fresh = volume("fresh");
    const DriverVolume origin = volume("origin");
    const Answer<bool> changed = driver_.retype(disk, Json::object(), Json::object(), disk.host);
    works("retype", changed);
    const auto moved = driver_.migrate_volume(disk, {"elsewhere@back#pool", "another:place"});
    holds("migrate_volume leaves what it cannot do", moved.ok() && !moved->moved);
    works("create_volume", driver_.create_volume(fresh));
    works("update_migrated_volume",
          driver_.update_migrated_volume(origin, fresh, origin.name, "available"));
    works("update_migrated_volume, told again",
          driver_.update_migrated_volume(origin, fresh, origin.name, "available"));
    works("delete_volume by its old name", driver_.delete_volume(origin));
    const auto image = driver_.clone_image(fresh, {"http://192.0.2.1/image"}, "volume-%s");
    holds("clone_image leaves what it cannot do", image.ok() && !image->cloned);
  }

  void the_rest() {
    const DriverVolume disk = volume("disk");
    works("accept_transfer", driver_.accept_transfer(disk, "user", "project"));
    raises("failover_host without a replica", Exception::kInvalidReplicationTarget,
           driver_.failover_host({disk}, "second"));
    const DriverSnapshot base = snapshot(disk, "base");
    works("create_volume", driver_.create_volume(disk));
    works("create_snapshot", driver_.create_snapshot(base));
    holds("write", data_.write_block(disk.name, 8192, 'n'));
    const auto ranges = driver_.changed_blocks(disk, base.name);
    if (works("changed_blocks", ranges)) {
      holds("changed_blocks tells of what changed",
            ranges->size() == 1 && (*ranges)[0]["offset_bytes"] == 8192);
    }
  }

  void clean_up() {
    for (const DriverSnapshot& left : snapshots_) (void)driver_.delete_snapshot(left);
    for (const std::string& name : names_) {
      DriverVolume left;
      left.name = name;
      (void)driver_.delete_volume(left);
    }
  }

  VolumeDriver& driver_;
  const ComplianceData& data_;
  std::vector<std::string> gaps_;
  std::vector<std::string> names_;
  std::vector<DriverSnapshot> snapshots_;
};

}  // namespace

std::vector<std::string> find_gaps(VolumeDriver& driver, const ComplianceData& data) {
  return Check(driver, data).run();
}

}  // namespace voltree
