#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <thread>
#include <vector>

#include "blockstore/runtime/host_fs.h"
#include "tests/runtime/runtime_kinds.h"

namespace voltree {
namespace {

class FileTest : public RuntimeTest {};
INSTANTIATE_TEST_SUITE_P(All, FileTest, testing::Values(Kind::kUring, Kind::kPool, Kind::kSim),
                         kind_name);

constexpr std::size_t kPage = 4096;

TEST_P(FileTest, ReadsBackWhatWasWritten) {
  for (const bool direct : {false, true}) {
    const std::unique_ptr<File> file = open(direct ? "direct" : "cached", direct);
    const auto body = [&]() -> Task<void> {
      Buffer data(2 * kPage, 7);
      Status status = co_await file->write(data.span(), kPage);
      EXPECT_TRUE(status.ok()) << status.message();
      Buffer back(6 * kPage, 9);
      status = co_await file->read(back.span(), 0);
      EXPECT_TRUE(status.ok()) << status.message();
      EXPECT_TRUE(back.holds(0, kPage, 0));
      EXPECT_TRUE(back.holds(kPage, 3 * kPage, 7));
      EXPECT_TRUE(back.holds(3 * kPage, 6 * kPage, 0)) << "zeros past the end";
      status = co_await file->read(back.span(), 100 * kPage);
      EXPECT_TRUE(status.ok() && back.holds(0, 6 * kPage, 0));
      status = co_await file->sync_data();
      EXPECT_TRUE(status.ok()) << status.message();
    };
    runtime().run_until_done(body());
    EXPECT_EQ(*file->size_bytes(), 3 * kPage);
  }
}

TEST_P(FileTest, DirectReadOfAFileThatEndsInsideABlock) {
  const std::unique_ptr<File> cached = open("f");
  Buffer data(kPage + 777, 5);
  ASSERT_TRUE(cached->write_sync(data.span(), 0).ok());
  const std::unique_ptr<File> file = open("f", true);
  const auto body = [&]() -> Task<void> {
    Buffer back(4 * kPage, 9);
    const Status status = co_await file->read(back.span(), 0);
    EXPECT_TRUE(status.ok()) << status.message();
    EXPECT_TRUE(back.holds(0, kPage + 777, 5));
    EXPECT_TRUE(back.holds(kPage + 777, 4 * kPage, 0));
  };
  runtime().run_until_done(body());
  Buffer back(4 * kPage, 9);
  ASSERT_TRUE(file->read_sync(back.span(), 0).ok());
  EXPECT_TRUE(back.holds(0, kPage + 777, 5) && back.holds(kPage + 777, 4 * kPage, 0));
}

// Hosts differ in whether they can; half of it is what none may do.
TEST_P(FileTest, ARangeIsSharedOrNothingIs) {
  const std::unique_ptr<File> source = open("source");
  const std::unique_ptr<File> target = open("target", true);
  Buffer data(4 * kPage, 5);
  Buffer old(8 * kPage, 1);
  ASSERT_TRUE(source->write_sync(data.span(), 0).ok());
  ASSERT_TRUE(target->write_sync(old.span(), 0).ok());
  const Status shared = target->clone_range_sync(*source, kPage, 2 * kPage, 4 * kPage);
  EXPECT_TRUE(shared.ok() || shared.code() == Code::kNotSupported) << shared.message();
  EXPECT_TRUE(shared.ok() || !is_sim());
  // What the source becomes later is its own.
  Buffer later(4 * kPage, 9);
  ASSERT_TRUE(source->write_sync(later.span(), 0).ok());
  ASSERT_TRUE(target->sync_sync().ok());
  Buffer back(8 * kPage, 7);
  ASSERT_TRUE(target->read_sync(back.span(), 0).ok());
  EXPECT_TRUE(back.holds(0, 4 * kPage, 1));
  EXPECT_TRUE(back.holds(4 * kPage, 6 * kPage, shared.ok() ? 5 : 1));
  EXPECT_TRUE(back.holds(6 * kPage, 8 * kPage, 1));
}

TEST_P(FileTest, ABatchLargerThanTheRing) {
  const std::unique_ptr<File> file = open("f");
  constexpr std::size_t kRequests = 5000;
  Buffer data(kRequests * 512, 0);
  for (std::size_t i = 0; i < kRequests * 512; ++i) data[i] = std::byte(i / 512 % 251);
  const auto body = [&]() -> Task<void> {
    for (const IoKind kind : {IoKind::kWrite, IoKind::kRead}) {
      Buffer back(kRequests * 512, 0);
      IoBatch batch;
      std::byte* const memory = kind == IoKind::kWrite ? &data[0] : &back[0];
      for (std::size_t i = 0; i < kRequests; ++i) {
        batch.requests().push_back({kind, file.get(), memory + i * 512, i * 512, 512, {}});
      }
      const Status status = co_await batch;
      EXPECT_TRUE(status.ok()) << status.message();
      if (kind == IoKind::kRead) {
        EXPECT_EQ(std::memcmp(&back[0], &data[0], kRequests * 512), 0);
      }
    }
    IoBatch empty;
    const Status status = co_await empty;
    EXPECT_TRUE(status.ok());
  };
  runtime().run_until_done(body());
}

TEST_P(FileTest, ABatchReportsItsFirstFailure) {
  { const std::unique_ptr<File> make = open("f"); }
  Result<std::unique_ptr<File>> file = fs().open(path("f"), {.writable = false});
  ASSERT_TRUE(file.ok());
  const auto body = [&]() -> Task<void> {
    Buffer data(kPage, 1);
    IoBatch batch;
    File* const target = file->get();
    batch.requests().push_back({IoKind::kRead, target, &data[0], 0, kPage, {}});
    batch.requests().push_back({IoKind::kWrite, target, &data[0], 0, kPage, {}});
    batch.requests().push_back({IoKind::kRead, target, &data[0], ~std::uint64_t{0}, kPage, {}});
    const Status status = co_await batch;
    EXPECT_FALSE(status.ok());
    EXPECT_TRUE(batch.requests()[0].status.ok());
    EXPECT_FALSE(batch.requests()[1].status.ok());
  };
  runtime().run_until_done(body());
}

TEST_P(FileTest, HolesAreSeenMadeAndCounted) {
  const std::unique_ptr<File> file = open("f");
  const auto body = [&]() -> Task<void> {
    Buffer data(64 * kPage, 3);
    Status status = co_await file->write(data.span(), 64 * kPage);
    EXPECT_TRUE(status.ok());
    EXPECT_EQ(*file->seek_data(0), 64 * kPage);
    EXPECT_EQ(*file->seek_hole(0), 0u);
    EXPECT_EQ(*file->seek_hole(64 * kPage), 128 * kPage);
    EXPECT_EQ(*file->seek_data(128 * kPage), 128 * kPage) << "none: the size";
    EXPECT_EQ(*file->seek_data(1000 * kPage), 128 * kPage);
    status = co_await file->sync_data();
    const std::uint64_t before = *file->allocated_bytes();
    EXPECT_GE(before, 64 * kPage);
    status = co_await file->punch_hole(80 * kPage + 100, 32 * kPage);
    EXPECT_TRUE(status.ok()) << status.message();
    EXPECT_LT(*file->allocated_bytes(), before);
    EXPECT_EQ(*file->size_bytes(), 128 * kPage);
    EXPECT_EQ(*file->seek_hole(64 * kPage), 81 * kPage);
    EXPECT_EQ(*file->seek_data(81 * kPage), 112 * kPage);
    status = co_await file->read(data.span(), 64 * kPage);
    EXPECT_TRUE(data.holds(0, 16 * kPage + 100, 3));
    EXPECT_TRUE(data.holds(16 * kPage + 100, 48 * kPage + 100, 0));
    EXPECT_TRUE(data.holds(48 * kPage + 100, 64 * kPage, 3));
  };
  runtime().run_until_done(body());
}

TEST_P(FileTest, AllocateReservesWithoutChangingTheSize) {
  const std::unique_ptr<File> file = open("f");
  const auto body = [&]() -> Task<void> {
    const Status status = co_await file->allocate(0, 256 * kPage);
    EXPECT_TRUE(status.ok()) << status.message();
    EXPECT_EQ(*file->size_bytes(), 0u);
    EXPECT_GE(*file->allocated_bytes(), 256 * kPage);
    const Status none = co_await file->allocate(0, 0);
    EXPECT_TRUE(none.ok());
  };
  runtime().run_until_done(body());
}

TEST_P(FileTest, TruncateCutsAndExtends) {
  const std::unique_ptr<File> file = open("f");
  Buffer data(2 * kPage, 8);
  ASSERT_TRUE(file->write_sync(data.span(), 0).ok());
  ASSERT_TRUE(file->truncate(100).ok());
  ASSERT_TRUE(file->truncate(2 * kPage).ok());
  ASSERT_TRUE(file->read_sync(data.span(), 0).ok());
  EXPECT_TRUE(data.holds(0, 100, 8));
  EXPECT_TRUE(data.holds(100, 2 * kPage, 0));
}

TEST_P(FileTest, DrainingForeignWritesChangesNothing) {
  const std::unique_ptr<File> file = open("f");
  EXPECT_TRUE(file->drain_foreign_io().ok());
  ASSERT_TRUE(file->truncate(100 * kPage).ok());
  EXPECT_TRUE(file->drain_foreign_io().ok());
  Buffer data(kPage, 8);
  ASSERT_TRUE(file->write_sync(data.span(), 50 * kPage).ok());
  EXPECT_TRUE(file->drain_foreign_io().ok());
  EXPECT_EQ(*file->size_bytes(), 100 * kPage);
  EXPECT_EQ(*file->seek_data(0), 50 * kPage);
  EXPECT_EQ(*file->seek_hole(50 * kPage), 51 * kPage);
}

TEST_P(FileTest, OpenSaysWhyItFails) {
  EXPECT_EQ(fs().open(path("none"), {}).status().code(), Code::kNotFound);
  { const std::unique_ptr<File> file = open("f"); }
  EXPECT_EQ(fs().open(path("f"), {.create = true, .exclusive = true}).status().code(),
            Code::kExists);
  EXPECT_TRUE(fs().open(path("new"), {.create = true, .exclusive = true, .direct = true}).ok());
  EXPECT_EQ(fs().open(path("no/folder"), {.create = true}).status().code(), Code::kNotFound);
}

TEST_P(FileTest, NamesComeAndGo) {
  ASSERT_TRUE(fs().make_dir(path("d")).ok());
  ASSERT_TRUE(fs().make_dir(path("d")).ok()) << "there already";
  { const std::unique_ptr<File> file = open("d/b"); }
  { const std::unique_ptr<File> file = open("d/a"); }
  EXPECT_EQ(*fs().list_dir(path("d")), (std::vector<std::string>{"a", "b"}));
  ASSERT_TRUE(fs().rename(path("d/a"), path("d/c")).ok());
  EXPECT_FALSE(*fs().exists(path("d/a")));
  EXPECT_TRUE(*fs().exists(path("d/c")));
  EXPECT_TRUE(*fs().exists(path("d")));
  ASSERT_TRUE(fs().unlink(path("d/b")).ok());
  EXPECT_EQ(fs().unlink(path("d/b")).code(), Code::kNotFound);
  EXPECT_TRUE(fs().sync_dir(path("d")).ok());
  EXPECT_EQ(fs().list_dir(path("none")).status().code(), Code::kNotFound);
  EXPECT_EQ(fs().rename(path("none"), path("x")).code(), Code::kNotFound);
}

// Others take every descriptor that there is, and any that is given back for a moment.
TEST_P(FileTest, AFolderIsSyncedWhereNoDescriptorIsLeft) {
  if (is_sim()) return;  // its files need none
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit few = before;
  few.rlim_cur = 128;
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &few), 0);
  std::atomic<bool> stop{false};
  std::atomic<bool> none_left{false};
  // (A sanitizer takes descriptors to look at an object for the first time.)
  EXPECT_TRUE(fs().sync_dir(path("")).ok());
  std::thread thief([&] {
    std::vector<int> taken;
    while (!stop) {
      const int fd = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
      if (fd >= 0) taken.push_back(fd);
      if (fd < 0) none_left = true;
      none_left.notify_all();
    }
    for (const int fd : taken) ::close(fd);
  });
  none_left.wait(false);
  int failures = 0;
  for (int i = 0; i < 2000; ++i) failures += fs().sync_dir(path("")).ok() ? 0 : 1;
  stop = true;
  thief.join();
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_EQ(failures, 0);
}

TEST_P(FileTest, AnUnlinkedFileLivesUntilItIsClosed) {
  const std::unique_ptr<File> file = open("f");
  ASSERT_TRUE(fs().unlink(path("f")).ok());
  Buffer data(kPage, 4);
  ASSERT_TRUE(file->write_sync(data.span(), 0).ok());
  Buffer back(kPage, 0);
  ASSERT_TRUE(file->read_sync(back.span(), 0).ok());
  EXPECT_TRUE(back.holds(0, kPage, 4));
}

TEST_P(FileTest, TheFileSystemDescribesItself) {
  const Result<FsInfo> info = fs().info(path("."));
  ASSERT_TRUE(info.ok()) << info.status().message();
  EXPECT_FALSE(info->type.empty());
  EXPECT_GT(info->total_bytes, 0u);
  EXPECT_GE(info->total_bytes, info->free_bytes);
  EXPECT_GE(info->file_size_max_bytes, std::uint64_t{1} << 40);
  EXPECT_TRUE(info->sparse_files);
  EXPECT_EQ(fs().list_dir(path("."))->size(), 0u) << "nothing is left behind";
}

TEST_P(FileTest, ManyCoroutinesOnAllExecutorsUseOneFile) {
  const std::unique_ptr<File> file = open("f", true);
  std::atomic<int> ended{0};
  const auto worker = [&](std::size_t i) -> Task<void> {
    Buffer data(kPage, static_cast<unsigned char>(i + 1));
    for (std::size_t round = 0; round < 50; ++round) {
      const std::uint64_t at = (i * 50 + round) * kPage;
      Status status = co_await file->write(data.span(), at);
      EXPECT_TRUE(status.ok()) << status.message();
      Buffer back(kPage);
      status = co_await file->read(back.span(), at);
      EXPECT_TRUE(status.ok() && back.holds(0, kPage, static_cast<unsigned char>(i + 1)));
    }
    ++ended;
  };
  const auto body = [&]() -> Task<void> {
    for (std::size_t i = 0; i < 16; ++i) spawn(runtime().executor(i % 2), worker(i));
    while (ended != 16) co_await runtime().sleep_for(std::chrono::milliseconds(1));
  };
  runtime().run_until_done(body());
}

}  // namespace
}  // namespace voltree
