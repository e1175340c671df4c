// What the host's system calls may answer short of failing: EINTR, and less than was asked for. The
// calls of this program go through the functions below.
#include <dlfcn.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <vector>

#include "blockstore/runtime/io.h"

namespace {

struct Host {
  int interrupts = 0;       // so many calls are interrupted first
  bool is_short = false;    // of each transfer only a part is done
  int syncs = 0;            // asked for
  bool fail_syncs = false;  // with EINTR
};
thread_local Host host;

bool interrupted() {
  if (host.interrupts == 0) return false;
  --host.interrupts;
  errno = EINTR;
  return true;
}

std::size_t part_of(std::size_t bytes) {
  constexpr std::size_t kSector = 512;
  return host.is_short && bytes > kSector ? bytes / 2 / kSector * kSector : bytes;
}

template <typename Call>
Call next(const char* name) {
  return reinterpret_cast<Call>(::dlsym(RTLD_NEXT, name));
}

}  // namespace

extern "C" {

ssize_t pread(int fd, void* out, std::size_t bytes, off_t offset) {
  static const auto real = next<ssize_t (*)(int, void*, std::size_t, off_t)>("pread");
  return interrupted() ? -1 : real(fd, out, part_of(bytes), offset);
}

ssize_t pwrite(int fd, const void* data, std::size_t bytes, off_t offset) {
  static const auto real = next<ssize_t (*)(int, const void*, std::size_t, off_t)>("pwrite");
  return interrupted() ? -1 : real(fd, data, part_of(bytes), offset);
}

int ftruncate(int fd, off_t bytes) noexcept {
  static const auto real = next<int (*)(int, off_t)>("ftruncate");
  return interrupted() ? -1 : real(fd, bytes);
}

int fallocate(int fd, int mode, off_t offset, off_t bytes) {
  static const auto real = next<int (*)(int, int, off_t, off_t)>("fallocate");
  return interrupted() ? -1 : real(fd, mode, offset, bytes);
}

int fdatasync(int fd) {
  static const auto real = next<int (*)(int)>("fdatasync");
  ++host.syncs;
  if (!host.fail_syncs) return real(fd);
  errno = EINTR;
  return -1;
}

}  // extern "C"

namespace voltree {
namespace {

class Interrupted : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string folder = (std::filesystem::temp_directory_path() / "voltree-XXXXXX").string();
    ASSERT_NE(::mkdtemp(folder.data()), nullptr);
    folder_ = folder;
    auto made = make_host_runtime({.executors = 1, .force_pool = true});
    ASSERT_TRUE(made.ok()) << made.status().message();
    runtime_ = std::move(*made);
    auto opened = runtime_->fs().open(folder_ + "/file", {.create = true});
    ASSERT_TRUE(opened.ok()) << opened.status().message();
    file_ = std::move(*opened);
    for (std::size_t i = 0; i < data_.size(); ++i)
      data_[i] = static_cast<std::byte>(i * 7 + i / 512);
  }
  void TearDown() override {
    host = {};
    file_.reset();
    std::filesystem::remove_all(folder_);
  }

  std::string folder_;
  std::unique_ptr<Runtime> runtime_;
  std::unique_ptr<File> file_;
  std::vector<std::byte> data_ = std::vector<std::byte>(64 * 4096);
  std::vector<std::byte> got_ = std::vector<std::byte>(64 * 4096);
};

TEST_F(Interrupted, ShortTransfersAreContinued) {
  host.is_short = true;
  ASSERT_TRUE(file_->write_sync(data_, 4096).ok());
  ASSERT_TRUE(file_->read_sync(got_, 4096).ok());
  EXPECT_EQ(got_, data_);
}

TEST_F(Interrupted, WhatWasInterruptedIsDoneAgain) {
  host.interrupts = 3;
  ASSERT_TRUE(file_->write_sync(data_, 0).ok());
  EXPECT_EQ(host.interrupts, 0);
  host.interrupts = 3;
  ASSERT_TRUE(file_->read_sync(got_, 0).ok());
  EXPECT_EQ(got_, data_);
  host.interrupts = 3;
  ASSERT_TRUE(file_->truncate(8192).ok());
  EXPECT_EQ(*file_->size_bytes(), 8192u);
  host.interrupts = 3;
  const Status allocated = file_->allocate_sync(0, 8192);
  EXPECT_TRUE(allocated.ok() || allocated.code() == Code::kNotSupported) << allocated.message();
  EXPECT_EQ(host.interrupts, 0);
}

// I10: nobody knows what an interrupted sync has made durable.
TEST_F(Interrupted, ASyncIsNeverDoneAgain) {
  ASSERT_TRUE(file_->write_sync(data_, 0).ok());
  host.fail_syncs = true;
  EXPECT_FALSE(file_->sync_sync().ok());
  EXPECT_EQ(host.syncs, 1);
}

}  // namespace
}  // namespace voltree
