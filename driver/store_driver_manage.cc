// Taking in and letting go.
#include "driver/store_driver.h"
#include "driver/store_driver_impl.h"

namespace voltree {
namespace {

DriverStatus bad_reference(const std::string& why) {
  return {Exception::kManageExistingInvalidReference, why};
}

bool in_use(const Json& node) { return node["attached"] == true || node["connections"] != 0; }

// "source-name" or "source-id", or why there is neither.
Answer<std::string> wanted_name(const ExistingReference& reference) {
  const std::string name = text_in(reference, "source-name");
  if (!name.empty() || (reference.is_object() && reference.contains("source-id"))) return name;
  return bad_reference("name what to manage: \"source-name\" or \"source-id\"");
}

// No name of a volume begins like this.
bool is_path(const ExistingReference& reference) {
  return text_in(reference, "source-name").starts_with('/');
}

bool is_id(const Json& node, const Json& wanted) {
  if (wanted.is_number_unsigned()) return node["id"] == wanted;
  return wanted.is_string() && wanted.get<std::string>() == node["id"].dump();
}

std::vector<Json> page_of(std::vector<Json> entries, const ManageablePage& page) {
  const auto key = [&page](const Json& entry) -> const Json& {
    return page.sort_key == "size" ? entry["size"] : entry["reference"]["source-name"];
  };
  std::stable_sort(entries.begin(), entries.end(), [&](const Json& a, const Json& b) {
    return page.descending ? key(b) < key(a) : key(a) < key(b);
  });
  std::size_t from = 0;
  if (!page.marker.empty()) {
    const auto found = std::find_if(entries.begin(), entries.end(), [&](const Json& entry) {
      return entry["reference"]["source-name"] == page.marker;
    });
    if (found != entries.end()) from = static_cast<std::size_t>(found - entries.begin()) + 1;
  }
  from = std::min(from + page.offset, entries.size());
  const std::size_t count = std::min(page.limit, entries.size() - from);
  const auto begin = entries.begin() + static_cast<std::ptrdiff_t>(from);
  return {begin, begin + static_cast<std::ptrdiff_t>(count)};
}

Json manageable(const Json& node, const std::string& source_name, const std::string& cinder_id) {
  Json entry{{"reference", Json{{"source-name", source_name}}},
             {"size", gib_of(node["size_bytes"].get<std::uint64_t>())},
             {"safe_to_manage", true},
             {"reason_not_safe", nullptr},
             {"cinder_id", nullptr},
             {"extra_info", nullptr}};
  if (!cinder_id.empty()) {
    entry["cinder_id"] = cinder_id;
    entry["reason_not_safe"] = "already managed";
  } else if (in_use(node)) {
    entry["reason_not_safe"] = "in use";
  }
  entry["safe_to_manage"] = entry["reason_not_safe"].is_null();
  return entry;
}

}  // namespace

Answer<Json> StoreDriver::find_existing(const ExistingReference& reference, bool snapshot,
                                        const std::string& volume_name) {
  VT_ASSIGN_OR_RETURN(const std::string name, wanted_name(reference));
  VT_ASSIGN_OR_RETURN(const std::vector<Json> all, nodes());
  for (const Json& node : all) {
    if ((node["kind"] == "snapshot") != snapshot) continue;
    if (snapshot && node["volume"] != volume_name) continue;
    const bool found = name.empty() ? is_id(node, reference["source-id"])
                                    : text_in(node, snapshot ? "snapshot" : "name") == name;
    if (found) return node;
  }
  return bad_reference(
      fmt::format("there is no {} {}", snapshot ? "snapshot" : "volume", reference.dump()));
}

Answer<std::uint64_t> StoreDriver::manage_existing_get_size(const ExistingReference& reference) {
  if (is_path(reference)) return file_size_gib(text_in(reference, "source-name"));
  VT_ASSIGN_OR_RETURN(const Json node, find_existing(reference, false, ""));
  return gib_of(node["size_bytes"].get<std::uint64_t>());
}

// The size first, then the name: after an error in between the volume is a little larger, and still
// the user's.
Answer<Json> StoreDriver::manage_existing(const DriverVolume& volume,
                                          const ExistingReference& reference) {
  if (is_path(reference)) return manage_file(volume, text_in(reference, "source-name"));
  Answer<Json> node = find_existing(reference, false, "");
  if (!node.ok()) {
    // The answer to an earlier try may have been lost.
    VT_ASSIGN_OR_RETURN(const std::optional<Json> there, find(volume.name));
    if (there) return Json(nullptr);
    return node.status();
  }
  const std::string name = text_in(*node, "name");
  if (name == volume.name) return Json(nullptr);
  if (in_use(*node)) return bad_reference(name + " is in use");
  VT_DRIVER_RETURN_IF_ERROR(grow(name, gib_of((*node)["size_bytes"].get<std::uint64_t>())));
  VT_DRIVER_RETURN_IF_ERROR(rename(name, volume.name));
  return Json(nullptr);
}

DriverStatus StoreDriver::unmanage(const DriverVolume&) { return {}; }

Answer<std::vector<Json>> StoreDriver::get_manageable_volumes(
    const std::vector<DriverVolume>& cinder_volumes, const ManageablePage& page) {
  VT_ASSIGN_OR_RETURN(const std::vector<Json> all, nodes());
  std::vector<Json> entries;
  for (const Json& node : all) {
    if (node["kind"] != "volume") continue;
    const std::string name = text_in(node, "name");
    std::string id;
    for (const DriverVolume& known : cinder_volumes) {
      if (known.name == name) id = known.id;
    }
    entries.push_back(manageable(node, name, id));
  }
  return page_of(std::move(entries), page);
}

Answer<std::uint64_t> StoreDriver::manage_existing_snapshot_get_size(
    const DriverSnapshot& snapshot, const ExistingReference& reference) {
  VT_ASSIGN_OR_RETURN(const Json node, find_existing(reference, true, snapshot.volume_name));
  return gib_of(node["size_bytes"].get<std::uint64_t>());
}

Answer<Json> StoreDriver::manage_existing_snapshot(const DriverSnapshot& snapshot,
                                                   const ExistingReference& reference) {
  Answer<Json> node = find_existing(reference, true, snapshot.volume_name);
  const std::string wanted = snapshot.volume_name + "@" + snapshot.name;
  if (!node.ok()) {
    VT_ASSIGN_OR_RETURN(const std::optional<Json> there, find(wanted));
    if (there) return Json(nullptr);
    return node.status();
  }
  const std::string name = text_in(*node, "name");
  if (name == wanted) return Json(nullptr);
  VT_DRIVER_RETURN_IF_ERROR(rename(name, wanted));
  return Json(nullptr);
}

DriverStatus StoreDriver::unmanage_snapshot(const DriverSnapshot&) { return {}; }

Answer<std::vector<Json>> StoreDriver::get_manageable_snapshots(
    const std::vector<DriverSnapshot>& cinder_snapshots, const ManageablePage& page) {
  VT_ASSIGN_OR_RETURN(const std::vector<Json> all, nodes());
  std::vector<Json> entries;
  for (const Json& node : all) {
    if (node["kind"] != "snapshot") continue;
    std::string id;
    for (const DriverSnapshot& known : cinder_snapshots) {
      if (known.volume_name + "@" + known.name == text_in(node, "name")) id = known.id;
    }
    Json entry = manageable(node, text_in(node, "snapshot"), id);
    entry["source_reference"] = Json{{"source-name", text_in(node, "volume")}};
    entries.push_back(std::move(entry));
  }
  return page_of(std::move(entries), page);
}

// Who owns it is nothing to the store.
DriverStatus StoreDriver::accept_transfer(const DriverVolume&, const std::string&,
                                          const std::string&) {
  return {};
}

DriverStatus StoreDriver::failover_host(const std::vector<DriverVolume>&,
                                        const std::string& secondary_id) {
  return {Exception::kInvalidReplicationTarget,
          fmt::format("there is no replica {}", secondary_id.empty() ? "" : secondary_id)};
}

}  // namespace voltree
