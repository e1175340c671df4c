// Leaves of an ExtentMap's tree: immutable blobs that hold ordered extents in the smallest form.
//
//   runs       12 bytes an extent: start (relative to the node's base), count, value
//   wide runs  24 bytes an extent: the same in 64 bits, for a leaf that spans 2^32 blocks or more
//   dense      a palette of the distinct values and one packed index of 1, 2, 4, 8 or 16 bits for
//              each block of the span: for extents so short that runs would be larger
//
// A list of extents fits one leaf when it has at most kLeafExtents of them or spans at most
// kDenseBlocks blocks.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "blockstore/extent_map_node.h"

namespace voltree::extent_tree {

inline constexpr std::size_t kLeafExtents = 128;
inline constexpr std::uint64_t kDenseBlocks = 1024;

// How pack_leaves divides a list that does not fit one leaf.
enum class Split {
  kEven,    // in halves: there is room for inserts on both sides
  kGreedy,  // each leaf as full as it gets: for lists that grow at their end
};

bool fits_one_leaf(std::size_t extents, std::uint64_t span_blocks);
// Whether two neighbours are small enough together to become one leaf. Stricter than fits_one_leaf,
// so that a leaf does not alternate between splitting and merging.
bool worth_merging(const Child& left, const Child& right);

// How many extents from the start fit one leaf, at most.
std::size_t leaf_prefix(std::span<const Extent> extents);
// Appends leaves that hold `extents`: ordered, coalesced, no holes. Nothing for an empty list.
void pack_leaves(std::span<const Extent> extents, Split split, std::vector<Child>& out);
// Appends the extents of `leaf` to `out`; the first coalesces with out.back() when they touch.
void unpack_leaf(const Node& leaf, std::vector<Extent>& out);

// The value of `block`, 0 where the leaf has none.
std::uint32_t leaf_at(const Node& leaf, std::uint64_t block);
// Calls visit(Extent) for the leaf's extents that overlap [first, end), in order, clipped to it.
// False as soon as a call returns false.
template <typename Visit>
bool leaf_visit(const Node& leaf, std::uint64_t first, std::uint64_t end, Visit&& visit);

// Changes the value of one block of a dense leaf in its place, when the palette has the value and
// the block lies inside the leaf's span but not at its edges, and dense is still the smaller form;
// updates the summary in `leaf`. The caller holds the only reference. False: nothing changed.
bool dense_assign_in_place(Child& leaf, std::uint64_t block, std::uint32_t value);

// Lets the last extent of a leaf of short runs grow up to `end`: what a sequential write does again
// and again. The caller holds the only reference and knows that nothing lies between. False:
// nothing changed.
bool grow_last_run_in_place(Child& leaf, std::uint64_t end);

// Structural rules of one leaf against its summary. For tests.
bool check_leaf(const Child& leaf);

struct ShortRun {
  std::uint32_t start;
  std::uint32_t count;
  std::uint32_t value;
};
struct WideRun {
  std::uint64_t start;
  std::uint64_t count;
  std::uint64_t value;
};

// A view of a dense leaf's payload.
struct DenseView {
  explicit DenseView(const Node& leaf)
      : palette(reinterpret_cast<const std::uint32_t*>(leaf.payload())),
        packed(reinterpret_cast<const std::uint8_t*>(palette + leaf.palette_size)),
        packed_bytes(leaf.payload_bytes - leaf.palette_size * sizeof(std::uint32_t)),
        bits(leaf.index_bits) {}

  std::uint32_t index(std::uint64_t offset) const {
    const std::uint64_t bit = offset * bits;
    if (bits == 16) return packed[bit / 8] | std::uint32_t{packed[bit / 8 + 1]} << 8;
    return (packed[bit / 8] >> (bit % 8)) & ((1U << bits) - 1);
  }
  // Where the blocks with the index of block `offset` stop, at most `limit`. Compares a word at a
  // time.
  std::uint64_t run_end(std::uint64_t offset, std::uint64_t limit) const {
    static_assert(std::endian::native == std::endian::little, "indexes are packed low bits first");
    const std::uint64_t wanted = index(offset) * (~std::uint64_t{0} / ((1U << bits) - 1));
    while (offset < limit) {
      const std::uint64_t bit = offset * bits;
      const std::size_t left = packed_bytes - bit / 8;
      std::uint64_t word = 0;
      std::memcpy(&word, packed + bit / 8, left < sizeof(word) ? left : sizeof(word));
      // What the shift brings in at the top is not compared; 56 is a multiple of every narrow
      // width.
      const unsigned valid = bit % 8 == 0 ? 64 : 56;
      std::uint64_t differs = (word >> (bit % 8)) ^ wanted;
      if (valid != 64) differs &= (std::uint64_t{1} << valid) - 1;
      if (differs != 0) {
        const std::uint64_t end = offset + static_cast<unsigned>(std::countr_zero(differs)) / bits;
        return end < limit ? end : limit;
      }
      offset += valid / bits;
    }
    return limit;
  }
  std::uint32_t value(std::uint64_t offset) const { return palette[index(offset)]; }

  const std::uint32_t* palette;
  const std::uint8_t* packed;
  std::size_t packed_bytes;
  unsigned bits;
};

template <typename Run, typename Visit>
bool visit_runs(const Node& leaf, std::uint64_t first, std::uint64_t end, Visit&& visit) {
  const Run* run = reinterpret_cast<const Run*>(leaf.payload());
  const Run* const last = run + leaf.count;
  // Skip what ends at or before `first` by halving.
  for (std::size_t length = leaf.count; length > 0;) {
    const std::size_t half = length / 2;
    if (leaf.base + run[half].start + run[half].count <= first) {
      run += half + 1;
      length -= half + 1;
    } else {
      length = half;
    }
  }
  for (; run != last; ++run) {
    const std::uint64_t begin = leaf.base + run->start;
    if (begin >= end) break;
    const std::uint64_t from = begin < first ? first : begin;
    const std::uint64_t run_end = begin + run->count;
    const std::uint64_t to = run_end > end ? end : run_end;
    if (!visit(Extent{from, to - from, static_cast<std::uint32_t>(run->value)})) return false;
  }
  return true;
}

template <typename Visit>
bool visit_dense(const Node& leaf, std::uint64_t first, std::uint64_t end, Visit&& visit) {
  if (end <= leaf.base) return true;
  const DenseView view(leaf);
  std::uint64_t offset = first > leaf.base ? first - leaf.base : 0;
  const std::uint64_t limit = end - leaf.base < leaf.count ? end - leaf.base : leaf.count;
  while (offset < limit) {
    const std::uint32_t index = view.index(offset);
    const std::uint64_t next = view.run_end(offset, limit);
    const std::uint32_t value = view.palette[index];
    if (value != 0 && !visit(Extent{leaf.base + offset, next - offset, value})) return false;
    offset = next;
  }
  return true;
}

template <typename Visit>
bool leaf_visit(const Node& leaf, std::uint64_t first, std::uint64_t end, Visit&& visit) {
  switch (leaf.kind) {
    case NodeKind::kRuns:
      return visit_runs<ShortRun>(leaf, first, end, visit);
    case NodeKind::kWideRuns:
      return visit_runs<WideRun>(leaf, first, end, visit);
    default:
      return visit_dense(leaf, first, end, visit);
  }
}

}  // namespace voltree::extent_tree
