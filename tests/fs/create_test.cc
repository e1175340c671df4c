// Files that are being created: they grow as they are written, and are volumes once closed.
#include <linux/falloc.h>

#include "tests/fs/mount_fixture.h"

namespace voltree {
namespace {

class CreateTest : public MountTest {
 protected:
  std::uint64_t stored_size(const std::string& name) {
    const auto info = run(store_->info(name));
    return info.ok() ? info->size_bytes : 0;
  }
};

TEST_F(CreateTest, TouchMakesTheSmallestVolume) {
  ASSERT_EQ(sh("touch '" + volume("a") + "'"), 0);
  EXPECT_EQ(stored_size("a"), 512u);
  ASSERT_EQ(::mknod(volume("b").c_str(), S_IFREG | 0600, 0), 0);
  EXPECT_EQ(stored_size("b"), 512u);
  EXPECT_EQ(Fd(volume("a"), O_WRONLY | O_CREAT | O_EXCL).error(), EEXIST);
}

TEST_F(CreateTest, TruncateCommandMakesAVolumeOfThatSize) {
  ASSERT_EQ(sh("truncate -s 4G '" + volume("a") + "'"), 0);
  EXPECT_EQ(size_of(volume("a")), std::uint64_t{4} << 30);
  EXPECT_EQ(stored_size("a"), std::uint64_t{4} << 30);
}

TEST_F(CreateTest, GrowsAsItIsWrittenAndIsCutToFitWhenClosed) {
  const Bytes data(100000, 1);
  {
    Fd file(volume("a"), O_RDWR | O_CREAT | O_EXCL);
    ASSERT_TRUE(file.ok());
    EXPECT_EQ(size_of(volume("a")), 0u);
    write_at(file, 0, data);
    EXPECT_EQ(size_of(volume("a")), 100000u);
    EXPECT_EQ(::lseek(file.get(), 0, SEEK_END), 100000);
    write_at(file, 300000, data);
    EXPECT_EQ(size_of(volume("a")), 400000u);
    Bytes got(500000);
    ASSERT_EQ(::pread(file.get(), got.data(), got.size(), 0), 400000);
    EXPECT_EQ(got.str(0, 100000), data.str());
    EXPECT_EQ(got.str(100000, 200000), std::string(200000, '\0'));
    ASSERT_EQ(file.close(), 0);
  }
  EXPECT_EQ(stored_size("a"), 400384u);  // in whole sectors
  EXPECT_EQ(size_of(volume("a")), 400384u);
  EXPECT_EQ(read_at(volume("a"), 300000, 200000), data.str() + std::string(384, '\0'));
  const Fd later(volume("a"), O_RDWR);
  EXPECT_EQ(::pwrite(later.get(), data.data(), 512, 400384), -1);
  EXPECT_EQ(errno, ENOSPC);
}

TEST_F(CreateTest, FtruncateIsExactWhileGrowing) {
  const Bytes data(10000, 1);
  Fd file(volume("a"), O_RDWR | O_CREAT | O_EXCL);
  write_at(file, 0, data);
  ASSERT_EQ(::ftruncate(file.get(), 5000), 0);
  EXPECT_EQ(size_of(volume("a")), 5000u);
  ASSERT_EQ(::ftruncate(file.get(), 20000), 0);
  EXPECT_EQ(size_of(volume("a")), 20000u);
  EXPECT_EQ(read_at(volume("a"), 0, 30000), data.str(0, 5000) + std::string(15000, '\0'));
  ASSERT_EQ(::ftruncate(file.get(), 0), 0);
  ASSERT_EQ(::ftruncate(file.get(), 3 * kMiB), 0);
  ASSERT_EQ(file.close(), 0);
  EXPECT_EQ(stored_size("a"), 3 * kMiB);
  EXPECT_EQ(read_at(volume("a"), 0, 10000), std::string(10000, '\0'));
}

TEST_F(CreateTest, OnlyTheCreatingHandleGrows) {
  const Bytes data(8192, 1);
  const Fd creator(volume("a"), O_RDWR | O_CREAT | O_EXCL);
  write_at(creator, 0, data);
  const Fd other(volume("a"), O_RDWR);
  EXPECT_EQ(::pwrite(other.get(), data.data(), 512, 8192), -1);
  EXPECT_EQ(errno, ENOSPC);
  EXPECT_EQ(::pwrite(other.get(), data.data(), 512, 4096), 512);
  EXPECT_EQ(::truncate(volume("a").c_str(), 0), 0);
  EXPECT_EQ(size_of(volume("a")), 8192u);
}

TEST_F(CreateTest, AppendingGrows) {
  ASSERT_EQ(sh("printf hello > '" + volume("a") + "'"), 0);
  EXPECT_EQ(stored_size("a"), 512u);
  EXPECT_EQ(read_at(volume("a"), 0, 10), std::string("hello\0\0\0\0\0", 10));
  Fd file(volume("b"), O_WRONLY | O_CREAT | O_APPEND);
  for (int i = 0; i < 300; ++i) ASSERT_EQ(::write(file.get(), "0123456789", 10), 10);
  ASSERT_EQ(file.close(), 0);
  EXPECT_EQ(stored_size("b"), 3072u);
  EXPECT_EQ(read_at(volume("b"), 2990, 12), std::string("0123456789\0\0", 12));
}

TEST_F(CreateTest, DdCopiesIn) {
  const std::string from = directory_ + "/file";
  ASSERT_EQ(sh("head -c 5000000 /dev/urandom > '" + from + "'"), 0);
  ASSERT_EQ(sh("dd if='" + from + "' of='" + volume("a") + "' bs=64k status=none"), 0);
  EXPECT_EQ(stored_size("a"), 5000192u);
  EXPECT_EQ(sh("cmp -n 5000000 '" + from + "' '" + volume("a") + "'"), 0);
  ASSERT_EQ(sh("dd if=/dev/zero of='" + volume("b") + "' bs=1M count=20 oflag=direct status=none"),
            0);
  EXPECT_EQ(stored_size("b"), 20 * kMiB);
  // Onto a volume that exists: the size stays, the rest is discarded.
  ASSERT_EQ(sh("dd if='" + from + "' of='" + volume("b") + "' bs=4000 status=none"), 0);
  EXPECT_EQ(stored_size("b"), 20 * kMiB);
  EXPECT_EQ(sh("cmp -n 5000000 '" + from + "' '" + volume("b") + "'"), 0);
  EXPECT_EQ(read_at(volume("b"), 5000000, 4096), std::string(4096, '\0'));
  // What Cinder asks a volume before it copies: it must not harm it beyond discarding.
  ASSERT_EQ(sh("dd count=0 if=/dev/zero of='" + volume("b") + "' oflag=direct status=none"), 0);
  EXPECT_EQ(stored_size("b"), 20 * kMiB);
}

TEST_F(CreateTest, CpCopiesInAndOut) {
  const std::string from = directory_ + "/file", back = directory_ + "/back";
  ASSERT_EQ(sh("head -c 3145728 /dev/urandom > '" + from + "' && truncate -s 8M '" + from + "'"),
            0);
  ASSERT_EQ(sh("cp '" + from + "' '" + volume("a") + "'"), 0);
  EXPECT_EQ(stored_size("a"), 8 * kMiB);
  EXPECT_EQ(run(store_->usage("a")).value().referenced_bytes, 3 * kMiB);
  ASSERT_EQ(sh("cp '" + volume("a") + "' '" + back + "' && cmp '" + from + "' '" + back + "'"), 0);
  ASSERT_EQ(sh("cp -a --sparse=always '" + from + "' '" + volume("b") + "'"), 0);
  EXPECT_EQ(sh("cmp '" + from + "' '" + volume("b") + "'"), 0);
}

TEST_F(CreateTest, QemuImgConverts) {
  if (sh("command -v qemu-img >/dev/null") != 0) GTEST_SKIP() << "no qemu-img here";
  const std::string from = directory_ + "/file";
  ASSERT_EQ(sh("head -c 5M /dev/urandom > '" + from + "' && truncate -s 64M '" + from + "'"), 0);
  ASSERT_EQ(sh("qemu-img convert -O raw '" + from + "' '" + volume("a") + "'"), 0);
  EXPECT_EQ(stored_size("a"), 64 * kMiB);
  EXPECT_EQ(sh("cmp '" + from + "' '" + volume("a") + "'"), 0);
  make_volume("b", 100 * kMiB);
  ASSERT_EQ(sh("qemu-img convert -O raw '" + from + "' '" + volume("b") + "'"), 0);
  EXPECT_EQ(stored_size("b"), 100 * kMiB);
  EXPECT_EQ(sh("cmp -n 67108864 '" + from + "' '" + volume("b") + "'"), 0);
}

TEST_F(CreateTest, RenamedWhileGrowing) {
  Fd file(volume("a"), O_RDWR | O_CREAT | O_EXCL);
  write_at(file, 0, Bytes(kMiB, 1));
  ASSERT_EQ(::rename(volume("a").c_str(), volume("b").c_str()), 0);
  write_at(file, 30 * kMiB, Bytes(kMiB, 2));
  ASSERT_EQ(file.close(), 0);
  EXPECT_EQ(stored_size("b"), 31 * kMiB);
}

TEST_F(CreateTest, RemovedWhileGrowing) {
  Fd file(volume("a"), O_RDWR | O_CREAT | O_EXCL);
  write_at(file, 0, Bytes(kMiB, 1));
  ASSERT_EQ(::unlink(volume("a").c_str()), 0);
  const Bytes more(4096, 1);
  EXPECT_EQ(::pwrite(file.get(), more.data(), 4096, 100 * kMiB), -1);
  EXPECT_EQ(errno, ESTALE);
}

TEST_F(CreateTest, NoSnapshotOfAFileThatGrows) {
  Fd file(volume("a"), O_RDWR | O_CREAT | O_EXCL);
  write_at(file, 0, Bytes(kMiB, 1));
  EXPECT_EQ(Fd(snapshot("a", "s"), O_RDONLY | O_CREAT).error(), EBUSY);
}

TEST_F(CreateTest, FallocateExtendsWhileGrowing) {
  Fd file(volume("a"), O_RDWR | O_CREAT | O_EXCL);
  ASSERT_EQ(::fallocate(file.get(), FALLOC_FL_ZERO_RANGE, 0, 2 * kMiB), 0);
  EXPECT_EQ(size_of(volume("a")), 2 * kMiB);
  ASSERT_EQ(file.close(), 0);
  EXPECT_EQ(stored_size("a"), 2 * kMiB);
}

}  // namespace
}  // namespace voltree
