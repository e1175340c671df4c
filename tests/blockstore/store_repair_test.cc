// Repair: a store whose catalog is lost is made anew from the lineage copy and the layers.
#include "blockstore/store_repair.h"

#include <gmock/gmock.h>

#include "blockstore/layer.h"
#include "blockstore/lineage_copy.h"
#include "blockstore/sync_watch.h"
#include "tests/blockstore/store_fixture.h"

namespace voltree {
namespace {

bool changes_bytes(SimAct act) {
  return act == SimAct::kWrite || act == SimAct::kAllocate || act == SimAct::kPunch ||
         act == SimAct::kTruncate;
}

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class StoreRepairTest : public StoreTest {
 protected:
  static constexpr const char* kCatalog = "/store/catalog.db";

  void close() {
    ok(store_->close());
    store_.reset();
  }
  void lose_catalog() {
    FileSystem& fs = runtime_->fs();
    ok(fs.unlink(kCatalog));
    if (*fs.exists("/store/catalog.db-wal")) ok(fs.unlink("/store/catalog.db-wal"));
  }
  // Nobody waits for it, but it comes.
  void copy_is_written() { runtime_->run_until_done(runtime_->sleep_for(std::chrono::seconds(1))); }
  RepairReport repair(RepairOptions options) {
    auto report = repair_store(*runtime_, "/store", std::move(options));
    EXPECT_TRUE(report.ok()) << report.status().message();
    return report.ok() ? *report : RepairReport();
  }
  RepairReport rebuild() {
    const RepairReport report = repair({.apply = true, .force = false, .progress = {}});
    EXPECT_TRUE(report.applied);
    return report;
  }
  static std::string words(const RepairReport& report, RepairFinding::Kind kind) {
    std::string all;
    for (const RepairFinding& finding : report.findings) {
      if (finding.kind == kind) all += finding.what + "\n";
    }
    return all;
  }
  static std::string lost(const RepairReport& report) {
    return words(report, RepairFinding::Kind::kLost);
  }
  static std::string uncertain(const RepairReport& report) {
    return words(report, RepairFinding::Kind::kUncertain);
  }
  Bytes bytes_of(const std::string& path) {
    auto file = runtime_->fs().open(path, {});
    Bytes bytes(*(*file)->size_bytes());
    ok((*file)->read_sync(bytes, 0));
    return bytes;
  }
  void put_bytes(const std::string& path, const Bytes& bytes) {
    auto file = runtime_->fs().open(path, {.create = true});
    ok((*file)->truncate(bytes.size()));
    ok((*file)->write_sync(bytes, 0));
  }
  std::vector<std::string> names() {
    std::vector<std::string> all;
    for (const NodeName& name : runtime_->sync_wait(store_->names())) all.push_back(name.str());
    return all;
  }
  void expect_copy_says_what_the_catalog_says() {
    auto db = CatalogDb::open(runtime_->fs(), kCatalog);
    ASSERT_TRUE(db.ok());
    CopyState wanted;
    for (CopyRow& row : copy_rows(*(*db)->load())) apply_copy_row(std::move(row), wanted);
    const auto copy = LineageCopy::read(runtime_->fs(), "/store");
    ASSERT_TRUE(copy.ok()) << copy.status().message();
    EXPECT_EQ(copy->state, wanted);
    EXPECT_EQ(copy->unreadable_bytes, 0u);
  }
  // Volumes, snapshots, clones, a junction, a resize, notes and limits.
  void make_history() {
    create("a", 2 * kMiB);
    fill("a", 0, kMiB, '1');
    ok(store_->snapshot("a", "s1"));
    fill("a", 4096, 8192, '2');
    ok(store_->snapshot("a", "s2"));
    fill("a", 8192, 4096, '3');
    ok(store_->clone("a@s1", "b", 0));
    fill("b", 0, 4096, '4');
    ok(store_->clone("a@s1", "c", 0));
    fill("c", 4096, 4096, '5');
    remove("a@s1");  // a junction now
    ok(store_->rename("b", "blue"));
    ok(store_->set_notes("c", {{"owner", "ann"}}));
    QosLimits limits;
    ok(limits.set("total_iops_sec", 500));
    ok(store_->set_qos("c", limits));
  }
  void expect_history() {
    EXPECT_THAT(names(), ElementsAre("a", "a@s2", "blue", "c"));
    EXPECT_EQ(at("a", 0), '1');
    EXPECT_EQ(at("a", 4096), '2');
    EXPECT_EQ(at("a", 8192), '3');
    EXPECT_EQ(at("a@s2", 8192), '2');
    EXPECT_EQ(at("blue", 0), '4');
    EXPECT_EQ(at("blue", 4096, kMiB - 4096), '1');
    EXPECT_EQ(at("c", 4096), '5');
    EXPECT_EQ(at("c", 8192, kMiB - 8192), '1');
    EXPECT_EQ(at("c", kMiB, kMiB), '\0');
    const auto info = runtime_->sync_wait(store_->info("c"));
    EXPECT_EQ(info->settings.notes.at("owner"), "ann");
    EXPECT_EQ(info->settings.limits.entries().size(), 1u);
  }
};

TEST_F(StoreRepairTest, TheCopySaysWhatTheCatalogSays) {
  make_history();
  remove("a@s2");
  close();
  expect_copy_says_what_the_catalog_says();
  open();
  ok(store_->snapshot("a", "later"));
  ok(store_->resize("a", 4 * kMiB, false));
  ok(store_->wait_erased(0));
  close();
  expect_copy_says_what_the_catalog_says();
  // An open and a clean close write a record each, or share one that then says nothing new, and
  // not all of it anew.
  const auto before = LineageCopy::read(runtime_->fs(), "/store");
  open();
  close();
  const auto after = LineageCopy::read(runtime_->fs(), "/store");
  EXPECT_EQ(after->generation, before->generation);
  EXPECT_GE(after->records, before->records);
  EXPECT_LE(after->records, before->records + 2);
  open();
}

TEST_F(StoreRepairTest, ACopyThatIsBehindIsMadeAnew) {
  create("a", kMiB);
  close();
  const Bytes old = bytes_of("/store/lineage");
  open();
  create("b", kMiB);
  close();
  put_bytes("/store/lineage", old);
  open();
  close();
  expect_copy_says_what_the_catalog_says();
  ok(runtime_->fs().unlink("/store/lineage"));
  open();
  close();
  expect_copy_says_what_the_catalog_says();
  open();
}

TEST_F(StoreRepairTest, ACopyThatCannotBeWrittenIsNoFailure) {
  create("a", kMiB);
  world_.set_fault([](const SimCall& call) -> SimFault {
    if (!changes_bytes(call.act) || call.path.find("lineage") == std::string::npos) return {};
    return {Status(Code::kNoSpace, "the host is full")};
  });
  create("b", kMiB);
  ok(store_->snapshot("b", "s"));
  copy_is_written();
  EXPECT_FALSE(store_->read_only());
  EXPECT_FALSE(*runtime_->fs().exists("/store/lineage"));  // none is better than one that misleads
  world_.set_fault(nullptr);
  close();
  expect_copy_says_what_the_catalog_says();
  open();
}

TEST_F(StoreRepairTest, I10_AFailedSyncOfTheCopyMakesTheStoreReadOnly) {
  world_.set_fault([](const SimCall& call) -> SimFault {
    if (call.act != SimAct::kSync || call.path.find("lineage") == std::string::npos) return {};
    return {Status(Code::kIoError, "the disk is ill")};
  });
  (void)code(store_->create_volume("a", kMiB, std::nullopt));  // a commit may be ahead of the sync
  copy_is_written();
  EXPECT_EQ(code(store_->snapshot("a", "s")), Code::kReadOnly);
  EXPECT_TRUE(store_->read_only());
  world_.set_fault(nullptr);
  kill_and_reopen();
}

TEST_F(StoreRepairTest, ReservesCertificatesAndEraseOptionsAreRebuilt) {
  make_history();
  create("gone", kMiB);
  fill("gone", 0, kMiB, 'g');
  ok(device("gone")->flush());
  remove("gone");
  ok(store_->wait_erased(0));
  const auto certificates = *runtime_->sync_wait(store_->certificates(0, 10));
  EXPECT_EQ(certificates.size(), 1u);
  ok(store_->set_reserve("a", kMiB));
  ok(store_->set_reserve("c", kMiB));
  ok(store_->set_reserve("a", 0));
  DeleteOptions options;
  options.erase_first_bytes = 8192;
  options.erase_io_priority = *parse_io_priority("idle");
  EXPECT_TRUE(runtime_->sync_wait(store_->remove("blue", options)).ok());  // and it waits
  close();
  expect_copy_says_what_the_catalog_says();
  lose_catalog();
  EXPECT_EQ(lost(rebuild()), "");
  open();
  EXPECT_EQ(*runtime_->sync_wait(store_->certificates(0, 10)), certificates);
  EXPECT_EQ(runtime_->sync_wait(store_->info("c"))->settings.reserve_bytes, kMiB);
  EXPECT_EQ(runtime_->sync_wait(store_->info("a"))->settings.reserve_bytes, 0u);
  const auto queue = runtime_->sync_wait(store_->erase_queue());
  ASSERT_EQ(queue.size(), 1u);
  EXPECT_EQ(queue[0].request.first_bytes, 8192u);
  EXPECT_EQ(io_priority_name(queue[0].request.io_priority), "idle");
  ok(store_->wait_erased(0));
  close();
  expect_copy_says_what_the_catalog_says();
  open();
}

TEST_F(StoreRepairTest, ALostCatalogIsRebuilt) {
  make_history();
  close();
  lose_catalog();
  const auto refused = runtime_->sync_wait(Store::open(*runtime_, "/store", {}));
  EXPECT_EQ(refused.status().code(), Code::kDamaged);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("voltree repair"));

  const RepairReport planned = repair({});
  EXPECT_FALSE(planned.applied);
  EXPECT_FALSE(planned.catalog_sound);
  EXPECT_FALSE(*runtime_->fs().exists(kCatalog));
  const RepairReport report = rebuild();
  EXPECT_EQ(lost(report), "");
  EXPECT_EQ(uncertain(report), "");
  EXPECT_EQ(report.volumes, 3u);
  EXPECT_EQ(report.snapshots, 1u);
  EXPECT_EQ(report.unreadable_blocks, 0u);
  EXPECT_EQ(planned.blocks, report.blocks);
  open();
  expect_history();
  // It lives on: ids that were given are not given again, and what is deleted is erased.
  fill("a", 0, kMiB, '6');
  ok(store_->snapshot("a", "s3"));
  remove("c");
  ok(store_->wait_erased(0));
  EXPECT_EQ(at("blue", 8192), '1');
}

TEST_F(StoreRepairTest, WhatWasDiscardedIsNotCountedAsData) {
  create("a", kMiB);
  fill("a", 0, 10 * kBlockBytes, 'x');
  ok(store_->snapshot("a", "s"));
  fill("a", 0, 2 * kBlockBytes, 'y');
  ok(device("a")->discard(4 * kBlockBytes, 3 * kBlockBytes));
  close();
  lose_catalog();
  EXPECT_EQ(rebuild().blocks, 12u);
  open();
  EXPECT_EQ(at("a", 5 * kBlockBytes), '\0');
  EXPECT_EQ(at("a@s", 5 * kBlockBytes), 'x');
}

TEST_F(StoreRepairTest, ADamagedCatalogIsKeptAside) {
  make_history();
  close();
  Bytes bytes = bytes_of(kCatalog);
  for (std::size_t i = 4096; i < bytes.size(); i += 512) bytes[i] ^= std::byte{0x55};
  put_bytes(kCatalog, bytes);
  const RepairReport report = rebuild();
  EXPECT_THAT(report.kept_as, HasSubstr("/store/catalog.db.damaged-"));
  EXPECT_EQ(bytes_of(report.kept_as), bytes);
  open();
  expect_history();
}

TEST_F(StoreRepairTest, ASoundCatalogIsLeftAlone) {
  make_history();
  close();
  const Bytes bytes = bytes_of(kCatalog);
  const RepairReport report = repair({.apply = true, .force = false, .progress = {}});
  EXPECT_TRUE(report.catalog_sound);
  EXPECT_FALSE(report.applied);
  EXPECT_EQ(bytes_of(kCatalog), bytes);
  EXPECT_TRUE(repair({.apply = true, .force = true, .progress = {}}).applied);
  open();
  expect_history();
}

TEST_F(StoreRepairTest, AfterAKillWhatWasAcknowledgedIsThere) {
  create("a", kMiB);
  fill("a", 0, 8192, 'x');
  store_.reset();
  boot();
  lose_catalog();
  const RepairReport report = rebuild();
  EXPECT_EQ(uncertain(report), "");
  open();
  EXPECT_EQ(at("a", 0, 8192), 'x');
}

TEST_F(StoreRepairTest, I9_ABlockThatIsDamagedStaysAnError) {
  create("a", kMiB);
  fill("a", 0, kMiB, 'x');
  ok(store_->snapshot("a", "s"));
  close();
  auto file = runtime_->fs().open(Layer::data_path("/store", 1), {});
  ok((*file)->write_sync(Bytes(1, std::byte{'y'}), 5 * kBlockBytes));
  // And one whose sum is gone.
  auto sums = runtime_->fs().open(Layer::sum_path("/store", 1), {});
  ok((*sums)->write_sync(Bytes(8, std::byte{0}), 9 * 8));
  lose_catalog();
  const RepairReport report = rebuild();
  EXPECT_EQ(report.unreadable_blocks, 2u);
  EXPECT_THAT(uncertain(report), HasSubstr("1 blocks from 5 to 5"));
  EXPECT_THAT(uncertain(report), HasSubstr("1 blocks from 9 to 9"));
  EXPECT_THAT(uncertain(report), HasSubstr("seen by a, a@s"));
  open();
  Bytes out(kBlockBytes);
  EXPECT_EQ(code(device("a@s")->read(5 * kBlockBytes, out)), Code::kDamaged);
  EXPECT_EQ(code(device("a")->read(9 * kBlockBytes, out)), Code::kDamaged);
  EXPECT_EQ(at("a", 6 * kBlockBytes, 3 * kBlockBytes), 'x');
  // Nothing takes them for good: not a change of a part, and not a power loss.
  EXPECT_EQ(code(device("a")->write(5 * kBlockBytes, Bytes(512, std::byte{'z'}), {})),
            Code::kDamaged);
  power_cycle_and_reopen();
  EXPECT_EQ(code(device("a@s")->read(9 * kBlockBytes, out)), Code::kDamaged);
  remove("a");
  remove("a@s");
}

TEST_F(StoreRepairTest, ALayerThatNobodyKnowsBecomesAVolume) {
  create("a", kMiB);
  fill("a", 0, 8192, 'x');
  close();
  const Bytes old = bytes_of("/store/lineage");
  open();  // which reserves layer ids from 65 on
  ok(store_->snapshot("a", "s"));
  fill("a", 4096, 4096, 'y');
  close();
  put_bytes("/store/lineage", old);
  lose_catalog();
  const RepairReport report = rebuild();
  EXPECT_THAT(report.recovered, ElementsAre("recovered-layer-65"));
  EXPECT_THAT(uncertain(report), HasSubstr("recovered-layer-65"));
  open();
  EXPECT_THAT(names(), ElementsAre("a", "recovered-layer-65"));
  EXPECT_EQ(at("a", 0, 8192), 'x');
  EXPECT_EQ(at("recovered-layer-65", 4096), 'y');
  EXPECT_EQ(at("recovered-layer-65", 0), '\0');
}

TEST_F(StoreRepairTest, WithoutTheCopyEachLayerIsAVolume) {
  create("a", kMiB);
  fill("a", 0, 8192, 'x');
  ok(store_->snapshot("a", "s"));
  fill("a", 4096, 4096, 'y');
  close();
  ok(runtime_->fs().unlink("/store/lineage"));
  lose_catalog();
  const RepairReport report = rebuild();
  EXPECT_THAT(lost(report), HasSubstr("the lineage copy cannot be used"));
  EXPECT_THAT(report.recovered, ElementsAre("recovered-layer-1", "recovered-layer-2"));
  open();
  EXPECT_EQ(at("recovered-layer-1", 0, 8192), 'x');
  EXPECT_EQ(at("recovered-layer-2", 4096), 'y');
}

TEST_F(StoreRepairTest, ATornRecordIsNotTaken) {
  create("a", kMiB);
  fill("a", 0, 4096, 'x');
  close();
  Bytes bytes = bytes_of("/store/lineage");
  bytes.back() ^= std::byte{1};
  put_bytes("/store/lineage", bytes);
  lose_catalog();
  const RepairReport report = rebuild();
  EXPECT_THAT(uncertain(report), HasSubstr("torn or rotten"));
  open();
  EXPECT_EQ(at("a", 0), 'x');
}

// Memory goes by what is right in it, not by how long somebody has made it.
TEST_F(StoreRepairTest, ACopyThatIsFarTooLongIsReadAsFarAsItIsRight) {
  make_history();
  close();
  const auto before = LineageCopy::read(runtime_->fs(), "/store");
  constexpr std::uint64_t kLong = std::uint64_t{3} << 29;
  {
    auto file = runtime_->fs().open("/store/lineage", {});
    ok((*file)->truncate(kLong));
  }
  std::uint64_t read_bytes = 0;
  world_.set_fault([&read_bytes](const SimCall& call) -> SimFault {
    if (call.act == SimAct::kRead) read_bytes += call.length_bytes;
    return {};
  });
  const auto after = LineageCopy::read(runtime_->fs(), "/store");
  world_.set_fault(nullptr);
  ASSERT_TRUE(after.ok()) << after.status().message();
  EXPECT_EQ(after->state, before->state);
  EXPECT_EQ(after->records, before->records);
  EXPECT_EQ(after->good_bytes, before->good_bytes);
  EXPECT_EQ(after->unreadable_bytes, kLong - before->good_bytes);
  EXPECT_LE(read_bytes, 4 * kMiB);
  open();
}

// Records that do not fit into one piece of what is read at once.
TEST_F(StoreRepairTest, ALongCopyIsReadWhole) {
  create("a", kMiB);
  const std::string text(1024, 't');
  for (int volume = 0; volume < 40; ++volume) {
    const std::string name = "v" + std::to_string(volume);
    create(name, kMiB);
    std::map<std::string, std::string> notes;
    for (int i = 0; i < 64; ++i) notes[name + "-" + std::to_string(i)] = text;
    ok(store_->set_notes(name, notes));
  }
  copy_is_written();
  close();
  ASSERT_GT(bytes_of("/store/lineage").size(), 2 * kMiB);
  expect_copy_says_what_the_catalog_says();
  open();
  close();
  expect_copy_says_what_the_catalog_says();
  lose_catalog();
  rebuild();
  open();
  EXPECT_EQ(runtime_->sync_wait(store_->info("v39"))->settings.notes.size(), 64u);
}

TEST_F(StoreRepairTest, WhatWaitsForTheEraserDoesNotComeBack) {
  create("a", kMiB);
  fill("a", 0, kMiB, 'x');
  create("b", 2 * kMiB);
  fill("b", 0, 2 * kMiB, 'b');
  remove("a");
  ok(store_->resize("b", kMiB, true));  // ranges of a layer that lives on
  close();
  lose_catalog();
  rebuild();
  open();
  EXPECT_THAT(names(), ElementsAre("b"));
  EXPECT_EQ(runtime_->sync_wait(store_->erase_queue()).size(), 2u);
  ok(store_->resize("b", 2 * kMiB, false));
  EXPECT_EQ(at("b", kMiB, kMiB), '\0');
  ok(store_->wait_erased(0));
  EXPECT_EQ(files_with('x').size(), 0u);
  EXPECT_EQ(at("b", 0, kMiB), 'b');
}

TEST_F(StoreRepairTest, WhatWasShrunkAwayDoesNotComeBack) {
  create("a", 2 * kMiB);
  fill("a", 0, 2 * kMiB, 'x');
  ok(store_->snapshot("a", "s"));
  fill("a", kMiB, 4096, 'y');
  ok(store_->resize("a", kMiB, true));
  ok(store_->wait_erased(0));
  close();
  lose_catalog();
  rebuild();
  open();
  ok(store_->resize("a", 2 * kMiB, false));
  EXPECT_EQ(at("a", kMiB, kMiB), '\0');
  EXPECT_EQ(at("a@s", kMiB, kMiB), 'x');
}

TEST_F(StoreRepairTest, NothingOlderShowsThroughALayerThatIsLost) {
  create("a", kMiB);
  fill("a", 0, kMiB, 'x');
  ok(store_->snapshot("a", "s"));
  fill("a", 4096, 4096, 'y');
  close();
  SyncWatch syncs;
  ok(Layer::unlink_files(runtime_->fs(), "/store", 2, syncs));
  lose_catalog();
  const RepairReport report = rebuild();
  EXPECT_THAT(lost(report), HasSubstr("layer 00000002: its data and its sums are missing"));
  open();
  Bytes out(kBlockBytes);
  EXPECT_NE(code(device("a")->read(4096, out)), Code::kOk);
  EXPECT_EQ(at("a@s", 0, kMiB), 'x');
  remove("a");
  ok(store_->wait_erased(0));
}

TEST_F(StoreRepairTest, ARepairThatIsCutOffIsRunAgain) {
  make_history();
  close();
  Bytes bytes = bytes_of(kCatalog);
  bytes[0] ^= std::byte{1};
  put_bytes(kCatalog, bytes);
  for (int renames = 0; renames < 3; ++renames) {
    int left = renames;
    world_.set_fault([&left](const SimCall& call) -> SimFault {
      const bool move = (call.act == SimAct::kCreate || call.act == SimAct::kUnlink ||
                         call.act == SimAct::kRename) &&
                        call.path.find("catalog.db") != std::string::npos &&
                        call.path.find(".new") == std::string::npos &&
                        call.path.find("-wal") == std::string::npos;
      if (!move || left-- > 0) return {};
      return {Status(Code::kIoError, "cut off")};
    });
    const auto cut_off =
        repair_store(*runtime_, "/store", {.apply = true, .force = false, .progress = {}});
    EXPECT_FALSE(cut_off.ok());
    world_.set_fault(nullptr);
    const auto opened = runtime_->sync_wait(Store::open(*runtime_, "/store", {}));
    EXPECT_EQ(opened.status().code(), Code::kDamaged);
  }
  rebuild();
  open();
  expect_history();
}

}  // namespace
}  // namespace voltree
