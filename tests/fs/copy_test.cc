// Copies between volumes: `cp` forks, other copies move bytes.
#include "tests/fs/mount_fixture.h"

namespace voltree {
namespace {

class CopyTest : public MountTest {
 protected:
  // A volume whose first half is data and whose end is a hole.
  void make_source(std::uint64_t size = 8 * kMiB, std::uint64_t data_at = 0) {
    make_volume("a", size);
    write_at(volume("a"), data_at, Bytes(size / 2, 1));
  }
  std::uint64_t stored_size(const std::string& name) {
    const auto info = run(store_->info(name));
    return info.ok() ? info->size_bytes : 0;
  }
  bool cp(const std::string& from, const std::string& to) {
    return sh("cp '" + from + "' '" + to + "'") == 0;
  }
  bool same(const std::string& a, const std::string& b) {
    return sh("cmp '" + a + "' '" + b + "'") == 0;
  }
  static ssize_t copy(const Fd& in, std::uint64_t from, const Fd& out, std::uint64_t to,
                      std::size_t length) {
    auto in_at = static_cast<off_t>(from), out_at = static_cast<off_t>(to);
    return ::copy_file_range(in.get(), &in_at, out.get(), &out_at, length, 0);
  }
};

TEST_F(CopyTest, CpOfAVolumeIsAFork) {
  make_source();
  const std::uint64_t before = allocated_bytes();
  ASSERT_TRUE(cp(volume("a"), volume("b")));
  ASSERT_TRUE(cp(volume("a"), volume("c")));
  EXPECT_LT(allocated_bytes(), before + kMiB);  // extents are shared
  EXPECT_EQ(stored_size("b"), 8 * kMiB);
  EXPECT_EQ(stored_size("c"), 8 * kMiB);
  EXPECT_TRUE(same(volume("a"), volume("b")));
  EXPECT_NE(run(store_->info("b")).value().parent, kNoNode);
  // They go their own ways.
  write_at(volume("b"), 0, Bytes(4096, 7));
  EXPECT_EQ(read_at(volume("a"), 0, 4096), Bytes(8 * kMiB / 2, 1).str(0, 4096));
  EXPECT_EQ(read_at(volume("c"), 0, 4096), Bytes(8 * kMiB / 2, 1).str(0, 4096));
  EXPECT_EQ(read_at(volume("b"), 0, 4096), Bytes(4096, 7).str());
  EXPECT_EQ(list(mountpoint() + "/volumes").size(), 3u);
}

TEST_F(CopyTest, CpOfASnapshotIsAFork) {
  make_source();
  expect_ok(store_->snapshot("a", "s"));
  write_at(volume("a"), 0, Bytes(kMiB, 3));
  const std::uint64_t before = allocated_bytes();
  ASSERT_TRUE(cp(snapshot("a", "s"), volume("b")));
  EXPECT_LT(allocated_bytes(), before + kMiB);
  EXPECT_TRUE(same(snapshot("a", "s"), volume("b")));
  EXPECT_EQ(run(store_->info("b")).value().origin, "a@s");
}

TEST_F(CopyTest, ASparseSourceThatStartsWithAHole) {
  make_volume("a", 64 * kMiB);
  write_at(volume("a"), 3 * kMiB, Bytes(4 * kMiB, 1));
  write_at(volume("a"), 30 * kMiB, Bytes(2 * kMiB, 2));
  const std::uint64_t before = allocated_bytes();
  ASSERT_TRUE(cp(volume("a"), volume("b")));
  EXPECT_LT(allocated_bytes(), before + kMiB);
  EXPECT_TRUE(same(volume("a"), volume("b")));
  EXPECT_EQ(stored_size("b"), 64 * kMiB);
  ASSERT_EQ(sh("cp -a --sparse=never '" + volume("a") + "' '" + volume("c") + "'"), 0);
  EXPECT_TRUE(same(volume("a"), volume("c")));
}

TEST_F(CopyTest, CopyingAPartKeepsThatPartOnly) {
  make_source(8 * kMiB);
  const std::string whole = read_at(volume("a"), 0, 8 * kMiB);
  const Fd in(volume("a"), O_RDONLY);
  Fd out(volume("b"), O_RDWR | O_CREAT | O_EXCL);
  ASSERT_EQ(copy(in, 0, out, 0, kMiB + 1000), static_cast<ssize_t>(kMiB + 1000));
  EXPECT_EQ(size_of(volume("b")), kMiB + 1000);
  EXPECT_EQ(read_at(volume("b"), 0, 8 * kMiB), whole.substr(0, kMiB + 1000));
  // A gap that the source fills and the copy does not.
  ASSERT_EQ(copy(in, 3 * kMiB, out, 3 * kMiB, 4096), 4096);
  std::string expected = whole.substr(0, 3 * kMiB + 4096);
  expected.replace(kMiB + 1000, 2 * kMiB - 1000, 2 * kMiB - 1000, '\0');
  EXPECT_TRUE(read_at(volume("b"), 0, 8 * kMiB) == expected);
  // A write beyond the end leaves a hole, not the source.
  write_at(out, 3 * kMiB + 100000, Bytes(100, 9));
  expected += std::string(100000 - 4096, '\0') + Bytes(100, 9).str();
  EXPECT_TRUE(read_at(volume("b"), 0, 8 * kMiB) == expected);
  ASSERT_EQ(out.close(), 0);
  const std::uint64_t size = (expected.size() + 511) / 512 * 512;
  EXPECT_EQ(stored_size("b"), size);
  expected.resize(size, '\0');
  EXPECT_TRUE(read_at(volume("b"), 0, 8 * kMiB) == expected);
  EXPECT_TRUE(read_at(volume("a"), 0, 8 * kMiB) == whole);
  ASSERT_EQ(::truncate(volume("b").c_str(), 8 * kMiB), 0);
  expected.resize(8 * kMiB, '\0');
  EXPECT_TRUE(read_at(volume("b"), 0, 8 * kMiB) == expected);
}

TEST_F(CopyTest, ExtendingAfterAPartialCopyReadsZeros) {
  make_source(8 * kMiB);
  const Fd in(volume("a"), O_RDONLY);
  Fd out(volume("b"), O_RDWR | O_CREAT | O_EXCL);
  ASSERT_EQ(copy(in, 0, out, 0, kMiB), static_cast<ssize_t>(kMiB));
  ASSERT_EQ(::ftruncate(out.get(), 2 * kMiB), 0);
  EXPECT_EQ(read_at(volume("b"), kMiB, kMiB), std::string(kMiB, '\0'));
  ASSERT_EQ(::ftruncate(out.get(), 1000), 0);
  ASSERT_EQ(::ftruncate(out.get(), 3 * kMiB), 0);
  EXPECT_EQ(read_at(volume("b"), 1000, 3 * kMiB), std::string(3 * kMiB - 1000, '\0'));
  // And what is copied now moves.
  ASSERT_EQ(copy(in, 3 * kMiB, out, 3 * kMiB, kMiB), static_cast<ssize_t>(kMiB));
  EXPECT_TRUE(read_at(volume("b"), 3 * kMiB, kMiB) == read_at(volume("a"), 3 * kMiB, kMiB));
}

TEST_F(CopyTest, ASourceThatChangesBetweenTwoCopies) {
  make_source(8 * kMiB);
  const Fd in(volume("a"), O_RDWR);
  Fd out(volume("b"), O_RDWR | O_CREAT | O_EXCL);
  ASSERT_EQ(copy(in, 0, out, 0, kMiB), static_cast<ssize_t>(kMiB));
  write_at(in, 2 * kMiB, Bytes(4096, 99));
  ASSERT_EQ(copy(in, kMiB, out, kMiB, 2 * kMiB), static_cast<ssize_t>(2 * kMiB));
  EXPECT_EQ(read_at(volume("b"), 2 * kMiB, 4096), Bytes(4096, 99).str());
  EXPECT_TRUE(read_at(volume("b"), 0, 3 * kMiB) == read_at(volume("a"), 0, 3 * kMiB));
}

TEST_F(CopyTest, CopyingOverWhatWasWrittenMeanwhile) {
  make_source(8 * kMiB);
  const Fd in(volume("a"), O_RDONLY);
  Fd out(volume("b"), O_RDWR | O_CREAT | O_EXCL);
  ASSERT_EQ(copy(in, 0, out, 0, 2 * kMiB), static_cast<ssize_t>(2 * kMiB));
  write_at(out, kMiB, Bytes(4096, 99));
  ASSERT_EQ(copy(in, kMiB, out, kMiB, 2 * kMiB), static_cast<ssize_t>(2 * kMiB));
  EXPECT_TRUE(read_at(volume("b"), 0, 3 * kMiB) == read_at(volume("a"), 0, 3 * kMiB));
}

TEST_F(CopyTest, OntoAVolumeThatExistsBytesMove) {
  make_source(8 * kMiB);
  make_volume("b", 6 * kMiB);
  write_at(volume("b"), 0, Bytes(6 * kMiB, 5));
  const Fd in(volume("a"), O_RDONLY), out(volume("b"), O_RDWR);
  EXPECT_EQ(copy(in, 1000, out, 5000, 3 * kMiB), static_cast<ssize_t>(3 * kMiB));
  EXPECT_TRUE(read_at(volume("b"), 5000, 3 * kMiB) == read_at(volume("a"), 1000, 3 * kMiB));
  EXPECT_EQ(read_at(volume("b"), 0, 5000), Bytes(6 * kMiB, 5).str(0, 5000));
  // Holes too, and short at the end.
  EXPECT_EQ(copy(in, 5 * kMiB, out, 5 * kMiB, 3 * kMiB), static_cast<ssize_t>(kMiB));
  EXPECT_EQ(read_at(volume("b"), 5 * kMiB, kMiB), std::string(kMiB, '\0'));
  EXPECT_EQ(copy(in, 0, out, 6 * kMiB, kMiB), -1);
  EXPECT_EQ(errno, ENOSPC);
  EXPECT_EQ(copy(in, 8 * kMiB, out, 0, kMiB), 0);
}

TEST_F(CopyTest, CpOntoAVolumeThatExistsKeepsItsSize) {
  make_source(8 * kMiB);
  make_volume("b", 16 * kMiB);
  write_at(volume("b"), 12 * kMiB, Bytes(kMiB, 5));
  ASSERT_TRUE(cp(volume("a"), volume("b")));
  EXPECT_EQ(stored_size("b"), 16 * kMiB);
  EXPECT_TRUE(read_at(volume("b"), 0, 8 * kMiB) == read_at(volume("a"), 0, 8 * kMiB));
  EXPECT_EQ(read_at(volume("b"), 12 * kMiB, kMiB), std::string(kMiB, '\0'));
}

// What GNU cp does to a file with holes: it reads and writes.
TEST_F(CopyTest, ReadingAndWritingTheSameIsAForkToo) {
  make_source(8 * kMiB);
  const std::uint64_t before = allocated_bytes();
  const Fd in(volume("a"), O_RDONLY);
  Fd out(volume("b"), O_RDWR | O_CREAT | O_EXCL);
  Bytes data(128 << 10);
  const auto move = [&](std::uint64_t at) {
    ASSERT_EQ(::pread(in.get(), data.data(), data.size(), static_cast<off_t>(at)),
              static_cast<ssize_t>(data.size()));
    write_at(out, at, data);
  };
  for (std::uint64_t at = 0; at < 2 * kMiB; at += data.size()) move(at);
  EXPECT_EQ(size_of(volume("b")), 2 * kMiB);
  // A gap, then something of its own, then more of the same: each as it was written.
  move(3 * kMiB);
  const Bytes own(4096, 77);
  write_at(out, 3 * kMiB + 256 * 1024, own);
  move(3 * kMiB + 512 * 1024);
  ASSERT_EQ(out.close(), 0);
  EXPECT_LT(allocated_bytes(), before + kMiB);
  std::string expected = read_at(volume("a"), 0, 3 * kMiB + 640 * 1024);
  expected.replace(2 * kMiB, kMiB, kMiB, '\0');
  expected.replace(3 * kMiB + 128 * 1024, 384 * 1024, 384 * 1024, '\0');
  expected.replace(3 * kMiB + 256 * 1024, 4096, own.str());
  EXPECT_EQ(stored_size("b"), expected.size());
  EXPECT_TRUE(read_at(volume("b"), 0, 8 * kMiB) == expected);
}

TEST_F(CopyTest, ALargeVolumeIsCopiedInNoTime) {
  make_volume("a", std::uint64_t{100} << 30);
  for (std::uint64_t i = 0; i < 50; ++i) write_at(volume("a"), i << 31, Bytes(65536, i + 1));
  ASSERT_TRUE(cp(volume("a"), volume("b")));
  EXPECT_EQ(stored_size("b"), std::uint64_t{100} << 30);
  for (std::uint64_t i = 0; i < 50; ++i) {
    ASSERT_EQ(read_at(volume("b"), i << 31, 65536), Bytes(65536, i + 1).str()) << i;
  }
}

}  // namespace
}  // namespace voltree
