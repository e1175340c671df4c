// The table of in-place writes under way: what is in it when the daemon dies, and when it is full.
#include "blockstore/inflight.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <span>

#include "blockstore/runtime/sim_runtime.h"

namespace voltree {
namespace {

constexpr const char* kPath = "/inflight";
constexpr std::size_t kSlots = InflightTable::kKinds[0].slots;  // of short writes

constexpr std::size_t kSlotCount = 16;  // bytes from its begin
constexpr std::ptrdiff_t kSlotSums = 32;

class InflightTableTest : public ::testing::Test {
 protected:
  std::unique_ptr<InflightTable> open() {
    auto table = InflightTable::open(runtime_.fs(), kPath);
    EXPECT_TRUE(table.ok()) << table.status().message();
    return std::move(table).value();
  }
  // Begins a write of block `node` of that node, and puts its slot into `slots` when it has one.
  void begin(InflightTable& table, NodeId node, std::vector<InflightTable::Slot>& slots,
             std::uint64_t blocks = 1) {
    spawn(runtime_.executor(0), take(table, node, slots, blocks));
    runtime_.run_until_idle();
  }
  static Task<void> take(InflightTable& table, NodeId node, std::vector<InflightTable::Slot>& slots,
                         std::uint64_t blocks) {
    const std::vector<std::uint64_t> sums(blocks, node * 1000);
    slots.push_back(co_await table.acquire(node, {node, blocks}, sums));
  }
  // The daemon dies while it writes.
  void leave_behind(NodeId node, std::uint64_t blocks) {
    std::vector<InflightTable::Slot> slots;
    begin(*open(), node, slots, blocks);
    for (InflightTable::Slot& slot : slots) new (&slot) InflightTable::Slot();
  }
  // In the file, of that node's only slot. docs/FORMAT.md has the layout.
  void flip_bits_of_slot(NodeId node, std::size_t offset_bytes, std::byte mask) {
    auto file = runtime_.fs().open(kPath, {});
    ASSERT_TRUE(file.ok());
    std::vector<std::byte> bytes(*(*file)->size_bytes());
    ASSERT_TRUE((*file)->read_sync(bytes, 0).ok());
    const std::uint64_t sum = node * 1000;
    const auto wanted = std::as_bytes(std::span(&sum, 1));
    const auto found = std::search(bytes.begin(), bytes.end(), wanted.begin(), wanted.end());
    ASSERT_NE(found, bytes.end());
    *(found - kSlotSums + offset_bytes) ^= mask;
    ASSERT_TRUE((*file)->write_sync(bytes, 0).ok());
  }

  SimWorld world_;
  SimRuntime runtime_{world_, SimOptions{}};
};

TEST_F(InflightTableTest, WhatIsUnderWayIsThereForTheNextOwner) {
  std::vector<InflightTable::Slot> slots;
  {
    const auto table = open();
    EXPECT_TRUE(table->left_behind().empty());
    for (const NodeId node : {7, 8, 9}) begin(*table, node, slots);
    slots[1].release();
    EXPECT_FALSE(table->failed());
    table->set_failed(true);
    slots.clear();
    begin(*table, 10, slots);
    begin(*table, 11, slots, InflightTable::kBlocksMax);
    // The daemon dies: nobody gives them back.
    for (InflightTable::Slot& slot : slots) new (&slot) InflightTable::Slot();
  }
  const auto table = open();
  std::vector<NodeId> nodes;
  for (const InflightTable::Entry& entry : table->left_behind()) {
    EXPECT_EQ(entry.range.first, entry.node);
    EXPECT_EQ(entry.range.count, entry.node == 11 ? 256u : 1u);
    EXPECT_EQ(entry.sums, std::vector<std::uint64_t>(entry.range.count, entry.node * 1000));
    nodes.push_back(entry.node);
  }
  EXPECT_THAT(nodes, ::testing::UnorderedElementsAre(10, 11));
  EXPECT_TRUE(table->failed());
  table->clear();
  EXPECT_TRUE(table->left_behind().empty());
  EXPECT_TRUE(open()->left_behind().empty());
}

// After a host that stopped any of its pages may be old.
TEST_F(InflightTableTest, SumsOfASlotThatIsNotWholeAreNotBelieved) {
  leave_behind(7, 3);
  flip_bits_of_slot(7, kSlotSums, std::byte{1});
  const auto table = open();
  ASSERT_EQ(table->left_behind().size(), 1u);
  EXPECT_EQ(table->left_behind()[0].node, 7u);
  EXPECT_EQ(table->left_behind()[0].range.count, 3u);
  EXPECT_TRUE(table->left_behind()[0].sums.empty());
}

TEST_F(InflightTableTest, ASlotWithoutBlocksIsNothing) {
  leave_behind(7, 3);
  flip_bits_of_slot(7, kSlotCount, std::byte{3});
  EXPECT_TRUE(open()->left_behind().empty());
}

TEST_F(InflightTableTest, ATableThatNobodyCanReadIsDoubted) {
  {
    auto file = runtime_.fs().open(kPath, {.create = true});
    ASSERT_TRUE(file.ok());
    const std::vector<std::byte> bytes(1 << 17, std::byte{7});
    ASSERT_TRUE((*file)->write_sync(bytes, 0).ok());
  }
  EXPECT_TRUE(open()->failed());
  EXPECT_TRUE(open()->failed());
  EXPECT_TRUE(open()->left_behind().empty());
  open()->set_failed(false);
  EXPECT_FALSE(open()->failed());
}

// Who waits gets the slot that is given back, in the order in which they came, and no slot is lost.
TEST_F(InflightTableTest, AWriteWaitsUntilASlotIsFree) {
  const auto table = open();
  std::vector<InflightTable::Slot> slots;
  for (std::size_t i = 0; i < kSlots; ++i) begin(*table, 1000 + i, slots);
  ASSERT_EQ(slots.size(), kSlots);
  std::vector<InflightTable::Slot> late;
  begin(*table, 1, late);
  begin(*table, 2, late);
  EXPECT_EQ(late.size(), 0u);
  slots[5].release();
  runtime_.run_until_idle();
  EXPECT_EQ(late.size(), 1u);
  slots.clear();
  runtime_.run_until_idle();
  ASSERT_EQ(late.size(), 2u);
  const auto seen = open();  // what the next owner would find
  std::vector<NodeId> nodes;
  for (const InflightTable::Entry& entry : seen->left_behind()) nodes.push_back(entry.node);
  EXPECT_THAT(nodes, ::testing::UnorderedElementsAre(1, 2));
  for (std::size_t i = 0; i < kSlots - 2; ++i) begin(*table, 1000 + i, slots);
  EXPECT_EQ(slots.size(), kSlots - 2);
  begin(*table, 3, late);
  EXPECT_EQ(late.size(), 2u);
  begin(*table, 4, late, 9);  // a long one waits for no short one
  EXPECT_EQ(late.size(), 3u);
  slots.pop_back();
  runtime_.run_until_idle();
  EXPECT_EQ(late.size(), 4u);
}

}  // namespace
}  // namespace voltree
