// The catalog: every durable fact of a store that is not block data, in one SQLite database
// (schema: docs/FORMAT.md). SQLite is included in catalog_*.{h,cc} and sqlite_vfs.cc and nowhere
// else.
//
// CatalogDb is the synchronous half: rows in, rows out, within a transaction. Catalog is the other
// half: it owns the strand on which CatalogDb runs and gathers concurrent commits into one
// transaction and one fsync (group commit).
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "blockstore/base/status.h"
#include "blockstore/base/units.h"
#include "blockstore/format/lineage_copy_format.h"
#include "blockstore/runtime/io.h"
#include "blockstore/runtime/io_priority.h"
#include "blockstore/runtime/task.h"

namespace voltree {

enum class NodeKind : std::uint8_t { kHead = 0, kSnapshot = 1, kJunction = 2 };
enum class ErasePolicy : std::uint8_t { kZero = 0, kRandom = 1, kDiscard = 2, kNone = 3 };

std::string_view erase_policy_name(ErasePolicy policy);  // "zero", "random", "discard", "none"
Result<ErasePolicy> parse_erase_policy(std::string_view text);

using VolumeId = std::uint64_t;

struct VolumeRow {
  VolumeId id = 0;
  std::string name;
  NodeId head = kNoNode;                    // kNoNode: the volume was deleted, its snapshots remain
  std::optional<ErasePolicy> erase_policy;  // unset: the store's
  std::int64_t created_ns = 0;
};

struct NodeRow {
  NodeId id = kNoNode;
  NodeKind kind = NodeKind::kHead;
  NodeId parent = kNoNode;
  VolumeId volume = 0;   // junctions keep the volume they came from
  std::string snapshot;  // the snapshot's name; empty for heads and junctions
  std::uint64_t size_bytes = 0;
  std::int64_t created_ns = 0;
};

struct LayerRow {
  LayerId id = kNoLayer;
  NodeId owner = kNoNode;
  std::uint64_t size_bytes = 0;  // of the data file
  // True from before the first write until the layer is settled: recovery looks at unsettled layers
  // only.
  bool unsettled = false;
  std::int64_t created_ns = 0;
};

// One region (1024 blocks) of a layer's index. `state` is format/region_format's encoding.
struct RegionRow {
  LayerId layer = kNoLayer;
  std::uint64_t region = 0;
  std::string state;
  bool dirty = false;  // written in place since it last settled: its sums may lag after power loss
};

// One delete, revert or merge that left bytes to erase. It is done when it has no items left.
struct EraseRequestRow {
  std::uint64_t id = 0;
  std::string what;  // for people and the certificate: "volume a", "snapshot a@s"
  ErasePolicy policy = ErasePolicy::kZero;
  std::int64_t requested_ns = 0;
  std::uint64_t erased_bytes = 0;    // by the items done so far
  std::uint64_t verified_bytes = 0;  // read back and found right
  std::uint64_t items_done = 0;
  // Only what lies below this offset of its volume is overwritten, the rest is given back without;
  // 0: all of it is.
  std::uint64_t first_bytes = 0;
  IoPriority io_priority = 0;  // of reading and writing for it
};

// A whole layer (ranges empty: erase what is allocated, then unlink), or ranges of a layer that
// lives on.
struct EraseItemRow {
  std::uint64_t id = 0;
  std::uint64_t request = 0;
  LayerId layer = kNoLayer;
  bool whole_layer = false;
  std::string ranges;  // encode_map chunk of an ExtentMap with value 1; empty when whole_layer
  std::uint64_t estimated_bytes = 0;
};

struct CertificateRow {
  std::uint64_t id = 0;
  std::string json;
};

// Space of the host that is kept for a volume; not 0.
struct VolumeReserveRow {
  VolumeId volume = 0;
  std::uint64_t reserve_bytes = 0;
};

// One limit of a volume's I/O (qos.h): its key there, and a value that is not 0.
struct VolumeLimitRow {
  VolumeId volume = 0;
  std::string key;
  std::uint64_t value = 0;
};

// What somebody has noted of a volume: words that mean nothing to the store.
struct VolumeNoteRow {
  VolumeId volume = 0;
  std::string key;
  std::string text;
};

// A layer whose data file somebody else's was, on its way to being the store's own (store_take.cc).
struct TakenLayerRow {
  LayerId layer = kNoLayer;
  std::string path;  // the name that the file has to lose
};

struct AttachmentRow {
  std::uint64_t id = 0;
  NodeId node = kNoNode;
  std::string target;  // "loop", "nbd"
  std::string device;  // "/dev/loop3"
  bool read_only = false;
  std::uint32_t sector_size_bytes = 512;
  std::string boot_id;  // the boot in which it was made
  std::int64_t created_ns = 0;
};

struct CatalogImage {
  std::vector<VolumeRow> volumes;
  std::vector<NodeRow> nodes;
  std::vector<LayerRow> layers;
  std::vector<EraseRequestRow> erase_requests;
  std::vector<EraseItemRow> erase_items;
  std::vector<AttachmentRow> attachments;
  std::vector<VolumeLimitRow> volume_limits;
  std::vector<VolumeNoteRow> volume_notes;
  std::vector<VolumeReserveRow> volume_reserves;
  std::vector<CertificateRow> certificates;
  std::vector<TakenLayerRow> taken_layers;
  std::map<std::string, std::string> settings;
  std::map<std::string, std::uint64_t> last_ids;  // by kind
};

// What every store says of itself. Version and words: DESIGN section 3.
struct FormatInfo {
  std::uint32_t version = 1;
  std::uint64_t compatible = 0;
  std::uint64_t read_only_compatible = 0;
  std::uint64_t incompatible = 0;
};
inline constexpr std::uint32_t kFormatVersion = 1;
// Compatible features. The table volume_limit is there; who does not know it serves without limits.
inline constexpr std::uint64_t kFeatureVolumeLimits = 1;
// The table volume_note is there; who does not know it serves without them.
inline constexpr std::uint64_t kFeatureVolumeNotes = 2;
// The table erase_option is there; who does not know it overwrites all, at its own I/O priority.
inline constexpr std::uint64_t kFeatureEraseOptions = 4;
// The table volume_reserve is there; who does not know it promises nothing.
inline constexpr std::uint64_t kFeatureVolumeReserves = 8;
// The store has a lineage copy (lineage_copy.h); who does not know it lets it fall behind.
inline constexpr std::uint64_t kFeatureLineageCopy = 16;
// The table taken_layer is there; who does not know it may write to a file that is not the store's
// alone, after a crash while it was taken in.
inline constexpr std::uint64_t kFeatureTakenLayers = 32;
inline constexpr std::uint64_t kKnownReadOnlyCompatible = 0;
// Incompatible. The catalog's pages carry checksums, which who does not know them would not keep.
inline constexpr std::uint64_t kFeaturePageSums = 1;
inline constexpr std::uint64_t kKnownIncompatible = kFeaturePageSums;

class CatalogDb {
 public:
  using Settings = std::vector<std::pair<std::string, std::string>>;  // key, value
  // Makes a new catalog at `path` with the schema of kFormatVersion; kExists when there is one. It
  // is there with all of `settings`, or not at all.
  static Result<std::unique_ptr<CatalogDb>> create(FileSystem& fs, const std::string& path,
                                                   const Settings& settings = {});
  // Opens one. kNotFound: no such file. kDamaged: not a catalog, or SQLite finds it broken.
  // kNotSupported: a newer format or an unknown incompatible feature (the message names it and says
  // which version is needed). `read_only`: it was closed in order, and lies where nothing can be
  // written.
  static Result<std::unique_ptr<CatalogDb>> open(FileSystem& fs, const std::string& path,
                                                 bool read_only = false);
  ~CatalogDb();

  // As it was when the catalog was opened.
  const FormatInfo& format() const;

  // A transaction. Mutators outside of one are a bug and are refused with kInvalid.
  Status begin();
  // Durable when it returns OK (WAL, synchronous=FULL); rolled back when it does not.
  Status commit();
  // Moves the write-ahead log into the database.
  Status checkpoint();
  // Whether the destructor leaves the log alone. Otherwise it does a checkpoint first, and can not
  // say that it failed.
  void keep_log(bool keep);
  // Why a checkpoint failed after its commit was durable; begin() says so, too. OK: none did.
  const Status& checkpoint_failure() const;
  void rollback();     // nothing happens outside of a transaction
  Status savepoint();  // within a transaction: one member of a group commit
  // Ends the member. Not OK: it leaves rows that point at nothing, or SQLite failed; roll back to
  // the savepoint then.
  Status release_savepoint();
  // Undoes and ends the member. Not OK: the whole transaction is gone (SQLite rolls back by itself
  // on some failures).
  Status rollback_to_savepoint();

  Result<CatalogImage> load();

  // Settings: small strings. Keys in use: docs/FORMAT.md.
  Result<std::optional<std::string>> setting(const std::string& key);
  Status put_setting(const std::string& key, const std::string& value);

  // Ids never come back: each is one more than the largest ever given (table last_id). A
  // change that is rolled back was never given its ids: do nothing durable under an id before its
  // commit.
  Result<std::uint64_t> next_id(const std::string& kind);  // "volume", "node", "layer", "erase",
                                                           // "item", "certificate", "attachment"
  // Sets the largest id ever given: for a catalog that is rebuilt.
  Status put_last_id(const std::string& kind, std::uint64_t id);
  // Sets feature bits of the word `compatible`.
  Status add_compatible(std::uint64_t bits);

  // put_*: inserts, or replaces the row of that id. kExists: another volume has the name, or
  // another snapshot of the volume has it.
  Status put_volume(const VolumeRow& row);
  Status remove_volume(VolumeId id);  // its limits and notes go too
  // All of the volume's limits from now on. A store's first ones make the table and set
  // kFeatureVolumeLimits.
  Status put_volume_limits(VolumeId id, const std::vector<VolumeLimitRow>& rows);
  // The same for its notes, and kFeatureVolumeNotes.
  Status put_volume_reserve(VolumeId id, std::uint64_t reserve_bytes);  // 0: none
  Status put_volume_notes(VolumeId id, const std::vector<VolumeNoteRow>& rows);
  Status put_node(const NodeRow& row);
  Status remove_node(NodeId id);
  Status put_layer(const LayerRow& row);
  Status remove_layer(LayerId id);  // its regions go too

  // Its row goes with its layer. A store's first one makes the table and sets kFeatureTakenLayers.
  Status put_taken_layer(const TakenLayerRow& row);
  Status remove_taken_layer(LayerId id);

  // Replaces the row; an empty state removes it. Ignored when the layer is gone (it was deleted
  // meanwhile).
  Status put_region(const RegionRow& row);
  // Sets or clears `dirty` on existing rows.
  Status mark_regions(LayerId layer, const std::vector<std::uint64_t>& regions, bool dirty);
  Result<std::vector<RegionRow>> regions(LayerId layer);  // in order

  Status put_erase_request(const EraseRequestRow& row);
  Status remove_erase_request(std::uint64_t id);
  Status put_erase_item(const EraseItemRow& row);
  Status remove_erase_item(std::uint64_t id);
  Status put_certificate(const CertificateRow& row);
  Result<std::vector<CertificateRow>> certificates(std::uint64_t after_id, std::size_t limit);

  Status put_attachment(const AttachmentRow& row);
  Status remove_attachment(std::uint64_t id);

  // A node's saved merged map (format/region_format's encode_map chunks). Ignored when the node is
  // gone.
  Status put_saved_map(NodeId node, const std::vector<std::string>& chunks);
  Result<std::optional<std::vector<std::string>>> saved_map(NodeId node);
  Result<std::vector<NodeId>> saved_map_nodes();
  Status remove_saved_map(NodeId node);

  // From now on remembers what committed transactions do to the rows that the lineage copy keeps.
  void remember_changes();
  // What was remembered since the last call.
  std::vector<CopyRow> take_changes();

  // PRAGMA integrity_check and foreign keys: one message a finding, empty when sound.
  Result<std::vector<std::string>> integrity_check();

 private:
  struct Impl;
  explicit CatalogDb(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

class LineageCopy;

// Thread-safe. A commit's Status is for that member alone: a member that fails is rolled back to
// its savepoint and the others go on. When the transaction itself fails, every member gets that
// failure and, unless it is kNoSpace, `failed()` stays set from then on: the store must go
// read-only (I10).
class Catalog {
 public:
  using Change = std::function<Status(CatalogDb&)>;

  Catalog(Runtime& runtime, std::unique_ptr<CatalogDb> db);
  ~Catalog();  // waits for what was posted, then closes the database (checkpointing the WAL)

  // Runs `change` in a transaction shared with others that are waiting; durable when it returns OK.
  Task<Status> commit(Change change);
  // Runs `read` on the strand, after every commit that was asked for before it.
  template <typename T>
  Task<Result<T>> read(std::function<Result<T>(CatalogDb&)> fn);
  // Makes and keeps the lineage copy; `image` is what the catalog holds. Within read() only.
  void keep_copy(std::unique_ptr<LineageCopy> copy, const CatalogImage& image);
  // Writes the copy anew where that is due.
  Task<void> renew_copy();
  bool failed() const { return failed_.load(std::memory_order_acquire); }
  // Why; asked once failed() is true.
  const Status& failure() const { return failure_; }
  // For tools and tests that own the thread: no commit may be in flight.
  CatalogDb& db() { return *db_; }
  std::uint64_t commit_count() const { return commits_.load(std::memory_order_relaxed); }

 private:
  struct Member;
  struct CommitAwaiter;
  void join_group(Member* member);
  void run_group();
  void fail(const Status& cause);
  Status commit_group(const std::vector<Member*>& group);
  Status run_member(Member& member);
  void post_read(std::function<void()> job);
  void heed_copy(const Status& status);

  std::unique_ptr<CatalogDb> db_;
  std::unique_ptr<LineageCopy> copy_;  // on the strand
  std::mutex mutex_;
  std::vector<Member*> waiting_;  // mutex_; in the order in which they came
  bool group_scheduled_ = false;  // mutex_; run_group is on the strand and will take waiting_
  Status failure_;                // set before failed_, and once
  std::atomic<bool> failed_{false};
  std::atomic<std::uint64_t> commits_{0};
  std::unique_ptr<Runtime::Strand> strand_;
};

template <typename T>
Task<Result<T>> Catalog::read(std::function<Result<T>(CatalogDb&)> fn) {
  struct Awaiter {
    Catalog& catalog;
    std::function<Result<T>(CatalogDb&)>& fn;
    std::optional<Result<T>> result;
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> handle) {
      Executor* home = Executor::current();
      catalog.post_read([this, handle, home] {
        result.emplace(fn(*catalog.db_));
        home->post(handle);
      });
    }
    Result<T> await_resume() { return std::move(*result); }
  };
  Awaiter awaiter{*this, fn, std::nullopt};
  co_return co_await awaiter;
}

}  // namespace voltree
