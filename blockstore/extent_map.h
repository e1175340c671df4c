// ExtentMap: which value each block has, as a persistent (path-copying) map with value semantics.
//
// A map goes from block numbers to a 32-bit value; 0 means absent (a hole). It serves twice: as a
// volume's merged map (value = LayerId) and as a layer's index (value = kIndexData or
// kIndexTombstone).
//
// Cost: a copy shares the whole structure and is O(1). With n extents, at(), run_at(),
// next_extent() and assign() of a short range are O(log n); a long assign also pays for what it
// replaces. Memory is at most 24 bytes an extent, and far below 2 bytes a block where extents are
// so short that a packed form is smaller.
//
// Threads: any number may read one const ExtentMap; distinct objects are independent even when they
// share structure; changing an object needs exclusion among the users of that object only.
//
// Bounds: every block number is below kMaxBlocks, and so is every end (asserted; calls on reads are
// clipped). Nothing here fails: a std::bad_alloc ends the process.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "blockstore/base/units.h"
#include "blockstore/extent_map_node.h"

namespace voltree {

// Values of a layer's index.
inline constexpr std::uint32_t kIndexAbsent = 0;
inline constexpr std::uint32_t kIndexData = 1;
inline constexpr std::uint32_t kIndexTombstone = 2;

// Block numbers and ends are at most this (16 EiB of 4 KiB blocks).
inline constexpr std::uint64_t kMaxBlocks = std::uint64_t{1} << 52;

namespace extent_tree {

// A callable passed by reference: fn(const Arg&) -> bool (false stops) or void. The callable must
// outlive the call it is passed to, and no longer.
template <typename Arg>
class Visitor {
 public:
  template <typename Fn>
  requires(!std::is_same_v<std::remove_cvref_t<Fn>, Visitor>) Visitor(Fn&& fn)  // NOLINT
      : object_(const_cast<void*>(static_cast<const void*>(std::addressof(fn)))),
        call_([](void* object, const Arg& arg) -> bool {
          auto& callee = *static_cast<std::remove_reference_t<Fn>*>(object);
          if constexpr (std::is_void_v<decltype(callee(arg))>) {
            callee(arg);
            return true;
          } else {
            return callee(arg);
          }
        }) {}
  bool operator()(const Arg& arg) const { return call_(object_, arg); }

 private:
  void* object_;
  bool (*call_)(void*, const Arg&);
};

}  // namespace extent_tree

using ExtentVisitor = extent_tree::Visitor<Extent>;
using RangeVisitor = extent_tree::Visitor<BlockRange>;

class ExtentMap {
 public:
  ExtentMap() = default;  // empty; allocates nothing
  ExtentMap(const ExtentMap&) = default;
  ExtentMap& operator=(const ExtentMap&) = default;
  // What is moved from is empty.
  ExtentMap(ExtentMap&& other) noexcept
      : root_(std::exchange(other.root_, {})), level_(std::exchange(other.level_, 0)) {}
  ExtentMap& operator=(ExtentMap&& other) noexcept {
    root_ = std::exchange(other.root_, {});
    level_ = std::exchange(other.level_, 0);
    return *this;
  }

  // A map of `extents`: ordered, not overlapping, no holes and no empty ones. Neighbours with equal
  // values coalesce. O(n).
  static ExtentMap from_sorted(std::span<const Extent> extents);

  // The value of `block`, 0 for a hole.
  std::uint32_t at(std::uint64_t block) const;

  // Gives [first, first + count) the value; 0 erases. A range that has it already changes nothing,
  // shared structure included.
  void assign(std::uint64_t first, std::uint64_t count, std::uint32_t value);

  // Calls fn(const Extent&) for every piece of [first, first + count), in order, holes included
  // (value 0): maximal runs clipped to the range. fn returns void, or bool where false stops.
  // The map must not change during the call.
  void for_each(std::uint64_t first, std::uint64_t count, ExtentVisitor fn) const;
  // Calls fn(const Extent&) for every maximal extent of the map, in order, without the holes.
  void for_each_extent(ExtentVisitor fn) const;

  // The run, mapped or hole, that contains `block`, clipped to [block, limit). block < limit.
  Extent run_at(std::uint64_t block, std::uint64_t limit) const;

  // The first extent that ends after `from`, clipped to begin at `from` at the earliest.
  std::optional<Extent> next_extent(std::uint64_t from) const;

  std::uint64_t mapped_blocks() const { return root_.mapped; }  // O(1)
  // How many maximal extents there are, holes not counted. O(1).
  std::uint64_t extent_count() const { return root_.extents; }
  bool empty() const { return root_.extents == 0; }
  // Past the last mapped block; 0 when empty. O(1).
  std::uint64_t end_block() const { return root_.end; }
  // Whether both are one structure: equal for certain, at no cost. A false says nothing.
  bool same_structure(const ExtentMap& other) const {
    return root_.node.get() == other.root_.node.get();
  }
  // The same contents. Skips what the two share.
  bool operator==(const ExtentMap& other) const;

  // Bytes of all nodes reachable, the allocator's own overhead estimated; shared nodes count in
  // every map that shares them. Walks the inner nodes.
  std::size_t memory_bytes() const;

  // Walks the tree and checks every structural rule; false is a bug. For tests.
  bool check_structure() const;

 private:
  friend class ExtentMapBuilder;
  friend class ExtentMapCursor;

  void set_roots(std::vector<extent_tree::Child>& roots, unsigned level);

  extent_tree::Child root_;  // no node: empty
  unsigned level_ = 0;       // of the root; leaves are level 0
};

// Algebra, for lineage. Each takes time in proportion to the smaller side when the sides differ
// much in size, and to both otherwise; what two maps share is skipped where it cannot matter.

// newer's values where it has any, older's elsewhere.
ExtentMap overlay(const ExtentMap& older, const ExtentMap& newer);
// a's values where both have one.
ExtentMap intersect(const ExtentMap& a, const ExtentMap& b);
// a's values where b has none.
ExtentMap subtract(const ExtentMap& a, const ExtentMap& b);

// Calls fn(const BlockRange&) for every maximal range where the values differ, in order. Subtrees
// that both share are not visited. fn returns void, or bool where false stops.
void for_each_difference(const ExtentMap& a, const ExtentMap& b, RangeVisitor fn);

// Puts a layer over `map`: where `index` says data the value becomes `layer` (not 0), where it says
// tombstone it becomes 0.
void apply_layer(ExtentMap& map, const ExtentMap& index, LayerId layer);

}  // namespace voltree
