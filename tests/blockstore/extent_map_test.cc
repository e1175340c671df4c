// ExtentMap against an oracle that is too simple to be wrong.
#include "blockstore/extent_map.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <thread>
#include <vector>

namespace voltree {
namespace {

using Random = std::mt19937_64;

std::uint64_t below(Random& random, std::uint64_t limit) { return random() % limit; }

// first -> (count, value), maximal and without holes.
class Oracle {
 public:
  void assign(std::uint64_t first, std::uint64_t count, std::uint32_t value) {
    if (count == 0) return;
    const std::uint64_t end = first + count;
    split_at(first);
    split_at(end);
    runs_.erase(runs_.lower_bound(first), runs_.lower_bound(end));
    if (value == 0) return;
    auto run = runs_.emplace(first, std::pair{count, value}).first;
    const auto next = std::next(run);
    if (next != runs_.end() && next->first == end && next->second.second == value) {
      run->second.first += next->second.first;
      runs_.erase(next);
    }
    if (run == runs_.begin()) return;
    const auto previous = std::prev(run);
    if (previous->first + previous->second.first == first && previous->second.second == value) {
      previous->second.first += run->second.first;
      runs_.erase(run);
    }
  }

  std::uint32_t at(std::uint64_t block) const {
    auto run = runs_.upper_bound(block);
    if (run == runs_.begin()) return 0;
    --run;
    return block < run->first + run->second.first ? run->second.second : 0;
  }

  std::vector<Extent> extents() const {
    std::vector<Extent> result;
    for (const auto& [first, run] : runs_) result.push_back({first, run.first, run.second});
    return result;
  }

 private:
  // An erased neighbour must be cut where it crosses the range; cut halves that stay equal are
  // joined again only by the assignment between them.
  void split_at(std::uint64_t block) {
    auto run = runs_.lower_bound(block);
    if (run == runs_.begin()) return;
    --run;
    const std::uint64_t end = run->first + run->second.first;
    if (end <= block) return;
    const std::uint32_t value = run->second.second;
    run->second.first = block - run->first;
    runs_.emplace(block, std::pair{end - block, value});
  }

  std::map<std::uint64_t, std::pair<std::uint64_t, std::uint32_t>> runs_;
};

std::vector<Extent> extents_of(const ExtentMap& map) {
  std::vector<Extent> result;
  map.for_each_extent([&](const Extent& extent) { result.push_back(extent); });
  return result;
}

void expect_same(const ExtentMap& map, const std::vector<Extent>& expected) {
  ASSERT_TRUE(map.check_structure());
  ASSERT_EQ(extents_of(map).size(), expected.size());
  ASSERT_TRUE(extents_of(map) == expected);
  ASSERT_EQ(map.extent_count(), expected.size());
  std::uint64_t mapped = 0;
  for (const Extent& extent : expected) mapped += extent.count;
  ASSERT_EQ(map.mapped_blocks(), mapped);
  ASSERT_EQ(map.empty(), expected.empty());
  ASSERT_EQ(map.end_block(), expected.empty() ? 0 : expected.back().end());
}

// How a run of random assigns looks.
struct Pattern {
  const char* name;
  std::uint64_t base;
  std::uint64_t blocks;     // of the space used
  std::uint64_t count_max;  // of one assign
  std::uint32_t values;     // 0 included
  unsigned steps;
};

const Pattern kPatterns[] = {
    {"dense", 0, 6000, 3, 3, 12000},         {"short", 1000, 40000, 12, 4, 8000},
    {"mixed", 0, 500000, 3000, 6, 5000},     {"scattered", 0, std::uint64_t{1} << 40, 5, 3, 6000},
    {"manyValues", 7, 5000, 2, 3000, 12000}, {"huge", 0, kMaxBlocks - 1, kMaxBlocks / 64, 5, 2000},
    {"wide", 0, kMaxBlocks - 1, 9, 5, 4000}, {"atTheEnd", kMaxBlocks - 30000, 30000, 40, 4, 6000},
    {"eraseHeavy", 0, 20000, 400, 2, 6000},
};

Extent random_edit(Random& random, const Pattern& pattern) {
  const std::uint64_t first = pattern.base + below(random, pattern.blocks);
  const std::uint64_t room = pattern.base + pattern.blocks - first;
  const std::uint64_t longest = below(random, 200) == 0 ? pattern.blocks : pattern.count_max;
  const std::uint64_t count = 1 + below(random, std::min(room, longest));
  return {first, count, static_cast<std::uint32_t>(below(random, pattern.values))};
}

class ExtentMapOracle : public testing::TestWithParam<Pattern> {};

void check_reads(const ExtentMap& map, const Oracle& oracle, const Pattern& pattern,
                 Random& random) {
  const std::vector<Extent> extents = oracle.extents();
  for (int i = 0; i < 20; ++i) {
    std::uint64_t block = pattern.base + below(random, pattern.blocks);
    if (!extents.empty() && i % 2 == 0) {
      const Extent& near = extents[below(random, extents.size())];
      block = std::min(kMaxBlocks - 1, near.first + below(random, near.count + 2));
    }
    ASSERT_EQ(map.at(block), oracle.at(block));
    const auto next = std::find_if(extents.begin(), extents.end(),
                                   [&](const Extent& extent) { return extent.end() > block; });
    const auto found = map.next_extent(block);
    ASSERT_EQ(found.has_value(), next != extents.end());
    std::uint64_t limit = block + 1 + below(random, pattern.count_max * 2);
    Extent run{block, limit - block, 0};
    if (found) {
      const std::uint64_t from = std::max(block, next->first);
      ASSERT_TRUE(*found == (Extent{from, next->end() - from, next->value}));
      run.count = std::min(limit, from == block ? next->end() : from) - block;
      run.value = from == block ? next->value : 0;
    }
    ASSERT_TRUE(map.run_at(block, limit) == run);
    // The pieces of a range tile it, each as the oracle has it, none joinable to the next.
    std::uint64_t position = block;
    std::optional<std::uint32_t> last;
    map.for_each(block, limit - block, [&](const Extent& piece) {
      EXPECT_EQ(piece.first, position);
      EXPECT_NE(piece.count, 0);
      EXPECT_EQ(oracle.at(piece.first), piece.value);
      EXPECT_EQ(oracle.at(piece.end() - 1), piece.value);
      EXPECT_TRUE(!last || *last != piece.value);
      last = piece.value;
      position = piece.end();
    });
    ASSERT_EQ(position, limit);
  }
}

TEST_P(ExtentMapOracle, RandomAssigns) {
  const Pattern& pattern = GetParam();
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    ExtentMap map;
    Oracle oracle;
    const unsigned steps = seed % 5 == 0 ? pattern.steps : pattern.steps / 5;
    for (unsigned step = 0; step < steps; ++step) {
      const Extent edit = random_edit(random, pattern);
      map.assign(edit.first, edit.count, edit.value);
      oracle.assign(edit.first, edit.count, edit.value);
      if (step % (steps / 8) == 0) {
        ASSERT_NO_FATAL_FAILURE(expect_same(map, oracle.extents()));
        ASSERT_NO_FATAL_FAILURE(check_reads(map, oracle, pattern, random));
      }
    }
    ASSERT_NO_FATAL_FAILURE(expect_same(map, oracle.extents()));
    ASSERT_TRUE(ExtentMap::from_sorted(oracle.extents()) == map);
    ASSERT_NO_FATAL_FAILURE(
        expect_same(ExtentMap::from_sorted(oracle.extents()), oracle.extents()));
  }
}

TEST_P(ExtentMapOracle, OldCopiesStayAsTheyWere) {
  const Pattern& pattern = GetParam();
  Random random(77);
  struct Copy {
    ExtentMap map;
    Oracle oracle;
  };
  std::vector<Copy> copies(1);
  for (unsigned i = 0; i < 50; ++i) {
    // Branch from any earlier copy: a tree of versions, all alive.
    Copy next = copies[below(random, copies.size())];
    for (unsigned step = 0; step < pattern.steps / 50; ++step) {
      const Extent edit = random_edit(random, pattern);
      next.map.assign(edit.first, edit.count, edit.value);
      next.oracle.assign(edit.first, edit.count, edit.value);
    }
    copies.push_back(std::move(next));
  }
  for (const Copy& copy : copies) {
    ASSERT_NO_FATAL_FAILURE(expect_same(copy.map, copy.oracle.extents()));
  }
}

struct Pair {
  ExtentMap a;
  ExtentMap b;
};

// Two maps that may share structure, of like or unlike size.
Pair random_pair(Random& random, const Pattern& pattern, std::uint64_t seed) {
  Pair pair;
  const auto edit = [&](ExtentMap& map, unsigned steps) {
    for (unsigned i = 0; i < steps; ++i) {
      const Extent change = random_edit(random, pattern);
      map.assign(change.first, change.count, change.value);
    }
  };
  edit(pair.a, pattern.steps / 10);
  if (seed % 3 != 0) pair.b = pair.a;
  edit(pair.b, seed % 2 == 0 ? 5 : pattern.steps / 10);
  if (seed % 7 == 0) std::swap(pair.a, pair.b);
  return pair;
}

// Every place where either map changes its value: between two of them all is uniform.
std::vector<std::uint64_t> boundaries(const Pair& pair) {
  std::vector<std::uint64_t> result{0, kMaxBlocks};
  for (const ExtentMap* map : {&pair.a, &pair.b}) {
    for (const Extent& extent : extents_of(*map)) {
      result.push_back(extent.first);
      result.push_back(extent.end());
    }
  }
  std::sort(result.begin(), result.end());
  result.erase(std::unique(result.begin(), result.end()), result.end());
  return result;
}

template <typename ValueOf>
std::vector<Extent> by_hand(const Pair& pair, const ValueOf& value_of) {
  const std::vector<std::uint64_t> cuts = boundaries(pair);
  std::vector<Extent> result;
  for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
    const std::uint32_t value = value_of(pair.a.at(cuts[i]), pair.b.at(cuts[i]));
    if (value == 0) continue;
    if (!result.empty() && result.back().end() == cuts[i] && result.back().value == value) {
      result.back().count += cuts[i + 1] - cuts[i];
    } else {
      result.push_back({cuts[i], cuts[i + 1] - cuts[i], value});
    }
  }
  return result;
}

void expect_algebra(const Pair& pair) {
  using Value = std::uint32_t;
  ASSERT_NO_FATAL_FAILURE(expect_same(overlay(pair.a, pair.b),
                                      by_hand(pair, [](Value a, Value b) { return b ? b : a; })));
  ASSERT_NO_FATAL_FAILURE(expect_same(intersect(pair.a, pair.b),
                                      by_hand(pair, [](Value a, Value b) { return b ? a : 0; })));
  ASSERT_NO_FATAL_FAILURE(expect_same(subtract(pair.a, pair.b),
                                      by_hand(pair, [](Value a, Value b) { return b ? 0 : a; })));
  std::vector<Extent> changed;
  for_each_difference(pair.a, pair.b, [&](const BlockRange& range) {
    changed.push_back({range.first, range.count, 1});
  });
  ASSERT_TRUE(changed == by_hand(pair, [](Value a, Value b) { return a != b ? 1U : 0U; }));
  ASSERT_EQ(pair.a == pair.b, changed.empty());

  ExtentMap index;  // any map, its values folded to the two of an index
  for (const Extent& extent : extents_of(pair.b)) {
    index.assign(extent.first, extent.count, extent.value % 2 + 1);
  }
  ExtentMap applied = pair.a;
  apply_layer(applied, index, 9);
  ASSERT_NO_FATAL_FAILURE(expect_same(applied, by_hand({pair.a, index}, [](Value a, Value b) {
                                        return b == kIndexAbsent ? a : b == kIndexData ? 9U : 0U;
                                      })));
}

TEST_P(ExtentMapOracle, Algebra) {
  for (std::uint64_t seed = 1; seed <= 24; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    ASSERT_NO_FATAL_FAILURE(expect_algebra(random_pair(random, GetParam(), seed)));
  }
}

INSTANTIATE_TEST_SUITE_P(Patterns, ExtentMapOracle, testing::ValuesIn(kPatterns),
                         [](const auto& param) { return std::string(param.param.name); });

// So many extents that the results are built piece by piece; then one side far smaller.
TEST(ExtentMap, AlgebraOfLargeMaps) {
  for (const std::uint64_t gap_max : {1, 3, 4000}) {
    SCOPED_TRACE(gap_max);
    Random random(gap_max);
    const auto large = [&](std::size_t extents) {
      std::vector<Extent> sorted;
      std::uint64_t at = below(random, 100);
      for (std::size_t i = 0; i < extents; ++i) {
        const Extent extent{at, 1 + below(random, 4), static_cast<std::uint32_t>(1 + i % 3)};
        sorted.push_back(extent);
        at = extent.end() + below(random, gap_max);
      }
      return ExtentMap::from_sorted(sorted);
    };
    const ExtentMap first = large(30000);
    const ExtentMap second = large(25000);
    const ExtentMap few = large(40);
    for (const Pair& pair :
         {Pair{first, second}, Pair{second, first}, Pair{first, few}, Pair{few, first}}) {
      ASSERT_NO_FATAL_FAILURE(expect_algebra(pair));
    }
  }
}

TEST(ExtentMap, EmptyMapAllocatesNothing) {
  const ExtentMap map;
  EXPECT_EQ(map.memory_bytes(), 0);
  EXPECT_EQ(map.at(5), 0);
  EXPECT_FALSE(map.next_extent(0));
  EXPECT_TRUE(map.run_at(3, 10) == (Extent{3, 7, 0}));
  EXPECT_TRUE(map == ExtentMap());
  EXPECT_TRUE(map.check_structure());
}

TEST(ExtentMap, MovedFromIsEmpty) {
  ExtentMap map;
  map.assign(1, 2, 3);
  const ExtentMap taken = std::move(map);
  EXPECT_TRUE(map.empty());  // NOLINT(bugprone-use-after-move): the contract
  EXPECT_EQ(map.mapped_blocks(), 0);
  EXPECT_EQ(taken.at(2), 3);
}

TEST(ExtentMap, AssignOfWhatIsThereKeepsTheStructure) {
  ExtentMap map;
  for (std::uint64_t i = 0; i < 10000; ++i) map.assign(i * 10, 5, 1);
  ExtentMap copy = map;
  copy.assign(50, 5, 1);
  copy.assign(55, 5, 0);
  EXPECT_TRUE(copy.same_structure(map));
  copy.assign(55, 1, 1);
  EXPECT_FALSE(copy.same_structure(map));
}

// Streams that grow at their end, forked as they go, with others in their way.
TEST(ExtentMap, SequentialStreamsAndForks) {
  Random random(21);
  ExtentMap map;
  Oracle oracle;
  std::vector<std::pair<ExtentMap, std::vector<Extent>>> forks;
  std::uint64_t heads[4] = {0, 3000, 9000, std::uint64_t{1} << 33};
  for (int step = 0; step < 20000; ++step) {
    const std::size_t stream = below(random, 4);
    const std::uint64_t count = 1 + below(random, 3);
    const auto value = static_cast<std::uint32_t>(1 + stream + heads[stream] / 500 % 3);
    map.assign(heads[stream], count, value);
    oracle.assign(heads[stream], count, value);
    heads[stream] += count + (below(random, 40) == 0 ? 2 : 0);
    if (step % 500 == 0) forks.emplace_back(map, oracle.extents());
  }
  ASSERT_NO_FATAL_FAILURE(expect_same(map, oracle.extents()));
  for (const auto& [fork, extents] : forks) ASSERT_NO_FATAL_FAILURE(expect_same(fork, extents));
}

TEST(ExtentMap, VisitorsStopWhenToldTo) {
  ExtentMap map;
  for (std::uint64_t i = 0; i < 1000; ++i) map.assign(i * 10, 5, 1);
  for (int wanted = 1; wanted < 10; ++wanted) {
    int calls = 0;
    map.for_each(0, 10000, [&](const Extent&) { return ++calls < wanted; });
    EXPECT_EQ(calls, wanted);
    calls = 0;
    map.for_each_extent([&](const Extent&) { return ++calls < wanted; });
    EXPECT_EQ(calls, wanted);
    calls = 0;
    for_each_difference(map, ExtentMap(), [&](const BlockRange&) { return ++calls < wanted; });
    EXPECT_EQ(calls, wanted);
  }
}

TEST(ExtentMap, ScatteredSingleBlocksTakeAtMost24BytesAnExtent) {
  constexpr std::size_t kExtents = 300'000;
  constexpr std::size_t kLeft = kExtents / 20;
  Random random(3);
  ExtentMap map;
  while (map.extent_count() < kExtents) map.assign(2 * below(random, std::uint64_t{1} << 32), 1, 1);
  EXPECT_TRUE(map.check_structure());
  const double each = static_cast<double>(map.memory_bytes()) / kExtents;
  RecordProperty("bytes_an_extent", std::to_string(each));
  EXPECT_LE(each, 24.0);
  // Erase most of it in random order: small leaves must not pile up.
  std::vector<std::uint64_t> blocks;
  map.for_each_extent([&](const Extent& extent) { blocks.push_back(extent.first); });
  std::shuffle(blocks.begin(), blocks.end(), random);
  for (std::size_t i = 0; i < kExtents - kLeft; ++i) map.assign(blocks[i], 1, 0);
  EXPECT_EQ(map.extent_count(), kLeft);
  EXPECT_TRUE(map.check_structure());
  EXPECT_LE(map.memory_bytes(), kLeft * 32);
  for (std::size_t i = kExtents - kLeft; i < blocks.size(); ++i) map.assign(blocks[i], 1, 0);
  EXPECT_TRUE(map.empty());
  EXPECT_EQ(map.memory_bytes(), 0);
}

TEST(ExtentMap, AlternatingExtentsTakeAtMost24BytesEach) {
  constexpr std::uint64_t kExtents = 60'000;
  for (const std::uint64_t length : {1, 8, 100, 5000}) {
    ExtentMap in_order;
    ExtentMap random_order;
    Random random(length);
    std::vector<std::uint64_t> order(kExtents);
    for (std::uint64_t i = 0; i < order.size(); ++i) {
      order[i] = i;
      in_order.assign(i * length, length, static_cast<std::uint32_t>(i % 2 + 1));
    }
    EXPECT_EQ(in_order.extent_count(), kExtents);
    EXPECT_LE(in_order.memory_bytes(), 24 * kExtents) << length;
    std::shuffle(order.begin(), order.end(), random);
    for (const std::uint64_t i : order) {
      random_order.assign(i * length, length, static_cast<std::uint32_t>(i % 2 + 1));
    }
    EXPECT_LE(random_order.memory_bytes(), 24 * kExtents) << length;
    EXPECT_TRUE(random_order == in_order);
  }
}

// 1 TiB in which every second block alternates stays under 512 MiB: 2 bytes a block. (4 GiB here.)
TEST(ExtentMap, AlternatingBlocksTakeFarLessThanTwoBytesEach) {
  constexpr std::uint64_t kBlocks = 1 << 20;
  ExtentMap map;
  map.assign(0, kBlocks, 1);
  for (std::uint64_t block = 0; block < kBlocks; block += 2) map.assign(block, 1, 2);
  EXPECT_EQ(map.extent_count(), kBlocks);
  EXPECT_TRUE(map.check_structure());
  EXPECT_LE(map.memory_bytes(), kBlocks * 2);
  // The same in random order.
  constexpr std::uint64_t kSmaller = 1 << 18;
  Random random(4);
  ExtentMap shuffled;
  shuffled.assign(0, kSmaller, 1);
  std::vector<std::uint64_t> order(kSmaller / 2);
  for (std::uint64_t i = 0; i < order.size(); ++i) order[i] = 2 * i;
  std::shuffle(order.begin(), order.end(), random);
  for (const std::uint64_t block : order) shuffled.assign(block, 1, 2);
  EXPECT_EQ(shuffled.extent_count(), kSmaller);
  EXPECT_LE(shuffled.memory_bytes(), kSmaller * 2);
  EXPECT_TRUE(shuffled.check_structure());
}

TEST(ExtentMap, DifferenceOfAForkVisitsOnlyWhatChanged) {
  ExtentMap map;
  for (std::uint64_t i = 0; i < 2'000'000; ++i) map.assign(i * 3000, 1000, 1);
  ExtentMap fork = map;
  for (std::uint64_t i = 0; i < 5; ++i) fork.assign(i * 1'000'000'000 + 500, 1, 2);
  // Thousands of repeats end in reasonable time only when shared subtrees are passed over.
  for (int repeat = 0; repeat < 3000; ++repeat) {
    int ranges = 0;
    for_each_difference(map, fork, [&](const BlockRange& range) {
      EXPECT_EQ(range.count, 1);
      ++ranges;
    });
    ASSERT_EQ(ranges, 5);
  }
}

TEST(ExtentMap, ReadersOfCopiesWhileTheOwnerWrites) {
  ExtentMap map;
  for (std::uint64_t i = 0; i < 20000; ++i) map.assign(i * 4, 2, 1);
  for (int round = 0; round < 20; ++round) {
    std::vector<std::thread> readers;
    for (unsigned reader = 0; reader < 4; ++reader) {
      // Each reader holds its own copy, forks it, and changes the fork.
      readers.emplace_back([copy = map, reader] {
        Random random(reader);
        ExtentMap fork = copy;
        const std::uint64_t before = copy.mapped_blocks();
        for (int i = 0; i < 500; ++i) {
          const std::uint64_t block = below(random, 80000);
          EXPECT_EQ(copy.at(block), copy.run_at(block, block + 1).value);
          fork.assign(block, 3, reader + 2);
        }
        std::uint64_t mapped = 0;
        copy.for_each_extent([&](const Extent& extent) { mapped += extent.count; });
        EXPECT_EQ(mapped, before);
        EXPECT_TRUE(fork.check_structure());
      });
    }
    Random random(static_cast<std::uint64_t>(round));
    for (int i = 0; i < 1000; ++i) {
      map.assign(below(random, 80000), 1 + below(random, 4),
                 static_cast<std::uint32_t>(below(random, 3)));
    }
    for (std::thread& reader : readers) reader.join();
  }
  EXPECT_TRUE(map.check_structure());
}

}  // namespace
}  // namespace voltree
