// What a host's file system that was stopped (FS_IOC_SHUTDOWN) says of syncs, and what is made of
// it. How ext4 comes to tell of a sync that it never finished takes a race that no test can force:
// tests/integration/host_shutdown.sh, run for long beside other load, is what showed it.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/ioctl.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "blockstore/runtime/host_fs.h"

namespace voltree {
namespace {

constexpr unsigned kStopWithoutFlush =
    2;  // EXT4_GOING_FLAGS_NOLOGFLUSH and XFS_FSOP_GOING_FLAGS_NOLOGFLUSH
constexpr unsigned long kStop = _IOR('X', 125, std::uint32_t);  // FS_IOC_SHUTDOWN

class StoppedHost : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "this needs root";
    std::string folder = std::filesystem::temp_directory_path() / "voltree-stopped-XXXXXX";
    ASSERT_NE(::mkdtemp(folder.data()), nullptr);
    folder_ = folder;
    const std::string command = fmt::format(
        "cd {0} && mkdir host && truncate -s 320M image && mkfs.{1} -q image 2>&1 && mount -o loop "
        "image host 2>&1",
        folder_, GetParam());
    if (std::system(command.c_str()) != 0) GTEST_SKIP() << "this needs mkfs and loop devices";
    mounted_ = true;
  }
  void TearDown() override {
    if (mounted_) {
      EXPECT_EQ(::umount(host().c_str()), 0);
    }
    if (!folder_.empty()) std::filesystem::remove_all(folder_);
  }
  std::string host() const { return folder_ + "/host"; }
  void stop() {
    const UniqueFd folder(::open(host().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    std::uint32_t how = kStopWithoutFlush;
    ASSERT_EQ(::ioctl(folder.get(), kStop, &how), 0);
  }

  std::string folder_;
  bool mounted_ = false;
};

TEST_P(StoppedHost, NoSyncIsBelieved) {
  HostFileSystem fs(nullptr);
  const auto file = fs.open(host() + "/file", {.create = true});
  ASSERT_TRUE(file.ok()) << file.status().message();
  const int fd = static_cast<HostFile&>(**file).fd();
  auto map = fs.map(host() + "/map", 4096, 4096);
  ASSERT_TRUE(map.ok()) << map.status().message();
  ASSERT_TRUE((*map)->populate_sync(0, 4096, true).ok());
  const std::vector<std::byte> data(4096, std::byte{1});
  ASSERT_TRUE((*file)->write_sync(data, 0).ok());
  EXPECT_TRUE((*file)->sync_sync().ok());
  EXPECT_TRUE(check_sync_holds(fd, "file").ok());
  EXPECT_TRUE((*map)->sync_sync(0, 4096).ok());
  EXPECT_TRUE(fs.sync_dir(host()).ok());
  stop();
  EXPECT_FALSE(check_sync_holds(fd, "file").ok());
  EXPECT_FALSE((*file)->sync_sync().ok());
  EXPECT_FALSE(
      (*map)->sync_sync(0, 4096).ok());  // nothing is dirty: the kernel itself finds nothing wrong
  EXPECT_FALSE(fs.sync_dir(host()).ok());
}

INSTANTIATE_TEST_SUITE_P(Kinds, StoppedHost, ::testing::Values("ext4", "xfs"),
                         [](const auto& kind) { return std::string(kind.param); });

}  // namespace
}  // namespace voltree
