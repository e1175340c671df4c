// Store::replace: a volume takes over what another one holds.
#include "tests/blockstore/store_fixture.h"

namespace voltree {
namespace {

class StoreReplaceTest : public StoreTest {
 protected:
  Task<Status> replace(const std::string& volume, const std::string& source) {
    return store_->replace(volume, source, std::nullopt);
  }
  bool is_there(const std::string& name) { return runtime_->sync_wait(store_->info(name)).ok(); }
};

TEST_F(StoreReplaceTest, TheSourceIsTheVolumeFromThenOn) {
  create("a", kMiB);
  create("b", 2 * kMiB);
  fill("a", 0, kMiB, 'x');
  fill("b", 0, kMiB / 2, 'y');
  const auto open = device("a");
  ok(replace("a", "b"));
  EXPECT_FALSE(is_there("b"));
  EXPECT_EQ(open->size_bytes(), 2 * kMiB) << "who has it open stays";
  EXPECT_EQ(at("a", 0, kMiB / 2), 'y');
  EXPECT_EQ(at("a", kMiB / 2, 3 * kMiB / 2), 0) << "nothing is left of what it held";
  const std::uint64_t redirected = store_->counters().redirected_blocks;
  fill("a", 0, kMiB / 2, 'z');
  EXPECT_EQ(store_->counters().redirected_blocks, redirected) << "the layers are its own";
  kill_and_reopen();
  EXPECT_EQ(at("a", 0, kMiB / 2), 'z');
  EXPECT_EQ(at("a", kMiB / 2, 3 * kMiB / 2), 0);
  create("b", kMiB);
  EXPECT_EQ(at("b", 0, kMiB), 0) << "the source's name is free";
}

TEST_F(StoreReplaceTest, I3_ItIsDurableWhenTheCallReturns) {
  create("a", kMiB);
  create("b", kMiB);
  fill("a", 0, kMiB, 'x');
  fill("b", kMiB / 2, kMiB / 2, 'y');  // not flushed by anybody else
  ok(replace("a", "b"));
  power_cycle_and_reopen();
  EXPECT_EQ(at("a", 0, kMiB / 2), 0);
  EXPECT_EQ(at("a", kMiB / 2, kMiB / 2), 'y');
  EXPECT_FALSE(is_there("b"));
}

TEST_F(StoreReplaceTest, SnapshotsKeepTheirMeaning) {
  create("a", kMiB);
  fill("a", 0, kMiB, 'x');
  ok(store_->snapshot("a", "s"));
  ok(store_->clone("a@s", "child", 0));
  fill("a", 0, kMiB / 2, 'w');
  create("b", kMiB);
  fill("b", 0, kMiB, 'y');
  ok(replace("a", "b"));
  EXPECT_EQ(at("a@s", 0, kMiB), 'x');
  EXPECT_EQ(at("a", 0, kMiB), 'y');
  sound();
  ok(store_->revert("a", "s", {}));
  EXPECT_EQ(at("a", 0, kMiB), 'x');
  remove("a@s");
  remove("a");
  EXPECT_EQ(at("child", 0, kMiB), 'x');
  kill_and_reopen();
  EXPECT_EQ(at("child", 0, kMiB), 'x');
}

TEST_F(StoreReplaceTest, TheSourceMayBeAClone) {
  create("a", kMiB);
  create("base", kMiB);
  fill("a", 0, kMiB, 'x');
  fill("base", 0, kMiB, 'b');
  ok(store_->clone("base", "copy", 0));  // a junction above both
  ok(store_->clone("a", "other", 0));    // and one above these
  fill("copy", 0, kMiB / 2, 'c');
  ok(replace("a", "copy"));
  EXPECT_EQ(at("a", 0, kMiB / 2), 'c');
  EXPECT_EQ(at("a", kMiB / 2, kMiB / 2), 'b');
  EXPECT_EQ(at("other", 0, kMiB), 'x');
  sound();
  remove("base");
  remove("other");
  kill_and_reopen();
  EXPECT_EQ(at("a", 0, kMiB / 2), 'c');
  EXPECT_EQ(at("a", kMiB / 2, kMiB / 2), 'b');
}

TEST_F(StoreReplaceTest, LimitsStayAndOnesOfTheSourceGo) {
  create("a", kMiB);
  create("b", kMiB);
  QosLimits mine;
  QosLimits theirs;
  ok(mine.set("total_iops_sec", 500));
  ok(theirs.set("total_iops_sec", 7));
  ok(store_->set_qos("a", mine));
  ok(store_->set_qos("b", theirs));
  ok(replace("a", "b"));
  const auto info = runtime_->sync_wait(store_->qos("a"));
  ASSERT_TRUE(info.ok());
  EXPECT_EQ(info->limits.entries(), mine.entries());
  kill_and_reopen();
  EXPECT_EQ(runtime_->sync_wait(store_->qos("a"))->limits.entries(), mine.entries());
}

TEST_F(StoreReplaceTest, NotesStayAndGoWithTheirVolume) {
  const std::map<std::string, std::string> mine{{"attached-to:one", "here /dev/vdb"}, {"b", ""}};
  const auto notes = [this](const std::string& name) {
    const auto info = runtime_->sync_wait(store_->info(name));
    return info.ok() ? info->settings.notes : std::map<std::string, std::string>{{"no", "volume"}};
  };
  create("a", kMiB);
  create("b", kMiB);
  ok(store_->set_notes("a", mine));
  ok(store_->set_notes("b", {{"c", "d"}}));
  ok(store_->snapshot("a", "s"));
  EXPECT_TRUE(notes("a@s").empty());
  ok(replace("a", "b"));
  kill_and_reopen();
  EXPECT_EQ(notes("a"), mine);
  EXPECT_EQ(code(store_->set_notes("a", {{"", "no key"}})), Code::kInvalid);
  EXPECT_EQ(code(store_->set_notes("a", {{"k", std::string(1025, 'x')}})), Code::kInvalid);
  EXPECT_EQ(code(store_->set_notes("b", mine)), Code::kNotFound);
  EXPECT_EQ(notes("a"), mine);
  remove("a");  // its snapshot keeps the name
  remove("a@s");
  create("a", kMiB);
  EXPECT_TRUE(notes("a").empty());
  ok(store_->set_notes("a", mine));
  ok(store_->set_notes("a", {}));
  power_cycle_and_reopen();
  EXPECT_TRUE(notes("a").empty());
}

TEST_F(StoreReplaceTest, I8_WhatItHeldIsErased) {
  create("a", kMiB);
  create("b", kMiB);
  fill("a", 0, kMiB, 'x');
  ok(replace("a", "b"));
  EXPECT_EQ(runtime_->sync_wait(store_->erase_queue()).size(), 1u);
  ok(store_->wait_erased(0));
  EXPECT_TRUE(files_with('x').empty());
}

TEST_F(StoreReplaceTest, WhatIsInUseStaysAsItIs) {
  create("a", kMiB);
  create("b", kMiB);
  fill("a", 0, kMiB, 'x');
  fill("b", 0, kMiB, 'y');
  EXPECT_EQ(code(replace("a", "a")), Code::kInvalid);
  EXPECT_EQ(code(replace("a", "nobody")), Code::kNotFound);
  EXPECT_EQ(code(replace("nobody", "a")), Code::kNotFound);
  for (const char* name : {"a", "b"}) {
    const auto claimed = runtime_->sync_wait(store_->claim_device(name));
    ASSERT_TRUE(claimed.ok());
    EXPECT_EQ(code(replace("a", "b")), Code::kBusy) << name;
  }
  ok(store_->snapshot("b", "s"));
  EXPECT_EQ(code(replace("a", "b")), Code::kBusy);
  EXPECT_EQ(at("a", 0, kMiB), 'x');
  EXPECT_EQ(at("b", 0, kMiB), 'y');
  remove("b@s");
  ok(replace("a", "b"));
}

}  // namespace
}  // namespace voltree
