#include "tests/crash/flip_run.h"

#include <fmt/core.h>

#include <algorithm>

#include "blockstore/lineage_copy.h"
#include "blockstore/runtime/sim_crash.h"
#include "blockstore/store_repair.h"

namespace voltree::crash {
namespace {

using Kind = Op::Kind;

// Something in every table that a read of a volume depends on, and an erase that waits.
std::vector<Op> flip_workload(std::uint64_t more_blocks) {
  std::vector<Op> ops;
  if (more_blocks != 0) {
    ops = {{Kind::kCreate, "m", "", 0, more_blocks},
           {Kind::kWriteFua, "m", "", 0, more_blocks},
           {Kind::kSnapshot, "m@s", "", 0, 0},
           {Kind::kWriteFua, "m", "", 0, (more_blocks + 7) / 8}};
  }
  const std::vector<Op> begin = prologue();
  ops.insert(ops.end(), begin.begin(), begin.end());
  const std::vector<Op> more{{Kind::kWrite, "a", "", 2, 3},    {Kind::kClone, "a@s", "c", 0, 0},
                             {Kind::kWrite, "c", "", 0, 2},    {Kind::kDiscard, "c", "", 1, 1},
                             {Kind::kClone, "a", "b", 0, 0},  // with a junction
                             {Kind::kWrite, "b", "", 0, 1},    {Kind::kCreate, "e", "", 0, 2},
                             {Kind::kWriteFua, "e", "", 0, 2}, {Kind::kReopen, "", "", 0, 0},
                             {Kind::kRename, "e", "f", 0, 0},  {Kind::kSnapshot, "a@t", "", 0, 0},
                             {Kind::kRemove, "f", "", 0, 0},   {Kind::kWrite, "a", "", 0, 1},
                             {Kind::kFlush, "a", "", 0, 0}};
  ops.insert(ops.end(), more.begin(), more.end());
  return ops;
}

std::string kind_of(const std::string& path) {
  if (path.ends_with(".sum")) return "layer.sum";
  if (path.starts_with("/store/layers/")) return "layer";
  return path.substr(std::string("/store/").size());
}

void add_files_of(SimWorld& world, const std::string& folder, std::vector<std::string>& files) {
  const auto names = world.list(folder);
  for (const std::string& name : *names) {
    const std::string path = folder + "/" + name;
    if (world.list(path).ok()) {
      add_files_of(world, path, files);
    } else if (path != "/store/reserve") {
      files.push_back(path);
    }
  }
}

void write_at(SimWorld& world, const std::string& path, std::uint64_t at,
              std::span<const std::byte> bytes) {
  const auto inode = world.find(path);
  (void)world.apply(**inode, {SimMutation::Kind::kWrite, at, bytes.size(), bytes.data()});
}

std::vector<std::byte> read_at(SimWorld& world, const std::string& path, std::uint64_t at,
                               std::size_t count) {
  std::vector<std::byte> bytes(count);
  (*world.find(path))->read(bytes, at);
  return bytes;
}

void flip(SimWorld& world, const std::string& path, std::uint64_t bit) {
  std::vector<std::byte> byte = read_at(world, path, bit / 8, 1);
  byte[0] ^= static_cast<std::byte>(1U << (bit % 8));
  write_at(world, path, bit / 8, byte);
}

// Where the last transaction of the log begins; 0: there is no log. A frame's second word is not 0
// in the last frame of each.
std::uint64_t last_commit_of(SimWorld& world) {
  constexpr std::uint64_t kHeaderBytes = 32;
  constexpr std::uint64_t kFrameBytes = 24 + 4096;
  const std::string path = "/store/catalog.db-wal";
  const auto inode = world.find(path);
  if (!inode.ok()) return 0;
  std::uint64_t begin = kHeaderBytes;
  for (std::uint64_t at = kHeaderBytes; at + 2 * kFrameBytes <= (*inode)->size_bytes();
       at += kFrameBytes) {
    const auto pages = read_at(world, path, at + 4, 4);
    const bool commit = std::any_of(pages.begin(), pages.end(),
                                    [](std::byte byte) { return byte != std::byte{0}; });
    if (commit) begin = at + kFrameBytes;
  }
  return begin;
}

}  // namespace

const char* flip_outcome_name(FlipOutcome outcome) {
  static constexpr const char* kNames[kFlipOutcomes] = {"no effect",
                                                        "refused to open",
                                                        "detected on read",
                                                        "reported by check",
                                                        "last commit taken for cut off",
                                                        "made anew"};
  return kNames[static_cast<std::size_t>(outcome)];
}

FlipStore::FlipStore(bool stopped_in_order, std::uint64_t more_blocks) {
  make(stopped_in_order, more_blocks);
}

void FlipStore::make(bool stopped_in_order, std::uint64_t more_blocks) {
  SimLog log;
  SimWorld world;
  world.record(&log);
  Machine machine(world, 1);
  StoreModel model;
  StoreModel before;  // the last operation, a flush: one commit
  Status status = machine.create();
  if (status.ok()) status = machine.start();
  Tag tag = 0;
  for (const Op& op : flip_workload(more_blocks)) {
    if (!status.ok()) break;
    before = model;
    status = machine.perform(op, ++tag);
    model = after(model, op, tag);
  }
  if (status.ok() && stopped_in_order) status = machine.wait(machine.store()->close());
  if (!status.ok()) {
    failure_ = std::string(status.message());
    return;
  }
  machine.kill();
  world.log_stores();
  for (StoreModel* const one : {&model, &before}) {
    for (auto& [name, node] : *one) {
      if (stopped_in_order) node.flush();
      for (SectorTags& sector : node.sectors) sector.tear();
    }
  }
  expected_ = {{std::move(model)}};
  before_last_commit_ = {{std::move(before)}};
  last_commit_at_ = last_commit_of(world);
  SimDisk disk(log);
  disk.advance(log.size());
  std::vector<SimDisk::Choice> all;
  for (const std::size_t index : disk.pending()) all.push_back({index});
  image_ = disk.with(all);
  std::vector<std::string> files;
  add_files_of(world, "/store", files);
  for (const std::string& path : files) {
    const auto inode = *world.find(path);
    if (inode->size_bytes() == 0) continue;
    targets_.push_back({kind_of(path), path, inode->size_bytes(), inode->page_numbers()});
  }
  look_at_sound_store();
}

// What every store with a flipped bit is held to must hold without one.
void FlipStore::look_at_sound_store() {
  Machine machine(image_.to_world({}, 2), 1);
  const Status started = machine.start();
  if (!started.ok()) {
    failure_ = std::string(started.message());
    return;
  }
  FlipOutcome outcome = FlipOutcome::kRefused;
  const auto wrong = judge(machine, "without a flipped bit", outcome);
  const auto copy = LineageCopy::read(machine.fs(), "/store");
  if (wrong) {
    failure_ = wrong->what;
  } else if (outcome != FlipOutcome::kNothing || !copy.ok()) {
    failure_ = "the store is not sound";
  } else {
    copy_ = copy->state;
  }
}

// Wrong data, or a name, a size or a place in the tree that is another, is a failure whatever else
// is said.
std::optional<Failure> FlipStore::judge(Machine& machine, const std::string& what,
                                        FlipOutcome& outcome) {
  machine.forget_damaged();
  if (auto wrong = machine.compare(expected_, true)) return Failure{what + ": " + *wrong};
  outcome = FlipOutcome::kNothing;
  if (!machine.damaged().empty()) {
    outcome = FlipOutcome::kDetected;
    return std::nullopt;
  }
  const auto report = machine.wait(machine.store()->check({.data = true, .progress = {}}));
  if (!report.ok() || !report->sound()) outcome = FlipOutcome::kReported;
  return std::nullopt;
}

bool FlipStore::is_in_last_commit(const Target& target, std::uint64_t bit) const {
  return target.kind == "catalog.db-wal" && last_commit_at_ != 0 && bit / 8 >= last_commit_at_;
}

std::optional<Failure> FlipStore::flip_closed(const Target& target, std::uint64_t bit,
                                              FlipOutcome& outcome) {
  Machine machine(image_.to_world({}, 2), 1);
  flip(machine.world(), target.path, bit);
  const std::string what = fmt::format("{}, byte {}, bit {}", target.path, bit / 8, bit % 8);
  const Status started = machine.start();
  if (started.ok() && is_in_last_commit(target, bit) && machine.compare(expected_, true)) {
    outcome = FlipOutcome::kCutOff;
    const auto wrong = machine.look(before_last_commit_, true);
    return wrong ? std::optional(Failure{what + ": " + *wrong}) : std::nullopt;
  }
  if (started.ok()) {
    auto failure = judge(machine, what, outcome);
    if (failure || target.kind != "lineage") return failure;
    outcome = FlipOutcome::kMended;
    if (!is_copy_whole(machine)) return Failure{what + ": the copy stays damaged"};
    return std::nullopt;
  }
  outcome = FlipOutcome::kRefused;
  if (started.message().find(target.path) == std::string::npos) {
    return Failure{
        fmt::format("{}: the refusal does not name the file: {}", what, started.message())};
  }
  return std::nullopt;
}

std::optional<Failure> FlipStore::flip_open(const Target& target, std::uint64_t bit,
                                            FlipOutcome& outcome) {
  if (open_ == nullptr) {
    open_ = std::make_unique<Machine>(image_.to_world({}, 2), 1);
    const Status started = open_->start();
    if (!started.ok()) return Failure{std::string(started.message())};
  }
  flip(open_->world(), target.path, bit);
  const std::string what = fmt::format("{}, byte {}, bit {}", target.path, bit / 8, bit % 8);
  constexpr std::uint64_t kAllEvery = 1021;
  const std::uint64_t unit_bytes = target.kind == "layer" ? kBlockBytes : sizeof(std::uint64_t);
  const std::pair by(&target, bit / 8 / unit_bytes);
  const bool known = by == damaged_by_ && !damaged_.empty() && bit % kAllEvery != 0;
  auto failure = known ? judge_damaged(what, outcome) : judge(*open_, what, outcome);
  if (!known) damaged_ = open_->damaged();
  damaged_by_ = by;
  flip(open_->world(), target.path, bit);
  return failure;
}

std::optional<Failure> FlipStore::judge_damaged(const std::string& what, FlipOutcome& outcome) {
  open_->forget_damaged();
  for (const Machine::Place& place : damaged_) {
    if (auto wrong = open_->compare_place(place, expected_.either.front(), true)) {
      return Failure{what + ": " + *wrong};
    }
  }
  outcome = open_->damaged().empty() ? FlipOutcome::kNothing : FlipOutcome::kDetected;
  return std::nullopt;
}

bool FlipStore::is_copy_whole(Machine& machine) const {
  const auto copy = LineageCopy::read(machine.fs(), "/store");
  return copy.ok() && copy->unreadable_bytes == 0 && copy->state == copy_;
}

std::optional<Failure> FlipStore::flip_rebuilt(std::uint64_t bit) {
  const std::string what = fmt::format("the rebuilt store, byte {}, bit {}", bit / 8, bit % 8);
  Machine machine(image_.to_world({}, 2), 1);
  for (const char* name : {"/store/catalog.db", "/store/catalog.db-wal"}) {
    if (!machine.world().find(name).ok()) continue;
    const Status gone = machine.fs().unlink(name);
    if (!gone.ok()) return Failure{what + ": " + std::string(gone.message())};
  }
  flip(machine.world(), "/store/lineage", bit);
  const auto report = machine.repair();
  if (!report.ok()) return Failure{what + ": " + std::string(report.status().message())};
  const bool told = std::any_of(report->findings.begin(), report->findings.end(),
                                [](const RepairFinding& finding) {
                                  return finding.kind != RepairFinding::Kind::kNote &&
                                         finding.what.find("lineage copy") != std::string::npos;
                                });
  if (!told) return Failure{what + ": the repair does not say that the copy is damaged"};
  const Status started = machine.start();
  if (!started.ok()) return Failure{what + ": " + std::string(started.message())};
  for (const auto& [name, bytes] : machine.contents()) {
    for (std::uint64_t at = 0; at + kSectorBytes <= bytes.size(); at += kSectorBytes) {
      if (tag_of(std::span(bytes).subspan(at, kSectorBytes), at / kSectorBytes)) continue;
      return Failure{fmt::format("{}: {} has foreign bytes at {}", what, name, at)};
    }
  }
  return std::nullopt;
}

std::optional<Failure> FlipStore::misplace(const Page& from, const Page& to, FlipOutcome& outcome) {
  constexpr std::uint64_t kPage = SimInode::kPageBytes;
  Machine machine(image_.to_world({}, 2), 1);
  write_at(machine.world(), to.target->path, to.number * kPage,
           read_at(machine.world(), from.target->path, from.number * kPage, kPage));
  const std::string what = fmt::format("{}, page {} in the place of {}, page {}", from.target->path,
                                       from.number, to.target->path, to.number);
  const Status started = machine.start();
  if (started.ok()) return judge(machine, what, outcome);
  outcome = FlipOutcome::kRefused;
  return std::nullopt;
}

}  // namespace voltree::crash
