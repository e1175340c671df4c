// The model test: random operations on a store in the simulator, each against a plain oracle.
//
// VOLTREE_MODEL_OPS (operations a seed), VOLTREE_MODEL_SEEDS (how many) and VOLTREE_MODEL_SEED (the
// first) choose the campaign; a failure prints the seed, and the same seed replays the same run.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "blockstore/runtime/sim_runtime.h"
#include "blockstore/runtime/sync.h"
#include "blockstore/store.h"

namespace voltree {
namespace {

std::uint64_t from_env(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::strtoull(text, nullptr, 10) : otherwise;
}

using Bytes = std::vector<std::byte>;

// What a named node must hold.
struct Expected {
  Bytes bytes;
};

class Model {
 public:
  Model(std::uint64_t seed) : seed_(seed), random_(seed) {}

  void run(std::uint64_t operations) {
    boot();
    ASSERT_TRUE(Store::create(*runtime_, "/store", {}).ok());
    open();
    for (std::uint64_t i = 0; i < operations && !::testing::Test::HasFailure(); ++i) {
      step_ = i;
      step();
    }
    if (::testing::Test::HasFailure()) return;
    verify_all();
    wait(store_->sweep(), "sweep");
    expect_sound();
    remove_everything();
    wait(store_->close(), "close");
    store_.reset();
  }

 private:
  std::uint64_t pick(std::uint64_t below) { return random_() % below; }

  void boot() {
    runtime_ = std::make_unique<SimRuntime>(
        world_, SimOptions{.seed = seed_ * 1000003 + ++boots_, .executors = 2});
  }
  void open() {
    auto opened = runtime_->sync_wait(Store::open(*runtime_, "/store", {.background_work = false}));
    ASSERT_TRUE(opened.ok()) << where() << opened.status().message();
    store_ = std::move(opened).value();
  }
  std::string where() const {
    return "seed " + std::to_string(seed_) + " step " + std::to_string(step_) + ": ";
  }
  void wait(Task<Status> task, const char* what) {
    const Status status = runtime_->sync_wait(std::move(task));
    EXPECT_TRUE(status.ok()) << where() << what << ": " << status.message();
  }

  std::string random_name(bool heads_only) {
    std::vector<std::string> names;
    for (const auto& entry : nodes_) {
      if (!heads_only || entry.first.find('@') == std::string::npos) names.push_back(entry.first);
    }
    return names.empty() ? "" : names[pick(names.size())];
  }
  std::string fresh_name() { return "n" + std::to_string(++names_); }
  std::uint64_t random_size() {
    const std::uint64_t blocks = 1 + pick(96);
    return pick(4) == 0 ? blocks * kBlockBytes - 512 * pick(8) : blocks * kBlockBytes;
  }
  // A range that likes block boundaries but does not insist.
  std::pair<std::uint64_t, std::uint64_t> random_range(std::uint64_t size) {
    std::uint64_t begin = pick(size);
    std::uint64_t length = 1 + pick(std::min<std::uint64_t>(size - begin, 40000));
    if (pick(3) != 0) {
      begin = begin / kBlockBytes * kBlockBytes;
      length = std::min(blocks_of_bytes(length) * kBlockBytes, size - begin);
    }
    return {begin, length};
  }
  Bytes random_bytes(std::uint64_t length) {
    Bytes bytes(length);
    std::uint64_t word = random_();
    for (std::uint64_t i = 0; i < length; ++i) {
      if (i % 64 == 0) word = word * 6364136223846793005ULL + 1442695040888963407ULL;
      bytes[i] = static_cast<std::byte>(word >> (i % 57));
    }
    return bytes;
  }
  std::shared_ptr<BlockDevice> device(const std::string& name) {
    auto opened = runtime_->sync_wait(store_->open_device(name));
    EXPECT_TRUE(opened.ok()) << where() << name << ": " << opened.status().message();
    return opened.ok() ? *opened : nullptr;
  }

  void step() {
    const std::uint64_t kind = pick(1000);
    if (nodes_.empty() || (kind < 15 && nodes_.size() < 24)) return create();
    if (kind < 400) return write();
    if (kind < 600) return read();
    if (kind < 700) return zero();
    if (kind < 760) return flush();
    if (kind < 800) return snapshot();
    if (kind < 830) return clone();
    if (kind < 853) return revert();
    if (kind < 860) return replace();
    if (kind < 890) return resize();
    if (kind < 910) return rename();
    if (kind < 960) return nodes_.size() > 12 || pick(3) == 0 ? remove() : write();
    if (kind < 970) return wait(store_->sweep(), "sweep");
    if (kind < 980) return wait(store_->wait_erased(0), "erase");
    if (kind < 985) return wait(store_->settle(), "settle");
    if (kind < 990) return writes_beside_snapshot();
    if (kind < 993) return expect_sound();
    if (kind < 996) return usage();
    reopen();
  }

  void create() {
    const std::string name = fresh_name();
    const std::uint64_t size = random_size();
    wait(store_->create_volume(name, size, std::nullopt), "create");
    nodes_[name].bytes.assign(size, std::byte{0});
  }
  void write() {
    const std::string name = random_name(true);
    if (name.empty()) return;
    Bytes& bytes = nodes_[name].bytes;
    const auto [begin, length] = random_range(bytes.size());
    const Bytes data = random_bytes(length);
    wait(device(name)->write(begin, data, {.fua = pick(20) == 0}), "write");
    std::copy(data.begin(), data.end(), bytes.begin() + static_cast<std::ptrdiff_t>(begin));
  }
  void read() {
    const std::string name = random_name(false);
    const Bytes& bytes = nodes_[name].bytes;
    const auto [begin, length] = random_range(bytes.size());
    compare(name, begin, length);
  }
  void compare(const std::string& name, std::uint64_t begin, std::uint64_t length) {
    const Bytes& bytes = nodes_[name].bytes;
    const auto opened = device(name);
    if (opened == nullptr) return;
    ASSERT_EQ(opened->size_bytes(), bytes.size()) << where() << name;
    Bytes got(length, std::byte{0x55});
    wait(opened->read(begin, got), "read");
    const auto expected = bytes.begin() + static_cast<std::ptrdiff_t>(begin);
    const auto differ = std::mismatch(got.begin(), got.end(), expected);
    EXPECT_TRUE(differ.first == got.end())
        << where() << name << " differs at byte " << begin + (differ.first - got.begin());
  }
  void zero() {
    const std::string name = random_name(true);
    if (name.empty()) return;
    Bytes& bytes = nodes_[name].bytes;
    const auto [begin, length] = random_range(bytes.size());
    wait(device(name)->write_zeroes(begin, length, {}), "zero");
    std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(begin), length, std::byte{0});
  }
  void flush() {
    const std::string name = random_name(true);
    if (!name.empty()) wait(device(name)->flush(), "flush");
  }
  // Of one volume, or of several at one instant.
  void snapshot() {
    std::set<std::string> volumes;
    for (std::uint64_t i = pick(3); i < 3; ++i) volumes.insert(random_name(true));
    if (volumes.contains("") || nodes_.size() > 24) return;
    std::vector<std::string> group;
    for (const std::string& name : volumes) group.push_back(name + "@" + fresh_name());
    wait(store_->snapshot_group(group), "snapshot_group");
    for (const std::string& taken : group) nodes_[taken] = nodes_[taken.substr(0, taken.find('@'))];
  }
  // Writes under way while the snapshot is taken: each block of it is old or new, and stays what it
  // is (I4).
  void writes_beside_snapshot() {
    const std::string name = random_name(true);
    if (name.empty() || nodes_.size() > 24) return;
    const std::string snap = fresh_name();
    const Bytes before = nodes_[name].bytes;
    Bytes& after = nodes_[name].bytes;
    const auto opened = device(name);
    std::vector<Bytes> data;
    const std::uint64_t blocks = after.size() / kBlockBytes;
    for (std::uint64_t i = 0; i < std::min<std::uint64_t>(blocks, 8); ++i) {
      data.push_back(random_bytes(kBlockBytes));
    }
    int left = static_cast<int>(data.size()) + 1;
    Event done;
    auto finish = [&](Task<Status> task) -> Task<void> {
      const Status status = co_await std::move(task);
      EXPECT_TRUE(status.ok()) << status.message();
      if (--left == 0) done.set();
    };
    runtime_->run_until_done([](Model& model, auto& run, auto& writes, BlockDevice& volume,
                                const std::string& of, const std::string& as,
                                Event& all) -> Task<void> {
      for (std::size_t i = 0; i < writes.size(); ++i) {
        spawn_here(run(volume.write(i * kBlockBytes, writes[i], {})));
        if (i == writes.size() / 2) spawn_here(run(model.store_->snapshot(of, as)));
      }
      if (writes.empty()) spawn_here(run(model.store_->snapshot(of, as)));
      co_await all.wait();
    }(*this, finish, data, *opened, name, snap, done));
    for (std::size_t i = 0; i < data.size(); ++i) {
      std::copy(data[i].begin(), data[i].end(),
                after.begin() + static_cast<std::ptrdiff_t>(i * kBlockBytes));
    }
    Bytes held(before.size());
    wait(device(name + "@" + snap)->read(0, held), "read of a snapshot");
    for (std::uint64_t at = 0; at < held.size(); at += kBlockBytes) {
      const std::uint64_t end = std::min<std::uint64_t>(at + kBlockBytes, held.size());
      const auto same = [&](const Bytes& other) {
        return std::equal(held.begin() + static_cast<std::ptrdiff_t>(at),
                          held.begin() + static_cast<std::ptrdiff_t>(end),
                          other.begin() + static_cast<std::ptrdiff_t>(at));
      };
      EXPECT_TRUE(same(before) || same(after)) << where() << "block " << at / kBlockBytes;
    }
    nodes_[name + "@" + snap].bytes = held;
  }
  void clone() {
    const std::string source = random_name(false);
    if (nodes_.size() > 24) return;
    const std::string name = fresh_name();
    const std::uint64_t old_size = nodes_[source].bytes.size();
    const std::uint64_t size = pick(3) == 0 ? old_size + 512 * pick(100) : 0;
    wait(store_->clone(source, name, size), "clone");
    nodes_[name] = nodes_[source];
    nodes_[name].bytes.resize(size == 0 ? old_size : size, std::byte{0});
  }
  void revert() {
    const std::string name = random_name(false);
    const std::size_t at = name.find('@');
    if (at == std::string::npos || !nodes_.contains(name.substr(0, at))) return;
    const std::string volume = name.substr(0, at);
    RevertOptions options;
    if (pick(4) == 0 && nodes_.size() < 24) options.keep_as = fresh_name();
    wait(store_->revert(volume, name.substr(at + 1), options), "revert");
    if (!options.keep_as.empty()) nodes_[volume + "@" + options.keep_as] = nodes_[volume];
    nodes_[volume] = nodes_[name];
  }
  void replace() {
    const std::string name = random_name(true);
    const std::string source = random_name(true);
    if (name.empty() || name == source) return;
    const bool held = std::any_of(nodes_.begin(), nodes_.end(), [&](const auto& node) {
      return node.first.starts_with(source + "@");
    });
    const Status status = runtime_->sync_wait(store_->replace(name, source, std::nullopt));
    EXPECT_EQ(status.code(), held ? Code::kBusy : Code::kOk) << where() << status.message();
    if (held) return;
    nodes_[name] = nodes_[source];
    nodes_.erase(source);
  }
  void resize() {
    const std::string name = random_name(true);
    if (name.empty()) return;
    const std::uint64_t size = random_size();
    wait(store_->resize(name, size, true), "resize");
    nodes_[name].bytes.resize(size, std::byte{0});
  }
  void rename() {
    const std::string from = random_name(false);
    const std::size_t at = from.find('@');
    const std::string to =
        at == std::string::npos ? fresh_name() : from.substr(0, at + 1) + fresh_name();
    wait(store_->rename(from, to), "rename");
    if (at != std::string::npos) {
      nodes_[to] = nodes_[from];
      nodes_.erase(from);
      return;
    }
    std::map<std::string, Expected> renamed;
    for (auto& [name, expected] : nodes_) {
      const bool mine = name == from || name.starts_with(from + "@");
      renamed[mine ? to + name.substr(from.size()) : name] = std::move(expected);
    }
    nodes_ = std::move(renamed);
  }
  void remove() {
    const std::string name = random_name(false);
    auto removed = runtime_->sync_wait(
        store_->remove(name, {.erase_policy = {}, .wait = pick(8) == 0, .snapshots = false}));
    EXPECT_TRUE(removed.ok()) << where() << removed.status().message();
    nodes_.erase(name);
  }
  // Exclusive is what a delete frees: the pool's own count agrees once the eraser is through.
  void usage() {
    const std::string name = random_name(false);
    const auto used = runtime_->sync_wait(store_->usage(name));
    ASSERT_TRUE(used.ok()) << where() << used.status().message();
    EXPECT_EQ(used->virtual_bytes, nodes_[name].bytes.size());
    EXPECT_LE(used->exclusive_bytes, runtime_->sync_wait(store_->pool())->allocated_bytes);
  }
  void expect_sound() {
    const auto report = runtime_->sync_wait(store_->check({.data = true, .progress = {}}));
    ASSERT_TRUE(report.ok()) << where() << report.status().message();
    for (const CheckFinding& finding : report->findings) {
      EXPECT_FALSE(finding.damage) << where() << finding.what;
    }
  }
  void verify_all() {
    for (const auto& entry : nodes_) compare(entry.first, 0, entry.second.bytes.size());
  }
  void reopen() {
    const bool clean = pick(2) == 0;
    if (clean) wait(store_->close(), "close");
    store_.reset();
    boot();  // the same boot of the machine: a daemon that was killed loses nothing (I5)
    open();
    verify_all();
  }
  void remove_everything() {
    while (!nodes_.empty() && !::testing::Test::HasFailure()) remove();
    wait(store_->wait_erased(0), "erase");
    const auto pool = runtime_->sync_wait(store_->pool());
    ASSERT_TRUE(pool.ok());
    EXPECT_EQ(pool->layers, 0u) << where();
    EXPECT_EQ(pool->allocated_bytes, 0u) << where();
  }

  const std::uint64_t seed_;
  std::mt19937_64 random_;
  std::uint64_t boots_ = 0;
  std::uint64_t names_ = 0;
  std::uint64_t step_ = 0;
  SimWorld world_;
  std::unique_ptr<SimRuntime> runtime_;
  std::unique_ptr<Store> store_;
  std::map<std::string, Expected> nodes_;
};

TEST(Model, RandomOperationsAgainstAnOracle) {
  const std::uint64_t operations = from_env("VOLTREE_MODEL_OPS", 3000);
  const std::uint64_t seeds = from_env("VOLTREE_MODEL_SEEDS", 12);
  const std::uint64_t first = from_env("VOLTREE_MODEL_SEED", 1);
  for (std::uint64_t seed = first; seed < first + seeds && !HasFailure(); ++seed) {
    std::printf("model: seed %llu, %llu operations\n", static_cast<unsigned long long>(seed),
                static_cast<unsigned long long>(operations));
    Model(seed).run(operations);
  }
}

}  // namespace
}  // namespace voltree
