// Groups: several volumes at once.
#include "driver/store_driver.h"
#include "driver/store_driver_impl.h"

namespace voltree {
namespace {

Json member(const std::string& id, std::string_view status) {
  return Json{{"id", id}, {"status", status}};
}

// The group's own status is the worst of its members'.
GroupUpdate update_of(std::vector<Json> members, std::string_view good, std::string_view bad) {
  const bool failed = std::any_of(members.begin(), members.end(),
                                  [&](const Json& one) { return one["status"] == bad; });
  return {Json{{"status", failed ? bad : good}}, std::move(members)};
}

}  // namespace

Answer<Json> StoreDriver::create_group(const DriverGroup& group) {
  if (!group.consistent_group_snapshot) {
    return DriverStatus(Exception::kNotImplementedError,
                        "groups whose snapshots need not be consistent are the manager's");
  }
  return Json{{"status", "available"}};
}

Answer<GroupUpdate> StoreDriver::delete_group(const DriverGroup&,
                                              const std::vector<DriverVolume>& volumes) {
  std::vector<Json> members;
  for (const DriverVolume& volume : volumes) {
    // The manager does not remove the exports of a group's volumes.
    DriverStatus status = remove_export(volume);
    if (status.ok()) status = delete_volume(volume);
    members.push_back(member(volume.id, status.ok() ? "deleted" : "error_deleting"));
  }
  return update_of(std::move(members), "deleted", "error_deleting");
}

DriverStatus StoreDriver::update_group(const DriverGroup&, const std::vector<DriverVolume>&,
                                       const std::vector<DriverVolume>&) {
  return {};
}

Answer<GroupUpdate> StoreDriver::create_group_snapshot(
    const DriverGroup&, const std::vector<DriverSnapshot>& snapshots) {
  Json names = Json::array();
  std::size_t there = 0;
  for (const DriverSnapshot& snapshot : snapshots) {
    const std::string name = snapshot.volume_name + "@" + snapshot.name;
    names.push_back(name);
    VT_ASSIGN_OR_RETURN(const std::optional<Json> node, find(name));
    if (node) ++there;
  }
  // They come all at once: all of them there is an earlier try that was not told of.
  if (there != snapshots.size()) {
    const Result<Json> made = client_.call("volume.snapshot_group", Json{{"snapshots", names}});
    if (!made.ok()) return DriverStatus::of(made.status());
  }
  std::vector<Json> members;
  for (const DriverSnapshot& snapshot : snapshots) {
    members.push_back(member(snapshot.id, "available"));
  }
  return update_of(std::move(members), "available", "error");
}

Answer<GroupUpdate> StoreDriver::delete_group_snapshot(
    const DriverGroup&, const std::vector<DriverSnapshot>& snapshots) {
  std::vector<Json> members;
  for (const DriverSnapshot& snapshot : snapshots) {
    const bool gone = delete_snapshot(snapshot).ok();
    members.push_back(member(snapshot.id, gone ? "deleted" : "error_deleting"));
  }
  return update_of(std::move(members), "deleted", "error_deleting");
}

Answer<GroupUpdate> StoreDriver::create_group_from_src(
    const DriverGroup&, const std::vector<DriverVolume>& volumes,
    const std::vector<DriverSnapshot>& snapshots, const std::vector<DriverVolume>& source_volumes) {
  const std::size_t sources = snapshots.empty() ? source_volumes.size() : snapshots.size();
  if (sources != volumes.size()) {
    return DriverStatus(Exception::kInvalidInput,
                        fmt::format("{} volumes of {} sources", volumes.size(), sources));
  }
  std::vector<Json> members;
  for (std::size_t i = 0; i < volumes.size(); ++i) {
    const Answer<Json> made = snapshots.empty()
                                  ? create_cloned_volume(volumes[i], source_volumes[i])
                                  : create_volume_from_snapshot(volumes[i], snapshots[i]);
    if (!made.ok()) {
      // All or nothing. Those that were made are nobody's yet.
      for (std::size_t undo = 0; undo < i; ++undo) (void)delete_volume(volumes[undo]);
      return made.status();
    }
    members.push_back(member(volumes[i].id, "available"));
  }
  return update_of(std::move(members), "available", "error");
}

}  // namespace voltree
