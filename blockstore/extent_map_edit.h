// The one change an ExtentMap's tree knows: giving a range of blocks a value.
#pragma once

#include <cstdint>
#include <vector>

#include "blockstore/extent_map_node.h"

namespace voltree::extent_tree {

// Give [first, end) the value; 0 erases.
struct Edit {
  std::uint64_t first;
  std::uint64_t end;
  std::uint32_t value;
};

// Applies `edit` to the tree under `tree`, whose root is at `level` (leaves: 0), and appends to
// `out` the subtrees, all at that level, that replace it: none when nothing is left. Nodes that
// only `tree` refers to may change in place; all others are copied.
void apply_edit(Child tree, unsigned level, const Edit& edit, std::vector<Child>& out);

}  // namespace voltree::extent_tree
