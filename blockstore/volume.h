// Volume: an open node (a head or a snapshot). The aligned core of the data path.
//
// A 4 KiB write: range lock -> plan (in place or redirect, one comparison per extent) -> data to
// the layer -> sums -> extent map and layer index -> acknowledge. A read takes no lock but the
// short one that guards the map.
//
// Write epochs (I4). Every write holds a token of write_gate_ from its plan to its end. A fork
// switches the map's owner under mutex_ and then drains the gate: writes planned before the switch
// end in the sealed layers (and so in the snapshot), later ones are planned against the new state.
// Nobody waits for the drain but the fork itself.
//
// A Volume stays valid while its Store is open; calls on a deleted one answer kGone.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "blockstore/block_device.h"
#include "blockstore/engine.h"
#include "blockstore/extent_map.h"
#include "blockstore/layer.h"
#include "blockstore/qos.h"
#include "blockstore/runtime/sync.h"

namespace voltree {

// For a range lock of the whole of a volume.
inline constexpr BlockRange kAllBlocks{0, UINT64_MAX};

struct VolumeState {
  NodeId node = kNoNode;
  bool writable = false;
  bool has_parent = false;
  std::uint64_t size_bytes = 0;
  ExtentMap map;
  std::vector<std::shared_ptr<Layer>> owned;  // oldest first
  bool newest_is_active = false;              // new blocks may go to owned.back()
  QosLimits qos;
};

// Rows that a catalog commit must carry for data that has just been made durable (I1).
struct FlushRows {
  struct Part {
    std::shared_ptr<Layer> layer;
    ExtentMap index;  // as of the moment the regions were taken
    std::set<std::uint64_t> regions;
  };
  std::vector<Part> parts;
  bool empty() const;
  Status put(CatalogDb& db) const;
};

class Volume final : public BlockDevice {
 public:
  Volume(Engine& engine, VolumeState state);

  std::uint64_t size_bytes() const override { return size_bytes_.load(std::memory_order_acquire); }
  bool read_only() const override { return !writable_; }
  std::uint64_t referenced_bytes() const override;
  Task<Status> read(std::uint64_t offset_bytes, std::span<std::byte> out) override;
  Task<Status> write(std::uint64_t offset_bytes, std::span<const std::byte> data,
                     WriteOptions options) override;
  Task<Status> flush() override;
  Task<Status> write_zeroes(std::uint64_t offset_bytes, std::uint64_t length_bytes,
                            WriteOptions options) override;
  std::vector<AllocationRun> allocation(std::uint64_t offset_bytes, std::uint64_t length_bytes,
                                        std::size_t max_runs) const override;

  // --- The aligned core, for aligned_io.h. Ranges lie within the last (perhaps partial) block.
  // Memory is aligned to 512 bytes.
  RangeLock& range_lock() { return range_lock_; }
  Task<Status> read_blocks(BlockRange range, std::byte* out);  // no lock held
  Task<Status> read_blocks_locked(BlockRange range,
                                  std::byte* out);  // the caller holds the range lock
  // An error may leave any of the blocks written.
  Task<Status> write_blocks_locked(BlockRange range, const std::byte* data);
  Task<Status> zero_blocks_locked(BlockRange range);
  // The same blocks of `source`, shared with it instead of written, where they are new to this
  // volume's own layers; kInvalid where they are not. kNotSupported: the host cannot share, and
  // nothing has changed.
  Task<Status> share_blocks_locked(BlockRange range, File& source);

  // --- For the store, which serialises these calls.
  NodeId node() const { return node_; }
  ExtentMap map() const;
  std::vector<std::shared_ptr<Layer>> owned() const;
  Gate& write_gate() { return write_gate_; }
  AsyncMutex& flush_mutex() { return flush_mutex_; }

  // Fork of one volume or several, at one instant: no write is planned on any of them between the
  // first and the last. Of each, `fresh` (or nothing) becomes the active layer, and the layers
  // owned so far are sealed and become `sealed_owner`'s. Call finish_fork after
  // write_gate().drain(): it answers the map of the moment of the switch, with the writes that were
  // then under way. abort_fork gives the sealed layers back.
  struct Switch {
    Volume* volume = nullptr;  // each a different one, in order of node: the order of their locks
    std::shared_ptr<Layer> fresh;
    NodeId sealed_owner = kNoNode;
    std::vector<std::shared_ptr<Layer>> sealed;  // filled in
  };
  static void begin_fork(std::vector<Switch>& switches);
  ExtentMap finish_fork();
  void abort_fork(std::vector<std::shared_ptr<Layer>> sealed);
  // Makes data durable that was written to `layers`, and takes the index rows to commit.
  // flush_mutex() must be held from before this call until settle_rows or restore_rows.
  Task<Result<FlushRows>> sync_layers(std::vector<std::shared_ptr<Layer>> layers);
  static void rows_committed(const FlushRows& rows);
  static void rows_failed(const FlushRows& rows);

  // Revert: everything of the head is replaced at once. Writes under way are drained by the caller
  // afterwards.
  void replace(ExtentMap map, std::uint64_t size_bytes);
  // Delete of the parent: its layers are this head's now.
  void adopt(std::vector<std::shared_ptr<Layer>> layers, bool has_parent);
  // Layers that have nothing left: this volume neither owns nor writes to them any more.
  void drop_owned(const std::vector<LayerId>& layers);
  void set_size(std::uint64_t size_bytes);
  // What reads, writes and zeroes are held to from now on; resolved anew when the size changes.
  // They wait before they take a lock, so that nothing but they waits.
  void set_qos(const QosLimits& limits);
  const Throttle& throttle() const { return throttle_; }
  // Of the space that the pool guard keeps for volumes, what is this one's. Thread-safe.
  void set_promise_left(std::uint64_t bytes) {
    promise_left_bytes_.store(bytes, std::memory_order_relaxed);
  }
  // Where new blocks go; nullptr before the first.
  std::shared_ptr<Layer> active_layer() const;
  // No new blocks go to the active layer any more (shrink, or it can not grow).
  void retire_active_layer();
  // Shrink, once it is committed: what lies beyond is no longer mapped.
  void cut(std::uint64_t size_bytes);
  // Held, it keeps the volume from getting an active layer (revert, delete).
  AsyncMutex& active_mutex() { return active_mutex_; }
  // flush() for a volume that no longer answers (the store is closing).
  Task<Status> flush_shared();
  // Every later call answers kGone.
  void kill();
  void revive();
  bool dead() const { return dead_.load(std::memory_order_acquire); }

 private:
  struct Segment {
    BlockRange range;
    std::shared_ptr<Layer> layer;  // nullptr: a hole
    bool own = false;
  };
  // What a write is going to do, and what keeps the ground under it (the token).
  struct WritePlan {
    std::vector<Segment> segments;  // layer: where each run of blocks goes
    bool in_place = false;
    bool has_parent = false;
    const Layer* oldest_owned = nullptr;
    std::uint64_t epoch = 0;
    Gate::Token token;
  };
  enum class Need : std::uint8_t {
    kNothing,
    kAlive,
    kRoom,
    kActiveLayer,
    kUnsettled,
    kDirtyMark,
    kSpace
  };
  struct Wanted {
    Need need = Need::kNothing;
    std::shared_ptr<Layer> layer;
    std::vector<std::uint64_t> regions;
  };

  std::vector<std::shared_ptr<Layer>> switch_locked(std::shared_ptr<Layer> fresh,
                                                    NodeId sealed_owner);
  void resolve_limits();
  Status check_alive(bool for_write) const;
  std::vector<Segment> look_up(BlockRange range) const;
  Task<Status> read_segments(const std::vector<Segment>& segments, BlockRange range, std::byte* out,
                             std::vector<std::uint64_t>& mismatches);
  Task<Status> reread_under_lock(std::uint64_t block, std::byte* out);
  Wanted plan_write(BlockRange range, bool zeroes, WritePlan& plan);
  static Wanted layer_wants(const std::shared_ptr<Layer>& layer, BlockRange range, bool in_place);
  Task<Status> make_plan(BlockRange range, bool zeroes, WritePlan& plan);
  Task<Status> ensure_active();
  Task<Status> write_planned(const WritePlan& plan, BlockRange range, const std::byte* data);
  void finish_write(const WritePlan& plan, bool zeroes);
  Task<void> stamp_what_was_written(const WritePlan& plan, BlockRange range,
                                    const std::vector<std::uint64_t>& sums, IoBatch& batch);
  Task<void> put_back_what_stayed(const WritePlan& plan, const std::vector<std::uint64_t>& sums);
  void map_assign(BlockRange range, LayerId value, std::uint64_t epoch);
  static std::uint32_t zero_value(const WritePlan& plan, const Segment& segment);
  Task<Status> flush_now();
  // What it may write to in place. What is written over a layer that has failed goes to another.
  bool owns(const Layer& layer) const { return layer.owner() == node_ && !layer.failed(); }

  Engine& engine_;
  const NodeId node_;
  const bool writable_;
  std::atomic<std::uint64_t> size_bytes_;
  std::atomic<bool> dead_{false};
  Throttle throttle_;
  std::atomic<std::uint64_t> promise_left_bytes_{0};

  RangeLock range_lock_;
  Gate write_gate_;
  AsyncMutex active_mutex_;  // one maker of an active layer at a time
  AsyncMutex flush_mutex_;
  std::atomic<std::uint64_t> flush_calls_{0};
  std::uint64_t flush_covered_ = 0;  // guarded by flush_mutex_

  mutable std::mutex mutex_;  // guards all below; never held across I/O
  QosLimits qos_;
  ExtentMap map_;
  bool has_parent_;
  std::vector<std::shared_ptr<Layer>> owned_;  // oldest first
  std::shared_ptr<Layer> active_;              // where new blocks go; one of owned_ or nullptr
  std::uint64_t epoch_ = 1;
  std::uint64_t replaced_epoch_ = 0;   // writes of epochs up to this one no longer touch the map
  std::optional<ExtentMap> fork_map_;  // of a fork whose writes are draining
  std::uint64_t fork_epoch_ = 0;       // writes of epochs up to this one belong to it
};

}  // namespace voltree
