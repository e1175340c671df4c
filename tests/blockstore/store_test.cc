// What a store promises, one behaviour a test. The invariants I1..I10 are DESIGN section 4's.
#include "blockstore/store.h"

#include <algorithm>

#include "blockstore/base/checksum.h"
#include "tests/blockstore/store_fixture.h"

namespace voltree {
namespace {

TEST_F(StoreTest, NewVolumeReadsZerosAndTakesNoSpace) {
  create("a", 4 * kMiB);
  EXPECT_EQ(at("a", 0, 4 * kMiB), 0);
  EXPECT_EQ(usage("a").referenced_bytes, 0u);
  EXPECT_EQ(pool().layers, 0u);
}

TEST_F(StoreTest, NamesAreCheckedAndTakenOnce) {
  create("a", kMiB);
  EXPECT_EQ(code(store_->create_volume("a", kMiB, {})), Code::kExists);
  for (const char* bad : {"", ".", "..", "a/b", "a@b", "a\nb", "-a"}) {
    EXPECT_EQ(code(store_->create_volume(bad, kMiB, {})), Code::kInvalid) << bad;
  }
  EXPECT_EQ(code(store_->create_volume(std::string(256, 'x'), kMiB, {})), Code::kInvalid);
  EXPECT_EQ(code(store_->create_volume("b", 0, {})), Code::kInvalid);
  EXPECT_EQ(code(store_->create_volume("b", 1000, {})), Code::kInvalid);
  EXPECT_EQ(code(store_->create_volume("b", std::uint64_t{32} << 40, {})), Code::kTooLarge);
  EXPECT_EQ(code(store_->snapshot("nobody", "s")), Code::kNotFound);
}

TEST_F(StoreTest, OwnBlocksAreOverwrittenInPlace) {
  create("a", kMiB);
  fill("a", 0, kMiB, 'x');
  const std::uint64_t redirected = store_->counters().redirected_blocks;
  fill("a", 0, kMiB, 'y');
  EXPECT_EQ(store_->counters().redirected_blocks, redirected);
  EXPECT_EQ(pool().layers, 1u);
  EXPECT_EQ(at("a", 0, kMiB), 'y');
}

// A slot of the in-flight table holds 1 MiB.
TEST_F(StoreTest, LongWritesInPlaceAreWholeAlsoWhereSomeIsNew) {
  constexpr std::uint64_t kLong = 4 * kMiB;
  create("a", kLong);
  fill("a", kMiB, 2 * kMiB + 5 * kBlockBytes, 'x');
  Bytes data(kLong);
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::byte>(i / 512 * 7);
  ok(device("a")->write(0, data, {}));
  Bytes got(kLong);
  ok(device("a")->read(0, got));
  EXPECT_TRUE(got == data);
  kill_and_reopen();
  ok(device("a")->read(0, got));
  EXPECT_TRUE(got == data);
  EXPECT_EQ(pool().layers, 1u);
}

TEST_F(StoreTest, UnalignedWritesKeepWhatIsAround) {
  create("a", kMiB);
  fill("a", 0, 3 * kBlockBytes, 'x');
  fill("a", 100, 10, 'y');
  fill("a", kBlockBytes - 5, 2 * kBlockBytes + 10, 'z');
  EXPECT_EQ(at("a", 0, 100), 'x');
  EXPECT_EQ(at("a", 100, 10), 'y');
  EXPECT_EQ(at("a", 110, kBlockBytes - 5 - 110), 'x');
  EXPECT_EQ(at("a", kBlockBytes - 5, 2 * kBlockBytes + 10), 'z');
  EXPECT_EQ(at("a", 3 * kBlockBytes + 5, 100), 0);
}

TEST_F(StoreTest, I4_SnapshotKeepsWhatWasThere) {
  create("a", kMiB);
  fill("a", 0, kMiB, 'x');
  ok(store_->snapshot("a", "s"));
  fill("a", 0, kMiB / 2, 'y');
  EXPECT_EQ(at("a@s", 0, kMiB), 'x');
  EXPECT_EQ(at("a", 0, kMiB / 2), 'y');
  EXPECT_EQ(at("a", kMiB / 2, kMiB / 2), 'x');
  EXPECT_EQ(code(device("a@s")->write(0, Bytes(kBlockBytes), {})), Code::kReadOnly);
}

TEST_F(StoreTest, I4_AGroupIsOneInstant) {
  create("a", kMiB);
  create("b", 2 * kMiB);
  create("untouched", kMiB);
  fill("b", 0, kMiB, 'y');
  kill_and_reopen();  // b is not open while the group is taken
  fill("a", 0, kMiB, 'x');
  ok(store_->snapshot_group({"b@s", "untouched@s", "a@other"}));
  fill("a", 0, kMiB / 2, '1');
  fill("b", 0, kMiB / 2, '2');
  kill_and_reopen();
  EXPECT_EQ(at("a@other", 0, kMiB), 'x');
  EXPECT_EQ(at("b@s", 0, kMiB), 'y');
  EXPECT_EQ(at("b@s", kMiB, kMiB), 0);
  EXPECT_EQ(at("untouched@s", 0, kMiB), 0);
  EXPECT_EQ(at("a", 0, kMiB / 2), '1');
  EXPECT_EQ(at("b", 0, kMiB / 2), '2');
  const auto first = runtime_->sync_wait(store_->info("a@other"));
  const auto second = runtime_->sync_wait(store_->info("b@s"));
  EXPECT_EQ(first->created_ns, second->created_ns);
}

TEST_F(StoreTest, I3_AGroupIsRefusedAsAWhole) {
  create("a", kMiB);
  create("b", kMiB);
  ok(store_->snapshot("b", "taken"));
  const auto refuse = [this](std::vector<std::string> names) {
    return code(store_->snapshot_group(std::move(names)));
  };
  EXPECT_EQ(refuse({}), Code::kInvalid);
  EXPECT_EQ(refuse({"a@s", "b"}), Code::kInvalid);
  EXPECT_EQ(refuse({"a@s", "b@"}), Code::kInvalid);
  EXPECT_EQ(refuse({"a@s", "b@s", "a@t"}), Code::kInvalid);
  EXPECT_EQ(refuse({"a@s", "nobody@s"}), Code::kNotFound);
  EXPECT_EQ(refuse({"a@s", "b@taken"}), Code::kExists);
  EXPECT_EQ(runtime_->sync_wait(store_->list()).size(), 3u);
}

TEST_F(StoreTest, CloneOfAVolumeAndOfASnapshotGoTheirOwnWays) {
  create("a", kMiB);
  fill("a", 0, kMiB, 'x');
  ok(store_->snapshot("a", "s"));
  ok(store_->clone("a@s", "b", 0));
  ok(store_->clone("a", "c", 2 * kMiB));
  fill("a", 0, kBlockBytes, '1');
  fill("b", 0, kBlockBytes, '2');
  fill("c", 0, kBlockBytes, '3');
  EXPECT_EQ(at("a", 0), '1');
  EXPECT_EQ(at("b", 0), '2');
  EXPECT_EQ(at("c", 0), '3');
  EXPECT_EQ(at("a@s", 0), 'x');
  EXPECT_EQ(at("c", kMiB, kMiB), 0);
  EXPECT_EQ(code(store_->clone("a", "d", kMiB / 2)), Code::kInvalid);
}

TEST_F(StoreTest, ClonesOfAnUntouchedCloneNeedNoJunction) {
  create("a", kMiB);
  fill("a", 0, kMiB, 'x');
  ok(store_->snapshot("a", "s"));
  for (int i = 0; i < 10; ++i)
    ok(store_->clone(i == 0 ? "a@s" : "c" + std::to_string(i - 1), "c" + std::to_string(i), 0));
  const auto nodes = runtime_->sync_wait(store_->list(true));
  EXPECT_TRUE(std::none_of(nodes.begin(), nodes.end(),
                           [](const NodeInfo& node) { return node.kind == NodeKind::kJunction; }));
}

TEST_F(StoreTest, DeleteInAnyOrderKeepsTheOthers) {
  create("a", kMiB);
  for (char c = '1'; c <= '5'; ++c) {
    fill("a", static_cast<std::uint64_t>(c - '1') * kBlockBytes, kBlockBytes, c);
    ok(store_->snapshot("a", std::string(1, c)));
  }
  ok(store_->clone("a@3", "b", 0));
  for (const char* name : {"a@2", "a@4", "a", "a@1", "a@3"}) remove(name);
  EXPECT_EQ(at("b", 2 * kBlockBytes), '3');
  EXPECT_EQ(at("b", 3 * kBlockBytes), 0);
  EXPECT_EQ(at("a@5", 4 * kBlockBytes), '5');
  remove("b");
  remove("a@5");
  ok(store_->wait_erased(0));
  EXPECT_EQ(pool().allocated_bytes, 0u);
}

TEST_F(StoreTest, ADeletedVolumeLeavesItsSnapshotsAndTheirName) {
  create("a", kMiB);
  fill("a", 0, kMiB, 'x');
  ok(store_->snapshot("a", "s"));
  remove("a");
  EXPECT_EQ(at("a@s", 0, kMiB), 'x');
  EXPECT_EQ(code(store_->create_volume("a", kMiB, {})), Code::kExists);
  remove("a@s");
  create("a", kMiB);
  EXPECT_EQ(at("a", 0, kMiB), 0);
}

TEST_F(StoreTest, DeleteUnlessThereAreSnapshots) {
  const auto unless = [this](const std::string& name) {
    DeleteOptions options;
    options.unless_snapshots = true;
    return runtime_->sync_wait(store_->remove(name, options)).status();
  };
  create("a", kMiB);
  create("b", kMiB);  // a neighbour's snapshots are not its own
  ok(store_->snapshot("b", "s"));
  ok(unless("a"));
  const Status refused = unless("b");
  EXPECT_EQ(refused.code(), Code::kBusy);
  EXPECT_NE(refused.message().find("the snapshot \"s\""), std::string_view::npos)
      << refused.message();
  EXPECT_EQ(at("b", 0), 0) << "refused, it is as it was";
  remove("b");
  EXPECT_EQ(unless("b").code(), Code::kBusy) << "the name is still in use";
  ok(unless("b@s"));
  EXPECT_EQ(unless("b").code(), Code::kNotFound);
}

TEST_F(StoreTest, RevertRestoresTheSnapshotSizeIncluded) {
  create("a", kMiB);
  fill("a", 0, kMiB, 'x');
  ok(store_->snapshot("a", "s"));
  ok(store_->resize("a", 2 * kMiB, false));
  fill("a", 0, 2 * kMiB, 'y');
  ok(store_->revert("a", "s", {.keep_as = "before"}));
  EXPECT_EQ(device("a")->size_bytes(), kMiB);
  EXPECT_EQ(at("a", 0, kMiB), 'x');
  EXPECT_EQ(at("a@before", 0, 2 * kMiB), 'y');
  create("b", kMiB);
  EXPECT_EQ(code(store_->revert("b", "s", {})), Code::kNotFound);
}

TEST_F(StoreTest, ShrinkThenGrowReadsZeros) {
  create("a", kMiB);
  fill("a", 0, kMiB, 'x');
  ok(store_->snapshot("a", "s"));
  fill("a", kMiB / 2, kMiB / 2, 'y');
  EXPECT_EQ(code(store_->resize("a", 1536, false)), Code::kInvalid);
  ok(store_->resize("a", 1536, true));
  ok(store_->resize("a", kMiB, false));
  EXPECT_EQ(at("a", 0, 1536), 'x');
  EXPECT_EQ(at("a", 1536, kMiB - 1536), 0);
  kill_and_reopen();
  EXPECT_EQ(at("a", 1536, kMiB - 1536), 0);
  EXPECT_EQ(at("a@s", 0, kMiB), 'x');
}

TEST_F(StoreTest, AVolumeGrowsAgainAndAgainBeyondWhatItsLayerReserved) {
  create("a", kMiB);
  for (std::uint64_t size = kMiB; size < (std::uint64_t{1} << 42); size *= 7) {
    ok(store_->resize("a", size, false));
    fill("a", size - kBlockBytes, kBlockBytes, 'x');
    EXPECT_EQ(at("a", size - kBlockBytes), 'x');
  }
  EXPECT_GT(pool().layers, 1u);
}

TEST_F(StoreTest, SweepFreesWhatEveryCloneHasOverwritten) {
  create("a", kMiB);
  fill("a", 0, kMiB, 'x');
  ok(store_->clone("a", "b", 0));
  fill("a", 0, kMiB, 'y');
  fill("b", 0, kMiB, 'z');
  EXPECT_FALSE(files_with('x').empty());
  ok(store_->sweep());
  ok(store_->wait_erased(0));
  EXPECT_TRUE(files_with('x').empty());
  EXPECT_EQ(at("a", 0, kMiB), 'y');
  EXPECT_EQ(at("b", 0, kMiB), 'z');
}

TEST_F(StoreTest, I3_ForksAndDeletesAreThereAfterTheDaemonDied) {
  create("a", kMiB);
  fill("a", 0, kMiB, 'x');
  ok(store_->snapshot("a", "s"));
  ok(store_->clone("a@s", "b", 0));
  ok(store_->rename("a", "c"));
  power_cycle_and_reopen();
  EXPECT_EQ(at("c@s", 0, kMiB), 'x');
  EXPECT_EQ(at("b", 0, kMiB), 'x');
  remove("c@s");
  kill_and_reopen();
  EXPECT_EQ(code(store_->rename("c@s", "c@t")), Code::kNotFound);
}

TEST_F(StoreTest, I5_AcknowledgedWritesSurviveTheDaemonUnflushed) {
  create("a", kMiB);
  fill("a", 0, kMiB, 'x');
  ok(store_->snapshot("a", "s"));
  fill("a", 0, kMiB / 4, 'y');
  ok(device("a")->discard(kMiB / 2, kMiB / 4));
  fill("a", kMiB - 100, 50, 'z');
  kill_and_reopen();
  EXPECT_EQ(at("a", 0, kMiB / 4), 'y');
  EXPECT_EQ(at("a", kMiB / 4, kMiB / 4), 'x');
  EXPECT_EQ(at("a", kMiB / 2, kMiB / 4), 0);
  EXPECT_EQ(at("a", kMiB - 100, 50), 'z');
  EXPECT_GT(store_->counters().recovered_blocks, 0u);
}

// Large enough that the sums give their pages back, so that nothing of a block is left to be seen.
TEST_F(StoreTest, I5_LargeDiscardsSurviveTheDaemonUnflushed) {
  create("a", 8 * kMiB);
  fill("a", 0, 8 * kMiB, 'x');
  ok(device("a")->flush());
  ok(device("a")->discard(0, 6 * kMiB));
  kill_and_reopen();
  EXPECT_EQ(at("a", 0, 6 * kMiB), 0);
  EXPECT_EQ(at("a", 6 * kMiB, 2 * kMiB), 'x');
}

TEST_F(StoreTest, I1_I2_AfterPowerLossExactlyTheFlushedBlocksArePresent) {
  create("a", kMiB);
  fill("a", 0, kMiB / 4, 'x');
  ok(device("a")->flush());
  fill("a", kMiB / 2, kMiB / 4, 'y');  // not flushed: its data lies in the layer, no row says so
  power_cycle_and_reopen();
  EXPECT_EQ(at("a", 0, kMiB / 4), 'x');
  EXPECT_EQ(at("a", kMiB / 2, kMiB / 4), 0);
}

TEST_F(StoreTest, I2_FuaCoversItsOwnWrite) {
  create("a", kMiB);
  ok(device("a")->write(0, Bytes(kBlockBytes, std::byte{'f'}), {.fua = true}));
  power_cycle_and_reopen();
  EXPECT_EQ(at("a", 0), 'f');
}

TEST_F(StoreTest, I6_AnUnflushedOverwriteIsOldOrNewAfterPowerLoss) {
  create("a", kMiB);
  fill("a", 0, kMiB, 'x');
  ok(device("a")->flush());
  ok(store_->settle());
  fill("a", 0, kBlockBytes, 'y');
  power_cycle_and_reopen();
  const char got = at("a", 0);
  EXPECT_TRUE(got == 'x' || got == 'y') << got;
}

TEST_F(StoreTest, I6_AStaleSumInADirtyRegionIsStampedAnewAfterPowerLoss) {
  create("a", kMiB);
  fill("a", 0, kMiB, 'x');
  ok(device("a")->flush());  // the flush marks the region dirty with the presence
  store_.reset();
  const std::string path = "/store/layers/01/00000001";
  Bytes changed(kBlockBytes, std::byte{'y'});  // data of an overwrite that landed; its sum did not
  ok((*runtime_->fs().open(path, {}))->write_sync(changed, 0));
  world_.reboot();
  boot();
  open();
  EXPECT_EQ(at("a", 0), 'y');
  EXPECT_EQ(store_->counters().restamped_blocks, 1u);
}

TEST_F(StoreTest, I7_NoByteOfOneVolumeShowsInAnother) {
  create("a", kMiB);
  fill("a", 0, kMiB, 'x');
  remove("a");
  create("b", kMiB);
  EXPECT_EQ(at("b", 0, kMiB), 0);
  fill("b", 100, 10, 'y');
  EXPECT_EQ(at("b", 0, 100), 0);
  EXPECT_EQ(at("b", 110, kMiB - 110), 0);
}

TEST_F(StoreTest, I8_ErasedMeansGoneAndCertified) {
  create("a", kMiB);
  fill("a", 0, kMiB, 'x');
  ok(store_->snapshot("a", "s"));
  fill("a", 0, kMiB / 2, 'y');
  remove("a@s");
  EXPECT_FALSE(files_with('x').empty());
  ok(store_->wait_erased(0));
  EXPECT_EQ(at("a", kMiB / 2, kMiB / 2), 'x');
  remove("a");
  ok(store_->wait_erased(0));
  EXPECT_TRUE(files_with('x').empty());
  EXPECT_TRUE(files_with('y').empty());
  const auto texts = *runtime_->sync_wait(store_->certificates(0, 10));
  ASSERT_EQ(texts.size(), 2u);
  EXPECT_NE(texts[0].find("\"what\":\"snapshot a@s\""), std::string::npos) << texts[0];
  EXPECT_NE(texts[0].find("\"verified_bytes\":524288"), std::string::npos) << texts[0];
}

TEST_F(StoreTest, I8_ALayerIsOverwrittenBeforeItIsUnlinked) {
  create("a", kMiB);
  fill("a", 0, kMiB, 'x');
  const auto inode = *world_.find("/store/layers/01/00000001");  // what a disk would still hold
  remove("a");
  ok(store_->wait_erased(0));
  EXPECT_FALSE(world_.find("/store/layers/01/00000001").ok());
  Bytes left(kMiB);
  inode->read(left, 0);
  EXPECT_EQ(left, Bytes(kMiB));
  const auto texts = runtime_->sync_wait(store_->certificates(0, 10));
  EXPECT_NE(texts->at(0).find("\"verified_bytes\":1048576"), std::string::npos) << texts->at(0);
}

TEST_F(StoreTest, I8_OnlyTheStartIsOverwrittenWhenItIsAskedSo) {
  constexpr std::uint64_t kStartBytes = 257 * 1024, kOverwrittenBytes = 260 * 1024;
  create("a", kMiB);
  fill("a", 0, kMiB, 'x');
  const auto inode = *world_.find("/store/layers/01/00000001");
  DeleteOptions options;
  options.erase_first_bytes = kStartBytes;
  options.erase_io_priority = *parse_io_priority("idle");
  remove("a", options);
  kill_and_reopen();  // the options are in the queue as well
  const auto queue = runtime_->sync_wait(store_->erase_queue());
  ASSERT_EQ(queue.size(), 1u);
  EXPECT_EQ(queue[0].request.first_bytes, kStartBytes);
  EXPECT_EQ(io_priority_name(queue[0].request.io_priority), "idle");
  ok(store_->wait_erased(0));
  EXPECT_FALSE(world_.find("/store/layers/01/00000001").ok());
  Bytes left(kMiB), expected(kMiB, std::byte{'x'});
  std::fill_n(expected.begin(), kOverwrittenBytes, std::byte{0});
  inode->read(left, 0);
  EXPECT_EQ(left, expected);
  const std::string text = runtime_->sync_wait(store_->certificates(0, 10))->at(0);
  EXPECT_NE(text.find(fmt::format("\"overwritten_below_bytes\":{},", kStartBytes)),
            std::string::npos)
      << text;
  EXPECT_NE(
      text.find(fmt::format("\"erased_bytes\":{},\"verified_bytes\":{}", kMiB, kOverwrittenBytes)),
      std::string::npos)
      << text;
}

// A write that the host has lost: nothing is certified, and the layer stays until it is gone for
// certain.
TEST_F(StoreTest, I8_WhatDoesNotReadBackAsWrittenIsNotErased) {
  create("a", kMiB);
  fill("a", 0, kMiB, 'x');
  const std::string path = "/store/layers/01/00000001";
  remove("a");
  const Bytes old(kBlockBytes, std::byte{'x'});
  world_.set_fault([&](const SimCall& call) -> SimFault {
    if (call.act != SimAct::kSync || call.path != path) return {};
    const SimMutation lost{SimMutation::Kind::kWrite, kMiB / 2, old.size(), old.data()};
    return {world_.apply(**world_.find(path), lost)};
  });
  EXPECT_EQ(code(store_->wait_erased(0)), Code::kIoError);
  world_.set_fault(nullptr);
  EXPECT_EQ(runtime_->sync_wait(store_->certificates(0, 10))->size(), 0u);
  EXPECT_EQ(runtime_->sync_wait(store_->erase_queue()).size(), 1u);
  EXPECT_FALSE(files_with('x').empty());
  ok(store_->wait_erased(0));
  EXPECT_EQ(runtime_->sync_wait(store_->certificates(0, 10))->size(), 1u);
  EXPECT_TRUE(files_with('x').empty());
}

TEST_F(StoreTest, I8_TheQueueResumesAfterTheDaemonDied) {
  create("a", kMiB);
  fill("a", 0, kMiB, 'x');
  remove("a");
  kill_and_reopen();
  EXPECT_FALSE(files_with('x').empty());
  EXPECT_EQ(runtime_->sync_wait(store_->erase_queue()).size(), 1u);
  ok(store_->wait_erased(0));
  EXPECT_TRUE(files_with('x').empty());
}

TEST_F(StoreTest, ErasePoliciesAreTheDeletesTheVolumesTheStores) {
  ok(store_->set_erase(ErasePolicy::kDiscard, 0));
  ok(store_->create_volume("a", kMiB, ErasePolicy::kRandom));
  create("b", kMiB);
  fill("a", 0, kMiB, 'x');
  fill("b", 0, kMiB, 'x');
  remove("a");
  remove("b");
  ok(store_->wait_erased(0));
  const auto texts = *runtime_->sync_wait(store_->certificates(0, 10));
  ASSERT_EQ(texts.size(), 2u);
  EXPECT_NE(texts[0].find("\"policy\":\"random\""), std::string::npos) << texts[0];
  EXPECT_NE(texts[1].find("\"policy\":\"discard\""), std::string::npos) << texts[1];
}

TEST_F(StoreTest, I9_ADamagedBlockIsAnErrorAndIsNeverLaundered) {
  create("a", kMiB);
  fill("a", 0, kMiB, 'x');
  ok(store_->snapshot("a", "s"));
  ok(store_->settle());
  auto file = runtime_->fs().open("/store/layers/01/00000001", {});
  Bytes flipped(1, std::byte{'q'});
  ok((*file)->write_sync(flipped, 5 * kBlockBytes + 17));
  Bytes got(kBlockBytes);
  for (const char* name : {"a", "a@s"}) {
    EXPECT_EQ(code(device(name)->read(5 * kBlockBytes, got)), Code::kDamaged);
    ok(device(name)->read(4 * kBlockBytes, got));
  }
  // A partial write would have to take the rest of the block along: refused. A whole one heals.
  EXPECT_EQ(code(device("a")->write(5 * kBlockBytes + 1, Bytes(10), {})), Code::kDamaged);
  ok(store_->clone("a@s", "b", 0));
  EXPECT_EQ(code(device("b")->read(5 * kBlockBytes, got)), Code::kDamaged);
  fill("a", 5 * kBlockBytes, kBlockBytes, 'y');
  EXPECT_EQ(at("a", 5 * kBlockBytes), 'y');
  const auto report = runtime_->sync_wait(store_->check({.data = true, .progress = {}}));
  EXPECT_FALSE(report->sound());
  ASSERT_EQ(report->findings.size(), 1u);
  EXPECT_NE(report->findings[0].what.find("block 5"), std::string::npos);
  store_.reset();  // the damage is the test's own: no check at the end
}

TEST_F(StoreTest, WritesOnAFullHostFailAndDeletesFreeSpace) {
  create("a", 8 * kMiB);
  fill("a", 0, kMiB, 'x');
  world_.set_capacity(world_.used_bytes() + kMiB);
  Code last = Code::kOk;
  for (std::uint64_t at = kMiB; at < 8 * kMiB && last == Code::kOk; at += kBlockBytes) {
    last = code(device("a")->write(at, Bytes(kBlockBytes, std::byte{'y'}), {}));
  }
  EXPECT_EQ(last, Code::kNoSpace);
  EXPECT_EQ(at("a", 0, kMiB), 'x');
  const auto removed = runtime_->sync_wait(store_->remove("a", {}));
  ASSERT_TRUE(removed.ok()) << removed.status().message();
  ok(store_->wait_erased(0));
  create("b", 8 * kMiB);
  fill("b", 0, kMiB, 'z');
}

TEST_F(StoreTest, AttachedVolumesAreBusy) {
  create("a", kMiB);
  ok(store_->snapshot("a", "s"));
  AttachmentRow row;
  row.target = "loop";
  const auto id = runtime_->sync_wait(store_->add_attachment("a", row));
  ASSERT_TRUE(id.ok());
  EXPECT_EQ(runtime_->sync_wait(store_->remove("a", {})).status().code(), Code::kBusy);
  EXPECT_EQ(code(store_->revert("a", "s", {})), Code::kBusy);
  EXPECT_EQ(code(store_->resize("a", kMiB / 2, true)), Code::kBusy);
  ok(store_->resize("a", 2 * kMiB, false));
  kill_and_reopen();
  EXPECT_EQ(runtime_->sync_wait(store_->attachments()).size(), 1u);
  ok(store_->remove_attachment(*id));
  remove("a");
}

TEST_F(StoreTest, AnOpenDeviceOfADeletedVolumeIsGone) {
  create("a", kMiB);
  fill("a", 0, kMiB, 'x');
  const auto open = device("a");
  remove("a");
  Bytes got(kBlockBytes);
  EXPECT_EQ(code(open->read(0, got)), Code::kGone);
  EXPECT_EQ(code(open->write(0, got, {})), Code::kGone);
  EXPECT_EQ(code(open->flush()), Code::kGone);
}

TEST_F(StoreTest, AThousandAncestorsOpenFromASavedMap) {
  create("a", 4 * kMiB);
  for (std::uint64_t i = 0; i < 1000; ++i) {
    fill("a", i * kBlockBytes, kBlockBytes, static_cast<char>('a' + i % 26));
    ok(store_->snapshot("a", "s" + std::to_string(i)));
  }
  ok(store_->close());
  store_.reset();
  boot();
  open();
  EXPECT_EQ(at("a", 999 * kBlockBytes),
            static_cast<char>('a' + 999 % 26));  // saves the parent's map
  kill_and_reopen();
  for (std::uint64_t i = 0; i < 1000; i += 37) {
    EXPECT_EQ(at("a", i * kBlockBytes), static_cast<char>('a' + i % 26));
  }
  EXPECT_EQ(runtime_->sync_wait(store_->info("a"))->depth, 1000u);
}

}  // namespace
}  // namespace voltree
