// A store in a folder of its own, mounted for real. Tests make their system calls on gtest's
// thread, which is not an executor.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "blockstore/runtime/io.h"
#include "blockstore/store.h"
#include "fs/mount.h"

namespace voltree {

inline constexpr std::uint64_t kMiB = 1 << 20;

// An open file.
class Fd {
 public:
  Fd(const std::string& path, int flags, mode_t mode = 0600)
      : fd_(::open(path.c_str(), flags | O_CLOEXEC, mode)), error_(fd_ < 0 ? errno : 0) {}
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  ~Fd() { close(); }
  int close() {
    const int result = fd_ < 0 ? 0 : ::close(fd_);
    fd_ = -1;
    return result;
  }
  int get() const { return fd_; }
  bool ok() const { return fd_ >= 0; }
  int error() const { return error_; }

 private:
  int fd_;
  int error_;
};

// Memory that direct I/O takes.
class Bytes {
 public:
  explicit Bytes(std::size_t size, std::uint64_t seed = 0) : size_(size) {
    data_.reset(static_cast<char*>(::aligned_alloc(4096, (size + 4095) & ~std::size_t{4095})));
    std::memset(data_.get(), 0, size);
    if (seed == 0) return;
    std::mt19937_64 random(seed);
    for (std::size_t i = 0; i < size; ++i) data_.get()[i] = static_cast<char>(random() | 1);
  }
  char* data() { return data_.get(); }
  const char* data() const { return data_.get(); }
  std::size_t size() const { return size_; }
  std::string str(std::size_t from = 0, std::size_t length = std::string::npos) const {
    return std::string(data(), size_).substr(from, length);
  }

 private:
  struct Free {
    void operator()(char* memory) const { ::free(memory); }
  };
  std::size_t size_;
  std::unique_ptr<char, Free> data_;
};

extern "C" void __sanitizer_set_death_callback(void (*callback)()) __attribute__((weak));

// The test is client and server of its mount in one process: when it dies, its thread waits for an
// answer that nobody will give, and the kernel waits for the thread. Breaking the connection first
// makes a crash a crash and not a hang.
class BreakMountOnCrash {
 public:
  explicit BreakMountOnCrash(const std::string& mountpoint) {
    ::strncpy(mountpoint_, mountpoint.c_str(), sizeof(mountpoint_) - 1);
    if (__sanitizer_set_death_callback) {
      __sanitizer_set_death_callback(&break_mount);
      ::signal(SIGABRT, &on_signal);
      return;
    }
    for (const int crash : {SIGABRT, SIGSEGV, SIGBUS, SIGILL, SIGFPE}) ::signal(crash, &on_signal);
  }
  BreakMountOnCrash(const BreakMountOnCrash&) = delete;
  BreakMountOnCrash& operator=(const BreakMountOnCrash&) = delete;
  ~BreakMountOnCrash() { mountpoint_[0] = 0; }

 private:
  static void break_mount() {
    if (mountpoint_[0] != 0) ::umount2(mountpoint_, MNT_FORCE);
  }
  static void on_signal(int number) {
    break_mount();
    ::signal(number, SIG_DFL);
    ::raise(number);
  }
  inline static char mountpoint_[4096] = {};
};

class MountTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const int fuse = ::open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (fuse < 0) GTEST_SKIP() << "/dev/fuse: " << std::strerror(errno);
    ::close(fuse);
    const char* temporary = std::getenv("TMPDIR");
    std::string folder = std::string(temporary ? temporary : "/tmp") + "/voltree-fs-XXXXXX";
    ASSERT_NE(::mkdtemp(folder.data()), nullptr);
    directory_ = folder;
    std::filesystem::create_directory(mountpoint());
    open_store();
    break_on_crash_.emplace(mountpoint());
    start_mount();
  }

  void TearDown() override {
    if (directory_.empty()) return;
    mount_.reset();
    close_store();
    std::filesystem::remove_all(directory_);
  }

  virtual RuntimeOptions runtime_options() { return {}; }
  virtual MountOptions mount_options() {
    MountOptions options;
    options.mountpoint = mountpoint();
    return options;
  }

  void open_store() {
    auto runtime = make_host_runtime(runtime_options());
    ASSERT_TRUE(runtime.ok()) << runtime.status().message();
    runtime_ = std::move(*runtime);
    const std::string where = directory_ + "/store";
    if (!std::filesystem::exists(where)) {
      const Status made = Store::create(*runtime_, where, {.erase_policy = ErasePolicy::kDiscard});
      ASSERT_TRUE(made.ok()) << made.message();
    }
    auto store = runtime_->sync_wait(Store::open(*runtime_, where, {}));
    ASSERT_TRUE(store.ok()) << store.status().message();
    store_ = std::move(*store);
  }
  void close_store() {
    if (store_) {
      const Status closed = run(store_->close());
      EXPECT_TRUE(closed.ok()) << closed.message();
    }
    store_.reset();
    runtime_.reset();
  }
  void start_mount() {
    auto mount = Mount::start(*runtime_, *store_, mount_options());
    ASSERT_TRUE(mount.ok()) << mount.status().message();
    mount_ = std::move(*mount);
  }

  template <typename T>
  T run(Task<T> task) {
    return runtime_->sync_wait(std::move(task));
  }
  void expect_ok(Task<Status> task) {
    const Status status = run(std::move(task));
    EXPECT_TRUE(status.ok()) << status.message();
  }
  void make_volume(const std::string& name, std::uint64_t size_bytes) {
    expect_ok(store_->create_volume(name, size_bytes, std::nullopt));
  }

  std::string mountpoint() const { return directory_ + "/mnt"; }
  std::string volume(const std::string& name) const { return mountpoint() + "/volumes/" + name; }
  std::string snapshot(const std::string& volume_name, const std::string& name) const {
    return mountpoint() + "/snapshots/" + volume_name + "/" + name;
  }

  // The exit status of a shell command; its output goes to the test's.
  static int sh(const std::string& command) {
    const int result = std::system(command.c_str());
    return WIFEXITED(result) ? WEXITSTATUS(result) : -1;
  }

  static std::uint64_t size_of(const std::string& path) {
    struct stat attributes {};
    return ::stat(path.c_str(), &attributes) == 0 ? static_cast<std::uint64_t>(attributes.st_size)
                                                  : ~std::uint64_t{0};
  }
  static std::string read_at(const std::string& path, std::uint64_t offset, std::size_t length) {
    const Fd file(path, O_RDONLY);
    std::string out(length, '?');
    const ssize_t got = ::pread(file.get(), out.data(), length, static_cast<off_t>(offset));
    out.resize(got < 0 ? 0 : static_cast<std::size_t>(got));
    return out;
  }
  // Writes all of `data`, or fails the test.
  static void write_at(const Fd& file, std::uint64_t offset, const Bytes& data) {
    std::size_t done = 0;
    while (done < data.size()) {
      const ssize_t put = ::pwrite(file.get(), data.data() + done, data.size() - done,
                                   static_cast<off_t>(offset + done));
      ASSERT_GT(put, 0) << std::strerror(errno);
      done += static_cast<std::size_t>(put);
    }
  }
  static void write_at(const std::string& path, std::uint64_t offset, const Bytes& data) {
    const Fd file(path, O_WRONLY);
    ASSERT_TRUE(file.ok()) << std::strerror(file.error());
    write_at(file, offset, data);
  }
  std::vector<std::string> list(const std::string& folder) const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      names.push_back(entry.path().filename().string());
    }
    std::sort(names.begin(), names.end());
    return names;
  }
  std::uint64_t allocated_bytes() { return run(store_->pool()).value().allocated_bytes; }

  std::string directory_;
  std::unique_ptr<Runtime> runtime_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<Mount> mount_;
  std::optional<BreakMountOnCrash> break_on_crash_;
};

}  // namespace voltree
