#include "blockstore/extent_map_leaf.h"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <limits>

namespace voltree::extent_tree {
namespace {

// Merging stops well below the size at which a leaf splits.
constexpr std::size_t kMergeExtents = kLeafExtents * 3 / 4;
constexpr std::uint64_t kMergeBlocks = kDenseBlocks * 3 / 4;
// Up to this many values a palette is searched in order of appearance.
constexpr std::size_t kSmallPalette = 16;

using Palette = std::vector<std::uint32_t>;

// The distinct values of `extents`, and 0 where there are holes between them.
void collect_palette(std::span<const Extent> extents, Palette& palette) {
  palette.clear();
  std::uint64_t previous_end = extents.front().first;
  bool holes = false;
  bool sorted = false;
  for (const Extent& extent : extents) {
    holes = holes || extent.first != previous_end;
    previous_end = extent.end();
    if (sorted || std::find(palette.begin(), palette.end(), extent.value) == palette.end()) {
      palette.push_back(extent.value);
    }
    sorted = sorted || palette.size() > kSmallPalette;
  }
  if (holes) palette.push_back(0);
  if (palette.size() > kSmallPalette) {
    std::sort(palette.begin(), palette.end());
    palette.erase(std::unique(palette.begin(), palette.end()), palette.end());
  }
}

std::uint32_t palette_index(const Palette& palette, std::uint32_t value) {
  const auto found = palette.size() <= kSmallPalette
                         ? std::find(palette.begin(), palette.end(), value)
                         : std::lower_bound(palette.begin(), palette.end(), value);
  return static_cast<std::uint32_t>(found - palette.begin());
}

unsigned bits_for(std::size_t palette_size) {
  if (palette_size <= 2) return 1;
  if (palette_size <= 4) return 2;
  if (palette_size <= 16) return 4;
  return palette_size <= 256 ? 8 : 16;
}

std::size_t dense_bytes(std::size_t palette_size, std::uint64_t blocks) {
  return palette_size * sizeof(std::uint32_t) + (blocks * bits_for(palette_size) + 7) / 8;
}

void set_index(std::uint8_t* packed, unsigned bits, std::uint64_t offset, std::uint32_t index) {
  const std::uint64_t bit = offset * bits;
  if (bits == 16) {
    packed[bit / 8] = static_cast<std::uint8_t>(index);
    packed[bit / 8 + 1] = static_cast<std::uint8_t>(index >> 8);
    return;
  }
  const unsigned shift = bit % 8;
  const unsigned mask = ((1U << bits) - 1) << shift;
  packed[bit / 8] = static_cast<std::uint8_t>((packed[bit / 8] & ~mask) | (index << shift));
}

// Sets the indexes of [begin, end): whole bytes at a time between the edges.
void fill_index(std::uint8_t* packed, unsigned bits, std::uint64_t begin, std::uint64_t end,
                std::uint32_t index) {
  if (bits <= 8) {
    const std::uint64_t in_byte = 8 / bits;
    for (; begin < end && begin % in_byte != 0; ++begin) set_index(packed, bits, begin, index);
    const std::uint64_t bytes = (end - begin) / in_byte;
    const unsigned pattern = index * (0xFFU / ((1U << bits) - 1));
    std::memset(packed + begin / in_byte, static_cast<int>(pattern), bytes);
    begin += bytes * in_byte;
  }
  for (; begin < end; ++begin) set_index(packed, bits, begin, index);
}

Node* encode_dense(std::span<const Extent> extents, const Palette& palette, std::uint64_t span) {
  Node* node = allocate_node(NodeKind::kDense, dense_bytes(palette.size(), span));
  node->base = extents.front().first;
  node->count = static_cast<std::uint32_t>(span);
  node->palette_size = static_cast<std::uint16_t>(palette.size());
  node->index_bits = static_cast<std::uint8_t>(bits_for(palette.size()));
  std::memcpy(node->payload(), palette.data(), palette.size() * sizeof(std::uint32_t));
  auto* packed =
      reinterpret_cast<std::uint8_t*>(node->payload()) + palette.size() * sizeof(std::uint32_t);
  const unsigned bits = node->index_bits;
  const std::uint32_t hole = palette_index(palette, 0);
  // Every block starts as a hole; one byte holds a whole number of narrow indexes.
  std::memset(packed, 0, (span * bits + 7) / 8);
  if (hole != palette.size() && hole != 0) {
    fill_index(packed, bits, 0, span, hole);
  }
  for (const Extent& extent : extents) {
    const std::uint32_t index = palette_index(palette, extent.value);
    const std::uint64_t begin = extent.first - node->base;
    fill_index(packed, bits, begin, begin + extent.count, index);
  }
  return node;
}

template <typename Run>
Node* encode_runs(NodeKind kind, std::span<const Extent> extents) {
  Node* node = allocate_node(kind, extents.size() * sizeof(Run));
  node->base = extents.front().first;
  node->count = static_cast<std::uint32_t>(extents.size());
  Run* run = reinterpret_cast<Run*>(node->payload());
  for (const Extent& extent : extents) {
    *run++ = Run{static_cast<decltype(Run::start)>(extent.first - node->base),
                 static_cast<decltype(Run::count)>(extent.count), extent.value};
  }
  return node;
}

Node* encode_leaf(std::span<const Extent> extents) {
  const std::uint64_t span = extents.back().end() - extents.front().first;
  const std::size_t run_bytes = extents.size() * sizeof(ShortRun);
  if (span <= kDenseBlocks && dense_bytes(1, span) < run_bytes) {
    thread_local Palette palette;
    collect_palette(extents, palette);
    if (dense_bytes(palette.size(), span) < run_bytes) {
      return encode_dense(extents, palette, span);
    }
  }
  if (span <= std::numeric_limits<std::uint32_t>::max()) {
    return encode_runs<ShortRun>(NodeKind::kRuns, extents);
  }
  return encode_runs<WideRun>(NodeKind::kWideRuns, extents);
}

Child make_leaf(std::span<const Extent> extents) {
  Child leaf;
  leaf.first = extents.front().first;
  leaf.first_value = extents.front().value;
  leaf.end = extents.back().end();
  leaf.last_value = extents.back().value;
  leaf.extents = extents.size();
  for (const Extent& extent : extents) leaf.mapped += extent.count;
  leaf.node = NodeRef(encode_leaf(extents));
  return leaf;
}

std::uint64_t span_of(std::span<const Extent> extents) {
  return extents.empty() ? 0 : extents.back().end() - extents.front().first;
}

template <typename Run>
std::uint32_t runs_at(const Node& leaf, std::uint64_t block) {
  const std::uint64_t offset = block - leaf.base;
  const Run* run = reinterpret_cast<const Run*>(leaf.payload());
  // The last run that starts at or before the block; the first always does.
  for (std::size_t length = leaf.count; length > 1;) {
    const std::size_t half = length / 2;
    run += run[half].start <= offset ? half : 0;
    length -= half;
  }
  return offset - run->start < run->count ? static_cast<std::uint32_t>(run->value) : 0;
}

}  // namespace

bool fits_one_leaf(std::size_t extents, std::uint64_t span_blocks) {
  return extents <= kLeafExtents || span_blocks <= kDenseBlocks;
}

bool worth_merging(const Child& left, const Child& right) {
  return left.extents + right.extents <= kMergeExtents || right.end - left.first <= kMergeBlocks;
}

std::size_t leaf_prefix(std::span<const Extent> extents) {
  std::size_t prefix = std::min(extents.size(), kLeafExtents);
  while (prefix < extents.size() && extents[prefix].end() - extents[0].first <= kDenseBlocks) {
    ++prefix;
  }
  return prefix;
}

void pack_leaves(std::span<const Extent> extents, Split split, std::vector<Child>& out) {
  while (!fits_one_leaf(extents.size(), span_of(extents))) {
    const std::size_t part = split == Split::kGreedy ? leaf_prefix(extents) : extents.size() / 2;
    pack_leaves(extents.first(part), split, out);
    extents = extents.subspan(part);
  }
  if (!extents.empty()) out.push_back(make_leaf(extents));
}

void unpack_leaf(const Node& leaf, std::vector<Extent>& out) {
  const std::size_t before = out.size();
  leaf_visit(leaf, 0, std::numeric_limits<std::uint64_t>::max(), [&](const Extent& extent) {
    if (out.size() == before && !out.empty() && out.back().end() == extent.first &&
        out.back().value == extent.value) {
      out.back().count += extent.count;
    } else {
      out.push_back(extent);
    }
    return true;
  });
}

std::uint32_t leaf_at(const Node& leaf, std::uint64_t block) {
  if (block < leaf.base) return 0;
  switch (leaf.kind) {
    case NodeKind::kRuns:
      return runs_at<ShortRun>(leaf, block);
    case NodeKind::kWideRuns:
      return runs_at<WideRun>(leaf, block);
    default:
      return block - leaf.base < leaf.count ? DenseView(leaf).value(block - leaf.base) : 0;
  }
}

bool dense_assign_in_place(Child& leaf, std::uint64_t block, std::uint32_t value) {
  Node& node = *leaf.node.get();
  if (node.kind != NodeKind::kDense || block <= node.base) return false;
  const std::uint64_t offset = block - node.base;
  if (offset + 1 >= node.count) return false;
  const DenseView view(node);
  const std::uint32_t* const palette_end = view.palette + node.palette_size;
  const std::uint32_t* const found = std::find(view.palette, palette_end, value);
  if (found == palette_end) return false;

  // Where runs have become smaller than this form, the leaf must be packed anew.
  if (leaf.extents * sizeof(ShortRun) <= node.payload_bytes) return false;
  const std::uint32_t left = view.value(offset - 1);
  const std::uint32_t right = view.value(offset + 1);
  const std::uint32_t old = view.value(offset);
  // Extents that the three blocks begin, as seen by the middle and the right one.
  const auto begins = [&](std::uint32_t middle) {
    return static_cast<std::uint64_t>(middle != 0 && middle != left) +
           static_cast<std::uint64_t>(right != 0 && right != middle);
  };
  leaf.extents = leaf.extents - begins(old) + begins(value);
  leaf.mapped = leaf.mapped - (old != 0 ? 1 : 0) + (value != 0 ? 1 : 0);
  auto* packed =
      reinterpret_cast<std::uint8_t*>(node.payload()) + node.palette_size * sizeof(std::uint32_t);
  set_index(packed, node.index_bits, offset, static_cast<std::uint32_t>(found - view.palette));
  return true;
}

bool grow_last_run_in_place(Child& leaf, std::uint64_t end) {
  Node& node = *leaf.node.get();
  if (node.kind != NodeKind::kRuns || node.count > kLeafExtents) return false;
  if (end - node.base > std::numeric_limits<std::uint32_t>::max()) return false;
  ShortRun& last = reinterpret_cast<ShortRun*>(node.payload())[node.count - 1];
  last.count += static_cast<std::uint32_t>(end - leaf.end);
  leaf.mapped += end - leaf.end;
  leaf.end = end;
  return true;
}

bool check_leaf(const Child& leaf) {
  std::vector<Extent> extents;
  unpack_leaf(*leaf.node.get(), extents);
  if (extents.empty() || !fits_one_leaf(extents.size(), span_of(extents))) return false;
  std::uint64_t mapped = 0;
  for (std::size_t i = 0; i < extents.size(); ++i) {
    mapped += extents[i].count;
    if (extents[i].count == 0 || extents[i].value == 0) return false;
    if (i == 0) continue;
    const Extent& previous = extents[i - 1];
    if (previous.end() > extents[i].first) return false;
    if (previous.end() == extents[i].first && previous.value == extents[i].value) return false;
  }
  return leaf.first == extents.front().first && leaf.first_value == extents.front().value &&
         leaf.end == extents.back().end() && leaf.last_value == extents.back().value &&
         leaf.extents == extents.size() && leaf.mapped == mapped;
}

}  // namespace voltree::extent_tree
