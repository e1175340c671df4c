// The eraser (I8): overwrites, makes durable, verifies, then punches or unlinks, and issues a
// certificate last.
//
// Its queue is in the catalog and resumes after any stop. Nothing reaches the queue while a node
// can see it; before it touches a byte the eraser waits for the reads that could have begun earlier
// (Engine::read_gate).
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "blockstore/catalog.h"
#include "blockstore/engine.h"
#include "blockstore/runtime/sync.h"

namespace voltree {

class Eraser {
 public:
  explicit Eraser(Engine& engine) : engine_(engine) {}

  struct Queued {
    EraseRequestRow request;
    std::vector<EraseItemRow> items;
    std::uint64_t left_bytes = 0;
  };

  void load(std::vector<EraseRequestRow> requests, const std::vector<EraseItemRow>& items);
  // A request whose rows have just been committed.
  void add(EraseRequestRow request, std::vector<EraseItemRow> items);
  std::vector<Queued> queue() const;
  // Blocks that wait for erasure in a layer that lives on.
  ExtentMap pending_ranges(LayerId layer) const;

  // Works through `request` (0: all there is). `rate_bytes` a second, 0: no limit. Runs one at a
  // time; `stop` ends it between two steps with kCancelled.
  Task<Status> drain(std::uint64_t request, std::function<std::uint64_t()> rate_bytes);
  void stop() { stopping_.store(true, std::memory_order_release); }

 private:
  struct Outcome {
    std::uint64_t erased_bytes = 0;
    std::uint64_t verified_bytes = 0;
    bool missing = false;  // there was no file to overwrite
    bool shared = false;   // the file has another name, too: what is there is not ours alone
  };
  Task<Status> erase_next(std::uint64_t request, std::uint64_t rate_bytes);
  Task<Result<Outcome>> erase_layer(const EraseItemRow& item, const EraseRequestRow& request,
                                    std::uint64_t rate_bytes);
  Task<Result<Outcome>> erase_ranges(const EraseItemRow& item, const EraseRequestRow& request,
                                     std::uint64_t rate_bytes);
  Task<Status> erase_ranges_of_failed(LayerId layer, std::vector<BlockRange> ranges,
                                      const EraseRequestRow& request, std::uint64_t rate_bytes,
                                      Outcome& outcome);
  // `layer`: whose file it is, when that is in use; nullptr: it is not.
  Task<Status> overwrite(File& file, Layer* layer, std::vector<BlockRange> ranges,
                         const EraseRequestRow& request, std::uint64_t rate_bytes,
                         Outcome& outcome);
  Task<Status> sync(File& file, Layer* layer);  // a failure is the store's (I10)
  Task<Status> pace(std::uint64_t bytes, std::uint64_t rate_bytes);
  Task<Status> finish_item(EraseRequestRow request, const EraseItemRow& item,
                           const Outcome& outcome, bool last);
  std::string certificate(const EraseRequestRow& request, std::uint64_t id) const;

  Engine& engine_;
  AsyncMutex run_mutex_;
  std::atomic<bool> stopping_{false};
  mutable std::mutex mutex_;
  std::map<std::uint64_t, Queued> queue_;
  std::uint64_t running_request_ = 0;  // whose item is being erased
  std::uint64_t running_bytes_ = 0;    // of that item, so far
};

}  // namespace voltree
