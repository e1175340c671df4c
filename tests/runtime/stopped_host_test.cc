// What a host's file system that was stopped (FS_IOC_SHUTDOWN) says of syncs, and what is made of
// it. How ext4 comes to tell of a sync that it never finished takes a race that no test can force:
// tests/integration/host_shutdown.sh, run for long beside other load, is what showed it.
#include "tests/runtime/stopped_host.h"

#include <vector>

#include "blockstore/runtime/host_fs.h"

namespace voltree {
namespace {

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

// A page that was synced is made writable anew by the next store, which a stopped host may refuse.
TEST_P(StoppedHost, AStoreToAMapEndsNothing) {
  HostFileSystem fs(nullptr);
  auto map = fs.map(host() + "/map", 8192, 8192);
  ASSERT_TRUE(map.ok()) << map.status().message();
  ASSERT_TRUE((*map)->populate_sync(0, 8192, true).ok());
  (*map)->data()[0] = std::byte{1};
  ASSERT_TRUE((*map)->sync_sync(0, 8192).ok());
  stop();
  (*map)->data()[0] = std::byte{2};
  EXPECT_FALSE((*map)->sync_sync(0, 8192).ok());
}

INSTANTIATE_TEST_SUITE_P(Kinds, StoppedHost, ::testing::Values("ext4", "xfs"),
                         [](const auto& kind) { return std::string(kind.param); });

}  // namespace
}  // namespace voltree
