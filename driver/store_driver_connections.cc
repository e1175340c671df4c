// Exports and connections: a volume's file in the mounted tree, or a loop device on it.
#include "driver/store_driver.h"
#include "driver/store_driver_impl.h"

namespace voltree {
namespace {

// A note's key: and who.
constexpr std::string_view kAttachedTo = "attached-to:";

std::string note_key(const VolumeAttachment& attachment) {
  const bool instance = !attachment.instance_uuid.empty();
  return std::string(kAttachedTo)
      .append(instance ? attachment.instance_uuid : attachment.attached_host);
}

std::string node_of(const DriverSnapshot& snapshot) {
  return snapshot.volume_name + "@" + snapshot.name;
}

}  // namespace

Answer<std::string> StoreDriver::path_of(const std::string& node) {
  const Result<Json> daemon = client_.call("ping", Json::object());
  if (!daemon.ok()) return DriverStatus::of(daemon.status());
  const std::string mountpoint = text_in(*daemon, "mountpoint");
  if (mountpoint.empty()) {
    return DriverStatus(Exception::kVolumeBackendAPIException,
                        "the store is not mounted: voltree serve --mount DIR");
  }
  const std::size_t at = node.find('@');
  if (at == std::string::npos) return mountpoint + "/volumes/" + node;
  return mountpoint + "/snapshots/" + node.substr(0, at) + "/" + node.substr(at + 1);
}

DriverStatus StoreDriver::validate_connector(const Json& connector) {
  if (!text_in(connector, "host").empty()) return {};
  return {Exception::kInvalidConnectorException, "the connector does not say its host"};
}

// A volume's file is one for all; of loop devices a read-only one is made beside a writable one.
Answer<std::string> StoreDriver::device_of(const std::string& node, bool read_only) {
  const bool loop = options_.connection == Connection::kLocal;
  const std::string_view target = loop ? "loop" : "file";
  const Result<Json> list = client_.call("device.list", Json::object());
  if (!list.ok()) return DriverStatus::of(list.status());
  for (const Json& attachment : (*list)["attachments"]) {
    if (attachment["name"] != node || attachment["target"] != target) continue;
    if (loop && attachment["read_only"] != read_only) continue;
    const std::string device = text_in(attachment, "device");
    if (attachment["state"] == "live") return device;
    // Of another boot, or of a tree that was mounted elsewhere.
    const Result<Json> gone =
        client_.call("device.detach", Json{{"name_or_device", device.empty() ? node : device}});
    if (!gone.ok()) return DriverStatus::of(gone.status());
    break;
  }
  const Result<Json> made = client_.call(
      "device.attach",
      Json{{"name", node}, {"read_only", read_only}, {"beside_others", loop}, {"target", target}});
  if (!made.ok()) return DriverStatus::of(made.status());
  return text_in(*made, "device");
}

Answer<Json> StoreDriver::connect(const std::string& node, bool read_only) {
  VT_ASSIGN_OR_RETURN(const std::optional<Json> there, find(node));
  if (!there) {
    const bool snapshot = node.find('@') != std::string::npos;
    return DriverStatus(snapshot ? Exception::kSnapshotNotFound : Exception::kVolumeNotFound,
                        "there is no " + node);
  }
  VT_ASSIGN_OR_RETURN(const std::string device, device_of(node, read_only));
  if (options_.connection == Connection::kLocal) {
    return Json{{"driver_volume_type", "local"}, {"data", Json{{"device_path", device}}}};
  }
  return Json{{"driver_volume_type", "gpfs"},
              {"data", Json{{"name", node}, {"device_path", device}}}};
}

DriverStatus StoreDriver::disconnect(const std::string& node) {
  const Status gone = client_.call("device.detach", Json{{"name_or_device", node}}).status();
  if (gone.ok() || gone.code() == Code::kNotFound) return {};
  return {Exception::kVolumeBackendAPIException, std::string(gone.message())};
}

// Unlike a volume's, a snapshot's connection is forgotten by Cinder when its service dies: nobody
// would ever end it. A file that was given out is no more than a note.
DriverStatus StoreDriver::forget_export(const std::string& snapshot) {
  const Result<Json> list = client_.call("device.list", Json::object());
  if (!list.ok()) return DriverStatus::of(list.status());
  for (const Json& attachment : (*list)["attachments"]) {
    if (attachment["name"] == snapshot && attachment["target"] == "file") {
      return disconnect(snapshot);
    }
  }
  return {};
}

Answer<Json> StoreDriver::ensure_export(const DriverVolume& volume) {
  VT_DRIVER_RETURN_IF_ERROR(connect(volume.name, false).status());
  return Json(nullptr);
}

// There is nothing between an export and its connection here: what it takes, initialize_connection
// does.
Answer<Json> StoreDriver::create_export(const DriverVolume& volume, const Json&) {
  VT_ASSIGN_OR_RETURN(const std::optional<Json> there, find(volume.name));
  if (there) return Json(nullptr);
  return DriverStatus(Exception::kVolumeNotFound, "there is no volume " + volume.name);
}

DriverStatus StoreDriver::remove_export(const DriverVolume& volume) {
  return disconnect(volume.name);
}

Answer<Json> StoreDriver::initialize_connection(const DriverVolume& volume, const Json& connector,
                                                const Json&) {
  VT_DRIVER_RETURN_IF_ERROR(validate_connector(connector));
  return connect(volume.name, text_in(connector, "mode") == "ro");
}

Answer<bool> StoreDriver::terminate_connection(const DriverVolume& volume, const Json& connector,
                                               bool) {
  if (connector.is_object()) {
    const std::string host = text_in(connector, "host");
    const auto here = std::count_if(volume.attachments.begin(), volume.attachments.end(),
                                    [&](const auto& one) { return one.attached_host == host; });
    if (here > 1) return true;
  }
  VT_DRIVER_RETURN_IF_ERROR(disconnect(volume.name));
  return false;
}

// Calls of older releases, which tell who has a volume: notes of it, for whoever looks.
DriverStatus StoreDriver::attach_volume(const DriverVolume& volume,
                                        const std::string& instance_uuid,
                                        const std::string& host_name,
                                        const std::string& mountpoint) {
  VT_ASSIGN_OR_RETURN(const std::optional<Json> there, find(volume.name));
  if (!there) return {Exception::kVolumeNotFound, "there is no volume " + volume.name};
  Json notes = there->value("notes", Json::object());
  notes[note_key({host_name, instance_uuid})] = fmt::format("{} {}", host_name, mountpoint);
  return note(volume.name, std::move(notes));
}

DriverStatus StoreDriver::detach_volume(const DriverVolume& volume,
                                        const std::optional<VolumeAttachment>& attachment) {
  VT_ASSIGN_OR_RETURN(const std::optional<Json> there, find(volume.name));
  if (!there) return {};
  const Json all = there->value("notes", Json::object());
  Json left = Json::object();
  for (const auto& [key, text] : all.items()) {
    const bool goes = attachment ? key == note_key(*attachment) : key.starts_with(kAttachedTo);
    if (!goes) left[key] = text;
  }
  return left == all ? DriverStatus() : note(volume.name, std::move(left));
}

DriverStatus StoreDriver::note(const std::string& name, Json notes) {
  const Json params{{"name", name}, {"notes", std::move(notes)}};
  return DriverStatus::of(client_.call("volume.set_notes", params).status());
}

Answer<Json> StoreDriver::create_export_snapshot(const DriverSnapshot& snapshot, const Json&) {
  VT_ASSIGN_OR_RETURN(const std::optional<Json> there, find(node_of(snapshot)));
  if (there) return Json(nullptr);
  return DriverStatus(Exception::kSnapshotNotFound, "there is no " + node_of(snapshot));
}

DriverStatus StoreDriver::remove_export_snapshot(const DriverSnapshot& snapshot) {
  return disconnect(node_of(snapshot));
}

Answer<Json> StoreDriver::initialize_connection_snapshot(const DriverSnapshot& snapshot,
                                                         const Json& connector) {
  VT_DRIVER_RETURN_IF_ERROR(validate_connector(connector));
  return connect(node_of(snapshot), true);
}

DriverStatus StoreDriver::terminate_connection_snapshot(const DriverSnapshot& snapshot,
                                                        const Json&) {
  return disconnect(node_of(snapshot));
}

}  // namespace voltree
