// ExtentMap: what a lookup, a change, a fork and an open cost, and what an extent weighs.
#include <benchmark/benchmark.h>

#include <random>
#include <vector>

#include "blockstore/extent_map.h"

namespace voltree {
namespace {

// Scattered single blocks with holes between them, one in kSpacing.
constexpr std::uint64_t kSpacing = 256;

ExtentMap scattered(std::uint64_t extents, std::uint32_t value) {
  std::mt19937_64 random(1);
  ExtentMap map;
  while (map.extent_count() < extents) {
    map.assign(random() % (extents * kSpacing / 2) * 2, 1, value);
  }
  return map;
}

void add_weight(benchmark::State& state, const ExtentMap& map) {
  state.counters["bytes/extent"] =
      static_cast<double>(map.memory_bytes()) / static_cast<double>(map.extent_count());
}

void sizes(benchmark::internal::Benchmark* benchmark) {
  benchmark->Arg(1)->Arg(1000)->Arg(1000000);
}

void BM_ExtentMapLookup(benchmark::State& state) {
  const auto extents = static_cast<std::uint64_t>(state.range(0));
  const ExtentMap map = scattered(extents, 1);
  std::mt19937_64 random(2);
  for (auto _ : state) benchmark::DoNotOptimize(map.at(random() % (extents * kSpacing)));
  add_weight(state, map);
}
BENCHMARK(BM_ExtentMapLookup)->Apply(sizes);

void BM_ExtentMapRunAt(benchmark::State& state) {
  const auto extents = static_cast<std::uint64_t>(state.range(0));
  const ExtentMap map = scattered(extents, 1);
  std::mt19937_64 random(2);
  for (auto _ : state) {
    const std::uint64_t block = random() % (extents * kSpacing);
    benchmark::DoNotOptimize(map.run_at(block, block + 32));
  }
}
BENCHMARK(BM_ExtentMapRunAt)->Apply(sizes);

// One random block gets a random value; a map that has doubled starts again.
void BM_ExtentMapAssign(benchmark::State& state) {
  const auto extents = static_cast<std::uint64_t>(state.range(0));
  ExtentMap map = scattered(extents, 1);
  std::mt19937_64 random(3);
  for (auto _ : state) {
    const std::uint64_t draw = random();
    const std::uint64_t block = draw % (extents * kSpacing / 2) * 2;
    map.assign(block, 1, static_cast<std::uint32_t>(draw >> 62));
    if (map.extent_count() > extents * 2) {
      state.PauseTiming();
      map = scattered(extents, 1);
      state.ResumeTiming();
    }
  }
  add_weight(state, map);
}
BENCHMARK(BM_ExtentMapAssign)->Apply(sizes);

void BM_ExtentMapForkAndAssign(benchmark::State& state) {
  const auto extents = static_cast<std::uint64_t>(state.range(0));
  const ExtentMap map = scattered(extents, 1);
  std::mt19937_64 random(4);
  for (auto _ : state) {
    ExtentMap fork = map;
    fork.assign(random() % (extents * kSpacing), 1, 2);
    benchmark::DoNotOptimize(fork);
  }
}
BENCHMARK(BM_ExtentMapForkAndAssign)->Apply(sizes);

// Every second block written: random overwrites where the packed form is in use.
void BM_ExtentMapAssignDense(benchmark::State& state) {
  constexpr std::uint64_t kBlocks = 1 << 22;
  std::vector<Extent> extents;
  for (std::uint64_t block = 0; block < kBlocks; ++block) {
    extents.push_back({block, 1, static_cast<std::uint32_t>(block % 2 + 1)});
  }
  ExtentMap map = ExtentMap::from_sorted(extents);
  std::mt19937_64 random(5);
  for (auto _ : state) {
    const std::uint64_t draw = random();
    map.assign(draw % kBlocks, 1, static_cast<std::uint32_t>(draw >> 40) % 2 + 1);
  }
  add_weight(state, map);
}
BENCHMARK(BM_ExtentMapAssignDense);

void BM_ExtentMapSequentialFill(benchmark::State& state) {
  ExtentMap map;
  std::uint64_t block = 0;
  for (auto _ : state) {
    map.assign(block, 1, static_cast<std::uint32_t>(block / 8 % 2 + 1));
    ++block;
  }
  add_weight(state, map);
}
BENCHMARK(BM_ExtentMapSequentialFill);

// One layer after a hole, a block at a time: a sequential write.
void BM_ExtentMapSequentialGrow(benchmark::State& state) {
  ExtentMap map = scattered(1000000, 1);
  std::uint64_t block = map.end_block() + 10;
  for (auto _ : state) map.assign(block++, 1, 2);
}
BENCHMARK(BM_ExtentMapSequentialGrow);

// A small index over a map of a million extents, as the youngest layers of a deep history are.
void BM_ApplySmallLayer(benchmark::State& state) {
  const ExtentMap map = scattered(1000000, 1);
  const ExtentMap index = scattered(static_cast<std::uint64_t>(state.range(0)), kIndexData);
  for (auto _ : state) {
    ExtentMap merged = map;
    apply_layer(merged, index, 7);
    benchmark::DoNotOptimize(merged);
  }
  state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK(BM_ApplySmallLayer)->Arg(1000)->Arg(100000)->Arg(1000000)->Unit(benchmark::kMillisecond);

// A big index on an empty map: the first layer of a volume.
void BM_ApplyFirstLayer(benchmark::State& state) {
  const ExtentMap index = scattered(static_cast<std::uint64_t>(state.range(0)), kIndexData);
  for (auto _ : state) {
    ExtentMap map;
    apply_layer(map, index, 7);
    benchmark::DoNotOptimize(map);
  }
  state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK(BM_ApplyFirstLayer)->Arg(1000000)->Unit(benchmark::kMillisecond);

void BM_EraseEverythingAtOnce(benchmark::State& state) {
  const ExtentMap map = scattered(1000000, 1);
  for (auto _ : state) {
    ExtentMap fork = map;
    fork.assign(1, 1000000 * kSpacing, 0);
    benchmark::DoNotOptimize(fork);
  }
}
BENCHMARK(BM_EraseEverythingAtOnce);

}  // namespace
}  // namespace voltree
