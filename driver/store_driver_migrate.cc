// Other types, other stores, other names.
#include "driver/control/protocol.h"
#include "driver/images/disk_copy.h"
#include "driver/images/store_volume.h"
#include "driver/store_driver.h"
#include "driver/store_driver_impl.h"

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

DriverStatus failure(const Status& status) {
  return {Exception::kVolumeBackendAPIException, std::string(status.message())};
}

// One volume on its way to another store. What fails leaves it where it is.
class Move {
 public:
  Move(Client& here, Client& there, std::string name, const ProgressSink& progress)
      : here_(here), there_(there), name_(std::move(name)), progress_(progress) {}

  // A whole and equal volume of this name is there.
  Status run() {
    VT_ASSIGN_OR_RETURN(from_socket_, private_nbd(here_));
    VT_ASSIGN_OR_RETURN(to_socket_, private_nbd(there_));
    VT_RETURN_IF_ERROR(remove_leftovers(here_, name_));
    VT_RETURN_IF_ERROR(remove_leftovers(there_, name_));
    VT_ASSIGN_OR_RETURN(UnfinishedVolume copy, UnfinishedVolume::clone(here_, name_));
    const Status known = there_.call("volume.info", Json{{"name", name_}}).status();
    Status status = known;
    if (known.ok()) status = compare(copy.name(), name_, progress_);
    if (known.code() == Code::kNotFound) status = send(copy.name());
    if (status.ok()) status = check_unchanged(copy.name());
    if (status.ok() && made_) status = made_->publish();
    const Status discarded = copy.discard();
    return status.ok() ? discarded : status;
  }
  // Whether run() has put it there, and not an earlier try.
  bool published() const { return made_.has_value(); }

 private:
  Status send(const std::string& copy) {
    VT_ASSIGN_OR_RETURN(const std::unique_ptr<NbdDisk> from, NbdDisk::connect(from_socket_, copy));
    VT_ASSIGN_OR_RETURN(UnfinishedVolume made,
                        UnfinishedVolume::create(there_, name_, from->size_bytes(), Purpose::kNew));
    made_.emplace(std::move(made));
    VT_RETURN_IF_ERROR(send_limits(made_->name()));
    {
      VT_ASSIGN_OR_RETURN(const std::unique_ptr<NbdDisk> to,
                          NbdDisk::connect(to_socket_, made_->name()));
      VT_RETURN_IF_ERROR(copy_disk(*from, *to, half(0)));
      VT_RETURN_IF_ERROR(to->flush());
    }
    VT_RETURN_IF_ERROR(compare(copy, made_->name(), half(1)));
    return wait_until_free(there_, made_->name());
  }

  Status compare(const std::string& copy, const std::string& other, const ProgressSink& progress) {
    VT_ASSIGN_OR_RETURN(const std::unique_ptr<NbdDisk> from, NbdDisk::connect(from_socket_, copy));
    VT_ASSIGN_OR_RETURN(const std::unique_ptr<NbdDisk> to, NbdDisk::connect(to_socket_, other));
    return compare_disks(*from, *to, progress).with_context("the volume in the other store");
  }

  Status send_limits(const std::string& to) {
    VT_ASSIGN_OR_RETURN(const Json qos, here_.call("qos.get", Json{{"name", name_}}));
    Json limits = qos.value("limits", Json::object());
    if (limits.empty()) return {};
    limits["name"] = to;
    return there_.call("qos.set", std::move(limits)).status();
  }

  // What was written since the copy was taken would be lost.
  Status check_unchanged(const std::string& copy) {
    VT_ASSIGN_OR_RETURN(const Json diff,
                        here_.call("volume.diff", Json{{"a", copy}, {"b", name_}}));
    if (diff.value("range_count", Json()) == Json(0)) return {};
    return error(Code::kBusy, "{} was written to while it was copied", name_);
  }

  // Copying and comparing are half of the work each.
  ProgressSink half(std::uint64_t which) const {
    return [this, which](const Progress& now) {
      if (progress_) progress_({(now.done + which * now.total) / 2, now.total});
    };
  }

  Client& here_;
  Client& there_;
  const std::string name_;
  const ProgressSink& progress_;
  std::string from_socket_;
  std::string to_socket_;
  std::optional<UnfinishedVolume> made_;
};

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
  if (location->host.empty() || location->host != options_.host_name) return left_to_the_manager;
  VT_ASSIGN_OR_RETURN(const bool free, may_move(volume));
  if (!free) return left_to_the_manager;
  const auto other = SocketClient::connect(location->socket);
  if (!other.ok()) return failure(other.status());
  const Result<Json> theirs = (*other)->call("pool.stats", Json::object(), {});
  if (!theirs.ok()) return failure(theirs.status());
  if (text_in(*theirs, "uuid") != location->uuid) {
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
Answer<Migration> StoreDriver::move_to(Client& other, const DriverVolume& volume) {
  VT_ASSIGN_OR_RETURN(const std::optional<Json> here, find(volume.name));
  if (!here) {
    // The answer to an earlier try may have been lost.
    const Status there = other.call("volume.info", Json{{"name", volume.name}}).status();
    if (there.ok()) return Migration{true, nullptr};
    return DriverStatus(Exception::kVolumeNotFound, "there is no volume " + volume.name);
  }
  Move move(client_, other, volume.name, options_.progress);
  if (const Status moved = move.run(); !moved.ok()) return failure(moved);
  const DriverStatus gone = remove(volume.name, Exception::kVolumeIsBusy);
  if (gone.ok()) return Migration{true, nullptr};
  if (move.published()) (void)other.call("volume.delete", Json{{"name", volume.name}});
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
