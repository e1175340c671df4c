// Reading, writing, truncating, zeroing and seeking in volumes that exist.
#include <linux/falloc.h>
#include <sys/mman.h>

#include <thread>

#include "tests/fs/mount_fixture.h"

namespace voltree {
namespace {

class FileTest : public MountTest {
 protected:
  void SetUp() override {
    MountTest::SetUp();
    if (store_) make_volume("a", 4 * kMiB);
  }
  std::string a() const { return volume("a"); }
};

TEST_F(FileTest, AFreshVolumeReadsZeros) {
  EXPECT_EQ(read_at(a(), 0, 10000), std::string(10000, '\0'));
  EXPECT_EQ(read_at(a(), 4 * kMiB - 10, 100), std::string(10, '\0'));
  EXPECT_EQ(read_at(a(), 4 * kMiB, 100), "");
  EXPECT_EQ(read_at(a(), 40 * kMiB, 100), "");
}

TEST_F(FileTest, ReadsBackWhatWasWritten) {
  const Bytes data(3 * kMiB + 777, 5);
  write_at(a(), 123, data);
  EXPECT_EQ(read_at(a(), 123, data.size()), data.str());
  EXPECT_EQ(read_at(a(), 0, 123), std::string(123, '\0'));
}

TEST_F(FileTest, DirectAndCachedSeeEachOther) {
  const Fd direct(a(), O_RDWR | O_DIRECT), cached(a(), O_RDWR);
  ASSERT_TRUE(direct.ok() && cached.ok());
  Bytes got(8192);
  ASSERT_EQ(::pread(cached.get(), got.data(), got.size(), 4096), 8192);  // into the page cache
  const Bytes first(8192, 1), second(8192, 2);
  write_at(direct, 4096, first);
  ASSERT_EQ(::pread(cached.get(), got.data(), got.size(), 4096), 8192);
  EXPECT_EQ(got.str(), first.str());
  write_at(cached, 4096, second);
  ASSERT_EQ(::pread(direct.get(), got.data(), got.size(), 4096), 8192);
  EXPECT_EQ(got.str(), second.str());
}

TEST_F(FileTest, RandomUnalignedMixAgreesWithAModel) {
  const Fd direct(a(), O_RDWR | O_DIRECT), cached(a(), O_RDWR);
  std::string model(4 * kMiB, '\0');
  std::mt19937_64 random(42);
  for (int i = 0; i < 400; ++i) {
    const bool use_direct = random() % 2 == 0;
    const std::uint64_t unit = use_direct ? 512 : 1;
    const std::uint64_t offset = random() % (3 * kMiB) / unit * unit;
    const std::size_t length = (1 + random() % (random() % 8 == 0 ? 300000 : 9000) / unit) * unit;
    if (random() % 3 != 0) {
      const Bytes data(length, random());
      write_at(use_direct ? direct : cached, offset, data);
      model.replace(offset, length, data.str());
    } else {
      Bytes got(length);
      ASSERT_EQ(::pread((use_direct ? direct : cached).get(), got.data(), length,
                        static_cast<off_t>(offset)),
                static_cast<ssize_t>(length));
      ASSERT_EQ(got.str(), model.substr(offset, length)) << "round " << i;
    }
  }
  EXPECT_EQ(read_at(a(), 0, model.size()), model);
}

TEST_F(FileTest, WritingPastTheEnd) {
  const Fd file(a(), O_RDWR);
  const Bytes data(8192, 1);
  EXPECT_EQ(::pwrite(file.get(), data.data(), 8192, 4 * kMiB), -1);
  EXPECT_EQ(errno, ENOSPC);
  EXPECT_EQ(::pwrite(file.get(), data.data(), 8192, 4 * kMiB - 100), 100);
  EXPECT_EQ(read_at(a(), 4 * kMiB - 100, 200), data.str(0, 100));
  const Fd direct(a(), O_RDWR | O_DIRECT);
  EXPECT_EQ(::pwrite(direct.get(), data.data(), 4096, 4 * kMiB), -1);
  EXPECT_EQ(errno, ENOSPC);
  EXPECT_EQ(::pwrite(direct.get(), data.data(), 8192, 4 * kMiB - 4096), 4096);
  EXPECT_EQ(size_of(a()), 4 * kMiB);
}

TEST_F(FileTest, TruncatingKeepsTheSizeAndDiscards) {
  write_at(a(), 0, Bytes(kMiB, 1));
  {
    const Fd cached(a(), O_RDWR);
    Bytes got(8192);
    ASSERT_EQ(::pread(cached.get(), got.data(), got.size(), 0), 8192);
    ASSERT_EQ(::ftruncate(cached.get(), 5000), 0);
    EXPECT_EQ(size_of(a()), 4 * kMiB);
    ASSERT_EQ(::pread(cached.get(), got.data(), got.size(), 0), 8192);
    EXPECT_EQ(got.str(0, 5000), Bytes(kMiB, 1).str(0, 5000));
    EXPECT_EQ(got.str(5000), std::string(8192 - 5000, '\0'));
  }
  struct stat now {};
  ASSERT_EQ(::stat(a().c_str(), &now), 0);
  EXPECT_EQ(now.st_blocks, 16);
  { const Fd emptied(a(), O_RDWR | O_TRUNC); }
  EXPECT_EQ(size_of(a()), 4 * kMiB);
  EXPECT_EQ(read_at(a(), 0, 8192), std::string(8192, '\0'));
  ASSERT_EQ(::stat(a().c_str(), &now), 0);
  EXPECT_EQ(now.st_blocks, 0);
}

TEST_F(FileTest, TruncatingAboveExtends) {
  ASSERT_EQ(::truncate(a().c_str(), 5 * kMiB + 100), 0);
  EXPECT_EQ(size_of(a()), 5 * kMiB + 512);
  write_at(a(), 5 * kMiB, Bytes(512, 1));
  const Fd file(a(), O_RDWR);
  ASSERT_EQ(::ftruncate(file.get(), 6 * kMiB), 0);
  EXPECT_EQ(size_of(a()), 6 * kMiB);
  EXPECT_EQ(run(store_->info("a")).value().size_bytes, 6 * kMiB);
}

TEST_F(FileTest, FallocatePunchesAndZeroes) {
  write_at(a(), 0, Bytes(kMiB, 1));
  const Fd file(a(), O_RDWR);
  Bytes got(kMiB);
  ASSERT_EQ(::pread(file.get(), got.data(), got.size(), 0), static_cast<ssize_t>(kMiB));
  EXPECT_EQ(::fallocate(file.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 8192), 0);
  EXPECT_EQ(::fallocate(file.get(), FALLOC_FL_ZERO_RANGE, 100000, 50), 0);
  EXPECT_EQ(
      ::fallocate(file.get(), FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 4 * kMiB - 4096, kMiB),
      0);
  ASSERT_EQ(::pread(file.get(), got.data(), got.size(), 0), static_cast<ssize_t>(kMiB));
  std::string expected = Bytes(kMiB, 1).str();
  expected.replace(4096, 8192, 8192, '\0');
  expected.replace(100000, 50, 50, '\0');
  EXPECT_EQ(got.str(), expected);
  EXPECT_EQ(::fallocate(file.get(), FALLOC_FL_ZERO_RANGE, 4 * kMiB - 4096, kMiB), -1);
  EXPECT_EQ(errno, ENOSPC);
  EXPECT_EQ(::fallocate(file.get(), 0, 0, kMiB), -1);
  EXPECT_EQ(errno, EOPNOTSUPP);
  EXPECT_EQ(::fallocate(file.get(), FALLOC_FL_KEEP_SIZE, 0, kMiB), -1);
  EXPECT_EQ(errno, EOPNOTSUPP);
  EXPECT_EQ(size_of(a()), 4 * kMiB);
}

TEST_F(FileTest, SeeksDataAndHoles) {
  write_at(a(), kMiB, Bytes(8192, 1));
  write_at(a(), 2 * kMiB, Bytes(4096, 1));
  const Fd file(a(), O_RDONLY);
  const auto seek = [&](std::uint64_t at, int whence) {
    return ::lseek(file.get(), static_cast<off_t>(at), whence);
  };
  EXPECT_EQ(seek(0, SEEK_DATA), static_cast<off_t>(kMiB));
  EXPECT_EQ(seek(0, SEEK_HOLE), 0);
  EXPECT_EQ(seek(kMiB + 5, SEEK_DATA), static_cast<off_t>(kMiB + 5));
  EXPECT_EQ(seek(kMiB, SEEK_HOLE), static_cast<off_t>(kMiB + 8192));
  EXPECT_EQ(seek(kMiB + 8192, SEEK_DATA), static_cast<off_t>(2 * kMiB));
  EXPECT_EQ(seek(2 * kMiB + 4096, SEEK_DATA), -1);
  EXPECT_EQ(errno, ENXIO);
  EXPECT_EQ(seek(4 * kMiB, SEEK_HOLE), -1);
  EXPECT_EQ(errno, ENXIO);
  EXPECT_EQ(seek(0, SEEK_END), static_cast<off_t>(4 * kMiB));
  write_at(a(), 4 * kMiB - 4096, Bytes(4096, 1));
  EXPECT_EQ(seek(4 * kMiB - 4096, SEEK_HOLE), static_cast<off_t>(4 * kMiB));
}

TEST_F(FileTest, FsyncAndSynchronousWritesFlush) {
  const auto flushes = [&] { return store_->counters().flushes; };
  const Bytes data(4096, 1);
  const Fd file(a(), O_RDWR);
  write_at(file, 0, data);
  const auto before = flushes();
  ASSERT_EQ(::fsync(file.get()), 0);
  ASSERT_EQ(::fdatasync(file.get()), 0);
  EXPECT_GE(flushes(), before + 2);
  const auto commits = [&] { return store_->counters().catalog_commits; };
  for (const int flags : {O_DSYNC, O_SYNC | O_DIRECT, O_DSYNC | O_DIRECT}) {
    const Fd synchronous(a(), O_RDWR | flags);
    const auto committed = commits();
    static int block = 1;
    write_at(synchronous, static_cast<std::uint64_t>(block++) * 4096, data);
    EXPECT_GT(commits(), committed) << flags;
  }
}

TEST_F(FileTest, MappedReadsAndWrites) {
  write_at(a(), 0, Bytes(8192, 1));
  {
    const Fd file(a(), O_RDWR);
    void* memory = ::mmap(nullptr, kMiB, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
    ASSERT_NE(memory, MAP_FAILED) << std::strerror(errno);
    EXPECT_EQ(std::string(static_cast<char*>(memory), 8192), Bytes(8192, 1).str());
    std::memcpy(static_cast<char*>(memory) + 4096, "hello", 5);
    ASSERT_EQ(::msync(memory, kMiB, MS_SYNC), 0);
    ::munmap(memory, kMiB);
  }
  const Fd direct(a(), O_RDONLY | O_DIRECT);
  Bytes got(4096);
  ASSERT_EQ(::pread(direct.get(), got.data(), 4096, 4096), 4096);
  EXPECT_EQ(got.str(0, 5), "hello");
}

TEST_F(FileTest, ParallelWritersDoNotDisturbEachOther) {
  constexpr int kThreads = 8;
  constexpr std::uint64_t kPart = 4 * kMiB / kThreads;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      const Fd file(a(), O_RDWR | (t % 2 == 0 ? O_DIRECT : 0));
      std::mt19937_64 random(static_cast<std::uint64_t>(t));
      for (int round = 0; round < 3; ++round) {
        for (std::uint64_t at = 0; at < kPart; at += 16384) {
          write_at(file, static_cast<std::uint64_t>(t) * kPart + at,
                   Bytes(16384, 1 + static_cast<std::uint64_t>(t) * 1000 + at));
        }
        Bytes got(16384);
        for (std::uint64_t at = 0; at < kPart; at += 16384) {
          const auto offset = static_cast<off_t>(static_cast<std::uint64_t>(t) * kPart + at);
          ASSERT_EQ(::pread(file.get(), got.data(), got.size(), offset), 16384);
          ASSERT_EQ(got.str(), Bytes(16384, 1 + static_cast<std::uint64_t>(t) * 1000 + at).str());
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_F(FileTest, RemovedWhileOpen) {
  write_at(a(), 0, Bytes(8192, 1));
  const Fd file(a(), O_RDWR | O_DIRECT);
  ASSERT_EQ(::unlink(a().c_str()), 0);
  Bytes data(4096);
  EXPECT_EQ(::pread(file.get(), data.data(), 4096, 0), -1);
  EXPECT_EQ(errno, ESTALE);
  EXPECT_EQ(::pwrite(file.get(), data.data(), 4096, 0), -1);
  EXPECT_EQ(errno, ESTALE);
  EXPECT_EQ(::access(a().c_str(), F_OK), -1);
  EXPECT_EQ(errno, ENOENT);
  make_volume("a", kMiB);
  EXPECT_EQ(read_at(a(), 0, 4096), std::string(4096, '\0'));
}

TEST_F(FileTest, RevertedThroughAnotherDoor) {
  write_at(a(), 0, Bytes(8192, 1));
  expect_ok(store_->snapshot("a", "s"));
  write_at(a(), 0, Bytes(8192, 2));
  const Fd cached(a(), O_RDONLY);
  Bytes got(8192);
  ASSERT_EQ(::pread(cached.get(), got.data(), got.size(), 0), 8192);
  expect_ok(store_->revert("a", "s", {}));
  mount_->invalidate({"a", ""});
  for (int i = 0; i < 200; ++i) {  // told from another thread, soon
    ASSERT_EQ(::pread(cached.get(), got.data(), got.size(), 0), 8192);
    if (got.str() == Bytes(8192, 1).str()) break;
    ::usleep(10000);
  }
  EXPECT_EQ(got.str(), Bytes(8192, 1).str());
}

}  // namespace
}  // namespace voltree
