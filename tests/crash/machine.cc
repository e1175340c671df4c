#include "tests/crash/machine.h"

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <span>

#include "blockstore/store_handover.h"

namespace voltree::crash {
namespace {

using Kind = Op::Kind;

std::string text(const Status& status) { return std::string(status.message()); }

std::uint64_t first_word(std::span<const std::byte> sector) {
  std::uint64_t word = 0;
  std::memcpy(&word, sector.data(), sizeof word);
  return word;
}

// The sectors of `bytes`, which are those of `model` from `first` on.
std::optional<std::string> compare_bytes(const std::string& name, std::span<const std::byte> bytes,
                                         const NodeModel& model, std::uint64_t first,
                                         bool power_loss) {
  for (std::uint64_t i = 0; i < bytes.size() / kSectorBytes; ++i) {
    const auto sector = bytes.subspan(i * kSectorBytes, kSectorBytes);
    const SectorTags& allowed = model.sectors[first + i];
    const std::optional<Tag> tag = tag_of(sector, first + i);
    if (!tag) {
      return fmt::format("{}, sector {}: foreign bytes {:x}", name, first + i, first_word(sector));
    }
    if (allowed.allows(*tag, power_loss)) continue;
    return fmt::format("{}, sector {} holds write {}, expected {} (acknowledged {})", name,
                       first + i, *tag, fmt::join(allowed.tags, " or "),
                       allowed.tags[allowed.acknowledged]);
  }
  return std::nullopt;
}

bool may_be_damaged(const Expectation& expectation, bool power_loss) {
  const auto damaged = [power_loss](const SectorTags& sector) {
    return sector.may_be_damaged(power_loss);
  };
  for (const StoreModel& model : expectation.either) {
    for (const auto& [name, node] : model) {
      if (std::any_of(node.sectors.begin(), node.sectors.end(), damaged)) return true;
    }
  }
  return false;
}

}  // namespace

void Machine::boot() {
  end();
  runtime_ = std::make_unique<SimRuntime>(
      world_, SimOptions{.seed = seed_ * 7919 + ++boots_, .executors = 1});
}

// The mark of a failure is written first.
void Machine::end() {
  if (runtime_ != nullptr) runtime_->run_until_idle();
  world_.halt(true);
  store_.reset();
  runtime_.reset();
  world_.halt(false);
}

void Machine::kill() { boot(); }

Status Machine::create(const StoreCreateOptions& options) {
  return Store::create(*runtime_, "/store", options);
}

Status Machine::start() {
  auto opened = wait(Store::open(*runtime_, "/store", {.background_work = false}));
  if (!opened.ok()) return opened.status();
  store_ = std::move(opened).value();
  return {};
}

Result<RepairReport> Machine::repair() {
  return repair_store(*runtime_, "/store", {.apply = true, .force = false, .progress = {}});
}

Status Machine::perform(const Op& op, Tag tag) {
  if (op.kind == Kind::kReopen) {
    const Status closed = wait(store_->close());
    boot();
    VT_RETURN_IF_ERROR(closed);
    return start();
  }
  if (op.kind == Kind::kKill) {
    boot();
    return start();
  }
  return wait(act(op, tag));
}

Status Machine::perform_together(const std::vector<Op>& ops, Tag tag, const Watch& watch) {
  std::size_t left = ops.size();
  Status failed;
  Event all;
  const auto one = [&](std::size_t index) -> Task<void> {
    watch.began(index);
    const Status status = co_await act(ops[index], tag + index);
    watch.ended(index, status);
    if (failed.ok()) failed = status.with_context(to_text(ops[index]));
    if (--left == 0) all.set();
  };
  runtime_->run_until_done(
      [](Executor& executor, const auto& begin, std::size_t count, Event& ended) -> Task<void> {
        for (std::size_t i = 0; i < count; ++i) spawn(executor, begin(i));
        co_await ended.wait();
      }(runtime_->executor(0), one, ops.size(), all));
  return failed;
}

Task<Status> Machine::act_on_volume(Op op, Tag tag) {
  VT_CO_ASSIGN_OR_RETURN(const auto volume, co_await store_->open_device(op.a));
  if (op.kind == Kind::kFlush) co_return co_await volume->flush();
  WriteOptions options;
  if (op.kind == Kind::kDiscard) {
    co_return co_await volume->write_zeroes(op.offset_bytes(), op.length_bytes(), options);
  }
  std::vector<std::byte> data(op.length_bytes());
  fill_sectors(data, tag, op.offset_bytes() / kSectorBytes);
  options.fua = op.kind == Kind::kWriteFua;
  co_return co_await volume->write(op.offset_bytes(), data, options);
}

std::map<std::string, std::string> Machine::files() const {
  std::map<std::string, std::string> paths;
  const auto names = world_.list("/in");
  if (names.ok()) {
    for (const std::string& name : *names) paths["/in/" + name] = "/in/" + name;
  }
  const auto leaving = world_.list("/store/leaving");
  if (!leaving.ok()) return paths;
  for (const std::string& file : *leaving) {
    const std::string path = "/store/leaving/" + file;
    if (!file.ends_with(".data")) continue;
    // The second line of what is noted of it is its name.
    const auto note = world_.find(path.substr(0, path.size() - 4) + "volume");
    std::string text(note.ok() ? (*note)->size_bytes() : 0, '\0');
    if (note.ok()) (*note)->read(std::as_writable_bytes(std::span(text.data(), text.size())), 0);
    const std::size_t line = text.find('\n') + 1;
    paths["/leaving/" + text.substr(line, text.find('\n', line) - line)] = path;
  }
  return paths;
}

// Whole and durable, or not there.
Status Machine::put_file(const Op& op, Tag tag) {
  FileSystem& fs = runtime_->fs();
  VT_RETURN_IF_ERROR(fs.make_dir("/in"));
  VT_RETURN_IF_ERROR(fs.sync_dir("/"));
  std::vector<std::byte> data(op.length_bytes());
  fill_sectors(data, tag, 0);
  VT_ASSIGN_OR_RETURN(auto file, fs.open("/put", {.create = true}));
  VT_RETURN_IF_ERROR(file->write_sync(data, 0));
  VT_RETURN_IF_ERROR(file->sync_sync());
  VT_RETURN_IF_ERROR(fs.rename("/put", op.a));
  VT_RETURN_IF_ERROR(fs.sync_dir("/"));
  return fs.sync_dir("/in");
}

Task<Status> Machine::take_file(Op op) {
  TakeOptions options;
  {
    VT_CO_ASSIGN_OR_RETURN(const auto there, world_.find(op.b));
    options.size_bytes = std::max(there->size_bytes(), op.length_bytes());
  }
  co_return co_await store_->take_file(op.a, op.b, std::move(options));
}

Task<Status> Machine::take_given(std::string name) {
  VT_CO_ASSIGN_OR_RETURN(GivenVolume given, co_await StoreHandover::given(*store_, name));
  co_return co_await StoreHandover::take(*store_, std::move(given));
}

Task<Status> Machine::act(Op op, Tag tag) {
  const std::string volume = volume_of(op.a);
  const std::string snapshot = op.a.substr(op.a.find('@') + 1);
  switch (op.kind) {
    case Kind::kCreate:
      co_return co_await store_->create_volume(op.a, op.length_bytes(), std::nullopt);
    case Kind::kWrite:
    case Kind::kWriteFua:
    case Kind::kDiscard:
    case Kind::kFlush:
      co_return co_await act_on_volume(op, tag);
    case Kind::kSnapshot:
      co_return co_await store_->snapshot(volume, snapshot);
    case Kind::kSnapshotGroup: {
      std::vector<std::string> group;
      group.push_back(op.a);
      group.push_back(op.b);
      co_return co_await store_->snapshot_group(std::move(group));
    }
    case Kind::kClone:
      co_return co_await store_->clone(op.a, op.b, 0);
    case Kind::kRevert: {
      const RevertOptions options;
      co_return co_await store_->revert(volume, snapshot, options);
    }
    case Kind::kRemove: {
      const DeleteOptions options;
      const auto removed = co_await store_->remove(op.a, options);
      co_return removed.status();
    }
    case Kind::kReplace:
      co_return co_await store_->replace(op.a, op.b, std::nullopt);
    case Kind::kResize:
      co_return co_await store_->resize(op.a, op.length_bytes(), true);
    case Kind::kRename:
      co_return co_await store_->rename(op.a, op.b);
    case Kind::kPutFile:
      co_return put_file(op, tag);
    case Kind::kTake:
      co_return co_await take_file(op);
    case Kind::kGive: {
      const auto given = co_await StoreHandover::give(*store_, op.a);
      co_return given.status();
    }
    case Kind::kTakeGiven:
      co_return co_await take_given(op.a);
    case Kind::kErase:
      co_return co_await store_->wait_erased(0);
    case Kind::kSettle:
      co_return co_await store_->settle();
    case Kind::kSweep:
      co_return co_await store_->sweep();
    case Kind::kReopen:
    case Kind::kKill:
      break;
  }
  co_return Status();
}

std::optional<std::string> Machine::look(const Expectation& expectation, bool power_loss) {
  const auto report = wait(store_->check({.data = true, .progress = {}}));
  if (!report.ok()) return "check: " + text(report.status());
  // Which blocks are damaged is held to the model when they are read.
  for (const CheckFinding& finding : report->findings) {
    if (finding.damage && !may_be_damaged(expectation, power_loss)) return "check: " + finding.what;
  }
  return compare(expectation, power_loss);
}

std::optional<std::string> Machine::compare(const Expectation& expectation, bool power_loss) {
  std::string nearest;
  for (const StoreModel& model : expectation.either) {
    const std::optional<std::string> differs = compare_model(model, power_loss);
    if (!differs) return std::nullopt;
    nearest += (nearest.empty() ? "" : "; or else: ") + *differs;
  }
  return nearest;
}

std::optional<std::string> Machine::compare_model(const StoreModel& model, bool power_loss) {
  const std::vector<NodeName> names = wait(store_->names());
  const std::map<std::string, std::string> paths = files();
  if (names.size() + paths.size() != model.size()) {
    return fmt::format("{} nodes and {} files, expected {}", names.size(), paths.size(),
                       model.size());
  }
  for (const auto& [name, path] : paths) {
    const auto found = model.find(name);
    if (found == model.end()) return path + " should not be there";
    if (auto differs = compare_file(path, found->second)) return differs;
  }
  for (const NodeName& name : names) {
    const auto found = model.find(name.str());
    if (found == model.end()) return name.str() + " should not be there";
    if (auto differs = compare_node(name.str(), found->second, power_loss)) return differs;
  }
  return std::nullopt;
}

// It is nobody's but its owner's, who has flushed it.
std::optional<std::string> Machine::compare_file(const std::string& path, const NodeModel& model) {
  const std::shared_ptr<SimInode> inode = *world_.find(path);
  if (world_.links(*inode) != 1) return path + " has another name";
  if (inode->size_bytes() != model.sectors.size() * kSectorBytes) {
    return fmt::format("{} has {} bytes, expected {}", path, inode->size_bytes(),
                       model.sectors.size() * kSectorBytes);
  }
  std::vector<std::byte> bytes(inode->size_bytes());
  inode->read(bytes, 0);
  return compare_bytes(path, bytes, model, 0, true);
}

std::optional<std::string> Machine::compare_node(const std::string& name, const NodeModel& model,
                                                 bool power_loss) {
  const auto device = wait(store_->open_device(name));
  if (!device.ok()) {
    damaged_.push_back({name, Place::kWholeNode});
    const bool allowed = device.status().code() == Code::kDamaged && !model.sectors.empty() &&
                         model.sectors.front().may_be_damaged(power_loss);
    if (allowed) return std::nullopt;
    return name + ": " + text(device.status());
  }
  if ((*device)->size_bytes() != model.sectors.size() * kSectorBytes) {
    return fmt::format("{} has {} bytes, expected {}", name, (*device)->size_bytes(),
                       model.sectors.size() * kSectorBytes);
  }
  std::vector<std::byte> bytes((*device)->size_bytes());
  const Status read = wait((*device)->read(0, bytes));
  if (read.ok()) return compare_bytes(name, bytes, model, 0, power_loss);
  if (read.code() != Code::kDamaged) return "reading " + name + ": " + text(read);
  return compare_blocks(**device, name, model, power_loss);
}

// Some of them are damaged: those that may be?
std::optional<std::string> Machine::compare_blocks(BlockDevice& device, const std::string& name,
                                                   const NodeModel& model, bool power_loss) {
  constexpr std::uint64_t kSectors = kBlockBytes / kSectorBytes;
  for (std::uint64_t first = 0; first < model.sectors.size(); first += kSectors) {
    if (auto differs = compare_block(device, {name, first}, model, power_loss)) return differs;
  }
  return std::nullopt;
}

std::optional<std::string> Machine::compare_block(BlockDevice& device, const Place& place,
                                                  const NodeModel& model, bool power_loss) {
  const std::uint64_t count =
      std::min(kBlockBytes / kSectorBytes, model.sectors.size() - place.first_sector);
  std::vector<std::byte> bytes(count * kSectorBytes);
  const Status read = wait(device.read(place.first_sector * kSectorBytes, bytes));
  if (read.ok()) return compare_bytes(place.node, bytes, model, place.first_sector, power_loss);
  damaged_.push_back(place);
  const auto sectors = std::span(model.sectors).subspan(place.first_sector, count);
  const bool allowed = read.code() == Code::kDamaged &&
                       std::any_of(sectors.begin(), sectors.end(), [&](const SectorTags& sector) {
                         return sector.may_be_damaged(power_loss);
                       });
  if (allowed) return std::nullopt;
  return fmt::format("reading {} at sector {}: {}", place.node, place.first_sector, text(read));
}

std::optional<std::string> Machine::compare_place(const Place& place, const StoreModel& model,
                                                  bool power_loss) {
  const NodeModel& node = model.at(place.node);
  if (place.first_sector == Place::kWholeNode) return compare_node(place.node, node, power_loss);
  const auto device = wait(store_->open_device(place.node));
  if (!device.ok()) return place.node + ": " + text(device.status());
  return compare_block(**device, place, node, power_loss);
}

// The first block of each volume becomes full of `value`.
std::optional<std::string> Machine::fill_volumes(std::byte value, bool fua) {
  for (const NodeName& name : wait(store_->names())) {
    if (!name.snapshot.empty()) continue;
    const auto volume = wait(store_->open_device(name.volume));
    if (!volume.ok()) return "opening again: " + text(volume.status());
    const std::uint64_t length = std::min((*volume)->size_bytes(), kBlockBytes);
    const std::vector<std::byte> data(length, value);
    Status status = wait((*volume)->write(0, data, {.fua = fua}));
    std::vector<std::byte> back(length);
    if (status.ok()) status = wait((*volume)->read(0, back));
    if (!status.ok()) return "using " + name.volume + ": " + text(status);
    if (back != data) return name.volume + " does not keep what is written to it";
  }
  return std::nullopt;
}

std::map<std::string, std::vector<std::byte>> Machine::contents() {
  std::map<std::string, std::vector<std::byte>> all;
  for (const NodeName& name : wait(store_->names())) {
    const auto device = wait(store_->open_device(name.str()));
    if (!device.ok()) continue;
    std::vector<std::byte>& bytes = all[name.str()];
    bytes.resize((*device)->size_bytes());
    if (!wait((*device)->read(0, bytes)).ok()) bytes.clear();
  }
  return all;
}

std::optional<std::string> Machine::use() {
  const auto file_bytes = [this] {
    std::map<std::string, std::vector<std::byte>> all;
    for (const auto& [name, path] : files()) {
      const std::shared_ptr<SimInode> inode = *world_.find(path);
      all[path].resize(inode->size_bytes());
      inode->read(all[path], 0);
    }
    return all;
  };
  const auto before = file_bytes();
  if (auto wrong = use_store()) return wrong;
  if (file_bytes() != before) return "a file that is not the store's has changed";
  return std::nullopt;
}

std::optional<std::string> Machine::use_store() {
  if (auto wrong = fill_volumes(std::byte{0x77}, true)) return wrong;
  // Over what was flushed, and where nothing was.
  const Status created = wait(store_->create_volume("fresh", 2 * kBlockBytes, std::nullopt));
  if (!created.ok()) return "creating: " + text(created);
  if (auto wrong = fill_volumes(std::byte{0x78}, false)) return wrong;
  const auto before = contents();
  kill();
  const Status started = start();
  if (!started.ok()) return "the daemon dies once more: " + text(started);
  // What an earlier power loss took does not come back.
  if (contents() != before) return "the daemon died once more, and not all is as it was";
  for (const NodeName& name : wait(store_->names())) {
    const auto removed = wait(store_->remove(name.str(), {}));
    if (!removed.ok()) return "removing " + name.str() + ": " + text(removed.status());
  }
  const Status erased = wait(store_->wait_erased(0));
  if (!erased.ok()) return "erasing: " + text(erased);
  const auto pool = wait(store_->pool());
  if (!pool.ok()) return "pool: " + text(pool.status());
  if (pool->layers != 0 || pool->allocated_bytes != 0) {
    return fmt::format("{} layers, {} bytes stay behind", pool->layers, pool->allocated_bytes);
  }
  const Status closed = wait(store_->close());
  if (!closed.ok()) return "closing: " + text(closed);
  return std::nullopt;
}

}  // namespace voltree::crash
