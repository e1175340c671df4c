// Other types, other stores, other names.
#include <fcntl.h>
#include <sys/stat.h>

#include "driver/control/protocol.h"
#include "driver/store_driver.h"
#include "driver/store_driver_impl.h"
#include "driver/store_move.h"

namespace voltree {
namespace {

// "voltree:HOST:UUID:SOCKET", as each store's driver reports it.
struct Location {
  std::string host;
  std::string uuid;
  std::string socket;
};

std::optional<Location> parse_location(const std::string& text) {
  constexpr std::string_view kStart = "voltree:";
  if (!text.starts_with(kStart)) return std::nullopt;
  const std::size_t uuid = text.find(':', kStart.size());
  const std::size_t socket = uuid == std::string::npos ? uuid : text.find(':', uuid + 1);
  if (socket == std::string::npos) return std::nullopt;
  return Location{text.substr(kStart.size(), uuid - kStart.size()),
                  text.substr(uuid + 1, socket - uuid - 1), text.substr(socket + 1)};
}

// What a name in the one needs for a file of the other.
bool on_one_mount(const std::string& a, const std::string& b) {
  const auto mount_of = [](const std::string& path) -> std::optional<std::uint64_t> {
    struct statx info {};
    if (::statx(AT_FDCWD, path.c_str(), 0, STATX_MNT_ID, &info) != 0) return std::nullopt;
    if ((info.stx_mask & STATX_MNT_ID) == 0) return std::nullopt;
    return info.stx_mnt_id;
  };
  const auto first = mount_of(a);
  return first && first == mount_of(b);
}

// What can be copied instead: not this volume, or not these hosts or daemons.
bool may_be_copied(const Status& status) {
  const Code code = status.code();
  return code == Code::kNotSupported || code == Code::kPermission || code == Code::kBusy ||
         code == Code::kInvalid;
}

// A volume that is one layer goes as it lies there: this store gives it away, the other one takes
// it. False: it is here, and to be copied. Between the two it is neither's; what stops there goes
// on from there when it is tried again.
Result<bool> hand_over(Client& here, Client& there, const std::string& name, bool is_here) {
  Result<Json> given = here.call("volume.given", Json{{"name", name}});
  if (!given.ok() && !is_here) return false;
  if (!given.ok()) {
    VT_ASSIGN_OR_RETURN(const Json from, here.call("pool.stats", Json::object()));
    VT_ASSIGN_OR_RETURN(const Json to, there.call("pool.stats", Json::object()));
    if (!on_one_mount(text_in(from, "directory"), text_in(to, "directory"))) return false;
    // What an earlier try has copied is compared, not made again.
    if (there.call("volume.info", Json{{"name", name}}).status().code() != Code::kNotFound) {
      return false;
    }
    given = here.call("volume.give", Json{{"name", name}});
    if (!given.ok() && may_be_copied(given.status())) return false;
  }
  if (!given.ok()) return given.status();
  const Status taken = there.call("volume.take_given", *given).status();
  if (taken.ok()) return true;
  const Status back = here.call("volume.take_given", *given).status();
  if (back.ok() && may_be_copied(taken)) return false;
  if (back.ok()) return taken;
  return error(taken.code(), "{}; until the move is tried again the volume is {} ({})",
               taken.message(), text_in(*given, "data"), back.message());
}

DriverStatus failure(const Status& status) {
  return {Exception::kVolumeBackendAPIException, std::string(status.message())};
}

}  // namespace

std::string StoreDriver::location_info(const Json& pool) const {
  return fmt::format("voltree:{}:{}:{}", options_.host_name, text_in(pool, "uuid"),
                     control_socket_path(text_in(pool, "directory")));
}

Answer<bool> StoreDriver::retype(const DriverVolume& volume, const Json&, const Json& diff,
                                 const std::string& host) {
  // Another host, or keys: the manager copies the data.
  if (!host.empty() && host != volume.host) return false;
  const Json none = Json::object();
  const auto part = [&](std::string_view name) -> const Json& {
    return diff.is_object() && diff.contains(name) && diff[name].is_object() ? diff[name] : none;
  };
  for (const Json& change : part("encryption")) {
    if (change.is_array() && change.size() == 2 && change[0] != change[1]) return false;
  }
  // {key: [old, new]}, "consumer" among the keys; a key that goes has null for its new value.
  const Json& changes = part("qos_specs");
  if (changes.empty()) return true;
  Json specs = Json::object();
  std::string consumer = text_in(volume.qos_specs, "consumer");
  for (const auto& [key, change] : changes.items()) {
    if (!change.is_array() || change.size() != 2) continue;
    if (key == "consumer") {
      consumer = change[1].is_string() ? change[1].get<std::string>() : std::string();
    } else if (!change[1].is_null()) {
      specs[key] = change[1];
    }
  }
  VT_DRIVER_RETURN_IF_ERROR(limit(volume.name, Json{{"consumer", consumer}, {"specs", specs}}));
  return true;
}

Answer<Migration> StoreDriver::migrate_volume(const DriverVolume& volume,
                                              const MigrationTarget& target) {
  const Migration left_to_the_manager{false, nullptr};
  const Result<Json> pool = client_.call("pool.stats", Json::object());
  if (!pool.ok()) return DriverStatus::of(pool.status());
  const std::optional<Location> location = parse_location(target.location_info);
  if (!location) return left_to_the_manager;
  // Two back ends on one store: it is there already.
  if (location->uuid == text_in(*pool, "uuid")) return Migration{true, nullptr};
  const bool same_host = location->host == options_.host_name;
  if (location->host.empty() || (!same_host && options_.ssh_config.empty())) {
    return left_to_the_manager;
  }
  VT_ASSIGN_OR_RETURN(const bool free, may_move(volume));
  if (!free) return left_to_the_manager;
  const auto other =
      same_host ? PeerStore::connect(location->socket)
                : PeerStore::connect_to_host(options_.ssh_config, location->host, location->socket);
  if (!other.ok()) return failure(other.status());
  if ((*other)->uuid() != location->uuid) {
    return DriverStatus(Exception::kVolumeBackendAPIException,
                        location->socket + " is another store's by now");
  }
  return move_to(**other, volume);
}

// False: somebody has it, or its snapshots would stay behind.
Answer<bool> StoreDriver::may_move(const DriverVolume& volume) {
  if (!volume.attachments.empty()) return false;
  VT_ASSIGN_OR_RETURN(const std::vector<Json> all, nodes());
  for (const Json& node : all) {
    if (node["volume"] != volume.name) continue;
    if (node["kind"] == "snapshot" || node["attached"] == true || node["connections"] != 0) {
      return false;
    }
  }
  return true;
}

// The volume is deleted here when it is whole there. Both are there when that is interrupted: the
// next try finds them equal, and goes on.
Answer<Migration> StoreDriver::move_to(PeerStore& other, const DriverVolume& volume) {
  VT_ASSIGN_OR_RETURN(const std::optional<Json> here, find(volume.name));
  if (other.on_this_host()) {
    const Result<bool> moved = hand_over(client_, other.client(), volume.name, here.has_value());
    if (!moved.ok()) return failure(moved.status());
    if (*moved) return Migration{true, nullptr};
  }
  if (!here) {
    // The answer to an earlier try may have been lost.
    const Status there = other.client().call("volume.info", Json{{"name", volume.name}}).status();
    if (there.ok()) return Migration{true, nullptr};
    return DriverStatus(Exception::kVolumeNotFound, "there is no volume " + volume.name);
  }
  StoreMove move(client_, other, volume.name, options_.progress);
  if (const Status moved = move.run(); !moved.ok()) return failure(other.explain(moved));
  const DriverStatus gone = remove(volume.name, Exception::kVolumeIsBusy);
  if (gone.ok()) return Migration{true, nullptr};
  if (move.published()) (void)other.client().call("volume.delete", Json{{"name", volume.name}});
  return gone;
}

Answer<Json> StoreDriver::update_migrated_volume(const DriverVolume& volume,
                                                 const DriverVolume& new_volume,
                                                 const std::string& original_name,
                                                 const std::string& original_status) {
  const Json stays{{"_name_id", new_volume.id}, {"provider_location", nullptr}};
  if (original_status != "available" || original_name == new_volume.name) return stays;
  VT_ASSIGN_OR_RETURN(const std::optional<Json> there, find(new_volume.name));
  if (!there) {
    VT_ASSIGN_OR_RETURN(const std::optional<Json> renamed, find(original_name));
    if (renamed) return Json{{"_name_id", nullptr}, {"provider_location", nullptr}};
    return DriverStatus(Exception::kVolumeNotFound, "there is no volume " + new_volume.name +
                                                        ", the new home of " + volume.name);
  }
  if (!rename(new_volume.name, original_name).ok()) return stays;
  return Json{{"_name_id", nullptr}, {"provider_location", nullptr}};
}

}  // namespace voltree
