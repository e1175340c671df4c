// Blocks against their sums, beside readers and writers: what check() and the scrub are made of.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "blockstore/store_core.h"

namespace voltree {

struct BlockCheck {
  // A block of data that cannot be read, or does not match.
  std::function<void(std::uint64_t block, std::string_view why)> damaged;
  // After each step, with what was read and where the next step begins. False ends it.
  std::function<Task<bool>(std::uint64_t bytes, std::uint64_t next_block)> step;
};
// Reads every block of data of the layer from `from_block` on. A layer that goes meanwhile is no
// failure. Not OK: the layer cannot be opened.
Task<Status> check_blocks(StoreCore& core, std::shared_ptr<Layer> layer, std::uint64_t from_block,
                          BlockCheck with);

// The names of the volumes and snapshots that see any of `blocks` of the layer, in order.
Task<std::vector<std::string>> names_seeing(StoreCore& core, std::shared_ptr<Layer> layer,
                                            ExtentMap blocks);
// Each run of blocks with the names that see any of it. At most `max`; the others are left out.
struct SeenRun {
  BlockRange blocks;
  std::vector<std::string> names;
};
Task<std::vector<SeenRun>> seen_runs(StoreCore& core, std::shared_ptr<Layer> layer,
                                     ExtentMap blocks, std::size_t max);
// "seen by a, a@s"
std::string seen_by_text(const std::vector<std::string>& names);

}  // namespace voltree
