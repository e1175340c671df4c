// I8, on the disk itself: when an erase is acknowledged, what was deleted is on no sector of it any
// more (policies that overwrite), and in no file, whatever a power loss leaves (all of them).
#include <fmt/core.h>
#include <gtest/gtest.h>

#include <set>

#include "tests/crash/crash_run.h"

namespace voltree::crash {
namespace {

using Kind = Op::Kind;
using Sectors = std::set<std::pair<std::uint64_t, Tag>>;  // number, and what it holds

// What the sectors of all nodes hold as they are now, where it is no zeros.
Sectors sectors_of(const StoreModel& model) {
  Sectors sectors;
  for (const auto& [name, node] : model) {
    for (std::uint64_t number = 0; number < node.sectors.size(); ++number) {
      const SectorTags& sector = node.sectors[number];
      const Tag tag = sector.tags[sector.acknowledged];
      if (tag != 0) sectors.emplace(number, tag);
    }
  }
  return sectors;
}

bool deletes(const Op& op) {
  return op.kind == Kind::kRemove || op.kind == Kind::kRevert || op.kind == Kind::kReplace ||
         op.kind == Kind::kResize;
}

// After everything that deletes an erase.
std::vector<Op> with_erases(const std::vector<Op>& ops) {
  std::vector<Op> out;
  for (const Op& op : ops) {
    out.push_back(op);
    if (deletes(op)) out.push_back({Kind::kErase, "", "", 0, 0});
  }
  return out;
}

// Changes of contents alone: where space is given back its bytes stay on the medium, and those that
// were not synced by then may never get there.
SimLog medium_of(const SimLog& log, std::size_t end) {
  SimLog medium;
  for (std::size_t i = 0; i < end; ++i) {
    const SimEvent& event = log[i];
    const bool frees = event.kind == SimEvent::Kind::kPunch ||
                       event.kind == SimEvent::Kind::kUnlink ||
                       event.kind == SimEvent::Kind::kTruncate;
    if (!frees) medium.push_back(event);
  }
  return medium;
}

std::optional<std::string> find(const SimImage& image, const Sectors& gone, bool named_only) {
  std::optional<std::string> found;
  image.for_each_page([&](bool named, std::uint64_t page, std::span<const std::byte> bytes) {
    if (named_only && !named) return;
    constexpr std::uint64_t kSectors = SimInode::kPageBytes / kSectorBytes;
    for (std::uint64_t i = 0; i < kSectors; ++i) {
      const std::uint64_t number = page * kSectors + i;
      const auto tag = tag_of(bytes.subspan(i * kSectorBytes, kSectorBytes), number);
      if (tag && gone.contains({number, *tag})) {
        found = fmt::format("write {} is at sector {} still", *tag, number);
      }
    }
  });
  return found;
}

class Erased : public ::testing::TestWithParam<ErasePolicy> {
 protected:
  // At the promise after an erase that was acknowledged.
  void look(const SimLog& log, const Recording::Promise& promise, const Sectors& gone) {
    if (GetParam() != ErasePolicy::kDiscard) {
      const SimLog log_of_medium = medium_of(log, promise.event);
      SimDisk medium(log_of_medium);
      medium.advance(log_of_medium.size());
      const auto left = find(medium.durable(), gone, false);
      EXPECT_FALSE(left) << "on the medium " << promise.doing << ": " << *left;
    }
    SimDisk disk(log);
    disk.advance(promise.event);
    std::vector<SimDisk::Choice> all;
    std::vector<SimImage> images{disk.durable()};
    for (const std::size_t event : disk.pending()) {
      all.push_back({event});
      const SimDisk::Choice alone{event};
      images.push_back(disk.with({&alone, 1}));
    }
    images.push_back(disk.with(all));
    for (const SimImage& image : images) {
      const auto left = find(image, gone, true);
      EXPECT_FALSE(left) << "in a file " << promise.doing << ": " << *left;
      if (left) return;
    }
  }

  // How many sectors were found to be gone.
  std::size_t hold(const std::vector<Op>& ops, std::uint64_t seed) {
    Recording recording;
    const auto wrong = record(with_erases(ops), seed, recording, {.erase_policy = GetParam()});
    EXPECT_FALSE(wrong) << wrong->what;
    if (wrong) return 0;
    SCOPED_TRACE(fmt::format("seed {}: {}", seed, to_text(with_erases(ops))));
    Sectors gone;
    const StoreModel* before = nullptr;
    for (const Recording::Promise& promise : recording.promises) {
      if (promise.expectation.either.size() != 1) continue;  // under way
      const StoreModel& now = promise.expectation.either.front();
      const std::string& doing = promise.doing;
      const auto after = [&](std::string_view what) { return doing.starts_with(what); };
      if (before != nullptr && (after("after remove") || after("after revert") ||
                                after("after replace") || after("after resize"))) {
        const Sectors has = sectors_of(now);
        for (const auto& sector : sectors_of(*before)) {
          if (!has.contains(sector)) gone.insert(sector);
        }
      }
      if (after("after erase")) look(recording.log, promise, gone);
      if (after("after") || before == nullptr) before = &now;
      if (HasFailure()) break;
    }
    return gone.size();
  }
};

TEST_P(Erased, IsNotOnTheDiskAnyMore) {
  EXPECT_GT(hold(standard_workload(), 1), 20u);
  std::size_t gone = 0;
  for (std::uint64_t seed = 1; seed <= 40 && !HasFailure(); ++seed) {
    gone += hold(random_workload(seed, 60), seed);
  }
  EXPECT_GT(gone, 500u);
}

INSTANTIATE_TEST_SUITE_P(Policies, Erased,
                         ::testing::Values(ErasePolicy::kZero, ErasePolicy::kRandom,
                                           ErasePolicy::kDiscard),
                         [](const auto& of) { return std::string(erase_policy_name(of.param)); });

}  // namespace
}  // namespace voltree::crash
