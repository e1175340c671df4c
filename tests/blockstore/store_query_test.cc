// What a store says of itself: lists, differences, extents, what a delete would free.
#include "blockstore/store.h"
#include "tests/blockstore/store_fixture.h"

namespace voltree {
namespace {

TEST_F(StoreTest, DiffNamesWhatDiffers) {
  create("a", kMiB);
  fill("a", 0, kMiB, 'x');
  ok(store_->snapshot("a", "s"));
  fill("a", 8 * kBlockBytes, 2 * kBlockBytes, 'y');
  ok(device("a")->discard(20 * kBlockBytes, kBlockBytes));
  const DiffPage page = *runtime_->sync_wait(store_->diff("a@s", "a"));
  const std::vector<ByteRange>& ranges = page.ranges;
  ASSERT_EQ(ranges.size(), 2u);
  EXPECT_EQ(page.range_count, 2u);
  EXPECT_EQ(page.changed_bytes, 3 * kBlockBytes);
  EXPECT_FALSE(page.next_from_bytes);
  EXPECT_EQ(ranges[0].offset_bytes, 8 * kBlockBytes);
  EXPECT_EQ(ranges[0].length_bytes, 2 * kBlockBytes);
  EXPECT_EQ(ranges[1].offset_bytes, 20 * kBlockBytes);
}

// What is written between two parts may join what the first one ended with to what follows it.
TEST_F(StoreTest, APartOfAListBeginsWithinARange) {
  create("a", kMiB);
  ok(store_->snapshot("a", "s"));
  fill("a", 2 * kBlockBytes, 4 * kBlockBytes, 'x');
  fill("a", 8 * kBlockBytes, kBlockBytes, 'x');
  const ListPart part{4 * kBlockBytes, 1};
  const DiffPage diff = *runtime_->sync_wait(store_->diff("a@s", "a", part));
  ASSERT_EQ(diff.ranges.size(), 1u);
  EXPECT_EQ(diff.ranges[0].offset_bytes, 4 * kBlockBytes);
  EXPECT_EQ(diff.ranges[0].length_bytes, 2 * kBlockBytes);
  EXPECT_EQ(diff.next_from_bytes, 8 * kBlockBytes);
  EXPECT_EQ(diff.range_count, 2u);
  EXPECT_EQ(diff.changed_bytes, 5 * kBlockBytes);
  const ExtentPage extents = *runtime_->sync_wait(store_->extents("a", part));
  ASSERT_EQ(extents.extents.size(), 1u);
  EXPECT_EQ(extents.extents[0].range.offset_bytes, 4 * kBlockBytes);
  EXPECT_EQ(extents.extents[0].range.length_bytes, 2 * kBlockBytes);
  EXPECT_EQ(extents.next_from_bytes, 8 * kBlockBytes);
  const ListPart behind{9 * kBlockBytes, 1};
  EXPECT_TRUE((*runtime_->sync_wait(store_->extents("a", behind))).extents.empty());
}

TEST_F(StoreTest, ExclusiveIsWhatADeleteFrees) {
  create("a", kMiB);
  fill("a", 0, kMiB, 'x');
  ok(store_->snapshot("a", "s1"));
  fill("a", 0, kMiB / 4, 'y');
  ok(store_->snapshot("a", "s2"));
  fill("a", 0, kMiB / 2, 'z');
  EXPECT_EQ(usage("a@s1").exclusive_bytes, kMiB / 4);
  EXPECT_EQ(usage("a@s2").exclusive_bytes, kMiB / 4);
  EXPECT_EQ(usage("a").exclusive_bytes, kMiB / 2);
  EXPECT_EQ(*runtime_->sync_wait(store_->exclusive_of({"a@s1", "a@s2"})), 3 * kMiB / 4);
  EXPECT_EQ(*runtime_->sync_wait(store_->exclusive_of({"a@s1", "a@s2", "a"})), 7 * kMiB / 4);
}

TEST_F(StoreTest, ListsAgree) {
  create("b", kMiB);
  create("a", kMiB);
  for (const char* name : {"3", "1", "2"}) ok(store_->snapshot("b", name));
  ok(store_->clone("b@1", "c", 0));
  ok(store_->clone("b@1", "d", 0));
  ok(store_->snapshot("a", "only"));
  ok(runtime_->sync_wait(store_->remove("a", {})).status());
  ok(runtime_->sync_wait(store_->remove("b@1", {})).status());  // a junction now
  std::vector<std::string> names;
  for (const NodeName& name : runtime_->sync_wait(store_->names())) names.push_back(name.str());
  EXPECT_EQ(names, (std::vector<std::string>{"a@only", "b", "b@2", "b@3", "c", "d"}));
  std::vector<std::string> listed;
  for (const NodeInfo& node : runtime_->sync_wait(store_->list())) {
    listed.push_back(node.name.str());
    const auto info = runtime_->sync_wait(store_->info(node.name.str()));
    ASSERT_TRUE(info.ok());
    EXPECT_EQ(info->depth, node.depth) << node.name.str();
  }
  EXPECT_EQ(listed, names);
  std::vector<std::string> snapshots;
  for (const NodeName& name : runtime_->sync_wait(store_->snapshots_of("b"))) {
    snapshots.push_back(name.str());
  }
  EXPECT_EQ(snapshots, (std::vector<std::string>{"b@2", "b@3"}));
  EXPECT_TRUE(runtime_->sync_wait(store_->snapshots_of("nothing")).empty());
}

}  // namespace
}  // namespace voltree
