// The life of a mount: starting, stopping, what stands in the way.
#include <sys/mount.h>

#include <fstream>
#include <thread>

#include "tests/fs/mount_fixture.h"

namespace voltree {
namespace {

using LifeTest = MountTest;

TEST_F(LifeTest, RefusesAMountpointThatCanNotBe) {
  MountOptions options;
  options.mountpoint = directory_ + "/absent";
  EXPECT_EQ(Mount::start(*runtime_, *store_, options).status().code(), Code::kNotFound);
  options.mountpoint = mountpoint();
  const Status mounted = Mount::start(*runtime_, *store_, options).status();
  EXPECT_EQ(mounted.code(), Code::kBusy);
  EXPECT_NE(mounted.message().find("mount point"), std::string::npos) << mounted.message();
  options.mountpoint = directory_;
  const Status full = Mount::start(*runtime_, *store_, options).status();
  EXPECT_EQ(full.code(), Code::kBusy);
  EXPECT_NE(full.message().find("not empty"), std::string::npos) << full.message();
  std::ofstream(directory_ + "/file") << "x";
  options.mountpoint = directory_ + "/file";
  EXPECT_EQ(Mount::start(*runtime_, *store_, options).status().code(), Code::kInvalid);
}

TEST_F(LifeTest, StopsAndStartsAgain) {
  make_volume("a", kMiB);
  write_at(volume("a"), 0, Bytes(8192, 1));
  EXPECT_FALSE(mount_->stopped());
  mount_->stop();
  mount_->stop();
  EXPECT_TRUE(mount_->stopped());
  EXPECT_TRUE(std::filesystem::is_empty(mountpoint()));
  start_mount();
  EXPECT_EQ(read_at(volume("a"), 0, 8192), Bytes(8192, 1).str());
}

TEST_F(LifeTest, StopsWhileFilesAreOpen) {
  make_volume("a", kMiB);
  const Fd file(volume("a"), O_RDWR | O_DIRECT), folder(mountpoint() + "/volumes", O_RDONLY);
  mount_->stop();
  EXPECT_TRUE(std::filesystem::is_empty(mountpoint()));
  Bytes data(4096);
  EXPECT_EQ(::pread(file.get(), data.data(), 4096, 0), -1);
  EXPECT_TRUE(errno == ENOTCONN || errno == ECONNABORTED) << std::strerror(errno);
}

TEST_F(LifeTest, AFileThatGrowsWhenTheMountStopsIsCutToFit) {
  Fd file(volume("a"), O_RDWR | O_CREAT | O_EXCL);
  write_at(file, 0, Bytes(10000, 1));
  mount_->stop();
  EXPECT_EQ(run(store_->info("a")).value().size_bytes, 10240u);
}

TEST_F(LifeTest, StopsUnderLoad) {
  make_volume("a", 8 * kMiB);
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      const Fd file(volume("a"), O_RDWR | (t % 2 == 0 ? O_DIRECT : 0));
      Bytes data(65536, 1);
      for (std::uint64_t i = 0; !stop; ++i) {
        const auto at = static_cast<off_t>(i % 100 * 65536);
        if (::pwrite(file.get(), data.data(), data.size(), at) < 0) break;
        if (::pread(file.get(), data.data(), data.size(), at) < 0) break;
      }
    });
  }
  ::usleep(100000);
  mount_->stop();
  stop = true;
  for (std::thread& thread : threads) thread.join();
}

TEST_F(LifeTest, KilledProcessesDisturbNobody) {
  make_volume("a", 64 * kMiB);
  for (int round = 0; round < 5; ++round) {
    ASSERT_EQ(sh("timeout -s KILL 0.1 sh -c 'while :; do dd if=/dev/zero of=" + volume("a") +
                 " bs=1M count=64 conv=notrunc status=none & dd if=" + volume("a") +
                 " of=/dev/null bs=1M iflag=direct status=none; wait; done'"),
              137);
    write_at(volume("a"), 0, Bytes(8192, 1));
    EXPECT_EQ(size_of(volume("a")), 64 * kMiB);
  }
}

TEST_F(LifeTest, UnmountedFromOutside) {
  make_volume("a", kMiB);
  EXPECT_EQ(size_of(volume("a")), kMiB);
  ASSERT_EQ(sh("fusermount3 -u '" + mountpoint() + "'"), 0);
  for (int i = 0; i < 500 && !mount_->stopped(); ++i) ::usleep(10000);
  EXPECT_TRUE(mount_->stopped());
  mount_->invalidate({"a", ""});
  mount_->stop();
  start_mount();
  EXPECT_EQ(size_of(volume("a")), kMiB);
}

TEST_F(LifeTest, DetachedFromOutsideServesWhatIsOpen) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root";
  make_volume("a", kMiB);
  Fd file(volume("a"), O_RDWR | O_DIRECT);
  ASSERT_EQ(::umount2(mountpoint().c_str(), MNT_DETACH), 0);
  Bytes data(4096, 1);
  EXPECT_EQ(::pwrite(file.get(), data.data(), 4096, 0), 4096);
  file.close();
  for (int i = 0; i < 500 && !mount_->stopped(); ++i) ::usleep(10000);
  EXPECT_TRUE(mount_->stopped());
}

TEST_F(LifeTest, PathOf) {
  EXPECT_EQ(mount_->path_of({"a", ""}), volume("a"));
  EXPECT_EQ(mount_->path_of({"a", "s"}), snapshot("a", "s"));
}

class SharedTest : public MountTest {
 protected:
  MountOptions mount_options() override {
    MountOptions options = MountTest::mount_options();
    options.allow_other = ::geteuid() == 0;
    options.owner_uid = 4321;
    options.owner_gid = 8765;
    options.file_mode = 0660;
    options.reader_executors = 2;
    return options;
  }
};

TEST_F(SharedTest, OwnerGroupAndModeAreTheMounts) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root";
  make_volume("a", kMiB);
  expect_ok(store_->snapshot("a", "s"));
  struct stat a {
  }, s{}, folder{};
  ASSERT_EQ(::stat(volume("a").c_str(), &a), 0);
  ASSERT_EQ(::stat(snapshot("a", "s").c_str(), &s), 0);
  ASSERT_EQ(::stat((mountpoint() + "/volumes").c_str(), &folder), 0);
  EXPECT_EQ(a.st_uid, 4321u);
  EXPECT_EQ(a.st_gid, 8765u);
  EXPECT_EQ(a.st_mode & 07777, 0660u);
  EXPECT_EQ(s.st_mode & 07777, 0440u);
  EXPECT_EQ(folder.st_mode & 07777, 0770u);
  std::filesystem::permissions(directory_, std::filesystem::perms::all);
  const std::string as = "setpriv --reuid 4321 --regid 8765 --clear-groups ";
  const std::string other = "setpriv --reuid 99 --regid 99 --clear-groups ";
  EXPECT_EQ(sh(as + "dd if=/dev/zero of='" + volume("a") + "' bs=4k count=1 status=none"), 0);
  EXPECT_EQ(sh(as + "touch '" + snapshot("a", "t") + "'"), 0);
  EXPECT_NE(sh(other + "cat '" + volume("a") + "' 2>/dev/null"), 0);
  EXPECT_NE(sh(other + "rm -f '" + volume("a") + "' 2>/dev/null"), 0);
}

class PoolRuntimeTest : public MountTest {
 protected:
  RuntimeOptions runtime_options() override { return {.executors = 2, .force_pool = true}; }
};

TEST_F(PoolRuntimeTest, ServesWithoutIoUring) {
  make_volume("a", 4 * kMiB);
  const Bytes data(3 * kMiB, 1);
  write_at(volume("a"), 4096, data);
  EXPECT_EQ(read_at(volume("a"), 4096, data.size()), data.str());
  EXPECT_EQ(sh("cp '" + volume("a") + "' '" + volume("b") + "' && cmp '" + volume("a") + "' '" +
               volume("b") + "'"),
            0);
}

}  // namespace
}  // namespace voltree
