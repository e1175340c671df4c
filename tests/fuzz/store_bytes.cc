// A store whose files somebody has changed: it opens or says why not, reads or says why not, is
// repaired or says why not, and never more than that.
#include <array>
#include <cstdlib>
#include <string>

#include "blockstore/catalog_page.h"
#include "blockstore/runtime/sim_crash.h"
#include "blockstore/runtime/sim_runtime.h"
#include "blockstore/store.h"
#include "blockstore/store_repair.h"
#include "tests/fuzz/patches.h"

namespace voltree::fuzz {
namespace {

constexpr const char* kCatalog = "/store/catalog.db";

void must(const Status& status) {
  if (!status.ok()) std::abort();
}

// What the first byte of an input asks for.
enum : std::uint8_t {
  kNotClosed = 1,      // the daemon had died
  kAnotherBoot = 2,    // the power had failed
  kSumsOfPages = 4,    // pages of the catalog that are changed lose their checksums, and pass
  kCatalogIsGone = 8,  // repair makes it anew
  kRepairAnyhow = 16,
};

struct Base {
  SimImage image;
  std::vector<std::string> files;
};

Task<Status> write(Store& store, std::string name, std::uint64_t block, char what) {
  auto device = co_await store.open_device(std::move(name));
  if (!device.ok()) co_return device.status();
  const Bytes bytes(kBlockBytes, static_cast<std::byte>(what));
  VT_CO_RETURN_IF_ERROR(co_await (*device)->write(block * kBlockBytes, bytes, {}));
  co_return co_await (*device)->flush();
}

// Something of everything that a catalog can hold.
void fill(SimRuntime& runtime, Store& store) {
  const auto run = [&runtime](Task<Status> task) { must(runtime.sync_wait(std::move(task))); };
  run(store.create_volume("a", 16 * kBlockBytes, ErasePolicy::kZero));
  run(write(store, "a", 0, 'x'));
  run(store.snapshot("a", "s"));
  run(write(store, "a", 1, 'y'));
  run(store.clone("a@s", "b", 0));
  run(store.clone("a", "c", 32 * kBlockBytes));
  run(write(store, "c", 20, 'z'));
  QosLimits limits;
  must(limits.set("total_iops_sec", 1000));
  run(store.set_qos("a", limits));
  run(store.set_notes("b", {{"attached-to:h", "note"}}));
  must(runtime.sync_wait(store.remove("b", {})).status());
}

Base make(bool closed) {
  SimLog log;
  SimWorld world;
  world.record(&log);
  {
    SimRuntime runtime(world, {.seed = 1});
    must(Store::create(runtime, "/store", {}));
    auto store = runtime.sync_wait(Store::open(runtime, "/store", {.background_work = false}));
    must(store.status());
    fill(runtime, **store);
    if (closed) must(runtime.sync_wait((*store)->close()));
    world.halt(!closed);
    store->reset();
  }
  world.halt(false);
  world.log_stores();
  SimDisk disk(log);
  disk.advance(log.size());
  std::vector<SimDisk::Choice> all;
  for (const std::size_t index : disk.pending()) all.push_back({index});
  Base base{disk.with(all),
            {kCatalog, "/store/catalog.db-wal", "/store/lineage", "/store/run/inflight"}};
  const auto folders = world.list("/store/layers");
  for (const std::string& folder : *folders) {
    const auto names = world.list("/store/layers/" + folder);
    for (const std::string& name : *names) {
      base.files.push_back("/store/layers/" + folder + "/" + name);
    }
  }
  return base;
}

const Base& base_of(std::uint8_t asked) {
  static const Base closed = make(true);
  static const Base open = make(false);
  return (asked & kNotClosed) != 0 ? open : closed;
}

void write_at(SimWorld& world, SimInode& inode, std::uint64_t at,
              std::span<const std::byte> bytes) {
  (void)world.apply(inode, {SimMutation::Kind::kWrite, at, bytes.size(), bytes.data()});
}

void change(SimWorld& world, const Base& base, const Patch& patch, std::uint8_t asked) {
  const std::string& path = base.files[patch.file % base.files.size()];
  const auto inode = world.find(path);
  if (!inode.ok()) return;
  if (patch.bytes.empty()) {  // cut off
    (void)world.apply(**inode, {SimMutation::Kind::kTruncate, patch.offset_bytes});
    return;
  }
  const std::uint64_t at = patch.offset_bytes % ((*inode)->size_bytes() + 1);
  write_at(world, **inode, at, patch.bytes);
  if (path != kCatalog || (asked & kSumsOfPages) == 0) return;
  const Bytes none(kCatalogPageReservedBytes);
  for (std::uint64_t page = at / kCatalogPageBytes;
       page <= (at + patch.bytes.size() - 1) / kCatalogPageBytes; ++page) {
    write_at(world, **inode, (page + 1) * kCatalogPageBytes - none.size(), none);
  }
}

// Everything is read, and everything is deleted.
Task<void> use(Store& store) {
  (void)co_await store.check({.data = true, .progress = {}});
  (void)co_await store.erase_queue();
  (void)co_await store.certificates(0, 100);
  const std::vector<NodeName> names = co_await store.names();
  for (const NodeName& name : names) {
    (void)co_await store.info(name.str());
    (void)co_await store.usage(name.str());
    const auto device = co_await store.open_device(name.str());
    if (!device.ok()) continue;
    Bytes bytes(std::min<std::uint64_t>((*device)->size_bytes(), 64 * kBlockBytes));
    if (bytes.empty()) continue;
    const Status read = co_await (*device)->read(0, bytes);
    if (read.ok() && !(*device)->read_only()) (void)co_await (*device)->write(0, bytes, {});
  }
  for (const NodeName& name : names) {
    (void)co_await store.remove(name.str(), {});
  }
  (void)co_await store.wait_erased(0);
  (void)co_await store.close();
}

void open_and_use(SimWorld& world, std::uint64_t seed) {
  SimRuntime runtime(world, {.seed = seed});
  auto store = runtime.sync_wait(Store::open(runtime, "/store", {.background_work = false}));
  if (!store.ok()) return;
  runtime.run_until_done(use(**store));
  runtime.run_until_idle();
  world.halt(true);
  store->reset();
  world.halt(false);
}

void run_store(std::span<const std::byte> bytes) {
  if (bytes.empty()) return;
  const auto asked = static_cast<std::uint8_t>(bytes.front());
  const Base& base = base_of(asked);
  const auto world = base.image.to_world({}, (asked & kAnotherBoot) != 0 ? 2 : 1);
  for (const Patch& patch : patches_of(bytes.subspan(1))) change(*world, base, patch, asked);
  if ((asked & kCatalogIsGone) != 0) {
    for (const char* path : {kCatalog, "/store/catalog.db-wal"}) {
      (void)world->apply_name({SimNameMutation::Kind::kUnlink, path, {}});
    }
  }
  if ((asked & (kCatalogIsGone | kRepairAnyhow)) != 0) {
    SimRuntime runtime(*world, {.seed = 1});
    const bool forced = (asked & kRepairAnyhow) != 0;
    (void)repair_store(runtime, "/store", {.apply = true, .force = forced, .progress = {}});
  }
  open_and_use(*world, 1);
  open_and_use(*world, 2);  // as it was left
}

std::vector<Bytes> store_seeds() {
  std::vector<Bytes> seeds;
  constexpr std::array<std::uint8_t, 10> kAsked{0, 1, 2, 3, 4, 5, 8, 9, 16, 20};
  for (const std::uint8_t asked : kAsked) {
    Bytes nothing{std::byte{asked}};
    seeds.push_back(nothing);
    const Base& base = base_of(asked);
    for (std::size_t file = 0; file < base.files.size(); ++file) {
      Bytes seed = nothing;
      add_patch(seed, static_cast<std::uint8_t>(file), 4096 + 100, "\x01\x02\x03");
      add_patch(seed, static_cast<std::uint8_t>(file), 40, std::string_view("\0\0\0\0", 4));
      seeds.push_back(std::move(seed));
    }
  }
  return seeds;
}

}  // namespace

const Target kStore{run_store, store_seeds};

}  // namespace voltree::fuzz
