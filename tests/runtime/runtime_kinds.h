// A fixture that runs a test on each kind of runtime.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstring>
#include <filesystem>
#include <memory>
#include <string>

#include "blockstore/base/units.h"
#include "blockstore/runtime/io.h"
#include "blockstore/runtime/sim_runtime.h"

namespace voltree {

enum class Kind { kUring, kPool, kSim };

// Memory that direct I/O takes, filled with one byte.
class Buffer {
 public:
  explicit Buffer(std::size_t bytes, unsigned char fill = 0)
      : bytes_(bytes),
        data_(static_cast<std::byte*>(::aligned_alloc(4096, (bytes + 4095) & ~4095ul))) {
    std::memset(data_, fill, bytes);
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { ::free(data_); }
  std::span<std::byte> span() { return {data_, bytes_}; }
  std::byte& operator[](std::size_t i) { return data_[i]; }
  // True when all of [from, to) is `value`.
  bool holds(std::size_t from, std::size_t to, unsigned char value) const {
    for (std::size_t i = from; i < to; ++i) {
      if (data_[i] != std::byte{value}) return false;
    }
    return true;
  }

 private:
  std::size_t bytes_;
  std::byte* data_;
};

class RuntimeTest : public testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    if (GetParam() == Kind::kSim) {
      runtime_ = std::make_unique<SimRuntime>(world_, SimOptions{.seed = 42});
      folder_ = "/dir";
      ASSERT_TRUE(fs().make_dir(folder_).ok());
      return;
    }
    // Beside the build, where a disk is: memory file systems know no direct I/O.
    std::string name = std::filesystem::current_path().string() + "/voltree-test-XXXXXX";
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
    RuntimeOptions options{.executors = 2, .force_pool = GetParam() == Kind::kPool};
    Result<std::unique_ptr<Runtime>> made = make_host_runtime(options);
    ASSERT_TRUE(made.ok()) << made.status().message();
    runtime_ = std::move(made).value();
  }
  void TearDown() override {
    runtime_.reset();
    if (GetParam() != Kind::kSim) std::filesystem::remove_all(folder_);
  }

  Runtime& runtime() { return *runtime_; }
  FileSystem& fs() { return runtime_->fs(); }
  std::string path(const std::string& name) const { return folder_ + "/" + name; }
  std::unique_ptr<File> open(const std::string& name, bool direct = false) {
    Result<std::unique_ptr<File>> file = fs().open(path(name), {.create = true, .direct = direct});
    EXPECT_TRUE(file.ok()) << file.status().message();
    return file.ok() ? std::move(file).value() : nullptr;
  }
  bool is_sim() const { return GetParam() == Kind::kSim; }

  SimWorld world_;

 private:
  std::unique_ptr<Runtime> runtime_;
  std::string folder_;
};

inline std::string kind_name(const testing::TestParamInfo<Kind>& info) {
  switch (info.param) {
    case Kind::kUring:
      return "Uring";
    case Kind::kPool:
      return "Pool";
    case Kind::kSim:
      return "Sim";
  }
  return "";
}

}  // namespace voltree
