// The lineage copy: STORE/lineage, what the catalog says of volumes, nodes, layers and the erase
// queue, once more, so that a store whose catalog is lost can be rebuilt (store_repair.cc). A hint:
// nothing else reads it, and the catalog is right wherever the two differ.
//
// It is written after the commits whose rows it copies, on a strand of its own, so that nobody
// waits for it and commits that come meanwhile share a record: a crash leaves it a few commits
// behind, which the next open mends.
//
// Threads: its calls are made on the catalog's strand, in the order of the commits. Failures of
// what is not needed for the store are no failures: the copy is then made later.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "blockstore/catalog.h"
#include "blockstore/lineage_copy_rows.h"
#include "blockstore/runtime/io.h"

namespace voltree {

class LineageCopy {
 public:
  // `sync_failed` is called at once when a sync has failed (I10): this process may not get to heed
  // status().
  LineageCopy(Runtime& runtime, const std::string& directory, std::function<void()> sync_failed);
  ~LineageCopy();  // finishes what was asked for
  static std::string path(const std::string& directory);

  // What the records say, as far as they can be read. kNotFound: there is no copy.
  struct Contents {
    CopyState state;
    std::uint64_t generation = 0;
    std::uint64_t records = 0;
    std::uint64_t good_bytes = 0;        // where the last record that can be read ends
    std::uint64_t unreadable_bytes = 0;  // what follows it
  };
  static Result<Contents> read(FileSystem& fs, const std::string& directory);

  // Goes on with the copy that is there when it says what `image`, the catalog, says, and writes it
  // anew when it does not. Before the other calls; blocking.
  Status take_up(const CatalogImage& image);
  // Adds a record some time soon. What cannot be written takes the copy away until renew().
  void append(std::vector<CopyRow> rows);
  // True when the copy is gone or has grown long: renew() is due.
  bool renewal_due() const { return renewal_due_.load(std::memory_order_acquire); }
  // Writes it anew some time soon.
  void renew(CatalogImage image);
  // Not OK: a sync has failed (I10).
  Status status() const;

 private:
  // What to do next: add rows, or write all of an image anew.
  struct Job {
    std::vector<CopyRow> rows;
    std::optional<CatalogImage> image;
  };
  void add_job(Job job);
  void run_jobs();
  Status add_record(std::vector<CopyRow> rows);
  Status write_anew(const std::vector<CopyRow>& rows);
  Result<std::uint64_t> write_file(const std::vector<CopyRow>& rows);
  Status sync_or_give_up();
  Status marked(Status synced) const;
  void give_up();

  Runtime& runtime_;
  const std::string directory_;
  const std::function<void()> sync_failed_;
  std::atomic<bool> renewal_due_{false};
  mutable std::mutex mutex_;
  std::deque<Job> jobs_;         // mutex_
  bool jobs_scheduled_ = false;  // mutex_; run_jobs is on the strand and will take jobs_
  Status failed_;                // mutex_

  // Of take_up(), then of the strand.
  std::unique_ptr<File> file_;  // nullptr: there is no copy that holds
  std::uint64_t generation_ = 0;
  std::uint64_t sequence_ = 0;  // of the last record
  std::uint64_t end_bytes_ = 0;
  std::uint64_t fresh_bytes_ = 0;  // how long it was when it was last written anew
  // Of each row's value: what did not change is not written again.
  std::map<std::pair<CopyTable, std::string>, std::uint64_t> known_;

  std::unique_ptr<Runtime::Strand> strand_;  // last: it uses the others
};

}  // namespace voltree
