#include "blockstore/extent_map_edit.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <iterator>
#include <span>

#include "blockstore/extent_map_leaf.h"

namespace voltree::extent_tree {
namespace {

// Far beyond what 2^52 blocks can fill.
constexpr unsigned kMaxLevels = 24;
// An edited inner node with this few children looks for a neighbour to merge with.
constexpr std::size_t kFewChildren = kFanOut * 3 / 8;
constexpr std::size_t kMergeChildren = kFanOut * 3 / 4;

// Buffers that an edit reuses, so that a steady stream of edits allocates nothing but nodes.
struct Scratch {
  std::vector<Child> edited;  // what replaces the children that the edit touches
  std::vector<Child> all;     // the node's children after the edit
};

Scratch& scratch(unsigned level) {
  thread_local std::array<Scratch, kMaxLevels> levels;
  assert(level < kMaxLevels);
  return levels[level];
}

std::vector<Extent>& leaf_scratch() {
  thread_local std::vector<Extent> extents;
  return extents;
}

void edit_extents(std::vector<Extent>& extents, const Edit& edit) {
  // [begin, end): the extents that overlap or touch the range.
  const auto begin =
      std::partition_point(extents.begin(), extents.end(),
                           [&](const Extent& extent) { return extent.end() < edit.first; });
  const auto end = std::partition_point(
      begin, extents.end(), [&](const Extent& extent) { return extent.first <= edit.end; });
  std::array<Extent, 3> pieces;
  std::size_t used = 0;
  Extent middle{edit.first, edit.end - edit.first, edit.value};
  Extent right;
  if (begin != end) {
    const Extent& left = *begin;
    const Extent& last = *std::prev(end);
    if (last.end() > edit.end) {
      if (last.value == edit.value) {
        middle.count = last.end() - middle.first;
      } else {
        const std::uint64_t from = std::max(last.first, edit.end);
        right = Extent{from, last.end() - from, last.value};
      }
    }
    if (left.first < edit.first) {
      if (left.value == edit.value) {
        middle = Extent{left.first, middle.end() - left.first, edit.value};
      } else {
        const std::uint64_t to = std::min(left.end(), edit.first);
        pieces[used++] = Extent{left.first, to - left.first, left.value};
      }
    }
  }
  if (edit.value != 0) pieces[used++] = middle;
  if (right.count != 0) pieces[used++] = right;

  const auto replaced = static_cast<std::size_t>(end - begin);
  const std::size_t common = std::min(used, replaced);
  const auto rest = std::copy_n(pieces.begin(), common, begin);
  if (used < replaced) {
    extents.erase(rest, end);
  } else {
    extents.insert(rest, pieces.begin() + common, pieces.begin() + used);
  }
}

void edit_leaf(Child leaf, const Edit& edit, std::vector<Child>& out) {
  if (edit.end - edit.first == 1 && leaf.node.unique() &&
      dense_assign_in_place(leaf, edit.first, edit.value)) {
    out.push_back(std::move(leaf));
    return;
  }
  if (edit.first == leaf.end && edit.value == leaf.last_value && leaf.node.unique() &&
      grow_last_run_in_place(leaf, edit.end)) {
    out.push_back(std::move(leaf));
    return;
  }
  std::vector<Extent>& extents = leaf_scratch();
  extents.clear();
  unpack_leaf(*leaf.node.get(), extents);
  const Split split = edit.end >= leaf.end ? Split::kGreedy : Split::kEven;
  edit_extents(extents, edit);
  pack_leaves(extents, split, out);
}

// Moves children out of a node that only we hold; copies them otherwise.
class ChildTaker {
 public:
  explicit ChildTaker(Child& parent)
      : unique_(parent.node.unique()), children_(children_of(parent.node.get())) {}
  bool unique() const { return unique_; }
  std::span<Child> children() const { return children_; }
  Child take(std::size_t i) const { return unique_ ? std::move(children_[i]) : children_[i]; }
  void take(std::size_t from, std::size_t to, std::vector<Child>& out) const {
    for (; from < to; ++from) out.push_back(take(from));
  }

 private:
  bool unique_;
  std::span<Child> children_;
};

bool should_merge(const Child& left, const Child& right, bool leaves) {
  if (leaves) return worth_merging(left, right);
  const std::size_t few = std::min(left.node->count, right.node->count);
  return few <= kFewChildren && left.node->count + right.node->count <= kMergeChildren;
}

// One node out of two neighbours at `level` that should_merge chose.
Child merged(Child left, Child right, unsigned level) {
  std::vector<Child> result;
  if (level == 0) {
    std::vector<Extent>& extents = leaf_scratch();
    extents.clear();
    unpack_leaf(*left.node.get(), extents);
    unpack_leaf(*right.node.get(), extents);
    pack_leaves(extents, Split::kEven, result);
  } else {
    std::vector<Child> children;
    const ChildTaker from_left(left);
    from_left.take(0, from_left.children().size(), children);
    const ChildTaker from_right(right);
    from_right.take(0, from_right.children().size(), children);
    make_inners(children, result);
  }
  assert(result.size() == 1);
  return std::move(result.front());
}

// Whether the nodes at [begin, end) of `nodes`, or a neighbour of theirs, should merge.
bool any_should_merge(std::span<const Child> nodes, std::size_t begin, std::size_t end,
                      bool leaves) {
  for (std::size_t i = begin == 0 ? 0 : begin - 1; i < end && i + 1 < nodes.size(); ++i) {
    if (should_merge(nodes[i], nodes[i + 1], leaves)) return true;
  }
  return false;
}

// Merges small nodes in and next to [begin, end) of `nodes`, which are at `level`.
void merge_small(std::vector<Child>& nodes, std::size_t begin, std::size_t end, unsigned level) {
  std::size_t i = begin == 0 ? 0 : begin - 1;
  while (i < end && i + 1 < nodes.size()) {
    if (!should_merge(nodes[i], nodes[i + 1], level == 0)) {
      ++i;
      continue;
    }
    nodes[i] = merged(std::move(nodes[i]), std::move(nodes[i + 1]), level);
    nodes.erase(nodes.begin() + static_cast<std::ptrdiff_t>(i) + 1);
    end = std::max(end, begin + 1) - 1;
  }
}

// Edits the children [low, high] of a node at `level` and appends what replaces them.
void edit_children(const ChildTaker& taker, std::size_t low, std::size_t high, unsigned level,
                   const Edit& edit, std::vector<Child>& out) {
  const std::span<Child> children = taker.children();
  const Child& left = children[low];
  // The leftmost child touched takes the new extent in; from the others the range is erased only.
  const bool untouched = edit.value == 0 && (left.end <= edit.first || left.first >= edit.end);
  const bool erased = edit.value == 0 && left.first >= edit.first && left.end <= edit.end;
  if (untouched) {
    out.push_back(taker.take(low));
  } else if (!erased) {
    apply_edit(taker.take(low), level - 1, edit, out);
  }
  if (high != low && children[high].end > edit.end) {
    apply_edit(taker.take(high), level - 1, Edit{edit.first, edit.end, 0}, out);
  }
}

void edit_inner(Child inner, unsigned level, const Edit& edit, std::vector<Child>& out) {
  const ChildTaker taker(inner);
  const std::span<Child> children = taker.children();
  const std::size_t low = child_for(children, edit.first);
  const std::size_t high = std::max(low, child_for(children, edit.end - 1));
  const bool leaves = level == 1;
  Scratch& buffers = scratch(level);
  buffers.edited.clear();
  edit_children(taker, low, high, level, edit, buffers.edited);

  if (taker.unique() && buffers.edited.size() == high - low + 1) {
    std::move(buffers.edited.begin(), buffers.edited.end(), children.begin() + low);
    if (!any_should_merge(children, low, high + 1, leaves)) {
      Child changed = summarise(children);
      changed.node = std::move(inner.node);
      out.push_back(std::move(changed));
      return;
    }
    buffers.edited.clear();
    taker.take(low, high + 1, buffers.edited);
  }

  buffers.all.clear();
  taker.take(0, low, buffers.all);
  std::move(buffers.edited.begin(), buffers.edited.end(), std::back_inserter(buffers.all));
  const std::size_t edited_end = buffers.all.size();
  taker.take(high + 1, children.size(), buffers.all);
  merge_small(buffers.all, low, edited_end, level - 1);
  make_inners(buffers.all, out);
  buffers.edited.clear();
  buffers.all.clear();
}

}  // namespace

void apply_edit(Child tree, unsigned level, const Edit& edit, std::vector<Child>& out) {
  if (level == 0) {
    edit_leaf(std::move(tree), edit, out);
  } else {
    edit_inner(std::move(tree), level, edit, out);
  }
}

}  // namespace voltree::extent_tree
