// StoreCore: the state of an open store and the steps that its operations share. Internal to
// store*.cc and recovery.cc.
//
// ops_mutex_ serialises everything that changes the tree of volumes; state_mutex_ guards what
// questions read meanwhile. A change: copy the lineage, plan on the copy, commit to the catalog,
// and only then publish the copy. Lock order: ops_mutex_, Volume::flush_mutex_, then the short
// std::mutexes.
#pragma once

#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "blockstore/engine.h"
#include "blockstore/eraser.h"
#include "blockstore/lineage.h"
#include "blockstore/store.h"
#include "blockstore/store_lock.h"
#include "blockstore/volume.h"

namespace voltree {

class Scrubber;

class StoreCore {
 public:
  StoreCore(Runtime& runtime, std::string directory);
  ~StoreCore();

  // What a commit writes besides the lineage plan itself.
  struct EraseJob {
    EraseRequestRow request;
    std::vector<EraseItemRow> items;
  };
  using Extra = std::function<Status(CatalogDb&)>;

  // --- Names (under state_mutex_).
  const VolumeRow* find_volume(const std::string& name) const;
  Result<NodeId> resolve(const NodeName& name) const;
  Result<NodeId> resolve(std::string_view text) const;
  NodeName name_of(NodeId id) const;
  // The name that listings use for what `id` came from: itself when named, else its nearest named
  // ancestor.
  std::string origin_of(NodeId id) const;
  using FailedLayers = std::vector<std::shared_ptr<Layer>>;
  NodeInfo info_of(NodeId id, std::uint32_t depth, const FailedLayers& failed) const;
  NodeInfo info_of(NodeId id) const;  // a node that is there
  bool attached(NodeId id) const;     // by the books
  // kBusy, with what to do about it, for what is attached or claimed.
  Status check_unused(NodeId id, bool claims_count = true) const;
  Status check_free_name(const std::string& volume) const;
  // kBusy, naming one. A deleted volume whose snapshots keep its name has them, too.
  Status check_no_snapshots(const VolumeRow& volume) const;
  Status check_free_snapshot(const VolumeRow& volume, const std::string& snapshot) const;

  // What a node's I/O is held to: limits are those of a volume's head.
  QosLimits limits_of(const NodeRow& node) const;
  // Of a volume, by its head; under state_mutex. (store_qos.cc)
  VolumeSettings settings_of(const NodeRow& head) const;
  void put_settings(VolumeId volume, const VolumeSettings& settings);

  // --- Steps (under ops_mutex_).
  Task<Result<NodeId>> new_node_id();
  // What a new volume adds: its row and its head's.
  struct NewVolume {
    VolumeRow volume;
    NodeRow head;
    Status put(CatalogDb& db) const;
  };
  // With ids, and not there yet.
  Task<Result<NewVolume>> new_volume(std::string name, std::uint64_t size_bytes,
                                     std::optional<ErasePolicy> policy);
  Status check_size_fits(std::uint64_t size_bytes) const;
  Task<Status> load_indexes(Lineage& lineage, std::vector<LayerId> layers, bool durable);
  Task<Status> flush_open(const std::vector<NodeId>& nodes);
  ErasePolicy policy_for(NodeId node, std::optional<ErasePolicy> wanted) const;
  // A copy of the lineage to change; what is born meanwhile is added by publish().
  Lineage copy_lineage();
  // How what a change frees is erased; see EraseRequestRow.
  struct EraseMethod {
    ErasePolicy policy = ErasePolicy::kZero;
    std::uint64_t first_bytes = 0;
    IoPriority io_priority = 0;
  };
  struct Change {
    Lineage next;
    LineagePlan plan;
    std::string what;  // for the erase queue
    EraseMethod erase;
    Extra extra;       // joins the commit, before the plan's rows; may be empty
    Extra after_plan;  // joins the commit, after them; may be empty
    std::function<Task<void>()>
        committed;  // runs after the commit and before the eraser may begin; may be empty
    std::function<void()> update_names;  // under state_mutex, with the new lineage; may be empty
  };
  // Commits a change, queues its garbage, publishes it. The erase request's id, 0 when there is
  // none.
  Task<Result<std::uint64_t>> commit_change(Change change);
  void publish(Lineage next, const std::function<void()>& update_names);
  Task<Result<ExtentMap>> build_map(NodeId node);
  Task<Result<std::shared_ptr<Volume>>> open_node(NodeId node);
  std::shared_ptr<Volume> open_volume(NodeId node) const;         // nullptr when it is not open
  std::shared_ptr<Volume> open_volume_locked(NodeId node) const;  // the same, under state_mutex
  void cache_map(NodeId node, ExtentMap map);

  // Seals each head's layers under a new node (a snapshot or junction; parent and size filled in
  // here), all of them at one instant and in one commit. The heads are different ones. `amend`
  // changes the lineage further, `extra` joins the commit. The heart of snapshot and clone.
  struct ForkOne {
    NodeId head = kNoNode;
    NodeRow sealed;
  };
  struct Fork {
    std::vector<ForkOne> heads;
    std::function<void(Lineage&)> amend;
    Extra extra;
    std::function<void()> update_names;
  };
  Task<Status> fork(Fork fork);
  Task<Status> trim_node(NodeId node);
  // Stops all I/O on the nodes' open devices for good (kGone), and waits for what is under way.
  Task<void> kill_devices(const std::vector<NodeId>& nodes);
  Task<Result<std::uint64_t>> remove_nodes(std::vector<NodeId> nodes, std::string what,
                                           EraseMethod erase);
  // Store::replace, once nobody uses `source` any more.
  Task<Status> replace_head(std::string name, NodeId target, NodeId source, ErasePolicy policy);
  Task<Status> shrink(NodeId node, std::uint64_t size_bytes);
  Task<Status> cut_node(std::shared_ptr<Volume> volume, BlockRange beyond, std::uint64_t size_bytes,
                        std::uint64_t old_bytes);
  Task<Status> grow(NodeId node, std::uint64_t size_bytes);

  // --- Whole-store work.
  Task<Status> open(StoreOpenOptions options);
  Status open_read_only(std::unique_ptr<CatalogDb>& db);
  Status must_recover() const;
  Task<Status> load();
  // The pool guard (store_guard.cc).
  Task<Status> look_at_host();
  Task<Status> check_provision(std::uint64_t more_bytes);
  GuardState guard_state() const;
  std::uint64_t promise_left(VolumeId volume);
  void put_reserve(VolumeId volume, std::uint64_t reserve_bytes);
  // The head of `volume`, a name that must not be a snapshot's. Under state_mutex.
  Result<NodeRow> find_head(const std::string& volume) const;
  // What the last owner left, by how it ended and whether this is the place where it was.
  Task<Status> take_over(CatalogImage& image);
  // Whether the catalog, which was last open at `was`, is another file now.
  Task<bool> is_copy(FileIdentity was, std::string storage_was, bool same_boot);
  // Notices layers whose files are gone, before anybody meets them, and says who sees them.
  Task<Status> find_missing_layers();
  void warn(const std::string& what);  // one more thing that `warning` says
  Status load_limits(const std::vector<VolumeLimitRow>& rows);
  Task<Status> recover(bool same_boot);
  // Files that were being taken in: they are the store's, or their owners' again. Leaves in `image`
  // what the catalog then has. (store_take.cc)
  Task<Status> settle_taken(CatalogImage& image);
  Task<Status> settle_all();
  Task<Status> sweep();
  Task<Status> sweep_node(NodeId node);
  Task<Status> close_idle_devices(bool all);
  Task<Status> close();
  Task<void> background_loop();
  Task<void> eraser_loop();
  void wake_eraser();

  Engine engine;
  Eraser eraser;
  const std::unique_ptr<Scrubber> scrubber;
  std::unique_ptr<StoreLock> lock;

  AsyncMutex ops_mutex;
  mutable std::mutex state_mutex;  // guards all below
  Lineage lineage;
  std::map<VolumeId, VolumeRow> volumes;
  std::map<std::string, VolumeId> volume_names;
  std::map<std::pair<VolumeId, std::string>, NodeId> snapshot_names;
  std::map<std::uint64_t, AttachmentRow> attachments;
  std::map<VolumeId, QosLimits> limits;  // of volumes that have any
  bool limits_lifted = false;
  std::map<VolumeId, VolumeNotes> notes;  // of volumes that have any
  std::map<NodeId, std::shared_ptr<Volume>> devices;
  std::map<NodeId, std::uint64_t> claims;             // how many ClaimedDevices there are
  std::list<std::pair<NodeId, ExtentMap>> map_cache;  // newest first
  std::set<NodeId> saved_maps;
  std::vector<LayerId> fresh_layers;  // made since the running change copied the lineage
  std::atomic<std::uint64_t> generation{1};
  std::string uuid;
  std::string copied_from;  // the uuid of the store that this one is a copy of
  FileIdentity place;       // of catalog.db
  std::string storage;      // of its file system: FileSystem::storage_of
  std::string warning;
  ErasePolicy erase_policy = ErasePolicy::kZero;
  std::vector<NodeId> node_ids;  // reserved in the catalog; guarded by ops_mutex
  std::uint64_t file_size_max_bytes = 0;
  std::atomic<std::uint64_t> erase_rate_bytes{0};
  bool closed = false;
  std::atomic<bool> recovery_due{false};  // something is left that only recover() sees to
  // What the page cache holds may not be what was last written: an earlier daemon met a failure,
  // and the store was not checked since, or the host's file system was mounted anew.
  bool doubted = false;
  // Under state_mutex; host_* are what the last look found.
  GuardSettings guard_settings;
  std::map<VolumeId, std::uint64_t> reserves;  // in bytes
  std::uint64_t host_total_bytes = 0, host_free_bytes = 0, host_promised_bytes = 0;
  std::string mount_id;  // of the host's file system

  // Background coroutines end when `stopping` is set and they are woken.
  std::atomic<bool> stopping{false};
  std::shared_ptr<Event> eraser_wake;  // guarded by state_mutex
  Event background_ended;
  Event eraser_ended;
  bool background_started = false;

 private:
  void index_names();
  void apply_indexes(const LineagePlan& plan, const std::map<LayerId, ExtentMap>& before);
  void hand_over_layers(const Lineage& next, const LineagePlan& plan);
  Task<Status> adopt_sums(Layer& layer);  // same boot: what the sums say is there, is
  using SumsUnderWay = std::set<std::pair<std::uint64_t, std::uint64_t>>;  // block, sum
  SumsUnderWay sums_under_way(const Layer& layer);
  // The same after a failure: if it is.
  Task<Status> adopt_what_matches(Layer& layer);
  Task<Status> adopt_discards(Layer& layer, const ExtentMap& seen, ExtentMap& index);
  Task<Status> adopt_index(Layer& layer, ExtentMap index);
  Task<Status> restore_sums(Layer& layer);  // power loss: what the catalog says is there, is
  Task<Status> recover_layer(Layer& layer, bool same_boot);
  Task<Status> restamp_left_behind();
  Task<Status> restamp(Layer& layer, BlockRange range, bool write_back);
  Task<Status> remove_stray_files();
};

// Writes what a file holds to it again, and syncs it: after a failed sync of it, what its page
// cache shows may be on no disk. Blocking.
Status write_again(FileSystem& fs, const std::string& path, SyncWatch& syncs,
                   std::uint64_t offset_bytes = 0, std::uint64_t length_bytes = ~std::uint64_t{0});
// Of a store that is being made: random, version 4.
std::string make_uuid(Runtime& runtime);

// The next run of data in [at_bytes, end_bytes), as whole blocks; of no blocks when there is none.
// Blocking. (store_share.cc)
Result<BlockRange> next_data(File& file, std::uint64_t at_bytes, std::uint64_t end_bytes);

// Layer files that neither a layer row nor the erase queue names. Blocking.
Result<std::vector<LayerId>> stray_layers(StoreCore& core);

// Those that the catalog has; kDamaged for what is no number. (store_guard.cc)
Result<GuardSettings> read_guard_settings(CatalogDb& db);

}  // namespace voltree
