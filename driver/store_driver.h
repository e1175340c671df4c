// StoreDriver: Cinder's verbs over a voltree store, through a client of its control methods: a
// daemon's socket or a store opened in this process.
//
// It keeps nothing between calls but the last statistics: what it must know of a volume stands in
// the store or is asked of it, so that a call can be repeated after any crash.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "driver/control/client.h"
#include "driver/volume_driver.h"

namespace voltree {

class PeerStore;

// How a volume gets to the instances of this host.
enum class Connection : std::uint8_t {
  kFile,   // its file in the mounted tree; os-brick's and Nova's name for that is "gpfs"
  kLocal,  // a loop device on that file: "local"
};

struct StoreDriverOptions {
  std::string backend_name = "voltree";  // volume_backend_name, and the name of its one pool
  std::string host_name;                 // of location_info
  Connection connection = Connection::kFile;
  std::string erase_policy;  // of deletes: Cinder's volume_clear; empty: the store's own
  // Of deletes: only so much from the start of a volume is overwritten (volume_clear_size); 0: all.
  std::uint64_t erase_first_bytes = 0;
  std::string erase_io_priority;  // of deletes: volume_clear_ionice; empty: the daemon's own
  std::uint64_t reserved_percentage = 0;
  std::string max_over_subscription_ratio = "20.0";  // or "auto"
  // Below this much free space on the host nothing new is made: the scheduler does not look at it
  // for thin back ends.
  std::uint64_t free_min_bytes = std::uint64_t{1} << 30;
  // Files below these may be taken in (manage_existing with the path of a file).
  std::vector<std::string> manage_directories;
  bool manage_keeps_files = false;  // they are copied, and stay, also where they could be taken
  // ssh's configuration (ssh_config(5)), with which the hosts of other stores are reached under the
  // names that Cinder has for them; empty: volumes move to stores of this host only.
  std::string ssh_config;
  // Of calls that take long (images, migration); called on the thread of the call.
  ProgressSink progress;
  // Told what the caller should know of a call that succeeds.
  std::function<void(std::string)> warn = [](const std::string&) {};
};

class StoreDriver final : public VolumeDriver {
 public:
  // `client` must outlive it.
  StoreDriver(Client& client, StoreDriverOptions options);

  std::string_view version() const override;
  std::string_view ci_wiki_name() const override { return "voltree_CI"; }

  DriverStatus do_setup() override;
  DriverStatus check_for_setup_error() override;
  Json get_volume_stats(bool refresh) override;

  Answer<Json> create_volume(const DriverVolume& volume) override;
  DriverStatus delete_volume(const DriverVolume& volume) override;
  Answer<Json> create_volume_from_snapshot(const DriverVolume& volume,
                                           const DriverSnapshot& snapshot) override;
  Answer<Json> create_cloned_volume(const DriverVolume& volume,
                                    const DriverVolume& source) override;
  DriverStatus extend_volume(const DriverVolume& volume, std::uint64_t new_size_gib) override;
  Answer<std::string> local_path(const DriverVolume& volume) override;

  Answer<Json> create_snapshot(const DriverSnapshot& snapshot) override;
  DriverStatus delete_snapshot(const DriverSnapshot& snapshot) override;
  DriverStatus revert_to_snapshot(const DriverVolume& volume,
                                  const DriverSnapshot& snapshot) override;
  bool snapshot_revert_use_temp_snapshot() const override { return false; }

  DriverStatus validate_connector(const Json& connector) override;
  Answer<Json> ensure_export(const DriverVolume& volume) override;
  Answer<Json> create_export(const DriverVolume& volume, const Json& connector) override;
  DriverStatus remove_export(const DriverVolume& volume) override;
  Answer<Json> initialize_connection(const DriverVolume& volume, const Json& connector,
                                     const Json& initiator_data) override;
  Answer<bool> terminate_connection(const DriverVolume& volume, const Json& connector,
                                    bool force) override;
  DriverStatus attach_volume(const DriverVolume& volume, const std::string& instance_uuid,
                             const std::string& host_name, const std::string& mountpoint) override;
  DriverStatus detach_volume(const DriverVolume& volume,
                             const std::optional<VolumeAttachment>& attachment) override;
  Answer<Json> create_export_snapshot(const DriverSnapshot& snapshot,
                                      const Json& connector) override;
  DriverStatus remove_export_snapshot(const DriverSnapshot& snapshot) override;
  Answer<Json> initialize_connection_snapshot(const DriverSnapshot& snapshot,
                                              const Json& connector) override;
  DriverStatus terminate_connection_snapshot(const DriverSnapshot& snapshot,
                                             const Json& connector) override;

  Answer<ImageClone> clone_image(const DriverVolume& volume,
                                 const std::vector<std::string>& locations,
                                 const std::string& volume_name_template) override;
  DriverStatus copy_image_to_volume(const DriverVolume& volume, const ImageFile& image) override;
  DriverStatus copy_volume_to_image(const DriverVolume& volume, const ImageFile& image) override;

  Answer<std::uint64_t> manage_existing_get_size(const ExistingReference& reference) override;
  Answer<Json> manage_existing(const DriverVolume& volume,
                               const ExistingReference& reference) override;
  DriverStatus unmanage(const DriverVolume& volume) override;
  Answer<std::vector<Json>> get_manageable_volumes(const std::vector<DriverVolume>& cinder_volumes,
                                                   const ManageablePage& page) override;
  Answer<std::uint64_t> manage_existing_snapshot_get_size(
      const DriverSnapshot& snapshot, const ExistingReference& reference) override;
  Answer<Json> manage_existing_snapshot(const DriverSnapshot& snapshot,
                                        const ExistingReference& reference) override;
  DriverStatus unmanage_snapshot(const DriverSnapshot& snapshot) override;
  Answer<std::vector<Json>> get_manageable_snapshots(
      const std::vector<DriverSnapshot>& cinder_snapshots, const ManageablePage& page) override;

  Answer<Json> create_group(const DriverGroup& group) override;
  Answer<GroupUpdate> delete_group(const DriverGroup& group,
                                   const std::vector<DriverVolume>& volumes) override;
  DriverStatus update_group(const DriverGroup& group, const std::vector<DriverVolume>& add_volumes,
                            const std::vector<DriverVolume>& remove_volumes) override;
  Answer<GroupUpdate> create_group_snapshot(const DriverGroup& group,
                                            const std::vector<DriverSnapshot>& snapshots) override;
  Answer<GroupUpdate> delete_group_snapshot(const DriverGroup& group,
                                            const std::vector<DriverSnapshot>& snapshots) override;
  Answer<GroupUpdate> create_group_from_src(
      const DriverGroup& group, const std::vector<DriverVolume>& volumes,
      const std::vector<DriverSnapshot>& snapshots,
      const std::vector<DriverVolume>& source_volumes) override;

  Answer<bool> retype(const DriverVolume& volume, const Json& new_type, const Json& diff,
                      const std::string& host) override;
  Answer<Migration> migrate_volume(const DriverVolume& volume,
                                   const MigrationTarget& target) override;
  Answer<Json> update_migrated_volume(const DriverVolume& volume, const DriverVolume& new_volume,
                                      const std::string& original_name,
                                      const std::string& original_status) override;
  DriverStatus accept_transfer(const DriverVolume& volume, const std::string& new_user,
                               const std::string& new_project) override;
  DriverStatus failover_host(const std::vector<DriverVolume>& volumes,
                             const std::string& secondary_id) override;
  Answer<std::vector<Json>> changed_blocks(const DriverVolume& volume,
                                           const std::string& base_snapshot) override;

 private:
  // The node, or none when there is none of this name.
  Answer<std::optional<Json>> find(const std::string& name);
  Answer<std::vector<Json>> nodes();
  DriverStatus remove(const std::string& name, Exception busy);
  DriverStatus check_room();
  Answer<Json> clone(const std::string& source, const DriverVolume& volume);
  // What the type says of limits that the back end keeps: nothing, when the front end keeps them.
  DriverStatus limit(const std::string& name, const Json& qos_specs);
  Answer<Json> limited(const DriverVolume& made);
  DriverStatus grow(const std::string& name, std::uint64_t size_gib);
  DriverStatus rename(const std::string& from, const std::string& to);
  Answer<std::string> path_of(const std::string& node);
  // The loop device of a node: the one that it has, or a new one.
  Answer<std::string> device_of(const std::string& node, bool read_only);
  Answer<Json> connect(const std::string& node, bool read_only);
  DriverStatus disconnect(const std::string& node);
  DriverStatus forget_export(const std::string& snapshot);
  Answer<Json> find_existing(const ExistingReference& reference, bool snapshot,
                             const std::string& volume_name);
  struct ExistingFile;
  Answer<ExistingFile> find_file(const std::string& path);
  Answer<std::uint64_t> file_size_gib(const std::string& path);
  Answer<Json> manage_file(const DriverVolume& volume, const std::string& path);
  DriverStatus note(const std::string& name, Json notes);
  DriverStatus check_path(const std::string& path);
  // Where this store is, for another store's driver.
  std::string location_info(const Json& pool) const;
  Answer<bool> may_move(const DriverVolume& volume);
  Answer<Migration> move_to(PeerStore& other, const DriverVolume& volume);
  Json stats_of(const Json& pool) const;

  Client& client_;
  const StoreDriverOptions options_;
  Json stats_;
};

}  // namespace voltree
