#include "tests/crash/fault_run.h"

#include <fmt/core.h>

#include <cerrno>
#include <random>
#include <utility>

#include "tests/crash/machine.h"

namespace voltree::crash {
namespace {

using Kind = Op::Kind;

bool is_sync(SimAct act) { return act == SimAct::kSync || act == SimAct::kSyncDir; }

bool takes_space(SimAct act) {
  return act == SimAct::kWrite || act == SimAct::kAllocate || act == SimAct::kPunch ||
         act == SimAct::kTruncate || act == SimAct::kCreate || act == SimAct::kRename ||
         act == SimAct::kLink || act == SimAct::kMakeDir;
}

bool is_possible(FaultKind kind, const SimCall& call) {
  switch (kind) {
    case FaultKind::kNoSpaceOnce:
      return takes_space(call.act) || call.act == SimAct::kSync;
    case FaultKind::kNoSpaceOn:
    case FaultKind::kHostFull:
      return takes_space(call.act);
    case FaultKind::kTorn:
    case FaultKind::kShort:
      return call.act == SimAct::kWrite && call.length_bytes >= 2 * kSectorBytes;
    case FaultKind::kInterrupted:
      return is_sync(call.act) || call.act == SimAct::kUnlink || call.act == SimAct::kRename;
    case FaultKind::kLostSync:
      return call.act == SimAct::kSync;
    default:
      return true;
  }
}

// What is to fail, and what has.
class Host {
 public:
  Host(SimWorld& world, SimLog& log, FaultKind kind, std::uint64_t call)
      : world_(world), log_(log), kind_(kind), call_(call) {
    world_.set_fault([this](const SimCall& one) { return fault(one); });
  }
  const std::vector<std::uint64_t>& possible() const { return possible_; }
  bool happened() const { return happened_; }
  bool lasts() const {
    return happened_ && !lifted_ &&
           (kind_ == FaultKind::kIoErrorOn || kind_ == FaultKind::kNoSpaceOn);
  }
  bool full() const { return happened_ && !lifted_ && kind_ == FaultKind::kHostFull; }
  bool lost_sums() const { return lost_sums_; }
  bool sync_failed() const { return sync_failed_; }
  bool copy_sync_failed() const { return copy_sync_failed_; }
  bool take_sync_failed() { return std::exchange(sync_failed_, false); }
  bool tore_a_layer() const { return tore_a_layer_; }
  bool lost_pages() const { return lost_pages_; }
  std::string where() const { return where_; }
  // What others than the store do does not fail.
  void pause(bool paused) { paused_ = paused; }
  void lift() {
    lifted_ = true;
    world_.set_capacity(SimWorldOptions().capacity_bytes);
  }

 private:
  SimFault fault(const SimCall& one) {
    if (paused_) return {};
    ++calls_;
    if (calls_ < call_) {
      if (is_possible(kind_, one)) possible_.push_back(calls_);
      return {};
    }
    if (lifted_) return {};
    if (calls_ == call_) {
      happened_ = is_possible(kind_, one);
      where_ = fmt::format("call {} ({}, {})", calls_, static_cast<int>(one.act), one.path);
    }
    if (!happened_ || (calls_ != call_ && (!lasts() || !is_possible(kind_, one)))) return {};
    return fail(one);
  }

  SimFault fail(const SimCall& one) {
    SimFault fault{Status::from_errno(EIO, "injected"), 0};
    switch (kind_) {
      case FaultKind::kNoSpaceOnce:
      case FaultKind::kNoSpaceOn:
        fault.status = Status::from_errno(ENOSPC, "injected");
        break;
      case FaultKind::kHostFull:
        world_.set_capacity(world_.used_bytes());
        return {};
      case FaultKind::kShort:
        return {{}, one.length_bytes / kSectorBytes / 2 * kSectorBytes};
      case FaultKind::kTorn:
        fault.first_bytes = one.length_bytes / kSectorBytes / 2 * kSectorBytes;
        tore_a_layer_ = one.path.starts_with("/store/layers/");
        break;
      case FaultKind::kInterrupted:
        fault.status = Status::from_errno(EINTR, "injected");
        break;
      case FaultKind::kLostSync: {
        SimDisk disk(log_);
        disk.advance(log_.size());
        disk.durable().revert(*one.inode);
        lost_pages_ = true;
        lost_sums_ = one.path.ends_with(".sum");
        break;
      }
      default:
        break;
    }
    // The lineage's copy is written behind what it copies, and its failure is heeded by the next
    // commit (StoreRepairTest.I10_AFailedSyncOfTheCopyMakesTheStoreReadOnly).
    const bool of_copy = one.path.find("/lineage") != std::string::npos;
    // A file that is to be taken in is its owner's still.
    const bool of_file = one.path.starts_with("/in/");
    sync_failed_ |= is_sync(one.act) && !of_copy && !of_file;
    copy_sync_failed_ |= is_sync(one.act) && of_copy;
    return fault;
  }

  SimWorld& world_;
  SimLog& log_;
  const FaultKind kind_;
  const std::uint64_t call_;
  std::uint64_t calls_ = 0;
  std::vector<std::uint64_t> possible_;  // before `call_`
  bool happened_ = false;
  bool lifted_ = false;
  bool paused_ = false;
  bool sync_failed_ = false;
  bool copy_sync_failed_ = false;
  bool tore_a_layer_ = false;
  bool lost_pages_ = false;
  bool lost_sums_ = false;
  std::string where_;
};

class FaultRun {
 public:
  FaultRun(const std::vector<Op>& ops, std::uint64_t seed, FaultKind kind, std::uint64_t call)
      : ops_(ops), random_(seed), machine_(world_, seed), host_(world_, log_, kind, call) {
    world_.record(&log_);
  }
  const Host& host() const { return host_; }

  std::optional<std::string> run(std::size_t power_losses, FaultCounts& counts) {
    if (auto wrong = make()) return wrong;
    for (const Op& op : ops_) {
      if (machine_.store() == nullptr || stopped_) break;
      if (!possible(expected_.either.front(), op)) continue;
      if (auto wrong = step(op)) return to_text(op) + ": " + *wrong;
    }
    if (!host_.happened()) return std::nullopt;
    ++counts.runs;
    counts.refused += refused_ ? 1 : 0;
    const bool read_only = machine_.store() != nullptr && machine_.store()->read_only();
    counts.read_only += read_only ? 1 : 0;
    if (read_only) {
      if (auto wrong = look_read_only()) return "read-only: " + *wrong;
    }
    host_.lift();
    if (auto wrong = stop(read_only)) return wrong;
    const std::size_t stopped = events();
    if (auto wrong = reopen(read_only)) return "opened again: " + *wrong;
    const std::size_t recovered = events();
    if (!may_be_damaged()) {
      if (auto wrong = machine_.use()) return "opened again: " + *wrong;
    }
    // Before the recovery in the same boot, after it, and within.
    for (std::size_t i = 0; i < power_losses; ++i, ++counts.power_losses) {
      const std::size_t which = power_losses < 3 ? random_() % 3 : i % 3;
      const std::size_t points[] = {stopped, recovered,
                                    stopped + random_() % (recovered - stopped + 1)};
      if (auto wrong = lose_power(points[which])) {
        return fmt::format("after a power loss at event {} of {} to {}: {}", points[which], stopped,
                           recovered, *wrong);
      }
    }
    return std::nullopt;
  }

 private:
  std::size_t events() {
    world_.log_stores();
    return log_.size();
  }

  // A store that is not whole can be made anew, in the same folder.
  std::optional<std::string> make() {
    Status made = machine_.create();
    if (!made.ok()) {
      refused_ = true;
      if (host_.lasts() || host_.full()) host_.lift();
      made = machine_.create();
      if (made.code() == Code::kExists) made = Status();  // all but its last sync was done
    }
    if (!made.ok()) return fmt::format("making the store: {}", made.message());
    (void)host_.take_sync_failed();  // of a store that never was
    // The first start makes the in-flight table: a full host may refuse that.
    auto wrong = start();
    if (!wrong || !host_.full()) return wrong;
    host_.lift();
    machine_.kill();
    return start();
  }

  // Begins the daemon, twice when the fault hits the first one.
  std::optional<std::string> start() {
    bool marked = host_.take_sync_failed();
    Status started = machine_.start();
    if (!started.ok()) {
      refused_ = true;
      if (!host_.happened()) return fmt::format("opening: {}", started.message());
      if (host_.lasts()) host_.lift();
      machine_.kill();
      marked |= host_.take_sync_failed();
      started = machine_.start();
    }
    if (!started.ok()) return fmt::format("opening, again: {}", started.message());
    return marked ? look_marked() : std::nullopt;
  }

  // A failure that an earlier daemon met is told.
  std::optional<std::string> look_marked() {
    const auto pool = machine_.wait(machine_.store()->pool());
    if (!pool.ok()) return fmt::format("pool: {}", pool.status().message());
    if (pool->warning.find("voltree check") != std::string::npos) return std::nullopt;
    return "it does not say that a sync failed: " + pool->warning;
  }

  std::optional<std::string> step(const Op& op) {
    ++tag_;
    const StoreModel before = expected_.either.front();
    host_.pause(op.kind == Kind::kPutFile);
    const Status done = machine_.perform(op, tag_);
    host_.pause(false);
    if (machine_.store() == nullptr) return stopped_while(op, before, done);
    const bool read_only = machine_.store()->read_only();
    if (host_.sync_failed() && !read_only) return "a sync failed, and the store goes on";
    if (done.ok()) {
      expected_ = {{after(before, op, tag_)}};
    } else {
      if (!host_.happened()) return fmt::format("refused: {}", done.message());
      refused_ = true;
      failed(op, before, read_only);
    }
    if (host_.lost_pages()) lose_unflushed();
    stopped_ = read_only || half_taken_;
    if (!done.ok() && !read_only && !host_.lasts()) return machine_.compare(expected_, false);
    return std::nullopt;
  }

  // Reopen and kill leave no store when the close or the open fails.
  std::optional<std::string> stopped_while(const Op& op, const StoreModel& before,
                                           const Status& done) {
    if (!host_.happened()) return fmt::format("refused: {}", done.message());
    refused_ = true;
    expected_ = op.kind == Kind::kReopen ? Expectation{{before, after(before, op, tag_)}}
                                         : Expectation{{before}};
    if (host_.lost_pages()) lose_unflushed();
    if (auto wrong = start()) return wrong;
    stopped_ = machine_.store()->read_only();
    expected_.either.resize(1);
    return std::nullopt;
  }

  void failed(const Op& op, const StoreModel& before, bool read_only) {
    expected_ = during(before, op, tag_);
    // What the store does not refuse from now on it has not done.
    // But a file that could not be given back is taken or left at the next open.
    const bool takes = op.kind == Kind::kTake || op.kind == Kind::kTakeGiven;
    half_taken_ |= takes && (read_only || host_.lasts());
    half_taken_ |= op.kind == Kind::kGive && read_only;
    const bool either = read_only || half_taken_;
    if (!op.writes() && !either) expected_.either.resize(1);
    if (!op.writes() || !host_.tore_a_layer()) return;
    std::vector<SectorTags>& sectors = expected_.either.front().at(op.a).sectors;
    const std::uint64_t first = op.offset_bytes() / kSectorBytes;
    for (std::uint64_t i = 0; i < op.length_bytes() / kSectorBytes; ++i) {
      sectors[first + i].may_be_damaged = true;
    }
  }

  // The page cache has lost writes that were acknowledged, and not flushed.
  void lose_unflushed() {
    for (StoreModel& model : expected_.either) {
      for (auto& [name, node] : model) {
        for (SectorTags& sector : node.sectors) {
          if (sector.tags.size() == 1) continue;
          sector.may_be_damaged = true;
          sector.acknowledged = 0;
        }
      }
    }
  }

  // I10: it says so, refuses every change, and reads on.
  std::optional<std::string> look_read_only() {
    Store& store = *machine_.store();
    const auto pool = machine_.wait(store.pool());
    if (pool.ok() && pool->warning.find("voltree check") == std::string::npos) {
      return "it does not say so: " + pool->warning;
    }
    if (!pool.ok() && !host_.lasts()) return fmt::format("pool: {}", pool.status().message());
    const Status created = machine_.wait(store.create_volume("x", kBlockBytes, std::nullopt));
    if (created.code() != Code::kReadOnly) return fmt::format("create: {}", created.message());
    for (const auto& [name, node] : expected_.either.front()) {
      if (name.find('@') != std::string::npos || node.sectors.empty()) continue;
      const auto device = machine_.wait(store.open_device(name));
      if (!device.ok()) continue;  // it is of the other model, or cannot be read
      const std::vector<std::byte> data(kSectorBytes, std::byte{1});
      const Status written = machine_.wait((*device)->write(0, data, {}));
      const Status flushed = machine_.wait((*device)->flush());
      if (written.code() != Code::kReadOnly || flushed.code() != Code::kReadOnly) {
        return fmt::format("{}: written to: {}; flushed: {}", name, written.message(),
                           flushed.message());
      }
    }
    // Until recovery stamps them anew, blocks whose sums are lost do not match. And a file that is
    // half taken in is seen to by the next open.
    if (host_.lasts() || host_.lost_sums() || half_taken_) return std::nullopt;
    return machine_.compare(expected_, false);
  }

  std::optional<std::string> stop(bool read_only) {
    if (machine_.store() != nullptr && (read_only || random_() % 2 == 0)) {
      const Status closed = machine_.wait(machine_.store()->close());
      const bool heeds_copy = !closed.ok() && host_.copy_sync_failed();
      if (closed.ok() == read_only && !heeds_copy) {
        return fmt::format("closing (read-only: {}): {}", read_only, closed.message());
      }
      if (closed.ok()) {
        for (auto& [name, node] : expected_.either.front()) node.flush();
      }
    }
    machine_.kill();
    return std::nullopt;
  }

  std::optional<std::string> reopen(bool was_read_only) {
    const bool marked = was_read_only || host_.take_sync_failed();
    const Status started = machine_.start();
    if (!started.ok()) return std::string(started.message());
    if (marked) {
      if (auto wrong = look_marked()) return wrong;
    }
    return machine_.look(expected_, false);
  }

  bool may_be_damaged() const {
    for (const StoreModel& model : expected_.either) {
      for (const auto& [name, node] : model) {
        for (const SectorTags& sector : node.sectors) {
          if (sector.may_be_damaged) return true;
        }
      }
    }
    return false;
  }

  std::optional<std::string> lose_power(std::size_t event) {
    SimDisk disk(log_);
    disk.advance(event);
    std::vector<SimDisk::Choice> chosen;
    const std::uint64_t odds = random_() % 9;
    for (const std::size_t index : disk.pending()) {
      if (random_() % 8 >= odds) continue;
      chosen.push_back({index, random_() % 4 == 0 ? random_() : ~std::uint64_t{0}});
    }
    Machine machine(disk.with(chosen).to_world({}, world_.boot_count() + 1), random_());
    const Status started = machine.start();
    if (!started.ok()) return std::string(started.message());
    return machine.look(expected_, true);
  }

  const std::vector<Op>& ops_;
  std::mt19937_64 random_;
  SimLog log_;
  SimWorld world_;
  Machine machine_;
  Host host_;
  Tag tag_ = 0;
  Expectation expected_{{StoreModel{}}};
  bool refused_ = false;
  bool stopped_ = false;
  bool half_taken_ = false;
};

}  // namespace

const char* fault_name(FaultKind kind) {
  static constexpr const char* kNames[kFaultKinds] = {
      "EIO once",  "EIO from then on", "ENOSPC once", "ENOSPC from then on",
      "full host", "torn write",       "short write", "EINTR",
      "lost sync"};
  return kNames[static_cast<std::size_t>(kind)];
}

void FaultCounts::add(const FaultCounts& other) {
  runs += other.runs;
  refused += other.refused;
  read_only += other.read_only;
  power_losses += other.power_losses;
}

std::vector<std::uint64_t> calls_for(const std::vector<Op>& ops, std::uint64_t seed,
                                     FaultKind kind) {
  FaultCounts counts;
  FaultRun run(ops, seed, kind, ~std::uint64_t{0});
  if (run.run(0, counts)) return {};
  return run.host().possible();
}

std::optional<Failure> run_with_fault(const std::vector<Op>& ops, std::uint64_t seed,
                                      FaultKind kind, std::uint64_t call, std::size_t power_losses,
                                      FaultCounts& counts) {
  FaultRun run(ops, seed, kind, call);
  const auto wrong = run.run(power_losses, counts);
  if (!wrong) return std::nullopt;
  return Failure{fmt::format("{} at {}: {}", fault_name(kind), run.host().where(), *wrong)};
}

}  // namespace voltree::crash
