// explore(): every disk that a crash may leave, recovered and looked at.
#include <fmt/core.h>

#include <algorithm>

#include "tests/crash/crash_run.h"
#include "tests/crash/machine.h"

namespace voltree::crash {
namespace {

std::string text(const Status& status) { return std::string(status.message()); }

using Choice = SimDisk::Choice;
using Choices = std::vector<Choice>;

class Explorer {
 public:
  Explorer(const Recording& recording, const ExploreOptions& options, Counts& counts)
      : recording_(recording), options_(options), counts_(counts), random_(options.seed) {}

  std::optional<Failure> run() {
    SimDisk disk(recording_.log);
    SimImage live;  // as the page cache has it
    std::size_t applied = 0;
    for (std::size_t i = 0; i < recording_.promises.size(); ++i) {
      const Recording::Promise& promise = recording_.promises[i];
      const std::size_t end = i + 1 < recording_.promises.size() ? recording_.promises[i + 1].event
                                                                 : recording_.log.size();
      for (std::size_t at = promise.event; at <= end; ++at) {
        disk.advance(at);
        for (; applied < at; ++applied) live.apply(recording_.log[applied]);
        if (at < options_.from_event || !keep()) continue;
        ++counts_.points;
        if (auto failure = crash_at(disk, promise, at != promise.event)) return failure;
        if (auto failure = daemon_dies(live, promise, at)) return failure;
      }
    }
    return std::nullopt;
  }

 private:
  bool keep() {
    return options_.keep >= 1 || static_cast<double>(random_() % 1000000) < options_.keep * 1e6;
  }

  // `newest_only`: the states without the newest event were those of the point before.
  std::optional<Failure> crash_at(const SimDisk& disk, const Recording::Promise& promise,
                                  bool newest_only) {
    const std::vector<std::size_t>& pending = disk.pending();
    const bool newest_pends = !pending.empty() && pending.back() + 1 == disk.position();
    std::size_t left = options_.states_per_point_max;
    const auto test = [&](const Choices& chosen) -> std::optional<Failure> {
      if (left == 0) return std::nullopt;
      --left;
      return test_state(disk, promise, chosen);
    };
    if (newest_only && !newest_pends && !is_sync(recording_.log[disk.position() - 1].kind)) {
      return std::nullopt;
    }
    if (newest_only && !newest_pends) {
      // A sync: what is possible now was possible before, and what it promises is looked at when
      // the promise is made.
      return std::nullopt;
    }
    std::vector<Choices> wanted = choices(pending, newest_only);
    if (wanted.size() > left) std::shuffle(wanted.begin(), wanted.end(), random_);
    for (const Choices& chosen : wanted) {
      if (auto failure = test(chosen)) return failure;
    }
    return std::nullopt;
  }

  std::vector<Choices> choices(const std::vector<std::size_t>& pending, bool newest_only) {
    std::vector<Choices> out;
    const std::size_t count = pending.size();
    const auto add = [&](const std::function<bool(std::size_t)>& take) {
      Choices chosen;
      for (std::size_t i = 0; i < count; ++i) {
        if (take(i)) chosen.push_back({pending[i]});
      }
      out.push_back(std::move(chosen));
    };
    if (count <= options_.exhaustive_max) {
      const std::uint64_t subsets = std::uint64_t{1} << count;
      const std::uint64_t newest = newest_only && count > 0 ? subsets >> 1 : 0;
      for (std::uint64_t set = newest; set < subsets; ++set) {
        add([&](std::size_t i) { return (set >> i & 1) != 0; });
      }
    } else {
      for (std::size_t n = newest_only ? count : 0; n <= count; ++n) {
        add([&](std::size_t i) { return i < n; });
      }
      for (std::size_t one = 0; one < count; ++one) {
        if (!newest_only || one + 1 != count) add([&](std::size_t i) { return i != one; });
        if (!newest_only || one + 1 == count) add([&](std::size_t i) { return i == one; });
      }
      for (std::size_t n = 0; n < options_.sampled_per_point; ++n) {
        const std::uint64_t odds = 1 + random_() % 7;
        add([&](std::size_t i) { return random_() % 8 < odds || (newest_only && i + 1 == count); });
      }
    }
    add_torn(pending, out);
    return out;
  }

  // Some of the subsets again, with writes torn.
  void add_torn(const std::vector<std::size_t>& pending, std::vector<Choices>& out) {
    const bool any = std::any_of(pending.begin(), pending.end(), [&](std::size_t index) {
      const SimEvent::Kind kind = recording_.log[index].kind;
      return kind == SimEvent::Kind::kWrite || kind == SimEvent::Kind::kMappedPage;
    });
    if (!any) return;
    const std::size_t whole = out.size();
    for (std::size_t n = 0; n < options_.sampled_per_point; ++n) {
      Choices chosen = out[random_() % whole];
      for (Choice& choice : chosen) {
        if (random_() % 2 == 0) choice.sectors = random_() & random_();
      }
      out.push_back(std::move(chosen));
    }
  }

  std::string describe(const Recording::Promise& promise, std::size_t at, const Choices& chosen,
                       const std::string& what) const {
    std::string text = fmt::format("{}: event {} of {}, {}; of what was not synced there is", what,
                                   at, recording_.log.size(), promise.doing);
    for (const Choice& choice : chosen) {
      const SimEvent& event = recording_.log[choice.event];
      text += fmt::format(" [{} kind {} inode {} {} {}+{}{}]", choice.event,
                          static_cast<int>(event.kind), event.inode, event.path, event.offset_bytes,
                          event.length_bytes, choice.sectors == ~std::uint64_t{0} ? "" : " torn");
    }
    return text;
  }

  bool is_new(std::uint64_t digest, const Recording::Promise& promise, std::uint64_t salt) {
    const auto index = static_cast<std::uint64_t>(&promise - recording_.promises.data());
    return seen_.insert((digest ^ salt) * 31 + index).second;
  }

  std::optional<Failure> test_state(const SimDisk& disk, const Recording::Promise& promise,
                                    const Choices& chosen) {
    const SimImage image = disk.with(chosen);
    if (!is_new(image.digest(), promise, 0)) return std::nullopt;
    ++counts_.states;
    const bool twice = static_cast<double>(random_() % 1000000) < options_.recovery_share * 1e6;
    SimLog recovery;
    const auto failed = [&](const std::string& what) {
      return Failure{describe(promise, disk.position(), chosen, what)};
    };
    {
      // Now and then it is the host's file system that has stopped, and is mounted anew: what is
      // lost is the same, in the same boot.
      const bool remounted = random_() % 4 == 0;
      Machine machine(image.to_world({}, promise.boot + (remounted ? 0 : 1)), random_());
      if (remounted) machine.world().set_mount_count(machine.world().mount_count() + 1);
      if (twice) machine.world().record(&recovery);
      const Status started = machine.start();
      if (!started.ok()) return failed("the store does not open: " + text(started));
      machine.world().record(nullptr);
      if (auto wrong = machine.look(promise.expectation, true)) return failed(*wrong);
      if (counts_.states % options_.use_every == 0) {
        if (auto wrong = machine.use()) return failed(*wrong);
      }
    }
    if (!twice) return std::nullopt;
    return crash_in_recovery(image, recovery, promise, failed);
  }

  template <typename Failed>
  std::optional<Failure> crash_in_recovery(const SimImage& image, const SimLog& log,
                                           const Recording::Promise& promise, Failed failed) {
    for (std::size_t n = 0; n < options_.recovery_states && !log.empty(); ++n) {
      SimDisk disk(log, image);
      disk.advance(random_() % (log.size() + 1));
      Choices chosen;
      const std::uint64_t odds = random_() % 9;
      for (const std::size_t index : disk.pending()) {
        if (random_() % 8 >= odds) continue;
        chosen.push_back({index, random_() % 4 == 0 ? random_() : ~std::uint64_t{0}});
      }
      const SimImage again = disk.with(chosen);
      if (!is_new(again.digest(), promise, 0x5555)) continue;
      ++counts_.recovery_states;
      Machine machine(again.to_world({}, promise.boot + 2), random_());
      const Status started = machine.start();
      const std::string where =
          fmt::format("after a second crash at event {} of recovery: ", disk.position());
      if (!started.ok()) return failed(where + "the store does not open: " + text(started));
      if (auto wrong = machine.look(promise.expectation, true)) return failed(where + *wrong);
    }
    return std::nullopt;
  }

  // The machine goes on: what was written is all there, synced or not.
  std::optional<Failure> daemon_dies(const SimImage& live, const Recording::Promise& promise,
                                     std::size_t at) {
    if (!is_new(live.digest(), promise, 0xdead)) return std::nullopt;
    ++counts_.daemon_deaths;
    // Now and then the host's file system is unmounted in order, and mounted anew.
    const bool remounted = random_() % 4 == 0;
    Machine machine(live.to_world({}, promise.boot), random_());
    if (remounted) machine.world().set_mount_count(machine.world().mount_count() + 1);
    const auto failed = [&](const std::string& what) {
      return Failure{
          describe(promise, at, {},
                   fmt::format("the daemon died{}: {}",
                               remounted ? ", and its host was mounted anew" : "", what))};
    };
    const Status started = machine.start();
    if (!started.ok()) return failed("the store does not open: " + text(started));
    const auto wrong = machine.look(promise.expectation, false);
    if (wrong) return failed(*wrong);
    return std::nullopt;
  }

  const Recording& recording_;
  const ExploreOptions& options_;
  Counts& counts_;
  std::mt19937_64 random_;
  std::unordered_set<std::uint64_t> seen_;
};

}  // namespace

void Counts::add(const Counts& other) {
  points += other.points;
  states += other.states;
  recovery_states += other.recovery_states;
  daemon_deaths += other.daemon_deaths;
}

std::optional<Failure> explore(const Recording& recording, const ExploreOptions& options,
                               Counts& counts) {
  return Explorer(recording, options, counts).run();
}

}  // namespace voltree::crash
