// Store: open, and everything that can be done to volumes as a whole.
//
// One process owns a store at a time (LOCK). All calls are thread-safe, must be made on an executor
// of the runtime, and do not block it. Calls that change the tree of volumes are durable and
// all-or-nothing when they return (I3). Names are VOLUME or VOLUME@SNAPSHOT, checked by
// parse_node_name; an unknown one is kNotFound, a taken one kExists.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "blockstore/base/status.h"
#include "blockstore/base/units.h"
#include "blockstore/block_device.h"
#include "blockstore/catalog.h"
#include "blockstore/pool_guard.h"
#include "blockstore/qos.h"
#include "blockstore/runtime/io.h"
#include "blockstore/runtime/task.h"
#include "blockstore/volume_settings.h"

namespace voltree {

class Volume;
class StoreCore;

struct StoreCreateOptions {
  ErasePolicy erase_policy = ErasePolicy::kZero;
  std::uint64_t erase_rate_bytes = 0;  // a second; 0: as fast as it goes
};

struct StoreOpenOptions {
  bool background_work = true;  // eraser, settling, sweeping; tests turn it off and call them
};

// What a node is and what it costs. Bytes; times in nanoseconds since 1970.
struct NodeInfo {
  NodeName name;  // for a junction: empty names
  NodeId id = kNoNode;
  NodeKind kind = NodeKind::kHead;
  NodeId parent = kNoNode;
  std::string origin;  // the nearest named ancestor ("VOLUME@SNAPSHOT"), empty for none
  std::uint64_t size_bytes = 0;
  std::int64_t created_ns = 0;
  std::uint32_t depth = 0;  // ancestors
  bool open = false;
  bool attached = false;
  std::uint64_t connections = 0;  // claimed devices (claim_device)
  VolumeSettings settings;        // of a volume, as they were asked for
  std::vector<std::string>
      children;  // names of named descendants directly below (through junctions)
  // Layers of its own or its ancestors whose files are missing or short: what it sees of them is
  // kDamaged.
  std::vector<LayerId> failed_layers;
};

// What a volume's I/O is held to.
struct QosInfo {
  QosLimits limits;           // as they were asked for
  ResolvedQos effective;      // at the volume's size
  std::uint64_t waiting = 0;  // requests that wait for their turn now
  std::uint64_t delayed = 0;  // that had to wait, since the volume was opened
};

struct NodeUsage {
  std::uint64_t virtual_bytes = 0;
  std::uint64_t referenced_bytes = 0;  // blocks it can read that hold data
  std::uint64_t exclusive_bytes = 0;   // freed if it alone were deleted
};

struct ByteRange {
  std::uint64_t offset_bytes = 0;
  std::uint64_t length_bytes = 0;
};

// A run of bytes about which a question has one answer.
struct ValueRun {
  std::uint64_t offset_bytes = 0;
  std::uint64_t length_bytes = 0;
  std::uint32_t value = 0;
};

// An open device that is in use from outside, and which node it is. While the device lives, delete,
// shrink and revert of the node answer kBusy. Nothing of it is in the catalog: it ends with the
// process.
struct ClaimedDevice {
  std::shared_ptr<BlockDevice> device;
  NodeInfo node;
};

struct DeleteOptions {
  std::optional<ErasePolicy> erase_policy;  // unset: the volume's, then the store's
  // Only what lies below this offset is overwritten, the rest is given back without; 0: all is.
  std::uint64_t erase_first_bytes = 0;
  IoPriority erase_io_priority = 0;  // of overwriting and reading back
  bool wait = false;                 // return when the bytes are gone
  bool snapshots = false;            // a volume: its snapshots too
  bool unless_snapshots = false;     // a volume that has some: kBusy, naming one
  bool force = false;                // though devices are claimed: they answer kGone
};

struct TakeOptions {
  std::uint64_t size_bytes = 0;  // of the volume; 0: the file's, in whole sectors
  std::optional<ErasePolicy> erase_policy;
  // Called now and then, where it may block; a failure gives the taking up.
  std::function<Status(std::uint64_t done_bytes, std::uint64_t total_bytes)> progress;
};

struct RevertOptions {
  std::string keep_as;  // not empty: the head's present state stays as this snapshot of the volume
};

struct EraseStatus {
  EraseRequestRow request;
  std::uint64_t left_bytes = 0;
  std::uint64_t left_items = 0;
};

// What the pool guard does just now.
struct GuardInfo {
  GuardSettings settings;
  GuardState state = GuardState::kRoom;
  std::uint64_t promised_bytes = 0;  // reserves of volumes that they have not used
};

struct PoolInfo {
  std::string directory;
  std::string uuid;
  std::string copied_from;  // the uuid of the store that this one is a copy of; empty: of none
  FsInfo host;
  std::uint64_t allocated_bytes = 0;  // layers' space on the host, sums included
  std::uint64_t virtual_bytes = 0;    // the sizes of all volumes added up
  std::uint64_t volumes = 0;
  std::uint64_t snapshots = 0;
  std::uint64_t layers = 0;
  std::uint64_t erase_left_bytes = 0;
  ErasePolicy erase_policy = ErasePolicy::kZero;
  std::uint64_t erase_rate_bytes = 0;
  GuardInfo guard;
  bool read_only = false;  // went read-only (I10)
  std::string warning;     // a copy-on-write host, needs_check: empty when there is nothing to say
};

struct StoreCounters {  // since the store was opened
  std::uint64_t reads = 0, read_bytes = 0, writes = 0, written_bytes = 0, flushes = 0, zeroes = 0;
  std::uint64_t redirected_blocks = 0, checksum_rereads = 0, checksum_errors = 0,
                catalog_commits = 0;
  std::uint64_t recovered_blocks = 0, restamped_blocks = 0;  // by recovery at open
};

// Which part of a long list to answer: at most `limit` entries, and nothing before the block of
// from_bytes.
struct ListPart {
  std::uint64_t from_bytes = 0;
  std::size_t limit = std::numeric_limits<std::size_t>::max();
};
struct DiffPage {
  std::vector<ByteRange> ranges;
  std::uint64_t changed_bytes = 0;  // of all ranges, whatever the part
  std::uint64_t range_count = 0;
  std::optional<std::uint64_t> next_from_bytes;  // of the next part
};
struct ExtentPage {
  struct Entry {
    ByteRange range;
    std::size_t file;  // in `files`
  };
  std::vector<Entry> extents;
  std::vector<std::string> files;
  std::optional<std::uint64_t> next_from_bytes;
};

// One finding of check(). `damage` false: space that can be reclaimed, or a hint.
struct CheckFinding {
  bool damage = true;
  std::string what;
};
struct CheckOptions {
  bool data = false;  // read every block and verify its checksum
  std::function<void(std::uint64_t done_bytes, std::uint64_t total_bytes)> progress;
};
struct CheckReport {
  std::vector<CheckFinding> findings;
  std::uint64_t nodes = 0, layers = 0, blocks = 0, verified_bytes = 0;
  bool sound() const;
};

// Blocks that a scrub could not read, or that did not match their sums.
struct ScrubFinding {
  LayerId layer = kNoLayer;
  BlockRange blocks;
  std::vector<std::string> seen_by;  // names of volumes and snapshots, as they were then
};
// The scrub under way, or the last one.
struct ScrubInfo {
  bool running = false;
  std::int64_t started_ns = 0;                    // 0: there was none
  std::int64_t finished_ns = 0;                   // 0: it is not done
  std::uint64_t rate_bytes = 0;                   // a second; 0: no limit
  std::uint64_t done_bytes = 0, total_bytes = 0;  // the total changes with what is written
  std::uint64_t bad_blocks = 0;
  std::vector<ScrubFinding> findings;  // the first 1000
  std::string failure;                 // why it ended before it was done; empty: it was stopped
};

class Store {
 public:
  // Makes a store in `directory` (made if absent; must be empty). kNotSupported on a host without
  // sparse files. Blocking: call from a thread that may.
  static Status create(Runtime& runtime, const std::string& directory, StoreCreateOptions options);
  // Opens it: takes LOCK (kBusy, naming the owner's pid, when held), recovers, resumes the eraser.
  static Task<Result<std::unique_ptr<Store>>> open(Runtime& runtime, const std::string& directory,
                                                   StoreOpenOptions options);
  ~Store();  // after close(), or as if the process had died (nothing is flushed)
  // Flushes and settles everything, marks the store clean, releases LOCK. Open devices answer kGone
  // from then on.
  Task<Status> close();

  // --- Volumes and snapshots.
  Task<Status> create_volume(std::string name, std::uint64_t size_bytes,
                             std::optional<ErasePolicy> erase_policy);
  Task<Status> snapshot(std::string volume, std::string snapshot_name);
  // VOLUME@SNAPSHOT of each, all volumes different (kInvalid): one instant of all of them. Of two
  // writes, the later issued when the earlier was acknowledged, no set holds the later alone (I4).
  // All are there or none (I3).
  Task<Status> snapshot_group(std::vector<std::string> snapshots);
  // Of a snapshot or of a volume as it is now. `size_bytes` 0: the source's; larger: grown;
  // smaller: kInvalid.
  Task<Status> clone(std::string source, std::string new_volume, std::uint64_t size_bytes);
  // The volume's head becomes what the snapshot holds, size included. The snapshot must be of this
  // volume (kInvalid). kBusy when attached.
  Task<Status> revert(std::string volume, std::string snapshot_name, RevertOptions options);
  // `volume` holds what `source`, another volume, holds, size included, and `source` is gone: in
  // one step. Its name, limits and snapshots stay, and so do its open devices. kBusy when either is
  // attached or claimed, or when `source` has snapshots. What `volume` alone held is erased.
  Task<Status> replace(std::string volume, std::string source,
                       std::optional<ErasePolicy> erase_policy);
  // Growing is online. A smaller size needs `shrink` and no attachment; what lies beyond is erased
  // by policy.
  Task<Status> resize(std::string volume, std::uint64_t size_bytes, bool shrink);
  // VOLUME -> NEW, or VOLUME@SNAP -> VOLUME@NEW (the same volume).
  Task<Status> rename(std::string from, std::string to);
  // Any node, in any order. kBusy when attached. A volume that has snapshots leaves them (they keep
  // its name taken). Returns the erase request's id, 0 when there is nothing to erase.
  Task<Result<std::uint64_t>> remove(std::string name, DeleteOptions options);

  // --- Limits (qos.h) of a volume's reads, writes and zeroes, whichever door they come through.
  // All of them are replaced; QosLimits() takes them away. They hold at once, for requests that
  // wait, too, and are durable when the call returns. Snapshots have none, clones inherit none.
  Task<Status> set_qos(std::string volume, QosLimits limits);
  Task<Result<QosInfo>> qos(std::string volume);
  // As long as this process lives no limit holds anybody up, and who waits goes on; the catalog
  // keeps them. For a daemon that is about to stop and waits for its requests.
  Task<void> lift_limits();

  // --- Notes on a volume, for whoever uses the store: all of them are replaced, and durable when
  // the call returns. At most 64, keys of 1 to 128 bytes, texts of at most 1024 (kInvalid).
  Task<Status> set_notes(std::string volume, VolumeNotes notes);

  // --- Questions.
  Task<Result<NodeInfo>> info(std::string name);
  Task<std::vector<NodeInfo>> list(
      bool with_junctions = false);  // by name; a volume before its snapshots
  // Names alone, in the same order: cheap with many thousands. None for an unknown volume.
  Task<std::vector<NodeName>> names();
  Task<std::vector<NodeName>> snapshots_of(std::string volume);
  Task<Result<NodeUsage>> usage(std::string name);
  // What deleting all of them would free together.
  Task<Result<std::uint64_t>> exclusive_of(std::vector<std::string> names);
  // Ranges where `b` may differ from `a` (whole blocks, clipped to the larger size). Any two nodes
  // of the store. What is written between two parts may be in none of them; what was there before
  // the first is in one.
  Task<Result<DiffPage>> diff(std::string a, std::string b, ListPart part = {});
  // Where the bytes of `name` that hold data are now, in order: whole blocks, each at its own
  // offset in `file`, a layer's. They stay there as long as a snapshot or an unwritten clone keeps
  // them.
  Task<Result<ExtentPage>> extents(std::string name, ListPart part = {});
  Task<Result<PoolInfo>> pool();
  // Of this store, since it was made.
  const std::string& uuid() const;
  StoreCounters counters() const;
  bool read_only() const;
  // Raised by each change of the tree of volumes: caches of names compare it.
  std::uint64_t generation() const;

  // --- Data. Heads open read/write, snapshots read-only. While a device is open its node can still
  // be deleted: calls on it then answer kGone. Devices must not outlive the Store.
  Task<Result<std::shared_ptr<BlockDevice>>> open_device(std::string name);
  // The same, claimed.
  Task<Result<ClaimedDevice>> claim_device(std::string name);
  // Byte x of `file`, a regular file on the store's file system, becomes byte x of `volume`, for x
  // in `range` (whole blocks, within both), by sharing the blocks where the host can
  // (FICLONERANGE). Holes are left out: the volume must read as zeros there, and must not have been
  // written to (kInvalid). The file stays as it is; what is done to it later is not seen in the
  // volume. As durable as a write: flush. Limits do not hold it up. kNotSupported: not on this
  // host, or not this file; what was shared before that stays.
  Task<Status> share_file(std::string volume, std::string file, ByteRange range);
  // `file`, a regular one on the store's file system, becomes a new volume: its blocks become the
  // volume's where they are, and its name goes. All of it is read, for its sums. The volume is
  // there, and the file is not, when this returns; when it fails the file is what it was. A crash
  // leaves one of the two. kNotSupported, kBusy, kPermission: not this file, or not here: it has
  // more names, somebody has it open, it is a part of a store, the host cannot. kInvalid: it is
  // longer than `size_bytes`.
  Task<Status> take_file(std::string volume, std::string file, TakeOptions options);
  // Both answer from extent maps alone, for [offset, offset + length) clipped to the device, in
  // order and without gaps; at most `max_runs`, and they may end early. Devices are this store's
  // own. kGone when one was deleted.
  //  - 1 where `device` may differ from `base`, 0 where it does not.
  static Result<std::vector<ValueRun>> changes(const BlockDevice& base, const BlockDevice& device,
                                               ByteRange range, std::size_t max_runs);
  //  - How deep the data lies: 0 where there is none, 1 in the node's own layers, 2 in its
  //    parent's, and so on.
  Result<std::vector<ValueRun>> depths(const BlockDevice& device, ByteRange range,
                                       std::size_t max_runs) const;

  // --- Attachments: the books of what is in use from outside. They make delete, shrink and revert
  // answer kBusy.
  Task<Result<std::uint64_t>> add_attachment(std::string name,
                                             AttachmentRow row);  // id, node and boot filled in
  Task<Status> update_attachment(AttachmentRow row);
  Task<Status> remove_attachment(std::uint64_t id);
  Task<std::vector<std::pair<NodeName, AttachmentRow>>> attachments();

  // --- Erase (I8).
  Task<std::vector<EraseStatus>> erase_queue();
  Task<Status> wait_erased(std::uint64_t request);  // 0: everything queued now
  Task<Result<std::vector<std::string>>> certificates(std::uint64_t after_id,
                                                      std::size_t limit);  // JSON texts
  // From now on, and when the store is opened again. Less free space than a level is no reason to
  // refuse it.
  Task<Status> set_guard(GuardSettings settings);
  // The host keeps so much for the volume: what its own layers hold counts as used, so that a
  // snapshot begins anew. Others get kNoSpace before they take of it. kNoSpace when the host has
  // not so much left; kInvalid for more than the volume's size; 0: none any more.
  Task<Status> set_reserve(std::string volume, std::uint64_t reserve_bytes);
  Task<Status> set_erase(std::optional<ErasePolicy> policy,
                         std::optional<std::uint64_t> rate_bytes);

  // --- Upkeep; background_work does these by itself.
  Task<Status> settle();  // dirty regions become clean
  Task<Status> sweep();   // junction blocks that every child shadows go to the eraser
  Task<Result<CheckReport>> check(CheckOptions options);

  // --- Scrub: reads all data of all layers, beside everything else, at most `rate_bytes` a second
  // (0: no limit). One at a time (kBusy). It goes on where it was stopped; with `restart`, or when
  // the last one is done, it begins anew. One that a closed or dead store cut off is taken up by
  // background_work.
  Task<Status> start_scrub(std::uint64_t rate_bytes, bool restart);
  Task<void> stop_scrub();    // its position is durable when this returns
  Task<Status> wait_scrub();  // until none runs
  ScrubInfo scrub() const;

 private:
  friend class StoreHandover;  // store_handover.h
  explicit Store(std::unique_ptr<StoreCore> core);
  std::unique_ptr<StoreCore> core_;
};

}  // namespace voltree
