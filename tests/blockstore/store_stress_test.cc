// Many things at once on the host's real threads: the test that ThreadSanitizer is run for.
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <random>

#include "blockstore/aligned_io.h"
#include "blockstore/runtime/io.h"
#include "blockstore/runtime/sync.h"
#include "blockstore/store.h"

namespace voltree {
namespace {

constexpr std::uint64_t kVolumeBlocks = 512;
constexpr int kWriters = 6;

// Every block carries its number and a version; writers count versions up. A snapshot must never
// show a version that was not acknowledged before it ended, nor an older one than was acknowledged
// before it began.
struct BlockStamp {
  std::uint64_t block;
  std::uint64_t version;
};

class StoreStress : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() /
              ("voltree-stress-" + std::to_string(::getpid()) + (GetParam() ? "p" : "u"));
    std::filesystem::remove_all(folder_);
    RuntimeOptions options;
    options.executors = 2;
    options.force_pool = GetParam();
    auto runtime = make_host_runtime(options);
    ASSERT_TRUE(runtime.ok()) << runtime.status().message();
    runtime_ = std::move(*runtime);
    ASSERT_TRUE(Store::create(*runtime_, folder_, {}).ok());
    auto opened = runtime_->sync_wait(Store::open(*runtime_, folder_, {}));
    ASSERT_TRUE(opened.ok()) << opened.status().message();
    store_ = std::move(*opened);
  }
  void TearDown() override {
    if (store_ != nullptr) {
      const Status closed = runtime_->sync_wait(store_->close());
      EXPECT_TRUE(closed.ok()) << closed.message();
    }
    store_.reset();
    runtime_.reset();
    std::filesystem::remove_all(folder_);
  }

  void check(const Status& status, const char* what) {
    EXPECT_TRUE(status.ok()) << what << ": " << status.message();
  }

  Task<void> writer(std::shared_ptr<BlockDevice> device, int who, int writes) {
    std::mt19937_64 random(static_cast<std::uint64_t>(who));
    AlignedBuffer buffer(kBlockBytes);
    for (int i = 0; i < writes; ++i) {
      // Writers own every sixth block, so that versions only go up.
      const std::uint64_t block =
          random() % (kVolumeBlocks / kWriters) * kWriters + static_cast<std::uint64_t>(who);
      const BlockStamp stamp{block, begun_[block].fetch_add(1) + 1};
      for (std::size_t at = 0; at < kBlockBytes; at += sizeof(stamp)) {
        std::memcpy(buffer.data() + at, &stamp, sizeof(stamp));
      }
      check(co_await device->write(block * kBlockBytes, buffer.span(), {}), "write");
      acknowledged_[block].store(stamp.version);
      if (i % 64 == 0) check(co_await device->flush(), "flush");
    }
    finish();
  }

  Task<void> reader(std::shared_ptr<BlockDevice> device, int reads) {
    std::mt19937_64 random(99);
    AlignedBuffer buffer(8 * kBlockBytes);
    for (int i = 0; i < reads; ++i) {
      const std::uint64_t first = random() % (kVolumeBlocks - 8);
      check(co_await device->read(first * kBlockBytes, buffer.span()), "read");
      for (std::uint64_t b = 0; b < 8; ++b)
        expect_whole(buffer.data() + b * kBlockBytes, first + b);
    }
    finish();
  }

  std::uint64_t expect_whole(const std::byte* bytes, std::uint64_t block) {
    BlockStamp first{};
    std::memcpy(&first, bytes, sizeof(first));
    EXPECT_TRUE(first.version == 0 || first.block == block);
    for (std::size_t at = 0; at < kBlockBytes; at += sizeof(first)) {
      EXPECT_EQ(std::memcmp(bytes + at, &first, sizeof(first)), 0) << "torn block " << block;
      if (::testing::Test::HasFailure()) break;
    }
    return first.version;
  }

  // Snapshots, clones, reads back, deletes: the tree of volumes changes under the writers.
  Task<void> forker(int rounds) {
    AlignedBuffer buffer(kVolumeBlocks * kBlockBytes);
    for (int round = 0; round < rounds; ++round) {
      const std::string name = "s" + std::to_string(round);
      std::vector<std::uint64_t> before(kVolumeBlocks);
      for (std::uint64_t b = 0; b < kVolumeBlocks; ++b) before[b] = acknowledged_[b].load();
      check(co_await store_->snapshot("a", name), "snapshot");
      std::vector<std::uint64_t> after(kVolumeBlocks);
      for (std::uint64_t b = 0; b < kVolumeBlocks; ++b) after[b] = begun_[b].load();
      check(co_await store_->clone("a@" + name, "c" + name, 0), "clone");
      for (const std::string& of : {"a@" + name, "c" + name}) {
        auto opened = co_await store_->open_device(of);
        check(opened.status(), "open");
        if (!opened.ok()) continue;
        check(co_await (*opened)->read(0, buffer.span()), "read of a fork");
        for (std::uint64_t b = 0; b < kVolumeBlocks; ++b) {
          const std::uint64_t version = expect_whole(buffer.data() + b * kBlockBytes, b);
          EXPECT_GE(version, before[b]) << of << " lost an acknowledged write of block " << b;
          EXPECT_LE(version, after[b]) << of << " changed after it was taken, block " << b;
        }
      }
      for (const std::string& gone : {"a@" + name, "c" + name}) {
        const auto removed = co_await store_->remove(gone, {});
        check(removed.status(), "remove");
      }
    }
    finish();
  }

  // Writes a number to one volume and, when that is acknowledged, to the other.
  Task<void> ordered_writer(std::shared_ptr<BlockDevice> first, std::shared_ptr<BlockDevice> second,
                            std::uint64_t block) {
    AlignedBuffer buffer(kBlockBytes);
    for (std::uint64_t number = 1; !stop_writers_.load(); ++number) {
      const BlockStamp stamp{block, number};
      for (std::size_t at = 0; at < kBlockBytes; at += sizeof(stamp)) {
        std::memcpy(buffer.data() + at, &stamp, sizeof(stamp));
      }
      check(co_await first->write(block * kBlockBytes, buffer.span(), {}), "first write");
      check(co_await second->write(block * kBlockBytes, buffer.span(), {}), "second write");
    }
    finish();
  }

  Task<void> group_taker(int who, int rounds, std::uint64_t blocks) {
    AlignedBuffer first(blocks * kBlockBytes);
    AlignedBuffer second(blocks * kBlockBytes);
    for (int round = 0; round < rounds; ++round) {
      const std::string name = "g" + std::to_string(who) + "-" + std::to_string(round);
      // Named in both orders: what is locked first must not follow the caller.
      std::vector<std::string> group{"a@" + name, "b@" + name};
      if (round % 2 == 1) std::swap(group[0], group[1]);
      check(co_await store_->snapshot_group(group), "snapshot_group");
      auto a = co_await store_->open_device("a@" + name);
      auto b = co_await store_->open_device("b@" + name);
      check(a.status(), "open");
      check(b.status(), "open");
      if (!a.ok() || !b.ok()) continue;
      check(co_await (*a)->read(0, first.span()), "read");
      check(co_await (*b)->read(0, second.span()), "read");
      for (std::uint64_t block = 0; block < blocks; ++block) {
        const std::uint64_t in_a = expect_whole(first.data() + block * kBlockBytes, block);
        const std::uint64_t in_b = expect_whole(second.data() + block * kBlockBytes, block);
        EXPECT_LE(in_b, in_a) << name << " has the later write alone, block " << block;
        EXPECT_LE(in_a, in_b + 1) << name << " lacks an acknowledged write, block " << block;
      }
      for (const std::string& gone : group) {
        const auto removed = co_await store_->remove(gone, {});
        check(removed.status(), "remove");
      }
    }
    if (takers_.fetch_sub(1) == 1) stop_writers_.store(true);
    finish();
  }

  void finish() {
    if (running_.fetch_sub(1) == 1) all_done_.set();
  }

  std::string folder_;
  std::unique_ptr<Runtime> runtime_;
  std::unique_ptr<Store> store_;
  std::vector<std::atomic<std::uint64_t>> begun_ =
      std::vector<std::atomic<std::uint64_t>>(kVolumeBlocks);
  std::vector<std::atomic<std::uint64_t>> acknowledged_ =
      std::vector<std::atomic<std::uint64_t>>(kVolumeBlocks);
  std::atomic<int> running_{0};
  std::atomic<int> takers_{0};
  std::atomic<bool> stop_writers_{false};
  Event all_done_;
};

TEST_P(StoreStress, WritersReadersAndForksAtOnce) {
  check(runtime_->sync_wait(store_->create_volume("a", kVolumeBlocks * kBlockBytes, std::nullopt)),
        "create");
  auto opened = runtime_->sync_wait(store_->open_device("a"));
  ASSERT_TRUE(opened.ok());
  running_ = kWriters + 2;
  for (int who = 0; who < kWriters; ++who) {
    spawn(runtime_->executor(static_cast<std::size_t>(who) % runtime_->executor_count()),
          writer(*opened, who, 600));
  }
  spawn(runtime_->executor(0), reader(*opened, 500));
  spawn(runtime_->executor(1), forker(25));
  runtime_->run_until_done([](Event& done) -> Task<void> { co_await done.wait(); }(all_done_));
  const auto report = runtime_->sync_wait(store_->check({.data = true, .progress = {}}));
  ASSERT_TRUE(report.ok());
  for (const CheckFinding& finding : report->findings) EXPECT_FALSE(finding.damage) << finding.what;
}

TEST_P(StoreStress, I4_OrderedWritesOnTwoVolumesStayOrdered) {
  constexpr std::uint64_t kOrderedWriters = 4;
  constexpr int kTakers = 2;
  std::vector<std::shared_ptr<BlockDevice>> devices;
  for (const char* name : {"a", "b"}) {
    check(runtime_->sync_wait(store_->create_volume(name, 1 << 20, std::nullopt)), "create");
    auto opened = runtime_->sync_wait(store_->open_device(name));
    ASSERT_TRUE(opened.ok());
    devices.push_back(*opened);
  }
  running_ = static_cast<int>(kOrderedWriters) + kTakers;
  takers_ = kTakers;
  for (std::uint64_t block = 0; block < kOrderedWriters; ++block) {
    spawn(runtime_->executor(block % runtime_->executor_count()),
          ordered_writer(devices[0], devices[1], block));
  }
  for (int who = 0; who < kTakers; ++who) {
    spawn(runtime_->executor(static_cast<std::size_t>(who)), group_taker(who, 30, kOrderedWriters));
  }
  runtime_->run_until_done([](Event& done) -> Task<void> { co_await done.wait(); }(all_done_));
  const auto report = runtime_->sync_wait(store_->check({.data = true, .progress = {}}));
  ASSERT_TRUE(report.ok());
  for (const CheckFinding& finding : report->findings) EXPECT_FALSE(finding.damage) << finding.what;
}

INSTANTIATE_TEST_SUITE_P(Runtimes, StoreStress, ::testing::Values(false, true),
                         [](const auto& kind) { return kind.param ? "Pool" : "Uring"; });

}  // namespace
}  // namespace voltree
