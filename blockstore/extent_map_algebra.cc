// Algebra on ExtentMaps: the builder, a cursor that can pass whole subtrees, and the merges.
#include <algorithm>
#include <cassert>
#include <limits>
#include <vector>

#include "blockstore/extent_map.h"
#include "blockstore/extent_map_builder.h"
#include "blockstore/extent_map_leaf.h"

namespace voltree {

using extent_tree::Child;

namespace {

constexpr std::uint64_t kNoLimit = std::numeric_limits<std::uint64_t>::max();
// The builder packs leaves whenever this much is pending, and keeps back what the last leaf could
// still take in.
constexpr std::size_t kPackAt = 8 * extent_tree::kDenseBlocks;
constexpr std::size_t kKeepBack = extent_tree::kDenseBlocks + 1;
// A side this many times smaller than the other is applied extent by extent: an assign was measured
// to cost about as much as merging this many extents in one pass.
constexpr std::uint64_t kMuchSmaller = 32;

bool much_smaller(const ExtentMap& a, const ExtentMap& b) {
  return a.extent_count() < b.extent_count() / kMuchSmaller;
}

}  // namespace

void ExtentMapBuilder::push(const Extent& extent) {
  if (extent.count == 0 || extent.value == 0) return;
  assert(extent.first >= end_block() && extent.end() <= kMaxBlocks);
  if (!pending_.empty() && pending_.back().end() == extent.first &&
      pending_.back().value == extent.value) {
    pending_.back().count += extent.count;
    return;
  }
  pending_.push_back(extent);
  if (pending_.size() >= kPackAt) pack_pending();
}

void ExtentMapBuilder::pack_pending() {
  const std::span<const Extent> all(pending_);
  std::size_t packed = 0;
  while (all.size() - packed > kKeepBack) {
    const std::size_t part = extent_tree::leaf_prefix(all.subspan(packed));
    extent_tree::pack_leaves(all.subspan(packed, part), extent_tree::Split::kGreedy, leaves_);
    packed += part;
  }
  pending_.erase(pending_.begin(), pending_.begin() + static_cast<std::ptrdiff_t>(packed));
}

ExtentMap ExtentMapBuilder::finish() {
  extent_tree::pack_leaves(pending_, extent_tree::Split::kGreedy, leaves_);
  pending_.clear();
  ExtentMap map;
  map.set_roots(leaves_, 0);
  leaves_.clear();
  return map;
}

// Goes through a map in order, and stands either before a whole subtree, not looked into yet, or
// on an extent of an unpacked leaf. The map must not change meanwhile.
class ExtentMapCursor {
 public:
  explicit ExtentMapCursor(const ExtentMap& map) {
    if (map.root_.node) stack_.push_back({{&map.root_, 1}, map.level_});
  }

  bool on_extent() const { return extent_ < extents_.size(); }
  bool at_subtree() const { return !on_extent() && !stack_.empty(); }
  // Where the next mapped block is: kNoLimit at the end.
  std::uint64_t first() const {
    if (on_extent()) return extents_[extent_].first;
    return stack_.empty() ? kNoLimit : subtree().first;
  }
  // On an extent only.
  const Extent& extent() const { return extents_[extent_]; }
  // At a subtree only.
  const Child& subtree() const { return stack_.back().children.front(); }
  unsigned level() const { return stack_.back().level; }

  void descend() {
    const Child& child = subtree();
    const unsigned level = stack_.back().level;
    skip();
    if (level == 0) {
      extents_.clear();
      extent_ = 0;
      extent_tree::unpack_leaf(*child.node.get(), extents_);
    } else {
      stack_.push_back({extent_tree::children_of(child.node.get()), level - 1});
    }
  }

  void skip() {
    stack_.back().children = stack_.back().children.subspan(1);
    while (!stack_.empty() && stack_.back().children.empty()) stack_.pop_back();
  }

  // Passes what lies below `block` of the extent that the cursor is on.
  void advance_to(std::uint64_t block) {
    if (!on_extent() || extents_[extent_].first >= block) return;
    Extent& extent = extents_[extent_];
    if (extent.end() <= block) {
      ++extent_;
    } else {
      extent = Extent{block, extent.end() - block, extent.value};
    }
  }

 private:
  struct Frame {
    std::span<const Child> children;  // the first is the next to visit
    unsigned level;
  };
  std::vector<Frame> stack_;
  std::vector<Extent> extents_;
  std::size_t extent_ = 0;
};

namespace {

enum class Shared { kVisit, kSkip };

// Calls fn(range, value in a, value in b) for ranges in order that cover everything mapped in a or
// b; each range has one value in each. With kSkip, subtrees that both maps hold are left out.
// fn returns false to stop.
template <typename Fn>
void merge_runs(const ExtentMap& a, const ExtentMap& b, Shared shared, const Fn& fn) {
  ExtentMapCursor left(a);
  ExtentMapCursor right(b);
  while (left.first() != kNoLimit || right.first() != kNoLimit) {
    const std::uint64_t block = std::min(left.first(), right.first());
    const bool left_closed = left.at_subtree() && left.first() == block;
    const bool right_closed = right.at_subtree() && right.first() == block;
    if (left_closed && right_closed && shared == Shared::kSkip &&
        left.subtree().node.get() == right.subtree().node.get()) {
      left.skip();
      right.skip();
      continue;
    }
    if (left_closed || right_closed) {
      // The higher one first: the other may turn out to be one of its children.
      const bool both = left_closed && right_closed;
      const bool open_left = left_closed && (!both || left.level() >= right.level());
      const bool open_right = right_closed && (!both || right.level() >= left.level());
      if (open_left) left.descend();
      if (open_right) right.descend();
      continue;
    }
    const bool in_left = left.first() == block;
    const bool in_right = right.first() == block;
    const std::uint64_t end = std::min(in_left ? left.extent().end() : left.first(),
                                       in_right ? right.extent().end() : right.first());
    if (!fn(BlockRange{block, end - block}, in_left ? left.extent().value : 0,
            in_right ? right.extent().value : 0)) {
      return;
    }
    left.advance_to(end);
    right.advance_to(end);
  }
}

// The map of value_of(value in a, value in b), wherever a or b is mapped.
template <typename ValueOf>
ExtentMap combined(const ExtentMap& a, const ExtentMap& b, Shared shared, const ValueOf& value_of) {
  ExtentMapBuilder builder;
  merge_runs(a, b, shared, [&](const BlockRange& range, std::uint32_t in_a, std::uint32_t in_b) {
    builder.push(Extent{range.first, range.count, value_of(in_a, in_b)});
    return true;
  });
  return builder.finish();
}

}  // namespace

ExtentMap overlay(const ExtentMap& older, const ExtentMap& newer) {
  if (newer.empty() || older.same_structure(newer)) return older;
  if (older.empty()) return newer;
  if (much_smaller(newer, older)) {
    ExtentMap result = older;
    newer.for_each_extent(
        [&](const Extent& extent) { result.assign(extent.first, extent.count, extent.value); });
    return result;
  }
  if (much_smaller(older, newer)) {
    ExtentMap result = newer;
    older.for_each_extent([&](const Extent& extent) {
      newer.for_each(extent.first, extent.count, [&](const Extent& piece) {
        if (piece.value == 0) result.assign(piece.first, piece.count, extent.value);
      });
    });
    return result;
  }
  return combined(older, newer, Shared::kVisit,
                  [](std::uint32_t old, std::uint32_t young) { return young != 0 ? young : old; });
}

ExtentMap intersect(const ExtentMap& a, const ExtentMap& b) {
  if (a.same_structure(b)) return a;
  if (!much_smaller(a, b) && !much_smaller(b, a)) {
    return combined(a, b, Shared::kVisit,
                    [](std::uint32_t in_a, std::uint32_t in_b) { return in_b != 0 ? in_a : 0; });
  }
  ExtentMapBuilder builder;
  const bool a_leads = much_smaller(a, b);
  const ExtentMap& small = a_leads ? a : b;
  const ExtentMap& large = a_leads ? b : a;
  small.for_each_extent([&](const Extent& extent) {
    large.for_each(extent.first, extent.count, [&](const Extent& piece) {
      if (piece.value == 0) return;
      builder.push(Extent{piece.first, piece.count, a_leads ? extent.value : piece.value});
    });
  });
  return builder.finish();
}

ExtentMap subtract(const ExtentMap& a, const ExtentMap& b) {
  if (a.same_structure(b)) return {};
  if (much_smaller(b, a)) {
    ExtentMap result = a;
    b.for_each_extent([&](const Extent& extent) { result.assign(extent.first, extent.count, 0); });
    return result;
  }
  if (much_smaller(a, b)) {
    ExtentMapBuilder builder;
    a.for_each_extent([&](const Extent& extent) {
      b.for_each(extent.first, extent.count, [&](const Extent& piece) {
        if (piece.value == 0) builder.push(Extent{piece.first, piece.count, extent.value});
      });
    });
    return builder.finish();
  }
  return combined(a, b, Shared::kSkip,
                  [](std::uint32_t in_a, std::uint32_t in_b) { return in_b == 0 ? in_a : 0; });
}

void for_each_difference(const ExtentMap& a, const ExtentMap& b, RangeVisitor fn) {
  BlockRange pending;
  bool stopped = false;
  merge_runs(a, b, Shared::kSkip,
             [&](const BlockRange& range, std::uint32_t in_a, std::uint32_t in_b) {
               if (in_a == in_b) return true;
               if (pending.count != 0 && pending.end() == range.first) {
                 pending.count += range.count;
                 return true;
               }
               const BlockRange told = std::exchange(pending, range);
               stopped = told.count != 0 && !fn(told);
               return !stopped;
             });
  if (!stopped && pending.count != 0) fn(pending);
}

void apply_layer(ExtentMap& map, const ExtentMap& index, LayerId layer) {
  assert(layer != kNoLayer);
  if (much_smaller(index, map)) {
    index.for_each_extent([&](const Extent& extent) {
      map.assign(extent.first, extent.count, extent.value == kIndexData ? layer : 0);
    });
    return;
  }
  map = combined(map, index, Shared::kVisit, [layer](std::uint32_t old, std::uint32_t state) {
    if (state == kIndexAbsent) return old;
    return state == kIndexData ? layer : kNoLayer;
  });
}

}  // namespace voltree
