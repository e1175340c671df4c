// VolumeDriver: what OpenStack Cinder asks of a storage back end, with its verbs and words, for
// callers in C++. The sources are the documents of Cinder's driver interface
// (cinder.interface.volume_driver and its neighbours, release 21.3).
//
// Rules for every driver and every call:
//  - Objects are known by `name`, never by `id`: after a migration a volume's name carries another
//    id than its own. Sizes are whole GiB.
//  - A call can be repeated, also after a crash in the middle of it: deleting what is absent
//    succeeds, making what is there as asked succeeds, an extension to the size that it has
//    succeeds.
//  - An error is one of Exception, by Cinder's names; the manager acts on which one it is.
//    kNotImplementedError is for calls that have a generic way in the manager.
//  - A model update is an object of database columns, or null for none.
//
// A driver is used by one thread at a time; several drivers on one store may be used at once.
#pragma once

#include <cassert>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "blockstore/base/status.h"
#include "driver/control/json.h"

namespace voltree {

// Cinder's exceptions (cinder.exception), and Python's NotImplementedError.
enum class Exception : std::uint8_t {
  kVolumeBackendAPIException,
  kVolumeIsBusy,    // attached, or has snapshots
  kSnapshotIsBusy,  // attached
  kVolumeNotFound,
  kSnapshotNotFound,
  kInvalidInput,
  kInvalidConnectorException,
  kInvalidReplicationTarget,
  kInvalidGroup,
  kImageUnacceptable,  // not the format that was said, not whole, leads elsewhere, or too large
  kManageExistingInvalidReference,
  kManageExistingAlreadyManaged,
  kManageExistingVolumeTypeMismatch,
  kNotImplementedError,
};
std::string_view name_of(Exception exception);

// OK, or an exception and its words.
class [[nodiscard]] DriverStatus {
 public:
  DriverStatus() = default;
  DriverStatus(Exception exception, std::string message)
      : exception_(exception), message_(std::move(message)) {}
  // As a caller sees the store's own error who has nothing better to say of it.
  static DriverStatus of(const Status& status);

  bool ok() const { return !exception_; }
  Exception exception() const { return *exception_; }
  const std::string& message() const { return message_; }

 private:
  std::optional<Exception> exception_;
  std::string message_;
};

// A T, or the exception that there is instead.
template <typename T>
class [[nodiscard]] Answer {
 public:
  Answer(T value) : value_(std::move(value)) {}               // NOLINT(google-explicit-constructor)
  Answer(DriverStatus status) : status_(std::move(status)) {  // NOLINT(google-explicit-constructor)
    assert(!status_.ok());
  }
  bool ok() const { return value_.has_value(); }
  const DriverStatus& status() const { return status_; }
  T& operator*() & { return *value_; }
  const T& operator*() const& { return *value_; }
  const T* operator->() const { return &*value_; }
  T&& value() && { return std::move(*value_); }

 private:
  DriverStatus status_;
  std::optional<T> value_;
};

// One of the hosts and instances that have a volume attached (volume_attachment).
struct VolumeAttachment {
  std::string attached_host;
  std::string instance_uuid;
};

struct DriverVolume {
  std::string name;  // volume_name_template % name_id
  std::string id;
  std::uint64_t size_gib = 0;
  std::string host;
  std::string status;
  Json extra_specs = Json::object();  // of its type
  Json qos_specs = Json::object();    // of its type: {"consumer": …, "specs": {…}}
  std::vector<VolumeAttachment> attachments;
  bool encrypted = false;
};

struct DriverSnapshot {
  std::string name;
  std::string id;
  std::string volume_name;
  std::uint64_t volume_size_gib = 0;
};

struct DriverGroup {
  std::string id;
  bool consistent_group_snapshot = false;  // of its type: snapshots of it are one point in time
};

// What a volume or snapshot is to be taken in as: {"source-name": …} or {"source-id": …}.
using ExistingReference = Json;

struct ManageablePage {
  std::string marker;  // the source-name after which the page begins; empty: at the first
  std::size_t limit = 1000;
  std::size_t offset = 0;
  std::string sort_key = "reference";  // or "size"
  bool descending = false;
};

// {"id": …, "status": …} for each of a group's volumes or snapshots, and the group's own update.
struct GroupUpdate {
  Json model_update;
  std::vector<Json> members;
};

// A volume's new home, as its own driver reports it in its stats.
struct MigrationTarget {
  std::string host;
  std::string location_info;
};

struct Migration {
  bool moved = false;
  Json model_update;
};

// An image file on this host.
struct ImageFile {
  std::string path;         // absolute
  std::string disk_format;  // "raw", "qcow2", "vmdk", "vhdx" or "vdi"
  bool compress = false;    // a qcow2 that is to be written
};

struct ImageClone {
  Json model_update;
  bool cloned = false;  // false: the manager fetches the image
};

// Every call answers kNotImplementedError here: a driver defines those that it serves. What each
// must do is checked by compliance.h.
class VolumeDriver {
 public:
  virtual ~VolumeDriver() = default;

  virtual std::string_view version() const = 0;       // VERSION
  virtual std::string_view ci_wiki_name() const = 0;  // CI_WIKI_NAME

  // --- Setting up. Both may be called again after a failure.
  virtual DriverStatus do_setup();
  // Proves that the back end answers.
  virtual DriverStatus check_for_setup_error();
  // Never an error: when the back end does not answer, the last values with "backend_state":
  // "down".
  virtual Json get_volume_stats(bool refresh);

  // --- Volumes.
  // Only the allocation; reads as zeros. All of it or nothing.
  virtual Answer<Json> create_volume(const DriverVolume& volume);
  // kVolumeIsBusy while it is attached or has snapshots, unmanaged ones included. Nothing of it can
  // be read in any later volume.
  virtual DriverStatus delete_volume(const DriverVolume& volume);
  // volume.size_gib may be larger than the snapshot; what is beyond reads as zeros.
  virtual Answer<Json> create_volume_from_snapshot(const DriverVolume& volume,
                                                   const DriverSnapshot& snapshot);
  // The same, of a volume as it is now. Neither depends on the other's life.
  virtual Answer<Json> create_cloned_volume(const DriverVolume& volume, const DriverVolume& source);
  // Attached or not. kInvalidInput for a smaller size.
  virtual DriverStatus extend_volume(const DriverVolume& volume, std::uint64_t new_size_gib);
  // Where the volume is a file on this host.
  virtual Answer<std::string> local_path(const DriverVolume& volume);

  // --- Snapshots: what was acknowledged at one point in time.
  virtual Answer<Json> create_snapshot(const DriverSnapshot& snapshot);
  // Also while volumes that were made from it live. kSnapshotIsBusy while it is attached.
  virtual DriverStatus delete_snapshot(const DriverSnapshot& snapshot);
  // Keeps the snapshot and the volume's size. kVolumeIsBusy while it is attached.
  virtual DriverStatus revert_to_snapshot(const DriverVolume& volume,
                                          const DriverSnapshot& snapshot);
  // False: a revert happens at once or not at all, and needs no snapshot against its failure.
  virtual bool snapshot_revert_use_temp_snapshot() const { return true; }

  // --- Attaching. `connector` says who: ip, host, initiator, os_type, platform, multipath, mode.
  // kInvalidConnectorException when what this driver needs is missing.
  virtual DriverStatus validate_connector(const Json& connector);
  // After a restart of the service, for each volume in use.
  virtual Answer<Json> ensure_export(const DriverVolume& volume);
  virtual Answer<Json> create_export(const DriverVolume& volume, const Json& connector);
  virtual DriverStatus remove_export(const DriverVolume& volume);
  // {"driver_volume_type": …, "data": {…}}; the same when it is repeated. `initiator_data` (null
  // where there is none) is what earlier calls put into "initiator_updates" of their answers:
  // {"set_values": {…}, "remove_values": […]}, left out by who has nothing to keep.
  virtual Answer<Json> initialize_connection(const DriverVolume& volume, const Json& connector,
                                             const Json& initiator_data);
  // `connector` null: all of them. True when other attachments of the same host remain.
  virtual Answer<bool> terminate_connection(const DriverVolume& volume, const Json& connector,
                                            bool force);
  virtual DriverStatus attach_volume(const DriverVolume& volume, const std::string& instance_uuid,
                                     const std::string& host_name, const std::string& mountpoint);
  // `attachment`: which one is no more; none: all of them.
  virtual DriverStatus detach_volume(const DriverVolume& volume,
                                     const std::optional<VolumeAttachment>& attachment);
  // A snapshot, read-only.
  virtual Answer<Json> create_export_snapshot(const DriverSnapshot& snapshot,
                                              const Json& connector);
  virtual DriverStatus remove_export_snapshot(const DriverSnapshot& snapshot);
  virtual Answer<Json> initialize_connection_snapshot(const DriverSnapshot& snapshot,
                                                      const Json& connector);
  virtual DriverStatus terminate_connection_snapshot(const DriverSnapshot& snapshot,
                                                     const Json& connector);

  // --- Images. `locations`: the URLs at which an image is; `volume_name_template` makes a volume's
  // name of the id in a cinder:// URL.
  virtual Answer<ImageClone> clone_image(const DriverVolume& volume,
                                         const std::vector<std::string>& locations,
                                         const std::string& volume_name_template);
  // The volume, which is there, holds the image in the end: exactly volume.size_gib, zeros beyond
  // the image, nothing of what it held. kImageUnacceptable changes nothing.
  virtual DriverStatus copy_image_to_volume(const DriverVolume& volume, const ImageFile& image);
  // The volume at one point in time, in use or not, becomes this file. One that is there is
  // replaced.
  virtual DriverStatus copy_volume_to_image(const DriverVolume& volume, const ImageFile& image);

  // --- Taking in what is there, and letting it go. All or nothing: after an error the object does
  // not answer to the new name.
  virtual Answer<std::uint64_t> manage_existing_get_size(const ExistingReference& reference);
  virtual Answer<Json> manage_existing(const DriverVolume& volume,
                                       const ExistingReference& reference);
  virtual DriverStatus unmanage(const DriverVolume& volume);
  virtual Answer<std::vector<Json>> get_manageable_volumes(
      const std::vector<DriverVolume>& cinder_volumes, const ManageablePage& page);
  virtual Answer<std::uint64_t> manage_existing_snapshot_get_size(
      const DriverSnapshot& snapshot, const ExistingReference& reference);
  virtual Answer<Json> manage_existing_snapshot(const DriverSnapshot& snapshot,
                                                const ExistingReference& reference);
  virtual DriverStatus unmanage_snapshot(const DriverSnapshot& snapshot);
  virtual Answer<std::vector<Json>> get_manageable_snapshots(
      const std::vector<DriverSnapshot>& cinder_snapshots, const ManageablePage& page);

  // --- Groups, and consistency groups, which are the same under older names: create_group is also
  // create_consistencygroup, create_group_snapshot create_cgsnapshot, and so on.
  virtual Answer<Json> create_group(const DriverGroup& group);
  virtual Answer<GroupUpdate> delete_group(const DriverGroup& group,
                                           const std::vector<DriverVolume>& volumes);
  virtual DriverStatus update_group(const DriverGroup& group,
                                    const std::vector<DriverVolume>& add_volumes,
                                    const std::vector<DriverVolume>& remove_volumes);
  // One point in time over all of them, or none.
  virtual Answer<GroupUpdate> create_group_snapshot(const DriverGroup& group,
                                                    const std::vector<DriverSnapshot>& snapshots);
  virtual Answer<GroupUpdate> delete_group_snapshot(const DriverGroup& group,
                                                    const std::vector<DriverSnapshot>& snapshots);
  // `volumes` in the order of `snapshots`, or of `source_volumes`: one of the two is empty.
  virtual Answer<GroupUpdate> create_group_from_src(
      const DriverGroup& group, const std::vector<DriverVolume>& volumes,
      const std::vector<DriverSnapshot>& snapshots,
      const std::vector<DriverVolume>& source_volumes);

  // --- Moving. False, when the manager has to do it.
  virtual Answer<bool> retype(const DriverVolume& volume, const Json& new_type, const Json& diff,
                              const std::string& host);
  virtual Answer<Migration> migrate_volume(const DriverVolume& volume,
                                           const MigrationTarget& target);
  // After the manager has copied `volume` to `new_volume`, which lives here: it gets
  // `original_name`, where that is free. The update says under which name it is known.
  virtual Answer<Json> update_migrated_volume(const DriverVolume& volume,
                                              const DriverVolume& new_volume,
                                              const std::string& original_name,
                                              const std::string& original_status);

  // --- The rest.
  virtual DriverStatus accept_transfer(const DriverVolume& volume, const std::string& new_user,
                                       const std::string& new_project);
  // Drivers without replication: kInvalidReplicationTarget.
  virtual DriverStatus failover_host(const std::vector<DriverVolume>& volumes,
                                     const std::string& secondary_id);
  // Ranges of the volume that may differ from its snapshot: {"offset_bytes", "length_bytes"}.
  virtual Answer<std::vector<Json>> changed_blocks(const DriverVolume& volume,
                                                   const std::string& base_snapshot);
};

}  // namespace voltree

// Leaves the function with the DriverStatus of `expr` when that is not OK.
#define VT_DRIVER_RETURN_IF_ERROR(expr)                                              \
  do {                                                                               \
    if (::voltree::DriverStatus vt_driver_status_ = (expr); !vt_driver_status_.ok()) \
      return vt_driver_status_;                                                      \
  } while (false)
