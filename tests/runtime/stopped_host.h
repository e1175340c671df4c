#pragma once

#include <fcntl.h>
#include <fmt/format.h>
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

// A file system of its own on a loop device, that can be stopped. For tests that have the resource
// loop_devices (tests/CMakeLists.txt).
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
    constexpr unsigned long kShutdown = _IOR('X', 125, std::uint32_t);  // FS_IOC_SHUTDOWN
    std::uint32_t how = 2;  // EXT4_GOING_FLAGS_NOLOGFLUSH and XFS_FSOP_GOING_FLAGS_NOLOGFLUSH
    ASSERT_EQ(::ioctl(folder.get(), kShutdown, &how), 0);
  }

  std::string folder_;
  bool mounted_ = false;
};

}  // namespace voltree
