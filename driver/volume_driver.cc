#include "driver/volume_driver.h"

namespace voltree {
namespace {

DriverStatus not_implemented(std::string_view call) {
  return {Exception::kNotImplementedError, fmt::format("{} is not implemented", call)};
}

}  // namespace

std::string_view name_of(Exception exception) {
  switch (exception) {
    case Exception::kVolumeBackendAPIException:
      return "VolumeBackendAPIException";
    case Exception::kVolumeIsBusy:
      return "VolumeIsBusy";
    case Exception::kSnapshotIsBusy:
      return "SnapshotIsBusy";
    case Exception::kVolumeNotFound:
      return "VolumeNotFound";
    case Exception::kSnapshotNotFound:
      return "SnapshotNotFound";
    case Exception::kInvalidInput:
      return "InvalidInput";
    case Exception::kInvalidConnectorException:
      return "InvalidConnectorException";
    case Exception::kInvalidReplicationTarget:
      return "InvalidReplicationTarget";
    case Exception::kInvalidGroup:
      return "InvalidGroup";
    case Exception::kImageUnacceptable:
      return "ImageUnacceptable";
    case Exception::kManageExistingInvalidReference:
      return "ManageExistingInvalidReference";
    case Exception::kManageExistingAlreadyManaged:
      return "ManageExistingAlreadyManaged";
    case Exception::kManageExistingVolumeTypeMismatch:
      return "ManageExistingVolumeTypeMismatch";
    case Exception::kNotImplementedError:
      return "NotImplementedError";
  }
  return "VolumeBackendAPIException";
}

DriverStatus DriverStatus::of(const Status& status) {
  if (status.ok()) return {};
  Exception exception = Exception::kVolumeBackendAPIException;
  if (status.code() == Code::kBusy) exception = Exception::kVolumeIsBusy;
  if (status.code() == Code::kNotFound) exception = Exception::kVolumeNotFound;
  if (status.code() == Code::kInvalid) exception = Exception::kInvalidInput;
  return {exception, std::string(status.message())};
}

#define VT_NOT_IMPLEMENTED(type, call, ...) \
  type VolumeDriver::call(__VA_ARGS__) { return not_implemented(#call); }

DriverStatus VolumeDriver::do_setup() { return not_implemented("do_setup"); }
DriverStatus VolumeDriver::check_for_setup_error() {
  return not_implemented("check_for_setup_error");
}
Json VolumeDriver::get_volume_stats(bool) { return Json::object(); }

// NOLINTBEGIN(bugprone-macro-parentheses)
VT_NOT_IMPLEMENTED(Answer<Json>, create_volume, const DriverVolume&)
VT_NOT_IMPLEMENTED(DriverStatus, delete_volume, const DriverVolume&)
VT_NOT_IMPLEMENTED(Answer<Json>, create_volume_from_snapshot, const DriverVolume&,
                   const DriverSnapshot&)
VT_NOT_IMPLEMENTED(Answer<Json>, create_cloned_volume, const DriverVolume&, const DriverVolume&)
VT_NOT_IMPLEMENTED(DriverStatus, extend_volume, const DriverVolume&, std::uint64_t)
VT_NOT_IMPLEMENTED(Answer<std::string>, local_path, const DriverVolume&)

VT_NOT_IMPLEMENTED(Answer<Json>, create_snapshot, const DriverSnapshot&)
VT_NOT_IMPLEMENTED(DriverStatus, delete_snapshot, const DriverSnapshot&)
VT_NOT_IMPLEMENTED(DriverStatus, revert_to_snapshot, const DriverVolume&, const DriverSnapshot&)

VT_NOT_IMPLEMENTED(DriverStatus, validate_connector, const Json&)
VT_NOT_IMPLEMENTED(Answer<Json>, ensure_export, const DriverVolume&)
VT_NOT_IMPLEMENTED(Answer<Json>, create_export, const DriverVolume&, const Json&)
VT_NOT_IMPLEMENTED(DriverStatus, remove_export, const DriverVolume&)
VT_NOT_IMPLEMENTED(Answer<Json>, initialize_connection, const DriverVolume&, const Json&,
                   const Json&)
VT_NOT_IMPLEMENTED(Answer<bool>, terminate_connection, const DriverVolume&, const Json&, bool)
VT_NOT_IMPLEMENTED(DriverStatus, attach_volume, const DriverVolume&, const std::string&,
                   const std::string&, const std::string&)
VT_NOT_IMPLEMENTED(DriverStatus, detach_volume, const DriverVolume&,
                   const std::optional<VolumeAttachment>&)
VT_NOT_IMPLEMENTED(Answer<Json>, create_export_snapshot, const DriverSnapshot&, const Json&)
VT_NOT_IMPLEMENTED(DriverStatus, remove_export_snapshot, const DriverSnapshot&)
VT_NOT_IMPLEMENTED(Answer<Json>, initialize_connection_snapshot, const DriverSnapshot&, const Json&)
VT_NOT_IMPLEMENTED(DriverStatus, terminate_connection_snapshot, const DriverSnapshot&, const Json&)

VT_NOT_IMPLEMENTED(Answer<ImageClone>, clone_image, const DriverVolume&,
                   const std::vector<std::string>&, const std::string&)

VT_NOT_IMPLEMENTED(DriverStatus, copy_image_to_volume, const DriverVolume&, const ImageFile&)
VT_NOT_IMPLEMENTED(DriverStatus, copy_volume_to_image, const DriverVolume&, const ImageFile&)

VT_NOT_IMPLEMENTED(Answer<std::uint64_t>, manage_existing_get_size, const ExistingReference&)
VT_NOT_IMPLEMENTED(Answer<Json>, manage_existing, const DriverVolume&, const ExistingReference&)
VT_NOT_IMPLEMENTED(DriverStatus, unmanage, const DriverVolume&)
VT_NOT_IMPLEMENTED(Answer<std::vector<Json>>, get_manageable_volumes,
                   const std::vector<DriverVolume>&, const ManageablePage&)
VT_NOT_IMPLEMENTED(Answer<std::uint64_t>, manage_existing_snapshot_get_size, const DriverSnapshot&,
                   const ExistingReference&)
VT_NOT_IMPLEMENTED(Answer<Json>, manage_existing_snapshot, const DriverSnapshot&,
                   const ExistingReference&)
VT_NOT_IMPLEMENTED(DriverStatus, unmanage_snapshot, const DriverSnapshot&)
VT_NOT_IMPLEMENTED(Answer<std::vector<Json>>, get_manageable_snapshots,
                   const std::vector<DriverSnapshot>&, const ManageablePage&)

VT_NOT_IMPLEMENTED(Answer<Json>, create_group, const DriverGroup&)
VT_NOT_IMPLEMENTED(Answer<GroupUpdate>, delete_group, const DriverGroup&,
                   const std::vector<DriverVolume>&)
VT_NOT_IMPLEMENTED(DriverStatus, update_group, const DriverGroup&, const std::vector<DriverVolume>&,
                   const std::vector<DriverVolume>&)
VT_NOT_IMPLEMENTED(Answer<GroupUpdate>, create_group_snapshot, const DriverGroup&,
                   const std::vector<DriverSnapshot>&)
VT_NOT_IMPLEMENTED(Answer<GroupUpdate>, delete_group_snapshot, const DriverGroup&,
                   const std::vector<DriverSnapshot>&)
VT_NOT_IMPLEMENTED(Answer<GroupUpdate>, create_group_from_src, const DriverGroup&,
                   const std::vector<DriverVolume>&, const std::vector<DriverSnapshot>&,
                   const std::vector<DriverVolume>&)

VT_NOT_IMPLEMENTED(Answer<bool>, retype, const DriverVolume&, const Json&, const Json&,
                   const std::string&)
VT_NOT_IMPLEMENTED(Answer<Migration>, migrate_volume, const DriverVolume&, const MigrationTarget&)
VT_NOT_IMPLEMENTED(Answer<Json>, update_migrated_volume, const DriverVolume&, const DriverVolume&,
                   const std::string&, const std::string&)
VT_NOT_IMPLEMENTED(DriverStatus, accept_transfer, const DriverVolume&, const std::string&,
                   const std::string&)
VT_NOT_IMPLEMENTED(DriverStatus, failover_host, const std::vector<DriverVolume>&,
                   const std::string&)
VT_NOT_IMPLEMENTED(Answer<std::vector<Json>>, changed_blocks, const DriverVolume&,
                   const std::string&)
// NOLINTEND(bugprone-macro-parentheses)

}  // namespace voltree
