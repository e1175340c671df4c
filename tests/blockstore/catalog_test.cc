// CatalogDb: rows, transactions, what is refused and what is damaged; and the VFS below it.
#include <span>

#include "tests/blockstore/catalog_fixture.h"

namespace voltree::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

TEST_F(CatalogTest, EveryRowComesBackAfterReopen) {
  {
    auto db = create();
    EXPECT_OK(change(*db, fill));
  }
  EXPECT_THAT(must(fs_.list_dir("store")), ::testing::ElementsAre("catalog.db"));
  auto db = open();
  const CatalogImage image = must(db->load());

  ASSERT_THAT(image.volumes, SizeIs(2));
  EXPECT_EQ(image.volumes[0].name, "a");
  EXPECT_EQ(image.volumes[0].head, 12U);
  EXPECT_EQ(image.volumes[0].erase_policy, ErasePolicy::kRandom);
  EXPECT_EQ(image.volumes[1].head, kNoNode);
  EXPECT_EQ(image.volumes[1].erase_policy, std::nullopt);
  EXPECT_EQ(image.volumes[1].created_ns, -7);

  ASSERT_THAT(image.nodes, SizeIs(3));
  EXPECT_EQ(image.nodes[0].kind, NodeKind::kJunction);
  EXPECT_EQ(image.nodes[0].parent, kNoNode);
  EXPECT_EQ(image.nodes[0].volume, 9U);
  EXPECT_EQ(image.nodes[1].snapshot, "s");
  EXPECT_EQ(image.nodes[1].size_bytes, 8192U);
  EXPECT_EQ(image.nodes[2].parent, 11U);
  EXPECT_EQ(image.nodes[2].created_ns, 3);

  ASSERT_THAT(image.layers, SizeIs(2));
  EXPECT_EQ(image.layers[0].id, 7U);
  EXPECT_EQ(image.layers[0].owner, kNoNode);
  EXPECT_FALSE(image.layers[0].unsettled);
  EXPECT_EQ(image.layers[1].id, 4294967295U);
  EXPECT_EQ(image.layers[1].size_bytes, std::uint64_t{1} << 44);
  EXPECT_TRUE(image.layers[1].unsettled);

  ASSERT_THAT(image.erase_requests, SizeIs(1));
  EXPECT_EQ(image.erase_requests[0].what, "volume b");
  EXPECT_EQ(image.erase_requests[0].policy, ErasePolicy::kNone);
  EXPECT_EQ(image.erase_requests[0].erased_bytes, 7U);
  EXPECT_EQ(image.erase_requests[0].verified_bytes, 8U);
  EXPECT_EQ(image.erase_requests[0].items_done, 9U);
  ASSERT_THAT(image.erase_items, SizeIs(2));
  EXPECT_TRUE(image.erase_items[0].whole_layer);
  EXPECT_EQ(image.erase_items[1].ranges, std::string("\0r", 2));
  EXPECT_EQ(image.erase_items[1].estimated_bytes, 11U);

  ASSERT_THAT(image.attachments, SizeIs(1));
  EXPECT_EQ(image.attachments[0].device, "/dev/loop3");
  EXPECT_TRUE(image.attachments[0].read_only);
  EXPECT_EQ(image.attachments[0].sector_size_bytes, 4096U);
}

TEST_F(CatalogTest, RegionsCertificatesMapsAndSettingsComeBack) {
  {
    auto db = create();
    EXPECT_OK(change(*db, fill));
  }
  auto db = open();
  const std::vector<RegionRow> regions = must(db->regions(7));
  ASSERT_THAT(regions, SizeIs(2));
  EXPECT_EQ(regions[0].region, 0U);
  EXPECT_FALSE(regions[0].dirty);
  EXPECT_EQ(regions[1].state, std::string("\0\1x", 3));
  EXPECT_TRUE(regions[1].dirty);

  EXPECT_THAT(must(db->certificates(0, 1)), SizeIs(1));
  const std::vector<CertificateRow> second = must(db->certificates(1, 100));
  ASSERT_THAT(second, SizeIs(1));
  EXPECT_EQ(second[0].json, "{\"x\":1}");

  EXPECT_EQ(must(db->saved_map_nodes()), (std::vector<NodeId>{11, 12}));
  EXPECT_EQ(must(db->saved_map(11)), (std::vector<std::string>{"one", std::string("\0two", 4)}));
  EXPECT_EQ(must(db->saved_map(12)), std::vector<std::string>{});
  EXPECT_EQ(must(db->saved_map(10)), std::nullopt);
  EXPECT_EQ(must(db->setting("uuid")), "u");
  EXPECT_EQ(must(db->setting("none")), std::nullopt);
  EXPECT_THAT(must(db->integrity_check()), IsEmpty());
}

TEST_F(CatalogTest, RemovingTakesWhatHangsOnTheRow) {
  auto db = create();
  EXPECT_OK(change(*db, fill));
  EXPECT_OK(change(*db, [](CatalogDb& rows) {
    VT_RETURN_IF_ERROR(rows.remove_volume(1));
    VT_RETURN_IF_ERROR(rows.remove_node(11));  // its child goes after it
    VT_RETURN_IF_ERROR(rows.remove_node(12));
    VT_RETURN_IF_ERROR(rows.remove_layer(7));
    VT_RETURN_IF_ERROR(rows.remove_erase_item(1));
    VT_RETURN_IF_ERROR(rows.remove_erase_item(2));
    VT_RETURN_IF_ERROR(rows.remove_erase_request(1));
    return rows.remove_attachment(1);
  }));
  EXPECT_THAT(must(db->regions(7)), IsEmpty());
  EXPECT_THAT(must(db->saved_map_nodes()), IsEmpty());
  const CatalogImage image = must(db->load());
  EXPECT_THAT(image.volumes, SizeIs(1));
  EXPECT_THAT(image.nodes, SizeIs(1));
  EXPECT_THAT(image.erase_items, IsEmpty());
  EXPECT_THAT(image.attachments, IsEmpty());
}

TEST_F(CatalogTest, TheFirstLimitMakesTheTable) {
  auto db = create();
  EXPECT_OK(change(*db, fill));
  EXPECT_OK(change(*db, [](CatalogDb& rows) { return rows.put_volume_limits(1, {}); }));
  db.reset();
  db = open();
  EXPECT_EQ(db->format().compatible, 0u);
  EXPECT_THAT(must(db->load()).volume_limits, IsEmpty());
  const auto limit = [](CatalogDb& rows) {
    return rows.put_volume_limits(1, {{1, "read_iops_sec", 5}, {1, "of a later version", 1}});
  };
  // A change that is rolled back leaves no table.
  EXPECT_EQ(change(*db,
                   [&](CatalogDb& rows) -> Status {
                     VT_RETURN_IF_ERROR(limit(rows));
                     return Status(Code::kBusy, "no");
                   })
                .code(),
            Code::kBusy);
  EXPECT_THAT(must(db->load()).volume_limits, IsEmpty());
  EXPECT_OK(change(*db, limit));
  EXPECT_OK(change(*db, limit));
  db.reset();
  db = open();
  EXPECT_EQ(db->format().compatible, kFeatureVolumeLimits);
  const std::vector<VolumeLimitRow> rows = must(db->load()).volume_limits;
  ASSERT_THAT(rows, SizeIs(2));
  EXPECT_EQ(rows[1].volume, 1u);
  EXPECT_EQ(rows[1].key, "read_iops_sec");
  EXPECT_EQ(rows[1].value, 5u);
  EXPECT_OK(change(*db, [](CatalogDb& all) { return all.remove_volume(1); }));
  EXPECT_THAT(must(db->load()).volume_limits, IsEmpty());
  EXPECT_THAT(must(db->integrity_check()), IsEmpty());
}

TEST_F(CatalogTest, RegionsAreReplacedMarkedRemovedAndIgnoredWithoutLayer) {
  auto db = create();
  EXPECT_OK(change(*db, fill));
  EXPECT_OK(change(*db, [](CatalogDb& rows) {
    VT_RETURN_IF_ERROR(rows.put_region({7, 0, "other", false}));
    VT_RETURN_IF_ERROR(rows.put_region({99, 0, "lost", false}));
    VT_RETURN_IF_ERROR(rows.put_saved_map(99, {"lost"}));
    VT_RETURN_IF_ERROR(rows.put_region({7, 3, "", false}));
    return rows.mark_regions(7, {0, 55}, true);
  }));
  const std::vector<RegionRow> regions = must(db->regions(7));
  ASSERT_THAT(regions, SizeIs(1));
  EXPECT_EQ(regions[0].state, "other");
  EXPECT_TRUE(regions[0].dirty);
  EXPECT_THAT(must(db->regions(99)), IsEmpty());
  EXPECT_EQ(must(db->saved_map(99)), std::nullopt);
  // Replacing a layer's row is not removing it.
  EXPECT_OK(change(*db, [](CatalogDb& rows) { return rows.put_layer({7, 12, 1, true, 1}); }));
  EXPECT_THAT(must(db->regions(7)), SizeIs(1));
}

TEST_F(CatalogTest, NamesAreTaken) {
  auto db = create();
  EXPECT_OK(change(*db, fill));
  const Status volume =
      change(*db, [](CatalogDb& rows) { return rows.put_volume(volume_row(3, "a")); });
  EXPECT_EQ(volume.code(), Code::kExists);
  EXPECT_THAT(std::string(volume.message()), HasSubstr("\"a\""));
  const Status snapshot = change(*db, [](CatalogDb& rows) {
    return rows.put_node({20, NodeKind::kSnapshot, kNoNode, 1, "s", 512, 1});
  });
  EXPECT_EQ(snapshot.code(), Code::kExists);
  // Another volume's snapshot of that name, and heads without names, are free.
  EXPECT_OK(change(*db, [](CatalogDb& rows) {
    VT_RETURN_IF_ERROR(rows.put_node({20, NodeKind::kSnapshot, kNoNode, 2, "s", 512, 1}));
    VT_RETURN_IF_ERROR(rows.put_node({21, NodeKind::kHead, kNoNode, 1, "", 512, 1}));
    return rows.put_volume(volume_row(1, "renamed"));
  }));
}

TEST_F(CatalogTest, IdsNeverComeBack) {
  std::uint64_t first = 0;
  {
    auto db = create();
    EXPECT_OK(change(*db, [&](CatalogDb& rows) {
      VT_ASSIGN_OR_RETURN(first, rows.next_id("volume"));
      return rows.put_volume(volume_row(first, "a"));
    }));
    EXPECT_OK(change(*db, [&](CatalogDb& rows) { return rows.remove_volume(first); }));
  }
  auto db = open();
  std::uint64_t second = 0;
  std::uint64_t node = 0;
  EXPECT_OK(change(*db, [&](CatalogDb& rows) {
    VT_ASSIGN_OR_RETURN(second, rows.next_id("volume"));
    VT_ASSIGN_OR_RETURN(node, rows.next_id("node"));
    return Status();
  }));
  EXPECT_EQ(first, 1U);
  EXPECT_EQ(second, 2U);
  EXPECT_EQ(node, 1U);
  EXPECT_EQ(change(*db, [&](CatalogDb& rows) { return rows.next_id("typo").status(); }).code(),
            Code::kInvalid);
}

TEST_F(CatalogTest, LayerIdsEnd) {
  create().reset();
  tamper("INSERT INTO last_id VALUES ('layer', 4294967295)");
  auto db = open();
  EXPECT_EQ(change(*db, [](CatalogDb& rows) { return rows.next_id("layer").status(); }).code(),
            Code::kTooLarge);
}

TEST_F(CatalogTest, ChangesOutsideOfATransactionAreRefused) {
  auto db = create();
  EXPECT_EQ(db->put_volume(volume_row(1, "a")).code(), Code::kInvalid);
  EXPECT_THAT(must(db->load()).volumes, IsEmpty());
  db->rollback();  // nothing to do, and no harm
}

TEST_F(CatalogTest, RowsThatPointAtNothingAreNotCommitted) {
  auto db = create();
  EXPECT_EQ(change(*db,
                   [](CatalogDb& rows) {
                     return rows.put_volume({1, "a", 77, {}, 0});
                   })
                .code(),
            Code::kDamaged);
  EXPECT_EQ(change(*db,
                   [](CatalogDb& rows) {
                     return rows.put_erase_item({1, 5, 1, true, "", 0});
                   })
                .code(),
            Code::kDamaged);
  EXPECT_THAT(must(db->load()).volumes, IsEmpty());
  EXPECT_OK(change(*db, fill));
}

TEST_F(CatalogTest, CreateAndOpenSayWhatIsThere) {
  EXPECT_EQ(open_status().code(), Code::kNotFound);
  create().reset();
  EXPECT_EQ(fs_.faults.synced_dir, "store");
  EXPECT_EQ(CatalogDb::create(fs_, kPath).status().code(), Code::kExists);
  auto db = open();
  EXPECT_EQ(db->format().version, kFormatVersion);
  EXPECT_EQ(db->format().incompatible, kFeaturePageSums);
}

TEST_F(CatalogTest, WhatACreateLeftBehindIsReplaced) {
  auto file = must(fs_.open("store/catalog.db.new", {.create = true}));
  EXPECT_OK(file->write_sync(std::as_bytes(std::span("half a database")), 0));
  file.reset();
  create().reset();
  EXPECT_OK(open_status());
}

TEST_F(CatalogTest, NewerFormatsAreRefused) {
  create().reset();
  tamper("PRAGMA user_version=2");
  const Status newer = open_status();
  EXPECT_EQ(newer.code(), Code::kNotSupported);
  EXPECT_THAT(std::string(newer.message()), HasSubstr("version 2"));
  tamper("PRAGMA user_version=1; UPDATE format SET incompatible = 4");
  const Status feature = open_status();
  EXPECT_EQ(feature.code(), Code::kNotSupported);
  EXPECT_THAT(std::string(feature.message()), HasSubstr("0x4"));
  tamper("UPDATE format SET incompatible = 1, compatible = -1, read_only_compatible = 2");
  auto db = open();
  EXPECT_EQ(db->format().compatible, UINT64_MAX);
  EXPECT_EQ(db->format().read_only_compatible, 2U);
}

TEST_F(CatalogTest, WhatIsNoCatalogIsDamaged) {
  {
    auto file = must(fs_.open(kPath, {.create = true}));
    EXPECT_EQ(open_status().code(), Code::kDamaged);  // empty
    const std::string text(9000, 'x');
    EXPECT_OK(file->write_sync(std::as_bytes(std::span(text)), 0));
  }
  EXPECT_EQ(open_status().code(), Code::kDamaged);
  EXPECT_OK(fs_.unlink(kPath));
  create().reset();
  tamper("PRAGMA application_id=1");  // somebody else's database
  EXPECT_EQ(open_status().code(), Code::kDamaged);
}

TEST_F(CatalogTest, ATruncatedFileIsDamaged) {
  {
    auto db = create();
    EXPECT_OK(change(*db, fill));
  }
  auto file = must(fs_.open(kPath, {}));
  const std::uint64_t size = must(file->size_bytes());
  for (const std::uint64_t left : {size - 4096, std::uint64_t{4096}, std::uint64_t{1000}}) {
    EXPECT_OK(file->truncate(left));
    EXPECT_EQ(open_status().code(), Code::kDamaged) << left;
  }
}

TEST_F(CatalogTest, RowsOutOfRangeAreDamaged) {
  create().reset();
  const std::vector<std::pair<const char*, std::string>> cases = {
      {"INSERT INTO node VALUES (17, 9, NULL, 1, NULL, 512, 0)", "table node, row 17: kind"},
      {"INSERT INTO node VALUES (17, 1, NULL, 1, NULL, 512, 0)", "table node, row 17: a snapshot"},
      {"INSERT INTO node VALUES (17, 0, NULL, 1, NULL, 511, 0)", "table node, row 17: size_bytes"},
      {"INSERT INTO volume VALUES (3, 'a/b', NULL, NULL, 0)", "table volume, row 3"},
      {"INSERT INTO volume VALUES (3, 'a', NULL, 4, 0)", "table volume, row 3: erase_policy"},
      {"INSERT INTO layer VALUES (4294967296, 1, 0, 0, 0)", "table layer, row 4294967296: id"},
      {"INSERT INTO layer VALUES (5, 1, -1, 0, 0)", "table layer, row 5: size_bytes is -1"},
      {"INSERT INTO layer VALUES (5, 1, 0, 2, 0)", "table layer, row 5: unsettled"},
      {"INSERT INTO erase_item VALUES (5, 1, 1, 1, x'00', 0, 0)",
       "table erase_item, row 5: ranges"},
  };
  for (const auto& [sql, message] : cases) {
    tamper(sql);
    auto db = open();
    const Result<CatalogImage> image = db->load();
    ASSERT_FALSE(image.ok()) << sql;
    EXPECT_EQ(image.status().code(), Code::kDamaged) << sql;
    EXPECT_THAT(std::string(image.status().message()), HasSubstr(message));
    db.reset();
    tamper("DELETE FROM node; DELETE FROM volume; DELETE FROM layer; DELETE FROM erase_item");
  }
}

TEST_F(CatalogTest, BlobsThatRottedAreDamaged) {
  {
    auto db = create();
    EXPECT_OK(change(*db, fill));
  }
  tamper(
      "UPDATE layer_index SET state = x'0102' WHERE region = 3; "
      "UPDATE saved_map_chunk SET bytes = x'00' WHERE chunk = 1; "
      "UPDATE erase_item SET layer = 8 WHERE id = 2");
  auto db = open();
  const Status regions = db->regions(7).status();
  EXPECT_EQ(regions.code(), Code::kDamaged);
  EXPECT_THAT(std::string(regions.message()), HasSubstr("table layer_index, row 7"));
  EXPECT_EQ(db->saved_map(11).status().code(), Code::kDamaged);
  const Status items = db->load().status();
  EXPECT_EQ(items.code(), Code::kDamaged);
  EXPECT_THAT(std::string(items.message()), HasSubstr("table erase_item, row 2"));
}

TEST_F(CatalogTest, IntegrityCheckNamesWhatPointsAtNothing) {
  create().reset();
  tamper("INSERT INTO volume VALUES (3, 'a', 8, NULL, 0)");
  auto db = open();
  EXPECT_THAT(must(db->integrity_check()),
              ::testing::ElementsAre(HasSubstr("table volume, row 3")));
}

TEST_F(CatalogTest, SavepointsIsolateMembers) {
  auto db = create();
  EXPECT_OK(db->begin());
  EXPECT_OK(db->savepoint());
  EXPECT_OK(db->put_volume(volume_row(1, "kept")));
  EXPECT_OK(db->release_savepoint());
  EXPECT_OK(db->savepoint());
  EXPECT_OK(db->put_volume({2, "dangling", 50, {}, 0}));
  EXPECT_EQ(db->release_savepoint().code(), Code::kDamaged);
  EXPECT_OK(db->rollback_to_savepoint());
  EXPECT_OK(db->commit());
  const CatalogImage image = must(db->load());
  ASSERT_THAT(image.volumes, SizeIs(1));
  EXPECT_EQ(image.volumes[0].name, "kept");
}

TEST_F(CatalogTest, AFailedTransactionLeavesNothing) {
  auto db = create();
  EXPECT_OK(db->begin());
  EXPECT_OK(db->put_volume(volume_row(1, "a")));
  db->rollback();
  EXPECT_THAT(must(db->load()).volumes, IsEmpty());
}

// Without a close: the WAL alone brings it back.
TEST_F(CatalogTest, CommitsSurviveInTheWal) {
  auto db = create();
  EXPECT_OK(change(*db, fill));
  for (const char* name : {"catalog.db", "catalog.db-wal"}) {
    auto from = must(fs_.open(std::string("store/") + name, {}));
    std::vector<std::byte> bytes(must(from->size_bytes()));
    EXPECT_OK(from->read_sync(bytes, 0));
    EXPECT_OK(fs_.make_dir("copy"));
    auto to = must(fs_.open(std::string("copy/") + name, {.create = true}));
    EXPECT_OK(to->write_sync(bytes, 0));
  }
  auto copy = must(CatalogDb::open(fs_, "copy/catalog.db"));
  EXPECT_THAT(must(copy->load()).nodes, SizeIs(3));
}

TEST_F(CatalogTest, TheWalIsCheckpointed) {
  auto db = create();
  EXPECT_OK(change(*db, [](CatalogDb& rows) { return rows.put_layer({1, 0, 0, false, 0}); }));
  const std::string state(200, 's');
  for (std::uint64_t round = 0; round < 60; ++round) {
    EXPECT_OK(change(*db, [&](CatalogDb& rows) {
      for (std::uint64_t i = 0; i < 1000; ++i) {
        VT_RETURN_IF_ERROR(rows.put_region({1, round * 1000 + i, state, false}));
      }
      return Status();
    }));
  }
  auto wal = must(fs_.open("store/catalog.db-wal", {}));
  EXPECT_LT(must(wal->size_bytes()), std::uint64_t{8} << 20);
  EXPECT_THAT(must(db->regions(1)), SizeIs(60000));
}

TEST_F(CatalogTest, AFullHostIsNoSpaceAndPasses) {
  auto db = create();
  EXPECT_OK(change(*db, fill));
  world_.set_capacity(world_.used_bytes() + 8 * 4096);
  const auto big = [](CatalogDb& rows) {
    return rows.put_certificate({9, std::string(1 << 20, 'x')});
  };
  EXPECT_EQ(change(*db, big).code(), Code::kNoSpace);
  EXPECT_THAT(must(db->certificates(0, 10)), SizeIs(2));
  world_.set_capacity(std::uint64_t{1} << 40);
  EXPECT_OK(change(*db, big));
  db.reset();
  EXPECT_THAT(must(open()->certificates(0, 10)), SizeIs(3));
}

TEST_F(CatalogTest, NoSpaceToCreateLeavesNothing) {
  world_.set_capacity(8 * 4096);
  EXPECT_EQ(CatalogDb::create(fs_, kPath).status().code(), Code::kNoSpace);
  EXPECT_THAT(must(fs_.list_dir("store")), IsEmpty());
  world_.set_capacity(std::uint64_t{1} << 40);
  create().reset();
}

TEST_F(CatalogTest, AFailedSyncIsNeverTriedAgain) {
  auto db = create();
  EXPECT_OK(change(*db, fill));
  fs_.faults.fail_sync = true;
  const auto put = [](CatalogDb& rows) { return rows.put_setting("k", "v"); };
  const Status status = change(*db, put);
  EXPECT_EQ(status.code(), Code::kIoError);
  EXPECT_THAT(std::string(status.message()), HasSubstr("injected sync failure"));
  const int syncs = fs_.faults.syncs;
  fs_.faults.fail_sync = false;
  EXPECT_FALSE(change(*db, put).ok());
  db.reset();  // closing does not sync either
  EXPECT_EQ(fs_.faults.syncs, syncs);
  EXPECT_THAT(must(open()->load()).nodes, SizeIs(3));
}

// The simulator owns SQLite's I/O: the same seed, the same bytes.
TEST(CatalogDeterminism, EqualSeedsWriteEqualBytes) {
  const auto run = [] {
    seed_sqlite_randomness(42);
    SimWorld world;
    SimRuntime runtime(world, SimOptions{});
    EXPECT_OK(runtime.fs().make_dir("store"));
    auto db = must(CatalogDb::create(runtime.fs(), kPath));
    EXPECT_OK(db->begin());
    EXPECT_OK(fill(*db));
    EXPECT_OK(db->commit());
    std::vector<std::byte> all;
    for (const char* name : {"store/catalog.db", "store/catalog.db-wal"}) {
      auto file = must(runtime.fs().open(name, {}));
      std::vector<std::byte> bytes(must(file->size_bytes()));
      EXPECT_OK(file->read_sync(bytes, 0));
      all.insert(all.end(), bytes.begin(), bytes.end());
    }
    return all;
  };
  const auto first = run();
  EXPECT_FALSE(first.empty());
  EXPECT_TRUE(first == run());
  seed_sqlite_randomness(0);
}

TEST(ErasePolicyNames, RoundTrip) {
  for (const ErasePolicy policy :
       {ErasePolicy::kZero, ErasePolicy::kRandom, ErasePolicy::kDiscard, ErasePolicy::kNone}) {
    EXPECT_EQ(must(parse_erase_policy(erase_policy_name(policy))), policy);
  }
  EXPECT_EQ(parse_erase_policy("shred").status().code(), Code::kInvalid);
}

}  // namespace
}  // namespace voltree::testing
