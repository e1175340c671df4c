// A volume that goes to another store: what it is there, what cannot go, and what stays damaged.
#include "blockstore/store_handover.h"

#include "tests/blockstore/store_fixture.h"

namespace voltree {
namespace {

class StoreHandoverTest : public StoreTest {
 protected:
  void SetUp() override {
    StoreTest::SetUp();
    ok(Store::create(*runtime_, "/other", {}));
    auto opened = runtime_->sync_wait(Store::open(*runtime_, "/other", {.background_work = false}));
    ASSERT_TRUE(opened.ok()) << opened.status().message();
    other_ = std::move(opened).value();
    create("v", 8 * kMiB);
    fill("v", kMiB, 2 * kMiB, 'v');
    fill("v", 5 * kMiB, kMiB, 'w');
  }
  void TearDown() override {
    ok(other_->close());
    other_.reset();
    StoreTest::TearDown();
  }
  Result<GivenVolume> give(const std::string& name) {
    return runtime_->sync_wait(StoreHandover::give(*store_, name));
  }
  Status take(Store& store, const GivenVolume& given) {
    return runtime_->sync_wait(StoreHandover::take(store, given));
  }
  // Of the volume in the other store.
  Result<Bytes> read_there(std::uint64_t offset, std::uint64_t length) {
    const auto there = runtime_->sync_wait(other_->open_device("v"));
    if (!there.ok()) return there.status();
    Bytes got(length);
    const Status status = runtime_->sync_wait((*there)->read(offset, got));
    if (!status.ok()) return status;
    return got;
  }

  std::unique_ptr<Store> other_;
};

TEST_F(StoreHandoverTest, ItIsWhatItWas) {
  const auto given = give("v");
  ASSERT_TRUE(given.ok()) << given.status().message();
  EXPECT_EQ(code([](Store& store) -> Task<Status> {
              co_return (co_await store.open_device("v")).status();
            }(*store_)),
            Code::kNotFound);
  EXPECT_EQ(pool().layers, 0U);
  const auto findings = [this] {
    std::string all;
    const auto report = runtime_->sync_wait(store_->check({}));
    for (const CheckFinding& finding : report->findings) all += finding.what;
    return all;
  };
  EXPECT_NE(findings().find("volume \"v\" left for another store"), std::string::npos)
      << findings();
  const FileIdentity was = *runtime_->fs().identity(given->data);
  // Told again, it is the same.
  EXPECT_EQ(give("v")->data, given->data);
  ok(take(*other_, *given));
  EXPECT_EQ(findings(), "");
  EXPECT_EQ(*read_there(kMiB, 2 * kMiB), Bytes(2 * kMiB, std::byte{'v'}));
  EXPECT_EQ(*read_there(5 * kMiB, kMiB), Bytes(kMiB, std::byte{'w'}));
  EXPECT_EQ(*read_there(3 * kMiB, 2 * kMiB), Bytes(2 * kMiB));
  const auto extents = runtime_->sync_wait(other_->extents("v"));
  EXPECT_EQ(*runtime_->fs().identity(extents->files.front()), was);
  EXPECT_TRUE(runtime_->fs().list_dir("/store/leaving")->empty());
  EXPECT_EQ(give("v").status().code(), Code::kNotFound);
  EXPECT_EQ(take(*other_, *given).code(), Code::kExists);
}

// In the commit that makes it one of the other store: whatever stops after it, they are there.
TEST_F(StoreHandoverTest, WhatWasSetOfItGoesWithIt) {
  ok(store_->create_volume("w", 8 * kMiB, ErasePolicy::kRandom));
  fill("w", 0, kMiB, 'w');
  VolumeSettings settings;
  settings.erase_policy = ErasePolicy::kRandom;
  ok(settings.limits.set("total_iops_sec", 7));
  settings.notes = {{"owner", "ann"}, {std::string("\n\0 k", 4), ""}, {"text", "two\nlines \xff"}};
  settings.reserve_bytes = 3 * kMiB;
  ok(store_->set_qos("w", settings.limits));
  ok(store_->set_notes("w", settings.notes));
  ok(runtime_->sync_wait(store_->set_reserve("w", settings.reserve_bytes)));
  EXPECT_EQ(runtime_->sync_wait(store_->info("w"))->settings, settings);
  ASSERT_TRUE(give("w").ok());
  // As the note beside the files has them.
  const auto given = runtime_->sync_wait(StoreHandover::given(*store_, "w"));
  ASSERT_TRUE(given.ok()) << given.status().message();
  EXPECT_EQ(given->settings, settings);
  ok(take(*other_, *given));
  EXPECT_EQ(runtime_->sync_wait(other_->info("w"))->settings, settings);
  ok(other_->close());
  auto opened = runtime_->sync_wait(Store::open(*runtime_, "/other", {.background_work = false}));
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  other_ = std::move(opened).value();
  EXPECT_EQ(runtime_->sync_wait(other_->info("w"))->settings, settings);
}

TEST_F(StoreHandoverTest, SettingsThatNoVolumeMayHaveAreRefused) {
  auto given = give("v");
  ASSERT_TRUE(given.ok()) << given.status().message();
  given->settings.reserve_bytes = given->size_bytes + 1;
  EXPECT_EQ(take(*other_, *given).code(), Code::kInvalid);
  given->settings.reserve_bytes = 0;
  given->settings.notes[std::string(129, 'k')] = "";
  EXPECT_EQ(take(*other_, *given).code(), Code::kInvalid);
  given->settings.notes.clear();
  ok(take(*other_, *given));
}

TEST_F(StoreHandoverTest, WhatTheOtherStoreWillNotHaveComesBack) {
  ok(other_->create_volume("v", kMiB, std::nullopt));
  const auto given = give("v");
  ASSERT_TRUE(given.ok()) << given.status().message();
  EXPECT_EQ(take(*other_, *given).code(), Code::kExists);
  ok(take(*store_, *given));
  EXPECT_EQ(at("v", kMiB, 2 * kMiB), 'v');
  EXPECT_TRUE(runtime_->fs().list_dir("/store/leaving")->empty());
}

TEST_F(StoreHandoverTest, WhatCannotGoStays) {
  EXPECT_EQ(give("nobody").status().code(), Code::kNotFound);
  create("empty", kMiB);
  EXPECT_EQ(give("empty").status().code(), Code::kNotSupported);
  {
    const auto open = device("v");
    EXPECT_EQ(give("v").status().code(), Code::kBusy);
  }
  ok(store_->snapshot("v", "s"));
  EXPECT_EQ(give("v").status().code(), Code::kNotSupported);
  fill("v", 0, kMiB, 'x');
  EXPECT_EQ(give("v").status().code(), Code::kNotSupported);
  remove("v@s");
  EXPECT_EQ(give("v").status().code(), Code::kNotSupported) << "it has two layers";
  EXPECT_EQ(at("v", kMiB, 2 * kMiB), 'v');
  EXPECT_EQ(at("v", 0, kMiB), 'x');
}

// Its sums go with it, and are not made anew of what is there.
TEST_F(StoreHandoverTest, I9_WhatIsDamagedStaysDamaged) {
  const auto given = give("v");
  ASSERT_TRUE(given.ok()) << given.status().message();
  {
    auto file = runtime_->fs().open(given->data, {});
    ok((*file)->write_sync(Bytes(1, std::byte{'!'}), kMiB + 5));
  }
  ok(take(*other_, *given));
  EXPECT_EQ(read_there(kMiB, kBlockBytes).status().code(), Code::kDamaged);
  EXPECT_EQ(*read_there(kMiB + kBlockBytes, kBlockBytes), Bytes(kBlockBytes, std::byte{'v'}));
}

TEST_F(StoreHandoverTest, ANoteThatIsNotOursNamesNoVolume) {
  const auto given = give("v");
  ASSERT_TRUE(given.ok()) << given.status().message();
  const std::string note = given->data.substr(0, given->data.size() - 4) + "volume";
  {
    auto file = runtime_->fs().open(note, {});
    ok((*file)->write_sync(Bytes(1, std::byte{'x'}), 20));
  }
  EXPECT_EQ(give("v").status().code(), Code::kNotFound);
  EXPECT_TRUE(*runtime_->fs().exists(given->data));
  ok(take(*other_, *given));
  EXPECT_EQ(*read_there(5 * kMiB, kMiB), Bytes(kMiB, std::byte{'w'}));
}

}  // namespace
}  // namespace voltree
