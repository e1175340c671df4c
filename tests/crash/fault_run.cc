#include "tests/crash/fault_run.h"

#include <fmt/core.h>

#include <random>

#include "tests/crash/machine.h"

namespace voltree::crash {
namespace {

using Kind = Op::Kind;

class FaultRun {
 public:
  FaultRun(const std::vector<Op>& ops, std::uint64_t seed, FaultKind kind, std::uint64_t call)
      : ops_(ops), random_(seed), host_(world_, log_, kind, call), machine_(world_, seed) {
    world_.record(&log_);
  }
  const FaultyHost& host() const { return host_; }

  std::optional<std::string> run(std::size_t power_losses, FaultCounts& counts) {
    if (auto wrong = make()) return wrong;
    if (auto wrong = do_operations()) return wrong;
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
    host_.open_again();
    Status started = machine_.start();
    if (!started.ok()) {
      refused_ = true;
      if (!host_.happened()) return fmt::format("opening: {}", started.message());
      if (host_.lasts()) host_.lift();
      machine_.kill();
      marked |= host_.take_sync_failed();
      host_.open_again();
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

  std::optional<std::string> do_operations() {
    for (std::size_t at = 0; at < ops_.size();) {
      if (machine_.store() == nullptr || stopped_) break;
      std::vector<Op> group = take_group(ops_, at);
      const StoreModel& model = expected_.either.front();
      std::erase_if(group, [&model](const Op& op) { return !possible(model, op); });
      if (group.empty()) continue;
      const auto wrong = group.size() == 1 ? step(group.front()) : step_together(group);
      if (wrong) return to_text(group) + *wrong;
    }
    return std::nullopt;
  }

  std::optional<std::string> step_together(const std::vector<Op>& ops) {
    Together together(expected_.either.front(), ops, tag_ + 1);
    std::vector<bool> began_read_only(ops.size());
    std::vector<std::size_t> torn;
    std::optional<std::string> wrong;
    bool all_done = true;
    Machine::Watch watch;
    watch.began = [&](std::size_t index) {
      together.began(index);
      began_read_only[index] = machine_.store()->read_only();
    };
    watch.ended = [&](std::size_t index, const Status& status) {
      const bool upkeep = ops[index].kind == Kind::kSettle;  // there may be nothing to do
      if (status.ok() && began_read_only[index] && !upkeep) {
        wrong = "it is acknowledged, though the store was read-only: " + to_text(ops[index]);
      }
      if (status.ok()) together.done(index);
      all_done &= status.ok();
      if (!status.ok() && ops[index].writes() && host_.tore_a_layer()) torn.push_back(index);
    };
    host_.set_together(true);
    const Status status = machine_.perform_together(ops, tag_ + 1, watch);
    host_.set_together(false);
    tag_ += ops.size();
    for (const std::size_t index : torn) together.tore(index);
    if (wrong) return wrong;
    const bool read_only = machine_.store()->read_only();
    if (host_.sync_failed() && !read_only) return "a sync failed, and the store goes on";
    if (!all_done && !host_.happened()) return fmt::format("refused: {}", status.message());
    refused_ |= !all_done;
    // What the store does not refuse from now on it has not done.
    expected_ = read_only ? together.expectation() : Expectation{{together.result()}};
    if (host_.lost_pages()) lose_unflushed();
    stopped_ = read_only;
    if (!all_done && !read_only && readable()) return machine_.compare(expected_, false);
    return std::nullopt;
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
    if (!done.ok() && !read_only && readable()) return machine_.compare(expected_, false);
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
      sectors[first + i].tear();
    }
  }

  bool readable() const { return !host_.lasts() && !host_.lost_map(); }

  // The page cache has lost writes that were acknowledged, and not flushed.
  void lose_unflushed() {
    for (StoreModel& model : expected_.either) {
      for (auto& [name, node] : model) {
        for (SectorTags& sector : node.sectors) {
          if (sector.tags.size() == 1) continue;
          sector.tear();
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
    if (!readable() || host_.lost_sums() || half_taken_) return std::nullopt;
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
          if (sector.torn != 0) return true;
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
    // Or it is the host's file system that has stopped, and is mounted anew in the same boot.
    const bool remounted = random_() % 4 == 0;
    Machine machine(disk.with(chosen).to_world({}, world_.boot_count() + (remounted ? 0 : 1)),
                    random_());
    if (remounted) machine.world().set_mount_count(world_.mount_count() + 1);
    const Status started = machine.start();
    if (!started.ok()) return std::string(started.message());
    return machine.look(expected_, true);
  }

  const std::vector<Op>& ops_;
  std::mt19937_64 random_;
  SimLog log_;
  SimWorld world_;
  FaultyHost host_;
  Machine machine_;  // its end is asked about, too
  Tag tag_ = 0;
  Expectation expected_{{StoreModel{}}};
  bool refused_ = false;
  bool stopped_ = false;
  bool half_taken_ = false;
};

}  // namespace

void FaultCounts::add(const FaultCounts& other) {
  runs += other.runs;
  refused += other.refused;
  read_only += other.read_only;
  power_losses += other.power_losses;
}

std::vector<std::uint64_t> calls_for(const std::vector<Op>& ops, std::uint64_t seed, FaultKind kind,
                                     bool together) {
  FaultCounts counts;
  FaultRun run(ops, seed, kind, ~std::uint64_t{0});
  if (run.run(0, counts)) return {};
  return together ? run.host().possible_together() : run.host().possible();
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
