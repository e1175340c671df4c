// The scrub: reads every block of data of every layer, at its leisure, and compares it with its
// sum. Its position and what it has found are in the catalog (setting `scrub`) and survive any
// stop.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>

#include "blockstore/check_blocks.h"

namespace voltree {

class Scrubber {
 public:
  explicit Scrubber(StoreCore& core) : core_(core) {}

  // What the catalog holds of it. What cannot be read counts as never scrubbed.
  void load(const std::string& saved);
  // From where it stopped, or, with `restart` or after a scrub that is done, from the beginning.
  // `rate_bytes` a second, 0: no limit. kBusy: it runs.
  Task<Status> start(std::uint64_t rate_bytes, bool restart);
  // Ends it after the step under way; its position is durable when this returns.
  Task<void> stop();
  // Returns when it does not run.
  Task<Status> wait();
  ScrubInfo info() const;
  // It ran when the store was last closed, or died.
  bool interrupted() const;

 private:
  Task<void> run(std::shared_ptr<Event> ended);
  Task<Status> scrub_layers();
  Task<Status> scrub_layer(std::shared_ptr<Layer> layer);
  Task<bool> after_step(std::uint64_t bytes, std::uint64_t next_block);
  Task<Status> count_total();
  Task<void> keep_findings();
  std::shared_ptr<Layer> next_layer(LayerId from) const;
  Task<Status> save();

  StoreCore& core_;
  std::atomic<bool> stopping_{false};
  std::shared_ptr<Layer> current_;  // of the run's coroutine alone, as bad_
  ExtentMap bad_;                   // found in it and not kept yet
  mutable std::mutex mutex_;        // guards all below
  ScrubInfo info_;
  bool interrupted_ = false;
  LayerId layer_ = kNoLayer;  // the position: this block of this layer is next
  std::uint64_t block_ = 0;
  std::shared_ptr<Event> ended_;         // of the run under way or the last one
  std::chrono::nanoseconds saved_at_{};  // by the monotonic clock
};

}  // namespace voltree
