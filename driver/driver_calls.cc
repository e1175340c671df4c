#include "driver/driver_calls.h"

#include <algorithm>
#include <array>

#include "blockstore/base/units.h"

namespace voltree {
namespace {

constexpr std::size_t kObjectsMax = 10'000;
constexpr std::size_t kTextMaxBytes = 4096;
constexpr std::uint64_t kSizeMaxGib = std::uint64_t{1} << 33;

// Arguments, read one by one; the first that is wrong is remembered.
class Arguments {
 public:
  explicit Arguments(const Json& all) : all_(all) {}

  const Json& any(std::string_view name) const {
    static const Json none;
    if (!all_.is_object()) return none;
    const auto found = all_.find(name);
    return found == all_.end() ? none : *found;
  }
  std::string text(std::string_view name) { return text_of(any(name), name, true); }
  std::string text_or_empty(std::string_view name) { return text_of(any(name), name, false); }
  bool flag(std::string_view name) { return any(name) == true; }
  std::uint64_t gib(std::string_view name) { return gib_of(any(name), name); }

  DriverVolume volume(std::string_view name) { return volume_of(any(name), name); }
  std::optional<VolumeAttachment> attachment_or_none(std::string_view name) {
    if (!any(name).is_object()) return std::nullopt;
    return attachment_of(any(name), name);
  }
  DriverSnapshot snapshot(std::string_view name) { return snapshot_of(any(name), name); }
  DriverGroup group(std::string_view name) {
    DriverGroup group;
    group.id = text_of(member(any(name), "id"), name, true);
    group.consistent_group_snapshot = member(any(name), "consistent_group_snapshot") == true;
    return group;
  }
  ImageFile image(std::string_view name) {
    ImageFile image;
    image.path = text_of(member(any(name), "path"), name, true);
    image.disk_format = text_of(member(any(name), "disk_format"), name, true);
    image.compress = member(any(name), "compress") == true;
    return image;
  }
  std::vector<DriverVolume> volumes(std::string_view name) {
    std::vector<DriverVolume> all;
    for (const Json& one : list(name)) all.push_back(volume_of(one, name));
    return all;
  }
  std::vector<DriverSnapshot> snapshots(std::string_view name) {
    std::vector<DriverSnapshot> all;
    for (const Json& one : list(name)) all.push_back(snapshot_of(one, name));
    return all;
  }
  std::vector<std::string> texts(std::string_view name) {
    std::vector<std::string> all;
    for (const Json& one : list(name)) all.push_back(text_of(one, name, true));
    return all;
  }
  ManageablePage page() {
    ManageablePage page;
    page.marker = text_or_empty("marker");
    if (is_count(any("limit"))) page.limit = any("limit").get<std::size_t>();
    if (is_count(any("offset"))) page.offset = any("offset").get<std::size_t>();
    if (any("sort_key").is_string()) page.sort_key = text("sort_key");
    page.descending = flag("descending");
    return page;
  }

  bool ok() const { return wrong_.empty(); }
  DriverStatus status() const { return {Exception::kInvalidInput, wrong_}; }

 private:
  void fail(std::string_view name, std::string_view why) {
    if (wrong_.empty()) wrong_ = fmt::format("argument \"{}\" {}", name, why);
  }
  static bool is_count(const Json& value) { return value.is_number_integer() && value >= 0; }
  static const Json& member(const Json& object, std::string_view name) {
    static const Json none;
    if (!object.is_object()) return none;
    const auto found = object.find(name);
    return found == object.end() ? none : *found;
  }
  const Json& list(std::string_view name) {
    static const Json none = Json::array();
    const Json& all = any(name);
    if (all.is_null()) return none;
    if (all.is_array() && all.size() <= kObjectsMax) return all;
    fail(name, "must be a list");
    return none;
  }
  std::string text_of(const Json& value, std::string_view name, bool required) {
    if (value.is_null() && !required) return {};
    if (value.is_string() && value.get_ref<const std::string&>().size() <= kTextMaxBytes) {
      return value.get<std::string>();
    }
    fail(name, value.is_null() ? "is missing" : "must be text");
    return {};
  }
  std::uint64_t gib_of(const Json& value, std::string_view name) {
    if (is_count(value) && value.get<std::uint64_t>() <= kSizeMaxGib) {
      return value.get<std::uint64_t>();
    }
    fail(name, "must have a size in GiB");
    return 0;
  }
  VolumeAttachment attachment_of(const Json& value, std::string_view name) {
    return {text_of(member(value, "attached_host"), name, false),
            text_of(member(value, "instance_uuid"), name, false)};
  }
  DriverVolume volume_of(const Json& value, std::string_view name) {
    DriverVolume volume;
    volume.name = text_of(member(value, "name"), name, true);
    volume.id = text_of(member(value, "id"), name, false);
    volume.size_gib = gib_of(member(value, "size"), name);
    volume.host = text_of(member(value, "host"), name, false);
    volume.status = text_of(member(value, "status"), name, false);
    volume.encrypted = member(value, "encrypted") == true;
    if (member(value, "extra_specs").is_object()) volume.extra_specs = value["extra_specs"];
    if (member(value, "qos_specs").is_object()) volume.qos_specs = value["qos_specs"];
    const Json& attachments = member(value, "attachments");
    if (attachments.is_array() && attachments.size() <= kObjectsMax) {
      for (const Json& one : attachments) {
        volume.attachments.push_back(attachment_of(one, name));
      }
    }
    return volume;
  }
  DriverSnapshot snapshot_of(const Json& value, std::string_view name) {
    DriverSnapshot snapshot;
    snapshot.name = text_of(member(value, "name"), name, true);
    snapshot.id = text_of(member(value, "id"), name, false);
    snapshot.volume_name = text_of(member(value, "volume_name"), name, true);
    snapshot.volume_size_gib = gib_of(member(value, "volume_size"), name);
    return snapshot;
  }

  const Json& all_;
  std::string wrong_;
};

Answer<Json> done(const DriverStatus& status) {
  if (!status.ok()) return status;
  return Json(nullptr);
}
Answer<Json> done(Answer<Json> answer) { return answer; }
template <typename T>
Answer<Json> done(const Answer<T>& answer) {
  if (!answer.ok()) return answer.status();
  return Json(*answer);
}
Answer<Json> done(const Answer<GroupUpdate>& answer) {
  if (!answer.ok()) return answer.status();
  return Json{{"model_update", answer->model_update}, {"members", answer->members}};
}
Answer<Json> done(const Answer<Migration>& answer) {
  if (!answer.ok()) return answer.status();
  return Json{{"moved", answer->moved}, {"model_update", answer->model_update}};
}
Answer<Json> done(const Answer<ImageClone>& answer) {
  if (!answer.ok()) return answer.status();
  return Json{{"model_update", answer->model_update}, {"cloned", answer->cloned}};
}

struct Call {
  std::string_view name;
  Answer<Json> (*make)(VolumeDriver&, Arguments&);
};

// Runs the call when its arguments, which `read` has taken, are right. (Arguments of a function are
// evaluated before it is called, so they are read into variables first.)
#define VT_CALL(name, read, run)                                    \
  Call {                                                            \
#name, [](VolumeDriver & driver, Arguments & a) -> Answer<Json> { \
      read;                                                           \
      if (!a.ok()) return a.status();                                 \
      return done(run);                                               \
    } \
  }

// NOLINTBEGIN(bugprone-macro-parentheses)
const std::vector<Call>& calls() {
  static const std::vector<Call> all {
    VT_CALL(do_setup, (void)a, driver.do_setup()),
        VT_CALL(check_for_setup_error, (void)a, driver.check_for_setup_error()),
        VT_CALL(get_volume_stats, const bool refresh = a.flag("refresh"),
                Answer<Json>(driver.get_volume_stats(refresh))),
        VT_CALL(create_volume, const auto volume = a.volume("volume"),
                driver.create_volume(volume)),
        VT_CALL(delete_volume, const auto volume = a.volume("volume"),
                driver.delete_volume(volume)),
        VT_CALL(create_volume_from_snapshot, const auto volume = a.volume("volume");
                const auto snapshot = a.snapshot("snapshot"),
                driver.create_volume_from_snapshot(volume, snapshot)),
        VT_CALL(create_cloned_volume, const auto volume = a.volume("volume");
                const auto source = a.volume("src_vref"),
                driver.create_cloned_volume(volume, source)),
        VT_CALL(extend_volume, const auto volume = a.volume("volume");
                const auto size_gib = a.gib("new_size"), driver.extend_volume(volume, size_gib)),
        VT_CALL(local_path, const auto volume = a.volume("volume"), driver.local_path(volume)),

        VT_CALL(create_snapshot, const auto snapshot = a.snapshot("snapshot"),
                driver.create_snapshot(snapshot)),
        VT_CALL(delete_snapshot, const auto snapshot = a.snapshot("snapshot"),
                driver.delete_snapshot(snapshot)),
        VT_CALL(revert_to_snapshot, const auto volume = a.volume("volume");
                const auto snapshot = a.snapshot("snapshot"),
                driver.revert_to_snapshot(volume, snapshot)),
        VT_CALL(snapshot_revert_use_temp_snapshot, (void)a,
                Answer<Json>(Json(driver.snapshot_revert_use_temp_snapshot()))),

        VT_CALL(validate_connector, const Json& connector = a.any("connector"),
                driver.validate_connector(connector)),
        VT_CALL(ensure_export, const auto volume = a.volume("volume"),
                driver.ensure_export(volume)),
        VT_CALL(create_export, const auto volume = a.volume("volume");
                const Json& connector = a.any("connector"),
                driver.create_export(volume, connector)),
        VT_CALL(remove_export, const auto volume = a.volume("volume"),
                driver.remove_export(volume)),
        VT_CALL(initialize_connection, const auto volume = a.volume("volume");
                const Json& connector = a.any("connector");
                const Json& data = a.any("initiator_data"),
                driver.initialize_connection(volume, connector, data)),
        VT_CALL(terminate_connection, const auto volume = a.volume("volume");
                const Json& connector = a.any("connector");
                const bool force = a.flag("force"),
                driver.terminate_connection(volume, connector, force)),
        VT_CALL(attach_volume, const auto volume = a.volume("volume");
                const auto instance = a.text_or_empty("instance_uuid");
                const auto host = a.text_or_empty("host_name");
                const auto mountpoint = a.text_or_empty("mountpoint"),
                driver.attach_volume(volume, instance, host, mountpoint)),
        VT_CALL(detach_volume, const auto volume = a.volume("volume");
                const auto attachment = a.attachment_or_none("attachment"),
                driver.detach_volume(volume, attachment)),
        VT_CALL(create_export_snapshot, const auto snapshot = a.snapshot("snapshot");
                const Json& connector = a.any("connector"),
                driver.create_export_snapshot(snapshot, connector)),
        VT_CALL(remove_export_snapshot, const auto snapshot = a.snapshot("snapshot"),
                driver.remove_export_snapshot(snapshot)),
        VT_CALL(initialize_connection_snapshot, const auto snapshot = a.snapshot("snapshot");
                const Json& connector = a.any("connector"),
                driver.initialize_connection_snapshot(snapshot, connector)),
        VT_CALL(terminate_connection_snapshot, const auto snapshot = a.snapshot("snapshot");
                const Json& connector = a.any("connector"),
                driver.terminate_connection_snapshot(snapshot, connector)),

        VT_CALL(clone_image, const auto volume = a.volume("volume");
                const auto locations = a.texts("locations");
                const auto names = a.text_or_empty("volume_name_template"),
                driver.clone_image(volume, locations, names)),

        VT_CALL(copy_image_to_volume, const auto volume = a.volume("volume");
                const auto image = a.image("image"), driver.copy_image_to_volume(volume, image)),
        VT_CALL(copy_volume_to_image, const auto volume = a.volume("volume");
                const auto image = a.image("image"), driver.copy_volume_to_image(volume, image)),

        VT_CALL(manage_existing_get_size, const Json& reference = a.any("existing_ref"),
                driver.manage_existing_get_size(reference)),
        VT_CALL(manage_existing, const auto volume = a.volume("volume");
                const Json& reference = a.any("existing_ref"),
                driver.manage_existing(volume, reference)),
        VT_CALL(unmanage, const auto volume = a.volume("volume"), driver.unmanage(volume)),
        VT_CALL(get_manageable_volumes, const auto known = a.volumes("cinder_volumes");
                const auto page = a.page(), driver.get_manageable_volumes(known, page)),
        VT_CALL(manage_existing_snapshot_get_size, const auto snapshot = a.snapshot("snapshot");
                const Json& reference = a.any("existing_ref"),
                driver.manage_existing_snapshot_get_size(snapshot, reference)),
        VT_CALL(manage_existing_snapshot, const auto snapshot = a.snapshot("snapshot");
                const Json& reference = a.any("existing_ref"),
                driver.manage_existing_snapshot(snapshot, reference)),
        VT_CALL(unmanage_snapshot, const auto snapshot = a.snapshot("snapshot"),
                driver.unmanage_snapshot(snapshot)),
        VT_CALL(get_manageable_snapshots, const auto known = a.snapshots("cinder_snapshots");
                const auto page = a.page(), driver.get_manageable_snapshots(known, page)),

        VT_CALL(create_group, const auto group = a.group("group"), driver.create_group(group)),
        VT_CALL(delete_group, const auto group = a.group("group");
                const auto volumes = a.volumes("volumes"), driver.delete_group(group, volumes)),
        VT_CALL(update_group, const auto group = a.group("group");
                const auto add = a.volumes("add_volumes");
                const auto remove = a.volumes("remove_volumes"),
                driver.update_group(group, add, remove)),
        VT_CALL(create_group_snapshot, const auto group = a.group("group");
                const auto snapshots = a.snapshots("snapshots"),
                driver.create_group_snapshot(group, snapshots)),
        VT_CALL(delete_group_snapshot, const auto group = a.group("group");
                const auto snapshots = a.snapshots("snapshots"),
                driver.delete_group_snapshot(group, snapshots)),
        VT_CALL(create_group_from_src, const auto group = a.group("group");
                const auto volumes = a.volumes("volumes");
                const auto snapshots = a.snapshots("snapshots");
                const auto sources = a.volumes("source_vols"),
                driver.create_group_from_src(group, volumes, snapshots, sources)),

        VT_CALL(retype, const auto volume = a.volume("volume");
                const Json& type = a.any("new_type"); const Json& diff = a.any("diff");
                const auto host = a.text_or_empty("host"), driver.retype(volume, type, diff, host)),
        VT_CALL(migrate_volume, const auto volume = a.volume("volume"); MigrationTarget target;
                target.host = a.text_or_empty("host");
                target.location_info = a.text_or_empty("location_info"),
                driver.migrate_volume(volume, target)),
        VT_CALL(update_migrated_volume, const auto volume = a.volume("volume");
                const auto fresh = a.volume("new_volume");
                const auto name = a.text("original_volume_name");
                const auto status = a.text("original_volume_status"),
                driver.update_migrated_volume(volume, fresh, name, status)),
        VT_CALL(accept_transfer, const auto volume = a.volume("volume");
                const auto user = a.text_or_empty("new_user");
                const auto project = a.text_or_empty("new_project"),
                driver.accept_transfer(volume, user, project)),
        VT_CALL(failover_host, const auto volumes = a.volumes("volumes");
                const auto secondary = a.text_or_empty("secondary_id"),
                driver.failover_host(volumes, secondary)),
        VT_CALL(changed_blocks, const auto volume = a.volume("volume");
                const auto base = a.text("base_snapshot"), driver.changed_blocks(volume, base)),
  };
  return all;
}
// NOLINTEND(bugprone-macro-parentheses)

// Consistency groups are groups under older names.
std::string_view today(std::string_view call) {
  constexpr std::array<std::pair<std::string_view, std::string_view>, 6> kOlder{{
      {"create_consistencygroup", "create_group"},
      {"delete_consistencygroup", "delete_group"},
      {"update_consistencygroup", "update_group"},
      {"create_consistencygroup_from_src", "create_group_from_src"},
      {"create_cgsnapshot", "create_group_snapshot"},
      {"delete_cgsnapshot", "delete_group_snapshot"},
  }};
  for (const auto& [older, name] : kOlder) {
    if (call == older) return name;
  }
  return call;
}

}  // namespace

Answer<Json> call_driver(VolumeDriver& driver, std::string_view call, const Json& arguments) {
  const std::string_view name = today(call);
  const auto found = std::find_if(calls().begin(), calls().end(),
                                  [&](const Call& one) { return one.name == name; });
  if (found == calls().end()) {
    return DriverStatus(
        Exception::kNotImplementedError,
        fmt::format("a driver has no call {}", voltree::quoted(call.substr(0, 64))));
  }
  Arguments read(arguments);
  return found->make(driver, read);
}

bool is_long_driver_call(std::string_view call) {
  // manage_existing reads a file that it takes in.
  constexpr std::array<std::string_view, 4> kLong{"copy_image_to_volume", "copy_volume_to_image",
                                                  "migrate_volume", "manage_existing"};
  return std::find(kLong.begin(), kLong.end(), call) != kLong.end();
}

std::vector<std::string_view> driver_call_names() {
  std::vector<std::string_view> names;
  for (const Call& call : calls()) names.push_back(call.name);
  return names;
}

}  // namespace voltree
