#include "blockstore/extent_map.h"

#include <algorithm>
#include <cassert>
#include <limits>
#include <vector>

#include "blockstore/extent_map_builder.h"
#include "blockstore/extent_map_edit.h"
#include "blockstore/extent_map_leaf.h"

namespace voltree {
namespace {

using extent_tree::Child;
using extent_tree::NodeKind;

constexpr std::uint64_t kNoLimit = std::numeric_limits<std::uint64_t>::max();

std::uint64_t clipped_end(std::uint64_t first, std::uint64_t count) {
  return count > kNoLimit - first ? kNoLimit : first + count;
}

// Calls visit(Extent) for the pieces of a tree that overlap [first, end), clipped, in order. An
// extent that crosses leaves comes in several pieces. False as soon as a call returns false.
template <typename Visit>
bool walk(const Child& tree, unsigned level, std::uint64_t first, std::uint64_t end,
          const Visit& visit) {
  if (!tree.node || tree.end <= first || tree.first >= end) return true;
  if (level == 0) return extent_tree::leaf_visit(*tree.node.get(), first, end, visit);
  const auto children = extent_tree::children_of(tree.node.get());
  for (std::size_t i = extent_tree::child_for(children, first);
       i < children.size() && children[i].first < end; ++i) {
    if (!walk(children[i], level - 1, first, end, visit)) return false;
  }
  return true;
}

// Whether `next` carries `run` on: then `run` has grown by it.
bool joined(Extent& run, const Extent& next) {
  if (run.end() != next.first || run.value != next.value) return false;
  run.count += next.count;
  return true;
}

std::size_t charged_bytes_of(const Child& tree) {
  std::size_t bytes = extent_tree::charged_bytes(*tree.node.get());
  if (tree.node->kind == NodeKind::kInner) {
    for (const Child& child : extent_tree::children_of(tree.node.get())) {
      bytes += charged_bytes_of(child);
    }
  }
  return bytes;
}

bool check_tree(const Child& tree, unsigned level) {
  if (!tree.node) return false;
  if (level == 0) {
    return tree.node->kind != NodeKind::kInner && extent_tree::check_leaf(tree);
  }
  if (tree.node->kind != NodeKind::kInner) return false;
  const auto children = extent_tree::children_of(tree.node.get());
  if (children.empty() || children.size() > extent_tree::kFanOut) return false;
  std::uint64_t previous_end = 0;
  for (const Child& child : children) {
    if (child.first < previous_end || !check_tree(child, level - 1)) return false;
    previous_end = child.end;
  }
  const Child sum = extent_tree::summarise(children);
  return sum.first == tree.first && sum.end == tree.end && sum.mapped == tree.mapped &&
         sum.extents == tree.extents && sum.first_value == tree.first_value &&
         sum.last_value == tree.last_value;
}

}  // namespace

ExtentMap ExtentMap::from_sorted(std::span<const Extent> extents) {
  ExtentMapBuilder builder;
  for (const Extent& extent : extents) builder.push(extent);
  return builder.finish();
}

std::uint32_t ExtentMap::at(std::uint64_t block) const {
  if (block >= root_.end) return 0;
  const Child* child = &root_;
  for (unsigned level = level_; level > 0; --level) {
    const auto children = extent_tree::children_of(child->node.get());
    child = &children[extent_tree::child_for(children, block)];
    if (block >= child->end) return 0;
  }
  return extent_tree::leaf_at(*child->node.get(), block);
}

void ExtentMap::set_roots(std::vector<Child>& roots, unsigned level) {
  root_ = {};
  level_ = 0;
  if (roots.empty()) return;
  std::vector<Child> upper;
  for (; roots.size() > 1; ++level) {
    upper.clear();
    extent_tree::make_inners(roots, upper);
    roots.swap(upper);
  }
  root_ = std::move(roots.front());
  level_ = level;
  while (level_ > 0 && root_.node->count == 1) {
    Child only = extent_tree::children_of(root_.node.get()).front();
    root_ = std::move(only);
    --level_;
  }
  roots.clear();
}

void ExtentMap::assign(std::uint64_t first, std::uint64_t count, std::uint32_t value) {
  assert(first <= kMaxBlocks && count <= kMaxBlocks - first);
  if (count == 0) return;
  thread_local std::vector<Child> roots;
  roots.clear();
  if (empty()) {
    if (value == 0) return;
    const Extent only{first, count, value};
    extent_tree::pack_leaves({&only, 1}, extent_tree::Split::kEven, roots);
    set_roots(roots, 0);
    return;
  }
  if (count == 1 ? at(first) == value
                 : run_at(first, first + count) == Extent{first, count, value}) {
    return;
  }
  const unsigned level = level_;
  extent_tree::apply_edit(std::exchange(root_, {}), level, {first, first + count, value}, roots);
  set_roots(roots, level);
}

void ExtentMap::for_each(std::uint64_t first, std::uint64_t count, ExtentVisitor fn) const {
  const std::uint64_t end = clipped_end(first, count);
  if (first == end) return;
  Extent run{first, 0, 0};  // what is seen and not yet told
  const bool all = walk(root_, level_, first, end, [&](const Extent& piece) {
    if (joined(run, piece)) return true;
    if (run.count != 0 && run.value != 0 && !fn(run)) return false;
    const std::uint64_t hole_first = run.end();
    run = piece;
    return hole_first == piece.first || fn(Extent{hole_first, piece.first - hole_first, 0});
  });
  if (!all) return;
  if (run.count != 0 && !fn(run)) return;
  if (run.end() != end) fn(Extent{run.end(), end - run.end(), 0});
}

void ExtentMap::for_each_extent(ExtentVisitor fn) const {
  Extent run;
  const bool all = walk(root_, level_, 0, kNoLimit, [&](const Extent& piece) {
    if (joined(run, piece)) return true;
    const Extent told = std::exchange(run, piece);
    return told.count == 0 || fn(told);
  });
  if (all && run.count != 0) fn(run);
}

Extent ExtentMap::run_at(std::uint64_t block, std::uint64_t limit) const {
  assert(block < limit);
  Extent run{block, 0, 0};
  walk(root_, level_, block, limit, [&](const Extent& piece) {
    if (run.count != 0) return joined(run, piece);
    if (piece.first != block) {
      run.count = piece.first - block;
      return false;
    }
    run = piece;
    return true;
  });
  if (run.count == 0) run.count = limit - block;
  return run;
}

std::optional<Extent> ExtentMap::next_extent(std::uint64_t from) const {
  Extent run;
  walk(root_, level_, from, kNoLimit, [&](const Extent& piece) {
    if (run.count != 0) return joined(run, piece);
    run = piece;
    return true;
  });
  if (run.count == 0) return std::nullopt;
  return run;
}

bool ExtentMap::operator==(const ExtentMap& other) const {
  if (same_structure(other)) return true;
  if (mapped_blocks() != other.mapped_blocks() || extent_count() != other.extent_count()) {
    return false;
  }
  bool equal = true;
  for_each_difference(*this, other, [&](const BlockRange&) { return equal = false; });
  return equal;
}

std::size_t ExtentMap::memory_bytes() const { return root_.node ? charged_bytes_of(root_) : 0; }

bool ExtentMap::check_structure() const {
  if (root_.node) return check_tree(root_, level_);
  return level_ == 0 && root_.extents == 0 && root_.mapped == 0 && root_.end == 0;
}

}  // namespace voltree
