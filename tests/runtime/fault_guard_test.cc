// Pages that the host does not give, though the file was mapped when it had them.
#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <thread>
#include <vector>

#include "blockstore/runtime/host_fs.h"

namespace voltree {
namespace {

constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t kSize = 4 * kPage;

class FaultGuardTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string folder = std::filesystem::temp_directory_path() / "voltree-fault-XXXXXX";
    ASSERT_NE(::mkdtemp(folder.data()), nullptr);
    folder_ = folder;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string path() const { return folder_ + "/file"; }
  std::unique_ptr<MappedFile> mapped() {
    auto map = fs_.map(path(), kSize, 16 * kSize);
    EXPECT_TRUE(map.ok()) << map.status().message();
    EXPECT_TRUE((*map)->populate_sync(0, kSize, true).ok());
    for (std::uint64_t at = 0; at < kSize; at += kPage) (*map)->data()[at] = std::byte{7};
    return std::move(*map);
  }

  HostFileSystem fs_{nullptr};
  std::string folder_;
};

TEST_F(FaultGuardTest, APageThatIsGoneIsAnErrorAndNotTheEnd) {
  const auto map = mapped();
  EXPECT_TRUE(map->failure().ok());
  std::filesystem::resize_file(path(), kPage);
  EXPECT_TRUE(map->failure().ok()) << "nobody has touched it";
  EXPECT_EQ(map->data()[2 * kPage], std::byte{0});
  const Status failure = map->failure();
  EXPECT_EQ(failure.code(), Code::kIoError);
  EXPECT_NE(failure.message().find(path()), std::string::npos) << failure.message();
  // The rest of it can be touched, but is not to be relied on.
  EXPECT_EQ(map->data()[0], std::byte{7});
  EXPECT_FALSE(map->resident(0, kPage, false));
  EXPECT_EQ(map->populate_sync(0, kPage, false).code(), Code::kIoError);
  EXPECT_EQ(map->sync_sync(0, kSize).code(), Code::kIoError);
  EXPECT_EQ(map->punch_sync(0, kPage).code(), Code::kIoError);
}

TEST_F(FaultGuardTest, AStoreThatIsLostIsNotSynced) {
  const auto map = mapped();
  std::filesystem::resize_file(path(), 0);
  map->data()[3 * kPage + 5] = std::byte{9};
  EXPECT_EQ(map->failure().code(), Code::kIoError);
  EXPECT_EQ(map->sync_sync(0, kSize).code(), Code::kIoError);
}

TEST_F(FaultGuardTest, OthersAreAsTheyWere) {
  const auto map = mapped();
  std::vector<std::unique_ptr<MappedFile>> others;
  constexpr int kOthers = 600;  // more than one block of slots
  for (int i = 0; i < kOthers; ++i) {
    auto other = fs_.map(folder_ + "/" + std::to_string(i), kPage, kPage);
    ASSERT_TRUE(other.ok()) << other.status().message();
    others.push_back(std::move(*other));
    if (i % 3 == 0) others[static_cast<std::size_t>(i / 3)].reset();
  }
  std::filesystem::resize_file(path(), 0);
  (void)map->data()[kPage];
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back(
        [&map, i] { map->data()[static_cast<std::uint64_t>(i) * kPage] = std::byte{1}; });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_FALSE(map->failure().ok());
  for (const auto& other : others) {
    if (other == nullptr) continue;
    EXPECT_TRUE(other->populate_sync(0, kPage, true).ok());
    EXPECT_TRUE(other->failure().ok());
  }
  // A range that comes after it begins anew.
  const auto again = mapped();
  EXPECT_TRUE(again->failure().ok());
}

using FaultGuardDeathTest = FaultGuardTest;

// Somebody else's faults are his.
TEST_F(FaultGuardDeathTest, AForeignFaultEndsTheProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");  // other tests have left threads
  const auto map = mapped();
  // (AddressSanitizer's handler, which is there before, ends it in its own way.)
  EXPECT_DEATH(
      {
        (void)::raise(SIGBUS);
        std::_Exit(0);
      },
      "");
}

}  // namespace
}  // namespace voltree
