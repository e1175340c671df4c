// The blobs of the catalog: whatever decodes has one encoding, and that one decodes to the same.
#include <algorithm>
#include <cstdlib>
#include <string>

#include "blockstore/format/region_format.h"
#include "tests/fuzz/target.h"

namespace voltree::fuzz {
namespace {

void must(bool holds) {
  if (!holds) std::abort();
}

bool same(const ExtentMap& a, const ExtentMap& b) {
  std::vector<Extent> left, right;
  a.for_each_extent([&left](const Extent& extent) { left.push_back(extent); });
  b.for_each_extent([&right](const Extent& extent) { right.push_back(extent); });
  return std::equal(left.begin(), left.end(), right.begin(), right.end(),
                    [](const Extent& one, const Extent& other) {
                      return one.first == other.first && one.count == other.count &&
                             one.value == other.value;
                    });
}

// The first byte says which of the two it is, and the region.
void run_row(std::span<const std::byte> bytes) {
  if (bytes.empty()) return;
  const auto selector = static_cast<std::uint8_t>(bytes.front());
  const std::span<const std::byte> blob = bytes.subspan(1);
  if (selector % 2 == 0) {
    const std::uint64_t region = selector / 2;
    ExtentMap index;
    if (!decode_region(blob, region, index).ok()) return;
    must(encode_region(index, region) == text_of(blob));
    return;
  }
  const std::vector<std::string> chunks{std::string(text_of(blob))};
  const Result<ExtentMap> map = decode_map(chunks);
  if (!map.ok()) return;
  const Result<ExtentMap> again = decode_map(encode_map(*map, 64));
  must(again.ok() && same(*map, *again));
}

std::vector<Bytes> row_seeds() {
  std::vector<Bytes> seeds;
  ExtentMap index;
  const auto add = [&seeds](char selector, const std::string& blob) {
    seeds.push_back(bytes_of(selector + blob));
  };
  index.assign(5, 3, kIndexData);
  index.assign(8, 300, kIndexTombstone);
  add(0, encode_region(index, 0));
  add(1, encode_map(index).front());
  for (std::uint64_t block = 0; block < kRegionBlocks; block += 2) {
    index.assign(block, 1, block % 3 == 0 ? kIndexData : kIndexTombstone);
  }
  add(0, encode_region(index, 0));
  index.assign(kRegionBlocks, kRegionBlocks, kIndexData);
  add(2, encode_region(index, 1));
  add(1, encode_map(index).front());
  return seeds;
}

}  // namespace

const Target kRows{run_row, row_seeds};

}  // namespace voltree::fuzz
