// explore(): every disk that a crash may leave, recovered and looked at.
#include <fmt/core.h>

#include <algorithm>
#include <cstring>

#include "tests/crash/crash_run.h"

namespace voltree::crash {
namespace {

constexpr std::size_t kSector = SimImage::kSectorBytes;

std::string text(const Status& status) { return std::string(status.message()); }

std::uint64_t word_at(const std::vector<std::byte>& bytes, std::size_t at) {
  std::uint64_t word = 0;
  std::memcpy(&word, bytes.data() + at, sizeof word);
  return word;
}

// The tag of a sector, or nothing when its words are not those of one tag and place.
std::optional<Tag> tag_of(const std::vector<std::byte>& bytes, std::size_t at) {
  const std::uint64_t first = word_at(bytes, at);
  for (std::size_t i = sizeof first; i < kSector; i += sizeof first) {
    if (word_at(bytes, at + i) != first) return std::nullopt;
  }
  if (first == 0) return Tag{0};
  const std::uint64_t place = (at / kBlockBytes) << 8 | at % kBlockBytes / kSector;
  if ((first & 0xffffffff) != place) return std::nullopt;
  return first >> 32;
}

bool allows(const BlockTags& block, Tag tag, bool power_loss, bool being_written) {
  const std::vector<Tag>& tags = block.tags;
  if (power_loss) return std::find(tags.begin(), tags.end(), tag) != tags.end();
  // A daemon's death loses nothing that was acknowledged.
  if (tag == tags.back()) return true;
  return being_written && tags.size() > 1 && tag == tags[tags.size() - 2];
}

class Machine {
 public:
  Machine(std::unique_ptr<SimWorld> world, std::uint64_t seed) : world_(std::move(world)) {
    runtime_ = std::make_unique<SimRuntime>(*world_, SimOptions{.seed = seed, .executors = 1});
  }
  SimWorld& world() { return *world_; }

  Status start() {
    auto opened = runtime_->sync_wait(Store::open(*runtime_, "/store", {.background_work = false}));
    if (!opened.ok()) return opened.status();
    store_ = std::move(opened).value();
    return {};
  }

  std::optional<std::string> look(const Expectation& expectation, bool power_loss) {
    const auto report = runtime_->sync_wait(store_->check({.data = true, .progress = {}}));
    if (!report.ok()) return "check: " + text(report.status());
    for (const CheckFinding& finding : report->findings) {
      if (finding.damage) return "check: " + finding.what;
    }
    std::string nearest;
    for (const StoreModel& model : expectation.either) {
      const std::optional<std::string> differs = compare(model, expectation, power_loss);
      if (!differs) return std::nullopt;
      nearest = *differs;
    }
    return nearest;
  }

  // It is a store like any other: it takes writes, keeps them, and can be emptied.
  std::optional<std::string> use() {
    for (const NodeName& name : runtime_->sync_wait(store_->names())) {
      if (!name.snapshot.empty()) continue;
      const auto volume = runtime_->sync_wait(store_->open_device(name.volume));
      if (!volume.ok()) return "opening again: " + text(volume.status());
      std::vector<std::byte> data(kBlockBytes, std::byte{0x77});
      Status status = runtime_->sync_wait((*volume)->write(0, data, {.fua = true}));
      std::vector<std::byte> back(kBlockBytes);
      if (status.ok()) status = runtime_->sync_wait((*volume)->read(0, back));
      if (!status.ok()) return "using " + name.volume + ": " + text(status);
      if (back != data) return name.volume + " does not keep what is written to it";
    }
    for (const NodeName& name : runtime_->sync_wait(store_->names())) {
      const auto removed = runtime_->sync_wait(store_->remove(name.str(), {}));
      if (!removed.ok()) return "removing " + name.str() + ": " + text(removed.status());
    }
    const Status erased = runtime_->sync_wait(store_->wait_erased(0));
    if (!erased.ok()) return "erasing: " + text(erased);
    const auto pool = runtime_->sync_wait(store_->pool());
    if (!pool.ok()) return "pool: " + text(pool.status());
    if (pool->layers != 0 || pool->allocated_bytes != 0) {
      return fmt::format("{} layers, {} bytes stay behind", pool->layers, pool->allocated_bytes);
    }
    const Status closed = runtime_->sync_wait(store_->close());
    if (!closed.ok()) return "closing: " + text(closed);
    return std::nullopt;
  }

 private:
  std::optional<std::string> compare(const StoreModel& model, const Expectation& expectation,
                                     bool power_loss) {
    std::vector<NodeName> names = runtime_->sync_wait(store_->names());
    if (names.size() != model.size()) {
      return fmt::format("{} nodes, expected {}", names.size(), model.size());
    }
    for (const NodeName& name : names) {
      const auto found = model.find(name.str());
      if (found == model.end()) return name.str() + " should not be there";
      const bool writing = name.str() == expectation.writing;
      const auto being_written = [&](std::uint64_t block) {
        return writing && block - expectation.first_block < expectation.block_count;
      };
      if (auto differs = compare_node(name.str(), found->second, being_written, power_loss)) {
        return differs;
      }
    }
    return std::nullopt;
  }

  template <typename BeingWritten>
  std::optional<std::string> compare_node(const std::string& name, const NodeModel& model,
                                          BeingWritten being_written, bool power_loss) {
    const auto device = runtime_->sync_wait(store_->open_device(name));
    if (!device.ok()) return name + ": " + text(device.status());
    if ((*device)->size_bytes() != model.blocks.size() * kBlockBytes) {
      return fmt::format("{} has {} bytes", name, (*device)->size_bytes());
    }
    std::vector<std::byte> bytes((*device)->size_bytes());
    const Status read = runtime_->sync_wait((*device)->read(0, bytes));
    if (!read.ok()) return "reading " + name + ": " + text(read);
    for (std::size_t at = 0; at < bytes.size(); at += kSector) {
      const std::uint64_t block = at / kBlockBytes;
      const std::optional<Tag> tag = tag_of(bytes, at);
      if (!tag) return fmt::format("{} at {}: foreign bytes {:x}", name, at, word_at(bytes, at));
      if (!allows(model.blocks[block], *tag, power_loss, being_written(block))) {
        return fmt::format("{} at {} holds write {}, expected {}", name, at, *tag,
                           fmt::join(model.blocks[block].tags, " or "));
      }
    }
    return std::nullopt;
  }

  std::unique_ptr<SimWorld> world_;
  std::unique_ptr<SimRuntime> runtime_;
  std::unique_ptr<Store> store_;
};

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
      Machine machine(image.to_world({}, promise.boot + 1), random_());
      if (twice) machine.world().record(&recovery);
      const Status started = machine.start();
      if (!started.ok()) return failed("the store does not open: " + text(started));
      machine.world().record(nullptr);
      if (auto wrong = machine.look(promise.expectation, true)) return failed(*wrong);
      if (counts_.states % 8 == 0) {
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
    Machine machine(live.to_world({}, promise.boot), random_());
    const auto failed = [&](const std::string& what) {
      return Failure{describe(promise, at, {}, "the daemon died: " + what)};
    };
    const Status started = machine.start();
    if (!started.ok()) return failed("the store does not open: " + text(started));
    if (auto wrong = machine.look(promise.expectation, false)) return failed(*wrong);
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
