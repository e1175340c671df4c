// Files that become volumes: what the volume holds, which files are refused, and what is left of a
// taking that fails.
#include "tests/blockstore/faulty_runtime.h"
#include "tests/blockstore/store_fixture.h"

namespace voltree {
namespace {

constexpr const char* kPath = "/in/file";

class StoreTakeTest : public StoreTest {
 protected:
  static constexpr std::uint64_t kFileBytes = 11 * kMiB + 777;

  // 'a' in the first 5 MiB, a hole of 6 MiB, 'b' to the end, which is within a block.
  void SetUp() override {
    StoreTest::SetUp();
    ok(runtime_->fs().make_dir("/in"));
    make_file();
  }
  void make_file() {
    auto file = runtime_->fs().open(kPath, {.create = true});
    ASSERT_TRUE(file.ok()) << file.status().message();
    ok((*file)->write_sync(Bytes(5 * kMiB, std::byte{'a'}), 0));
    ok((*file)->write_sync(Bytes(777, std::byte{'b'}), 11 * kMiB));
  }
  Status take(const std::string& name, std::uint64_t size_bytes) {
    return runtime_->sync_wait(store_->take_file(name, kPath, {size_bytes, {}, {}}));
  }
  bool file_is_there() { return *runtime_->fs().exists(kPath); }
  std::string layer_path() {
    const auto extents = runtime_->sync_wait(store_->extents("v"));
    return extents->files.front();
  }
  void holds_the_file() {
    EXPECT_EQ(at("v", 0, 5 * kMiB), 'a');
    EXPECT_EQ(at("v", 5 * kMiB, 6 * kMiB), '\0');
    EXPECT_EQ(at("v", 11 * kMiB, 777), 'b');
    const std::uint64_t size_bytes = device("v")->size_bytes();
    EXPECT_EQ(at("v", kFileBytes, size_bytes - kFileBytes), '\0');
  }
};

TEST_F(StoreTakeTest, TheFileIsTheVolume) {
  const FileIdentity was = *runtime_->fs().identity(kPath);
  ok(take("v", 0));
  EXPECT_FALSE(file_is_there());
  EXPECT_EQ(device("v")->size_bytes(), 11 * kMiB + 1024);
  holds_the_file();
  EXPECT_EQ(*runtime_->fs().identity(layer_path()), was);
  EXPECT_EQ(usage("v").referenced_bytes, 5 * kMiB + kBlockBytes);
  EXPECT_EQ(store_->counters().checksum_errors, 0U);
}

TEST_F(StoreTakeTest, AVolumeMayBeLarger) {
  ok(take("v", 64 * kMiB));
  holds_the_file();
  fill("v", 63 * kMiB, kMiB, 'z');
  EXPECT_EQ(at("v", 63 * kMiB, kMiB), 'z');
  EXPECT_EQ(at("v", 12 * kMiB, 51 * kMiB), '\0');
}

TEST_F(StoreTakeTest, ItIsAVolumeLikeAnyOther) {
  ok(take("v", 12 * kMiB));
  fill("v", 0, kMiB, 'w');  // in place, and where nothing was
  fill("v", 6 * kMiB, kMiB, 'w');
  ok(store_->snapshot("v", "s"));
  fill("v", 0, kMiB, 'x');
  EXPECT_EQ(at("v@s", 0, kMiB), 'w');
  EXPECT_EQ(at("v@s", kMiB, 4 * kMiB), 'a');
  ok(device("v")->flush());
  power_cycle_and_reopen();
  EXPECT_EQ(at("v", 0, kMiB), 'x');
  EXPECT_EQ(at("v", 6 * kMiB, kMiB), 'w');
  DeleteOptions options;
  options.snapshots = true;
  remove("v", options);
  ok(store_->wait_erased(0));
  EXPECT_EQ(pool().layers, 0U);
  EXPECT_EQ(pool().allocated_bytes, 0U);
}

// I5, and what a power loss leaves.
TEST_F(StoreTakeTest, IsThereWhenItReturns) {
  ok(take("v", 0));
  kill_and_reopen();
  holds_the_file();
  power_cycle_and_reopen();
  holds_the_file();
}

TEST_F(StoreTakeTest, WhatCannotBeTakenStays) {
  create("there", kMiB);
  EXPECT_EQ(take("there", 0).code(), Code::kExists);
  EXPECT_EQ(take("a/b", 0).code(), Code::kInvalid);
  EXPECT_EQ(take("v", kMiB).code(), Code::kInvalid) << "it is longer";
  EXPECT_EQ(code(store_->take_file("v", "/nothing", {})), Code::kNotFound);
  {
    auto other = runtime_->fs().open(kPath, {.writable = false});
    EXPECT_EQ(take("v", 0).code(), Code::kBusy);
    ok((*other)->link("/in/other"));
  }
  const Status linked = take("v", 0);
  EXPECT_EQ(linked.code(), Code::kNotSupported);
  EXPECT_NE(linked.message().find(kPath), std::string::npos) << linked.message();
  ok(runtime_->fs().unlink("/in/other"));
  fill("there", 0, kMiB, 't');
  const auto extents = runtime_->sync_wait(store_->extents("there"));
  EXPECT_EQ(code(store_->take_file("v", extents->files.front(), {})), Code::kNotSupported);
  EXPECT_EQ(code(store_->take_file("v", "/store/LOCK", {})), Code::kNotSupported);
  EXPECT_TRUE(file_is_there());
  EXPECT_EQ(pool().layers, 1U);
  ok(take("v", 0));
  holds_the_file();
}

TEST_F(StoreTakeTest, CanBeGivenUp) {
  int calls = 0;
  TakeOptions options;
  options.progress = [&calls](std::uint64_t done, std::uint64_t total) {
    EXPECT_EQ(total, kFileBytes);
    EXPECT_LE(done, total);
    return ++calls < 2 ? Status() : Status(Code::kCancelled, "that will do");
  };
  EXPECT_EQ(code(store_->take_file("v", kPath, options)), Code::kCancelled);
  EXPECT_TRUE(file_is_there());
  EXPECT_EQ(*runtime_->fs().list_dir("/store/layers/01"), std::vector<std::string>());
  ok(take("v", 0));
}

// I8: what is erased is not what somebody else has.
TEST_F(StoreTakeTest, ALayerWithAnotherNameIsNotOverwritten) {
  ok(take("v", 0));
  {
    auto layer = runtime_->fs().open(layer_path(), {});
    ok((*layer)->link("/in/other"));
  }
  remove("v");
  ok(store_->wait_erased(0));
  EXPECT_EQ(pool().layers, 0U);
  Bytes got(kBlockBytes);
  auto other = runtime_->fs().open("/in/other", {});
  ok((*other)->read_sync(got, kMiB));
  EXPECT_EQ(got, Bytes(kBlockBytes, std::byte{'a'}));
  EXPECT_EQ(*(*other)->links(), 1U);
  const auto certificates = runtime_->sync_wait(store_->certificates(0, 10));
  ASSERT_EQ(certificates->size(), 1U);
  EXPECT_NE(certificates->front().find("another name"), std::string::npos) << certificates->front();
  EXPECT_NE(certificates->front().find("\"verified_bytes\":0"), std::string::npos);
}

TEST_F(StoreTakeTest, RangesOfALayerWithAnotherNameAreNotOverwritten) {
  ok(take("v", 12 * kMiB));
  {
    auto layer = runtime_->fs().open(layer_path(), {});
    ok((*layer)->link("/in/other"));
  }
  ok(store_->resize("v", 4 * kMiB, true));
  ok(store_->wait_erased(0));
  Bytes got(kBlockBytes);
  {
    auto other = runtime_->fs().open("/in/other", {});
    ok((*other)->read_sync(got, 4 * kMiB));
  }
  EXPECT_EQ(got, Bytes(kBlockBytes, std::byte{'a'}));
  ok(store_->resize("v", 12 * kMiB, false));
  EXPECT_EQ(at("v", 0, 4 * kMiB), 'a');
  EXPECT_EQ(at("v", 4 * kMiB, 8 * kMiB), '\0');
}

// A host on which the steps of a taking fail.
class StoreTakeFaultTest : public ::testing::Test {
 protected:
  using Bytes = std::vector<std::byte>;
  static constexpr std::uint64_t kFileBytes = (1 << 20) + 5;

  void SetUp() override {
    ASSERT_TRUE(sim_.fs().make_dir("/in").ok());
    auto file = sim_.fs().open(kPath, {.create = true});
    ASSERT_TRUE((*file)->write_sync(Bytes(kFileBytes, std::byte{'a'}), 0).ok());
    ASSERT_TRUE(Store::create(runtime_, "/store", {}).ok());
    open();
  }
  void open() {
    auto opened = runtime_.sync_wait(Store::open(runtime_, "/store", {.background_work = false}));
    ASSERT_TRUE(opened.ok()) << opened.status().message();
    store_ = std::move(*opened);
  }
  Status take() { return runtime_.sync_wait(store_->take_file("v", kPath, {2 << 20, {}, {}})); }
  std::size_t volumes() { return runtime_.sync_wait(store_->names()).size(); }
  void nothing_was_done() {
    EXPECT_EQ(volumes(), 0U);
    auto file = sim_.fs().open(kPath, {});
    ASSERT_TRUE(file.ok()) << file.status().message();
    EXPECT_EQ(*(*file)->links(), 1U);
    Bytes got(*(*file)->size_bytes());
    EXPECT_TRUE((*file)->read_sync(got, 0).ok());
    EXPECT_EQ(got, Bytes(kFileBytes, std::byte{'a'}));
    EXPECT_FALSE(store_->read_only());
    EXPECT_EQ(runtime_.sync_wait(store_->pool())->layers, 0U);
  }
  void works_afterwards() {
    runtime_.faults() = {};
    EXPECT_TRUE(take().ok());
    EXPECT_EQ(volumes(), 1U);
    EXPECT_FALSE(*sim_.fs().exists(kPath));
    ASSERT_TRUE(runtime_.sync_wait(store_->close()).ok());
    open();
    EXPECT_EQ(volumes(), 1U);
    ASSERT_TRUE(runtime_.sync_wait(store_->close()).ok());
  }

  SimWorld world_;
  SimRuntime sim_{world_, {.seed = 7}};
  testing::FaultyRuntime runtime_{sim_};
  std::unique_ptr<Store> store_;
};

// Somebody opens it: at the first look at the lease, the second, before the commit, or the third,
// when the old name is gone.
TEST_F(StoreTakeFaultTest, SomebodyOpensTheFile) {
  for (int when = 1; when <= 3; ++when) {
    int looks = 0;
    runtime_.faults().before_lease_check = [&] {
      runtime_.faults().lease_broken = ++looks == when;
      EXPECT_EQ(*sim_.fs().exists(kPath), looks < 3);
    };
    EXPECT_EQ(take().code(), Code::kBusy) << when;
    EXPECT_EQ(looks, when);
    runtime_.faults() = {};
    nothing_was_done();
  }
  works_afterwards();
}

TEST_F(StoreTakeFaultTest, AnotherNameIsMadeMeanwhile) {
  int looks = 0;
  runtime_.faults().before_lease_check = [&] {
    runtime_.faults().more_links = ++looks == 3 ? 1 : 0;
  };
  EXPECT_EQ(take().code(), Code::kNotSupported);
  runtime_.faults() = {};
  nothing_was_done();
  works_afterwards();
}

TEST_F(StoreTakeFaultTest, TheOldNameCannotGo) {
  runtime_.faults().fail_unlink_name = true;
  EXPECT_EQ(take().code(), Code::kPermission);
  nothing_was_done();
  works_afterwards();
}

// The old name is taken when the file is to be given back: nothing is lost, and the next open
// finishes what was begun.
TEST_F(StoreTakeFaultTest, TheOldNameIsTakenMeanwhile) {
  int looks = 0;
  runtime_.faults().before_lease_check = [&] {
    if (++looks != 3) return;
    auto other = sim_.fs().open(kPath, {.create = true, .exclusive = true});
    EXPECT_TRUE(other.ok());
    EXPECT_TRUE((*other)->write_sync(Bytes(100, std::byte{'o'}), 0).ok());
    runtime_.faults().lease_broken = true;
  };
  const Status failed = take();
  EXPECT_EQ(failed.code(), Code::kBusy);
  EXPECT_NE(failed.message().find("next open"), std::string::npos) << failed.message();
  runtime_.faults() = {};
  EXPECT_EQ(volumes(), 0U);
  ASSERT_TRUE(runtime_.sync_wait(store_->close()).ok());
  open();
  EXPECT_EQ(volumes(), 1U);
  auto device = runtime_.sync_wait(store_->open_device("v"));
  Bytes got(kFileBytes);
  EXPECT_TRUE(runtime_.sync_wait((*device)->read(0, got)).ok());
  EXPECT_EQ(got, Bytes(kFileBytes, std::byte{'a'}));
  auto other = sim_.fs().open(kPath, {});
  EXPECT_EQ(*(*other)->size_bytes(), 100U);
  // It is the store's for good, whatever names its layer gets later.
  const auto extents = runtime_.sync_wait(store_->extents("v"));
  {
    auto layer = sim_.fs().open(extents->files.front(), {});
    EXPECT_TRUE((*layer)->link("/in/later").ok());
  }
  device->reset();
  ASSERT_TRUE(runtime_.sync_wait(store_->close()).ok());
  open();
  EXPECT_EQ(volumes(), 1U);
  ASSERT_TRUE(runtime_.sync_wait(store_->close()).ok());
}

}  // namespace
}  // namespace voltree
