// A store in the simulator, for tests: boots, opens, and waits for calls.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "blockstore/runtime/sim_runtime.h"
#include "blockstore/store.h"

namespace voltree {

class StoreTest : public ::testing::Test {
 protected:
  using Bytes = std::vector<std::byte>;
  static constexpr std::uint64_t kMiB = 1 << 20;

  void SetUp() override {
    boot();
    ok(Store::create(*runtime_, "/store", {}));
    open();
  }
  void TearDown() override {
    if (store_ == nullptr) return;
    sound();
    (void)runtime_->sync_wait(store_->close());
    store_.reset();
  }

  void boot() { runtime_ = std::make_unique<SimRuntime>(world_, SimOptions{.seed = ++seed_}); }
  void open() {
    auto opened = runtime_->sync_wait(Store::open(*runtime_, "/store", {.background_work = false}));
    ASSERT_TRUE(opened.ok()) << opened.status().message();
    store_ = std::move(opened).value();
  }
  // The daemon dies; the machine goes on.
  void kill_and_reopen() {
    store_.reset();
    boot();
    open();
  }
  // The machine starts again. (The simulator keeps all that was written: presence comes from the
  // catalog alone.)
  void power_cycle_and_reopen() {
    store_.reset();
    world_.reboot();
    boot();
    open();
  }

  void ok(const Status& status) { ASSERT_TRUE(status.ok()) << status.message(); }
  void ok(Task<Status> task) { ok(runtime_->sync_wait(std::move(task))); }
  Code code(Task<Status> task) { return runtime_->sync_wait(std::move(task)).code(); }

  void create(const std::string& name, std::uint64_t size) {
    ok(store_->create_volume(name, size, std::nullopt));
  }
  void remove(const std::string& name, DeleteOptions options = {}) {
    const auto removed = runtime_->sync_wait(store_->remove(name, options));
    ASSERT_TRUE(removed.ok()) << removed.status().message();
  }
  std::shared_ptr<BlockDevice> device(const std::string& name) {
    auto opened = runtime_->sync_wait(store_->open_device(name));
    EXPECT_TRUE(opened.ok()) << opened.status().message();
    return *opened;
  }
  void fill(const std::string& name, std::uint64_t offset, std::uint64_t length, char what) {
    ok(device(name)->write(offset, Bytes(length, static_cast<std::byte>(what)), {}));
  }
  // The contents when all bytes are one; '?' when they differ.
  char at(const std::string& name, std::uint64_t offset, std::uint64_t length = kBlockBytes) {
    Bytes got(length);
    ok(device(name)->read(offset, got));
    for (const std::byte byte : got) {
      if (byte != got.front()) return '?';
    }
    return static_cast<char>(got.front());
  }
  NodeUsage usage(const std::string& name) {
    auto used = runtime_->sync_wait(store_->usage(name));
    EXPECT_TRUE(used.ok()) << used.status().message();
    return *used;
  }
  PoolInfo pool() { return *runtime_->sync_wait(store_->pool()); }
  void sound() {
    const auto report = runtime_->sync_wait(store_->check({.data = true, .progress = {}}));
    ASSERT_TRUE(report.ok()) << report.status().message();
    for (const CheckFinding& finding : report->findings) {
      EXPECT_FALSE(finding.damage) << finding.what;
    }
  }
  // What check says is damaged, a line each.
  std::string damage() {
    const auto report = runtime_->sync_wait(store_->check({.data = true, .progress = {}}));
    std::string all;
    if (!report.ok()) return "check: " + std::string(report.status().message());
    for (const CheckFinding& finding : report->findings) {
      if (finding.damage) all += finding.what + "\n";
    }
    return all;
  }
  // The path of a layer's data file that holds `what` somewhere; empty when none does.
  std::vector<std::string> files_with(char what) {
    std::vector<std::string> found;
    FileSystem& fs = runtime_->fs();
    const auto folders = fs.list_dir("/store/layers");
    for (const std::string& folder : *folders) {
      const auto names = fs.list_dir("/store/layers/" + folder);
      for (const std::string& name : *names) {
        const std::string path = "/store/layers/" + folder + "/" + name;
        if (name.size() != 8) continue;
        auto file = fs.open(path, {});
        Bytes bytes(*(*file)->size_bytes());
        ok((*file)->read_sync(bytes, 0));
        const Bytes pattern(64, static_cast<std::byte>(what));
        if (std::search(bytes.begin(), bytes.end(), pattern.begin(), pattern.end()) !=
            bytes.end()) {
          found.push_back(path);
        }
      }
    }
    return found;
  }

  std::uint64_t seed_ = 0;
  SimWorld world_;
  std::unique_ptr<SimRuntime> runtime_;
  std::unique_ptr<Store> store_;
};

}  // namespace voltree
