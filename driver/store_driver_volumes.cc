// Volumes and snapshots.
#include <charconv>

#include "blockstore/qos.h"
#include "driver/images/store_volume.h"
#include "driver/store_driver.h"
#include "driver/store_driver_impl.h"

namespace voltree {
namespace {

std::optional<std::uint64_t> number_in(const Json& value) {
  if (value.is_number_integer() && value >= 0) return value.get<std::uint64_t>();
  if (!value.is_string()) return std::nullopt;
  const auto& text = value.get_ref<const std::string&>();
  std::uint64_t number = 0;
  const char* end = text.data() + text.size();
  const auto [stop, bad] = std::from_chars(text.data(), end, number);
  if (bad != std::errc() || stop != end || text.empty()) return std::nullopt;
  return number;
}

std::string node_of(const DriverSnapshot& snapshot) {
  return snapshot.volume_name + "@" + snapshot.name;
}

}  // namespace

Answer<std::optional<Json>> StoreDriver::find(const std::string& name) {
  Result<Json> node = client_.call("volume.info", Json{{"name", name}});
  if (node.ok()) return std::optional<Json>(std::move(*node));
  if (node.status().code() == Code::kNotFound) return std::optional<Json>();
  return DriverStatus::of(node.status());
}

Answer<std::vector<Json>> StoreDriver::nodes() {
  Result<Json> list = client_.call("volume.list", Json::object());
  if (!list.ok()) return DriverStatus::of(list.status());
  return (*list)["nodes"].get<std::vector<Json>>();
}

// The scheduler goes by what is provisioned; this is what keeps a thin pool from being promised
// when it is full.
DriverStatus StoreDriver::check_room() {
  const Result<Json> pool = client_.call("pool.stats", Json::object());
  if (!pool.ok()) return DriverStatus::of(pool.status());
  const Json& host = (*pool)["host"];
  const auto free_bytes = host["free_bytes"].get<std::uint64_t>();
  const auto total_bytes = host["total_bytes"].get<std::uint64_t>();
  const std::uint64_t reserved_bytes = total_bytes / 100 * options_.reserved_percentage;
  if (free_bytes > std::max(options_.free_min_bytes, reserved_bytes)) return {};
  return {Exception::kVolumeBackendAPIException,
          fmt::format("the pool is full: {} bytes are free on the host", free_bytes)};
}

Answer<Json> StoreDriver::create_volume(const DriverVolume& volume) {
  VT_DRIVER_RETURN_IF_ERROR(check_room());
  const Result<Json> made = client_.call(
      "volume.create", Json{{"name", volume.name}, {"size_bytes", bytes_of(volume.size_gib)}});
  if (made.ok()) return limited(volume);
  if (made.status().code() != Code::kExists) return DriverStatus::of(made.status());
  // An earlier try that was not told of, if nobody has used it since.
  const Result<Json> there =
      client_.call("volume.info", Json{{"name", volume.name}, {"usage", true}});
  const bool same = there.ok() && (*there)["size_bytes"] == bytes_of(volume.size_gib) &&
                    (*there)["usage"]["referenced_bytes"] == 0 && text_in(*there, "origin").empty();
  if (!same) {
    return DriverStatus(Exception::kVolumeBackendAPIException,
                        std::string(made.status().message()));
  }
  VT_DRIVER_RETURN_IF_ERROR(limit(volume.name, volume.qos_specs));
  return Json(nullptr);
}

// A volume that cannot have its limits is none.
Answer<Json> StoreDriver::limited(const DriverVolume& made) {
  DriverStatus status = limit(made.name, made.qos_specs);
  if (status.ok()) return Json(nullptr);
  (void)remove(made.name, Exception::kVolumeIsBusy);
  return status;
}

DriverStatus StoreDriver::limit(const std::string& name, const Json& qos_specs) {
  const std::string consumer = text_in(qos_specs, "consumer");
  Json params{{"name", name}, {"clear", true}};
  if (consumer == "back-end" || consumer == "both") {
    const Json none = Json::object();
    const Json& specs = qos_specs.contains("specs") ? qos_specs["specs"] : none;
    for (const auto& [key, value] : specs.items()) {
      // Other keys are for other back ends. Cinder keeps the values as text.
      if (!is_qos_key(key)) continue;
      const std::optional<std::uint64_t> number = number_in(value);
      if (!number) {
        return {Exception::kInvalidInput, fmt::format("{} must be a whole number", key)};
      }
      params[key] = *number;
    }
  }
  return DriverStatus::of(client_.call("qos.set", std::move(params)).status());
}

DriverStatus StoreDriver::remove(const std::string& name, Exception busy) {
  Json params{{"name", name}};
  if (!options_.erase_policy.empty()) params["erase_policy"] = options_.erase_policy;
  if (options_.erase_first_bytes != 0) params["erase_first_bytes"] = options_.erase_first_bytes;
  if (!options_.erase_io_priority.empty()) params["erase_io_priority"] = options_.erase_io_priority;
  // The store itself would let a volume's snapshots live on; Cinder wants to hear of them.
  if (name.find('@') == std::string::npos) params["unless_snapshots"] = true;
  const Result<Json> gone = client_.call("volume.delete", std::move(params));
  if (gone.ok() || gone.status().code() == Code::kNotFound) return {};
  if (gone.status().code() == Code::kBusy) return {busy, std::string(gone.status().message())};
  return DriverStatus::of(gone.status());
}

DriverStatus StoreDriver::delete_volume(const DriverVolume& volume) {
  VT_DRIVER_RETURN_IF_ERROR(remove(volume.name, Exception::kVolumeIsBusy));
  // What a killed copy of an image has left is nobody's now. What cannot be removed is seen by
  // whoever lists the store.
  (void)remove_leftovers(client_, volume.name);
  return {};
}

DriverStatus StoreDriver::grow(const std::string& name, std::uint64_t size_gib) {
  VT_ASSIGN_OR_RETURN(const std::optional<Json> node, find(name));
  if (!node) return {Exception::kVolumeNotFound, "there is no volume " + name};
  const auto size_bytes = (*node)["size_bytes"].get<std::uint64_t>();
  if (size_bytes == bytes_of(size_gib)) return {};
  if (size_bytes > bytes_of(size_gib)) {
    return {Exception::kInvalidInput,
            fmt::format("volume {} has {} bytes: it is not made smaller", name, size_bytes)};
  }
  return DriverStatus::of(
      client_.call("volume.resize", Json{{"name", name}, {"size_bytes", bytes_of(size_gib)}})
          .status());
}

DriverStatus StoreDriver::rename(const std::string& from, const std::string& to) {
  return DriverStatus::of(client_.call("volume.rename", Json{{"from", from}, {"to", to}}).status());
}

// A clone that is there already is an earlier try that was not told of when it still is the
// source's sibling or child, of the size that was asked for.
Answer<Json> StoreDriver::clone(const std::string& source, const DriverVolume& volume) {
  VT_DRIVER_RETURN_IF_ERROR(check_room());
  VT_ASSIGN_OR_RETURN(const std::optional<Json> from, find(source));
  if (!from) {
    const bool snapshot = source.find('@') != std::string::npos;
    return DriverStatus(snapshot ? Exception::kSnapshotNotFound : Exception::kVolumeNotFound,
                        "there is no " + source);
  }
  if (bytes_of(volume.size_gib) < (*from)["size_bytes"].get<std::uint64_t>()) {
    return DriverStatus(Exception::kInvalidInput,
                        fmt::format("{} is larger than {} GiB", source, volume.size_gib));
  }
  const Result<Json> made = client_.call(
      "volume.clone",
      Json{{"source", source}, {"name", volume.name}, {"size_bytes", bytes_of(volume.size_gib)}});
  if (made.ok()) return limited(volume);
  if (made.status().code() != Code::kExists) return DriverStatus::of(made.status());
  VT_ASSIGN_OR_RETURN(const std::optional<Json> there, find(volume.name));
  const bool snapshot = (*from)["kind"] == "snapshot";
  const bool same = there && (*there)["size_bytes"] == bytes_of(volume.size_gib) &&
                    (*there)["parent"] == (snapshot ? (*from)["id"] : (*from)["parent"]);
  if (!same) {
    return DriverStatus(Exception::kVolumeBackendAPIException,
                        std::string(made.status().message()));
  }
  VT_DRIVER_RETURN_IF_ERROR(limit(volume.name, volume.qos_specs));
  return Json(nullptr);
}

Answer<Json> StoreDriver::create_volume_from_snapshot(const DriverVolume& volume,
                                                      const DriverSnapshot& snapshot) {
  return clone(node_of(snapshot), volume);
}

Answer<Json> StoreDriver::create_cloned_volume(const DriverVolume& volume,
                                               const DriverVolume& source) {
  return clone(source.name, volume);
}

DriverStatus StoreDriver::extend_volume(const DriverVolume& volume, std::uint64_t new_size_gib) {
  return grow(volume.name, new_size_gib);
}

Answer<std::string> StoreDriver::local_path(const DriverVolume& volume) {
  return path_of(volume.name);
}

Answer<Json> StoreDriver::create_snapshot(const DriverSnapshot& snapshot) {
  const Result<Json> made = client_.call(
      "volume.snapshot", Json{{"volume", snapshot.volume_name}, {"snapshot", snapshot.name}});
  // A name of Cinder's is made for one snapshot alone: one that is there is an earlier try.
  if (made.ok() || made.status().code() == Code::kExists) return Json(nullptr);
  return DriverStatus::of(made.status());
}

DriverStatus StoreDriver::delete_snapshot(const DriverSnapshot& snapshot) {
  VT_DRIVER_RETURN_IF_ERROR(forget_export(node_of(snapshot)));
  return remove(node_of(snapshot), Exception::kSnapshotIsBusy);
}

DriverStatus StoreDriver::revert_to_snapshot(const DriverVolume& volume,
                                             const DriverSnapshot& snapshot) {
  VT_ASSIGN_OR_RETURN(const std::optional<Json> node, find(node_of(snapshot)));
  if (!node) return {Exception::kSnapshotNotFound, "there is no " + node_of(snapshot)};
  const Status reverted = client_
                              .call("volume.revert", Json{{"volume", snapshot.volume_name},
                                                          {"snapshot", snapshot.name}})
                              .status();
  if (!reverted.ok()) return DriverStatus::of(reverted);
  return grow(volume.name, volume.size_gib);
}

Answer<std::vector<Json>> StoreDriver::changed_blocks(const DriverVolume& volume,
                                                      const std::string& base_snapshot) {
  std::vector<Json> ranges;
  Json params{{"a", volume.name + "@" + base_snapshot}, {"b", volume.name}};
  while (true) {
    const Result<Json> page = client_.call("volume.diff", params);
    if (!page.ok()) return DriverStatus::of(page.status());
    for (const Json& range : (*page)["ranges"]) ranges.push_back(range);
    if ((*page)["next_from_bytes"].is_null()) return ranges;
    params["from_bytes"] = (*page)["next_from_bytes"];
  }
}

}  // namespace voltree
