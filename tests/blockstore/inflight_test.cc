// The table of in-place writes under way: what is in it when the daemon dies, and when it is full.
#include "blockstore/inflight.h"

#include <gmock/gmock.h>

#include "blockstore/runtime/sim_runtime.h"

namespace voltree {
namespace {

constexpr const char* kPath = "/inflight";

class InflightTableTest : public ::testing::Test {
 protected:
  std::unique_ptr<InflightTable> open() {
    auto table = InflightTable::open(runtime_.fs(), kPath);
    EXPECT_TRUE(table.ok()) << table.status().message();
    return std::move(table).value();
  }
  // Begins a write of block `node` of that node, and puts its slot into `slots` when it has one.
  void begin(InflightTable& table, NodeId node, std::vector<InflightTable::Slot>& slots) {
    spawn(runtime_.executor(0), take(table, node, slots));
    runtime_.run_until_idle();
  }
  static Task<void> take(InflightTable& table, NodeId node,
                         std::vector<InflightTable::Slot>& slots) {
    slots.push_back(co_await table.acquire({node, {node, 1}}));
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
    for (const NodeId node : {10, 11}) begin(*table, node, slots);
    // The daemon dies: nobody gives them back.
    for (InflightTable::Slot& slot : slots) new (&slot) InflightTable::Slot();
  }
  const auto table = open();
  std::vector<NodeId> nodes;
  for (const InflightTable::Entry& entry : table->left_behind()) {
    EXPECT_EQ(entry.range.first, entry.node);
    EXPECT_EQ(entry.range.count, 1u);
    nodes.push_back(entry.node);
  }
  EXPECT_THAT(nodes, ::testing::UnorderedElementsAre(10, 11));
  EXPECT_TRUE(table->failed());
  table->clear();
  EXPECT_TRUE(table->left_behind().empty());
  EXPECT_TRUE(open()->left_behind().empty());
}

// Who waits gets the slot that is given back, in the order in which they came, and no slot is lost.
TEST_F(InflightTableTest, AWriteWaitsUntilASlotIsFree) {
  const auto table = open();
  std::vector<InflightTable::Slot> slots;
  for (std::size_t i = 0; i < InflightTable::kSlots; ++i) begin(*table, 1000 + i, slots);
  ASSERT_EQ(slots.size(), InflightTable::kSlots);
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
  for (std::size_t i = 0; i < InflightTable::kSlots - 2; ++i) begin(*table, 1000 + i, slots);
  EXPECT_EQ(slots.size(), InflightTable::kSlots - 2);
  begin(*table, 3, late);
  EXPECT_EQ(late.size(), 2u);
  slots.pop_back();
  runtime_.run_until_idle();
  EXPECT_EQ(late.size(), 3u);
}

}  // namespace
}  // namespace voltree
