// The short form of `tools/crash flips`, and writes that went elsewhere, nowhere, or back.
#include <gtest/gtest.h>

#include "tests/crash/flip_run.h"

namespace voltree::crash {
namespace {

constexpr std::uint64_t kPageBits = SimInode::kPageBytes * 8;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr std::uint64_t kShare = 10;
#else
constexpr std::uint64_t kShare = 1;
#endif

const FlipStore::Target* target_of(const FlipStore& store, const std::string& kind) {
  for (const FlipStore::Target& target : store.targets()) {
    if (target.kind == kind) return &target;
  }
  return nullptr;
}

FlipCounts flip_some(FlipStore& store, const std::string& kind, std::uint64_t step) {
  FlipCounts counts{};
  for (const FlipStore::Target& target : store.targets()) {
    if (target.kind != kind) continue;
    for (std::uint64_t at = 0; at < target.pages.size() * kPageBits; at += step * kShare) {
      const std::uint64_t bit = target.pages[at / kPageBits] * kPageBits + at % kPageBits;
      if (bit >= target.length_bytes * 8) continue;
      FlipOutcome outcome = FlipOutcome::kNothing;
      const auto failure = kind.starts_with("layer") ? store.flip_open(target, bit, outcome)
                                                     : store.flip_closed(target, bit, outcome);
      EXPECT_FALSE(failure) << failure->what;
      ++counts[static_cast<std::size_t>(outcome)];
    }
  }
  return counts;
}

std::uint64_t of(const FlipCounts& counts, FlipOutcome outcome) {
  return counts[static_cast<std::size_t>(outcome)];
}

TEST(Flip, OfAStoreThatWasStoppedInOrder) {
  FlipStore store(true);
  ASSERT_FALSE(store.failure()) << *store.failure();
  const FlipCounts catalog = flip_some(store, "catalog.db", 499);
  EXPECT_EQ(of(catalog, FlipOutcome::kNothing), 0u);
  EXPECT_GT(of(catalog, FlipOutcome::kRefused), 400 / kShare);
  const FlipCounts layers = flip_some(store, "layer", 499);
  EXPECT_GT(of(layers, FlipOutcome::kDetected), 400 / kShare);
  const FlipCounts sums = flip_some(store, "layer.sum", 13);
  EXPECT_GT(of(sums, FlipOutcome::kDetected), 20 / kShare);
  flip_some(store, "run/inflight", 4999);
  const FlipCounts copy = flip_some(store, "lineage", 101);
  EXPECT_GT(of(copy, FlipOutcome::kMended), 100 / kShare);
  EXPECT_EQ(of(copy, FlipOutcome::kReported), 0u);
}

TEST(Flip, OfAStoreThatAPowerFailureStopped) {
  FlipStore store(false);
  ASSERT_FALSE(store.failure()) << *store.failure();
  flip_some(store, "catalog.db", 997);
  const FlipCounts log = flip_some(store, "catalog.db-wal", 499);
  EXPECT_GT(of(log, FlipOutcome::kRefused), 1000 / kShare);
  // The last commit, and what lies behind the end of the log.
  EXPECT_LT(of(log, FlipOutcome::kCutOff) + of(log, FlipOutcome::kNothing), 250u);
}

TEST(Flip, OfTheCopyThatALostCatalogIsRebuiltFrom) {
  for (const bool stopped_in_order : {true, false}) {
    FlipStore store(stopped_in_order);
    ASSERT_FALSE(store.failure()) << *store.failure();
    const FlipStore::Target* const copy = target_of(store, "lineage");
    ASSERT_NE(copy, nullptr);
    for (std::uint64_t bit = 0; bit < copy->length_bytes * 8; bit += 101 * kShare) {
      const auto failure = store.flip_rebuilt(bit);
      ASSERT_FALSE(failure) << failure->what;
    }
  }
}

// A block of any layer in the place of any other, of the same layer or another one.
TEST(Misplaced, BlocksAreNeverReadForOthers) {
  FlipStore store(true);
  ASSERT_FALSE(store.failure()) << *store.failure();
  std::vector<FlipStore::Page> blocks;
  for (const FlipStore::Target& target : store.targets()) {
    if (target.kind != "layer") continue;
    for (const std::uint64_t page : target.pages) blocks.push_back({&target, page});
  }
  FlipCounts counts{};
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    for (std::size_t j = 0; j < blocks.size(); j += kShare) {
      if (i == j) continue;
      FlipOutcome outcome = FlipOutcome::kNothing;
      const auto failure = store.misplace(blocks[i], blocks[j], outcome);
      ASSERT_FALSE(failure) << failure->what;
      ++counts[static_cast<std::size_t>(outcome)];
    }
  }
  EXPECT_GT(of(counts, FlipOutcome::kDetected), 80 / kShare);
}

TEST(Misplaced, PagesOfTheCatalogAreNeverReadForOthers) {
  FlipStore store(true);
  ASSERT_FALSE(store.failure()) << *store.failure();
  const FlipStore::Target& catalog = *target_of(store, "catalog.db");
  for (const std::uint64_t from : catalog.pages) {
    for (const std::uint64_t to : catalog.pages) {
      if (from == to) continue;
      FlipOutcome outcome = FlipOutcome::kNothing;
      const auto failure = store.misplace({&catalog, from}, {&catalog, to}, outcome);
      ASSERT_FALSE(failure) << failure->what;
      EXPECT_NE(outcome, FlipOutcome::kNothing) << from << " in the place of " << to;
    }
  }
}

// A store with a block that was written, flushed, and written again in place.
class RolledBack : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::vector<Op> ops{{Op::Kind::kCreate, "a", "", 0, 2},
                              {Op::Kind::kWriteFua, "a", "", 0, 2},
                              {Op::Kind::kReopen, "", "", 0, 0}};
    ASSERT_TRUE(machine_.create().ok());
    ASSERT_TRUE(machine_.start().ok());
    for (const Op& op : ops) ASSERT_TRUE(machine_.perform(op, 1).ok());
    old_data_ = bytes_of(kData, SimInode::kPageBytes);
    old_sum_ = bytes_of(kSum, sizeof(std::uint64_t));
    ASSERT_TRUE(machine_.perform({Op::Kind::kWriteFua, "a", "", 0, 1}, 2).ok());
    ASSERT_TRUE(machine_.perform({Op::Kind::kReopen, "", "", 0, 0}, 2).ok());
  }
  std::vector<std::byte> bytes_of(const std::string& path, std::size_t count) {
    std::vector<std::byte> bytes(count);
    (*world_.find(path))->read(bytes, 0);
    return bytes;
  }
  void put(const std::string& path, const std::vector<std::byte>& bytes) {
    const auto inode = world_.find(path);
    ASSERT_TRUE(
        world_.apply(**inode, {SimMutation::Kind::kWrite, 0, bytes.size(), bytes.data()}).ok());
  }
  Status read(std::vector<std::byte>& out) {
    auto device = machine_.wait(machine_.store()->open_device("a"));
    return machine_.wait((*device)->read(0, out));
  }
  bool sound() {
    return machine_.wait(machine_.store()->check({.data = true, .progress = {}}))->sound();
  }

  static constexpr const char* kData = "/store/layers/01/00000001";
  static constexpr const char* kSum = "/store/layers/01/00000001.sum";
  SimWorld world_;
  Machine machine_{world_, 1};
  std::vector<std::byte> old_data_;
  std::vector<std::byte> old_sum_;
  std::vector<std::byte> got_ = std::vector<std::byte>(SimInode::kPageBytes);
};

TEST_F(RolledBack, ALostWriteOfDataIsDetected) {
  put(kData, old_data_);
  EXPECT_EQ(read(got_).code(), Code::kDamaged);
  EXPECT_FALSE(sound());
}

TEST_F(RolledBack, ALostWriteOfASumIsDetected) {
  put(kSum, old_sum_);
  EXPECT_EQ(read(got_).code(), Code::kDamaged);
  EXPECT_FALSE(sound());
}

// What checksums beside the data can not tell: both are as they were, together.
TEST_F(RolledBack, ABlockThatWentBackWithItsSumIsNotDetected) {
  put(kData, old_data_);
  put(kSum, old_sum_);
  EXPECT_TRUE(read(got_).ok());
  EXPECT_EQ(got_, old_data_);
  EXPECT_TRUE(sound());
}

}  // namespace
}  // namespace voltree::crash
