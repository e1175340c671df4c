// ExtentMapBuilder: an ExtentMap out of extents that come in order. O(n), leaves packed full.
#pragma once

#include <vector>

#include "blockstore/extent_map.h"

namespace voltree {

class ExtentMapBuilder {
 public:
  // Extents come in order and do not overlap; neighbours with equal values coalesce. Holes (value
  // 0) and empty extents are passed over.
  void push(const Extent& extent);
  // Past the last extent pushed that was not a hole; 0 before the first.
  std::uint64_t end_block() const { return pending_.empty() ? 0 : pending_.back().end(); }
  // The map of everything pushed; the builder is empty again.
  ExtentMap finish();

 private:
  void pack_pending();

  std::vector<Extent> pending_;             // not in a leaf yet; never empty after the first push
  std::vector<extent_tree::Child> leaves_;  // full leaves
};

}  // namespace voltree
