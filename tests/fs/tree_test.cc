// Names, attributes, making and removing, extended attributes.
#include <gmock/gmock.h>
#include <linux/fs.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/xattr.h>

#include "tests/fs/mount_fixture.h"

namespace voltree {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class TreeTest : public MountTest {
 protected:
  struct stat stat_of(const std::string& path) {
    struct stat out {};
    EXPECT_EQ(::stat(path.c_str(), &out), 0) << path << ": " << std::strerror(errno);
    return out;
  }
  static int rename_with(const std::string& from, const std::string& to, unsigned flags) {
    return static_cast<int>(
        ::syscall(SYS_renameat2, AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), flags));
  }
  static std::string attribute(const std::string& path, const std::string& name) {
    std::string value(200, '\0');
    const ssize_t length =
        ::getxattr(path.c_str(), ("user.voltree." + name).c_str(), value.data(), value.size());
    if (length < 0) return std::string("errno ") + std::strerror(errno);
    value.resize(static_cast<std::size_t>(length));
    return value;
  }
};

TEST_F(TreeTest, AnEmptyStoreHasItsTwoFolders) {
  EXPECT_THAT(list(mountpoint()), ElementsAre("snapshots", "volumes"));
  EXPECT_THAT(list(mountpoint() + "/volumes"), IsEmpty());
  EXPECT_THAT(list(mountpoint() + "/snapshots"), IsEmpty());
  EXPECT_EQ(stat_of(mountpoint()).st_nlink, 4u);
  EXPECT_EQ(stat_of(mountpoint() + "/volumes").st_nlink, 2u);
}

TEST_F(TreeTest, ShowsWhatOtherDoorsMakeAtOnce) {
  EXPECT_EQ(::access(volume("a").c_str(), F_OK), -1);
  make_volume("a", 8 * kMiB);
  expect_ok(store_->snapshot("a", "s1"));
  expect_ok(store_->snapshot("a", "s2"));
  make_volume("b", 512);
  EXPECT_THAT(list(mountpoint() + "/volumes"), ElementsAre("a", "b"));
  EXPECT_THAT(list(mountpoint() + "/snapshots"), ElementsAre("a", "b"));
  EXPECT_THAT(list(mountpoint() + "/snapshots/a"), ElementsAre("s1", "s2"));
  EXPECT_THAT(list(mountpoint() + "/snapshots/b"), IsEmpty());
  EXPECT_EQ(stat_of(mountpoint() + "/snapshots").st_nlink, 4u);
  expect_ok(store_->resize("b", 1024, false));
  EXPECT_EQ(size_of(volume("b")), 1024u);
  expect_ok(store_->rename("b", "c"));
  EXPECT_EQ(::access(volume("b").c_str(), F_OK), -1);
  EXPECT_EQ(::access(volume("c").c_str(), F_OK), 0);
}

TEST_F(TreeTest, AVolumesAttributes) {
  make_volume("a", 8 * kMiB);
  write_at(volume("a"), kMiB, Bytes(64 << 10, 1));
  expect_ok(store_->snapshot("a", "s"));
  const struct stat a = stat_of(volume("a"));
  EXPECT_EQ(a.st_mode, S_IFREG | 0600u);
  EXPECT_EQ(a.st_size, static_cast<off_t>(8 * kMiB));
  EXPECT_EQ(a.st_blocks, (64 << 10) / 512);
  EXPECT_EQ(a.st_blksize, 4096);
  EXPECT_EQ(a.st_nlink, 1u);
  EXPECT_EQ(a.st_uid, ::geteuid());
  const NodeInfo info = run(store_->info("a")).value();
  EXPECT_EQ(a.st_mtim.tv_sec, info.created_ns / 1'000'000'000);
  const struct stat s = stat_of(snapshot("a", "s"));
  EXPECT_EQ(s.st_mode, S_IFREG | 0400u);
  EXPECT_EQ(s.st_size, a.st_size);
  EXPECT_EQ(s.st_blocks, a.st_blocks);
  EXPECT_NE(s.st_ino, a.st_ino);
}

TEST_F(TreeTest, InodeNumbersOutliveARemount) {
  make_volume("a", kMiB);
  expect_ok(store_->snapshot("a", "s"));
  const auto a = stat_of(volume("a")).st_ino;
  const auto s = stat_of(snapshot("a", "s")).st_ino;
  const auto folder = stat_of(mountpoint() + "/snapshots/a").st_ino;
  mount_.reset();
  close_store();
  open_store();
  start_mount();
  EXPECT_EQ(stat_of(volume("a")).st_ino, a);
  EXPECT_EQ(stat_of(snapshot("a", "s")).st_ino, s);
  EXPECT_EQ(stat_of(mountpoint() + "/snapshots/a").st_ino, folder);
}

TEST_F(TreeTest, ChmodChownAndTimesAreKeptInMemory) {
  make_volume("a", kMiB);
  ASSERT_EQ(::chmod(volume("a").c_str(), 0640), 0);
  if (::geteuid() == 0) {
    ASSERT_EQ(::chown(volume("a").c_str(), 1234, 77), 0);
    EXPECT_EQ(stat_of(volume("a")).st_uid, 1234u);
    EXPECT_EQ(stat_of(volume("a")).st_gid, 77u);
  }
  EXPECT_EQ(stat_of(volume("a")).st_mode, S_IFREG | 0640u);
  const timeval times[2] = {{1000, 0}, {2000, 0}};
  ASSERT_EQ(::utimes(volume("a").c_str(), times), 0);
  EXPECT_EQ(stat_of(volume("a")).st_mtim.tv_sec, 2000);
  expect_ok(store_->rename("a", "b"));
  EXPECT_EQ(stat_of(volume("b")).st_mode, S_IFREG | 0640u);
  mount_.reset();
  start_mount();
  EXPECT_EQ(stat_of(volume("b")).st_mode, S_IFREG | 0600u);
  EXPECT_EQ(stat_of(volume("b")).st_uid, ::geteuid());
}

TEST_F(TreeTest, ASnapshotIsReadOnly) {
  make_volume("a", kMiB);
  expect_ok(store_->snapshot("a", "s"));
  const std::string path = snapshot("a", "s");
  EXPECT_EQ(Fd(path, O_RDWR).error(), ::geteuid() == 0 ? EROFS : EACCES);
  EXPECT_EQ(::truncate(path.c_str(), 0), -1);
  EXPECT_EQ(errno, ::geteuid() == 0 ? EROFS : EACCES);
  EXPECT_EQ(::chmod(path.c_str(), 0600), -1);
  EXPECT_EQ(errno, EROFS);
}

TEST_F(TreeTest, TouchTakesASnapshotAndRmDeletesIt) {
  make_volume("a", kMiB);
  write_at(volume("a"), 0, Bytes(8192, 1));
  EXPECT_EQ(sh("touch '" + snapshot("a", "s") + "'"), 0);
  write_at(volume("a"), 0, Bytes(8192, 2));
  EXPECT_EQ(read_at(snapshot("a", "s"), 0, 8192), Bytes(8192, 1).str());
  EXPECT_EQ(read_at(volume("a"), 0, 8192), Bytes(8192, 2).str());
  EXPECT_TRUE(run(store_->info("a@s")).ok());
  EXPECT_EQ(Fd(snapshot("a", "s"), O_RDONLY | O_CREAT | O_EXCL).error(), EEXIST);
  EXPECT_EQ(sh("rm -f '" + snapshot("a", "s") + "'"), 0);
  EXPECT_EQ(run(store_->info("a@s")).status().code(), Code::kNotFound);
}

TEST_F(TreeTest, TheFolderOfADeletedVolumeStaysWhileItHasSnapshots) {
  make_volume("a", kMiB);
  expect_ok(store_->snapshot("a", "s"));
  ASSERT_EQ(::unlink(volume("a").c_str()), 0);
  EXPECT_THAT(list(mountpoint() + "/volumes"), IsEmpty());
  EXPECT_THAT(list(mountpoint() + "/snapshots/a"), ElementsAre("s"));
  EXPECT_EQ(Fd(volume("a"), O_WRONLY | O_CREAT).error(), EEXIST);
  ASSERT_EQ(::unlink(snapshot("a", "s").c_str()), 0);
  EXPECT_THAT(list(mountpoint() + "/snapshots"), IsEmpty());
}

TEST_F(TreeTest, RemovingAnAttachedVolumeIsRefused) {
  make_volume("a", kMiB);
  AttachmentRow row;
  row.target = "loop";
  row.device = "/dev/loop77";
  const auto id = run(store_->add_attachment("a", row));
  ASSERT_TRUE(id.ok());
  EXPECT_EQ(::unlink(volume("a").c_str()), -1);
  EXPECT_EQ(errno, EBUSY);
  EXPECT_EQ(attribute(volume("a"), "attached"), "yes");
  expect_ok(store_->remove_attachment(*id));
  EXPECT_EQ(attribute(volume("a"), "attached"), "no");
  EXPECT_EQ(::unlink(volume("a").c_str()), 0);
}

TEST_F(TreeTest, RenameNeverReplaces) {
  make_volume("a", kMiB);
  make_volume("b", kMiB);
  expect_ok(store_->snapshot("a", "s"));
  EXPECT_EQ(::rename(volume("a").c_str(), volume("b").c_str()), -1);
  EXPECT_EQ(errno, EEXIST);
  EXPECT_EQ(rename_with(volume("a"), volume("b"), RENAME_NOREPLACE), -1);
  EXPECT_EQ(errno, EEXIST);
  EXPECT_EQ(rename_with(volume("a"), volume("b"), RENAME_EXCHANGE), -1);
  EXPECT_EQ(errno, EINVAL);
  EXPECT_EQ(::rename(volume("a").c_str(), volume("c").c_str()), 0);
  EXPECT_THAT(list(mountpoint() + "/volumes"), ElementsAre("b", "c"));
  EXPECT_THAT(list(mountpoint() + "/snapshots/c"), ElementsAre("s"));
  EXPECT_EQ(::rename(snapshot("c", "s").c_str(), snapshot("c", "t").c_str()), 0);
  EXPECT_THAT(list(mountpoint() + "/snapshots/c"), ElementsAre("t"));
  EXPECT_EQ(::rename(snapshot("c", "t").c_str(), volume("t").c_str()), -1);
  EXPECT_EQ(errno, EXDEV);
  EXPECT_EQ(::rename(snapshot("c", "t").c_str(), snapshot("b", "t").c_str()), -1);
  EXPECT_EQ(errno, EXDEV);
}

TEST_F(TreeTest, LinksAndFoldersCanNotBeMade) {
  make_volume("a", kMiB);
  EXPECT_EQ(::link(volume("a").c_str(), volume("b").c_str()), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(::symlink("a", volume("b").c_str()), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(::mkdir(volume("d").c_str(), 0700), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(::mkfifo(volume("f").c_str(), 0600), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(::rmdir((mountpoint() + "/snapshots/a").c_str()), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_LT(Fd(mountpoint() + "/x", O_WRONLY | O_CREAT).get(), 0);
  EXPECT_EQ(Fd(volume("a@b"), O_WRONLY | O_CREAT).error(), EINVAL);
}

TEST_F(TreeTest, ExtendedAttributes) {
  make_volume("a", kMiB);
  write_at(volume("a"), 0, Bytes(8192, 1));
  expect_ok(store_->snapshot("a", "s"));
  const NodeInfo info = run(store_->info("a")).value();
  EXPECT_EQ(attribute(volume("a"), "id"), std::to_string(info.id));
  EXPECT_EQ(attribute(volume("a"), "size"), std::to_string(kMiB));
  EXPECT_EQ(attribute(volume("a"), "referenced"), "8192");
  EXPECT_EQ(attribute(volume("a"), "exclusive"), "0");
  EXPECT_EQ(attribute(volume("a"), "origin"), "a@s");
  EXPECT_EQ(attribute(volume("a"), "kind"), "volume");
  EXPECT_EQ(attribute(snapshot("a", "s"), "kind"), "snapshot");
  EXPECT_EQ(attribute(volume("a"), "parent"), std::to_string(info.parent));
  EXPECT_EQ(attribute(volume("a"), "created"), std::to_string(info.created_ns));
  EXPECT_EQ(attribute(volume("a"), "nonsense"), std::string("errno ") + std::strerror(ENODATA));
  EXPECT_EQ(::getxattr(volume("a").c_str(), "user.other", nullptr, 0), -1);

  char small[2];
  EXPECT_EQ(::getxattr(volume("a").c_str(), "user.voltree.size", nullptr, 0), 7);
  EXPECT_EQ(::getxattr(volume("a").c_str(), "user.voltree.size", small, sizeof small), -1);
  EXPECT_EQ(errno, ERANGE);
  EXPECT_EQ(::setxattr(volume("a").c_str(), "user.voltree.size", "1", 1, 0), -1);
  EXPECT_EQ(errno, ENOTSUP);

  const ssize_t length = ::listxattr(volume("a").c_str(), nullptr, 0);
  ASSERT_GT(length, 0);
  std::string names(static_cast<std::size_t>(length), '\0');
  EXPECT_EQ(::listxattr(volume("a").c_str(), names.data(), names.size()), length);
  EXPECT_NE(names.find(std::string("user.voltree.referenced") + '\0'), std::string::npos);
  EXPECT_EQ(::listxattr(volume("a").c_str(), small, sizeof small), -1);
  EXPECT_EQ(errno, ERANGE);
  EXPECT_EQ(::listxattr(mountpoint().c_str(), nullptr, 0), 0);
}

TEST_F(TreeTest, StatfsIsTheHosts) {
  struct statvfs here {
  }, host{};
  ASSERT_EQ(::statvfs(mountpoint().c_str(), &here), 0);
  ASSERT_EQ(::statvfs(directory_.c_str(), &host), 0);
  EXPECT_EQ(here.f_bsize, 4096u);
  EXPECT_EQ(here.f_namemax, 255u);
  EXPECT_EQ(here.f_blocks, host.f_blocks * host.f_frsize / 4096);
  EXPECT_GT(here.f_bavail, 0u);
}

TEST_F(TreeTest, ManyVolumesAreListedWhole) {
  for (int i = 0; i < 300; ++i)
    make_volume(fmt::format("volume-with-a-rather-long-name-{:04}", i), kMiB);
  EXPECT_EQ(list(mountpoint() + "/volumes").size(), 300u);
  EXPECT_EQ(sh("ls -l '" + mountpoint() + "/volumes' | grep -c 1048576 | grep -qx 300"), 0);
}

}  // namespace
}  // namespace voltree
