#include "tests/crash/workload.h"

#include <fmt/core.h>

#include <algorithm>

namespace voltree::crash {

using Kind = Op::Kind;

std::string to_text(const Op& op) {
  static constexpr const char* kNames[] = {
      "create",    "write",  "fua",     "discard", "flush",  "snap", "group", "clone",
      "revert",    "remove", "replace", "resize",  "rename", "put",  "take",  "give",
      "take back", "erase",  "settle",  "sweep",   "reopen", "kill"};
  return fmt::format("{} {} {} {}+{}{}", kNames[static_cast<std::size_t>(op.kind)], op.a, op.b,
                     op.block, op.blocks, op.unit_bytes == kSectorBytes ? "s" : "");
}

std::string to_text(const std::vector<Op>& ops) {
  std::string text;
  for (const Op& op : ops) text += to_text(op) + (op.with_next ? " & " : "; ");
  return text;
}

std::vector<Op> take_group(const std::vector<Op>& ops, std::size_t& at) {
  std::vector<Op> group;
  do {
    group.push_back(ops[at++]);
  } while (group.back().with_next && at < ops.size());
  return group;
}

std::vector<Op> prologue() {
  return {{Kind::kCreate, "a", "", 0, 6}, {Kind::kWrite, "a", "", 0, 3},
          {Kind::kFlush, "a", "", 0, 0},  {Kind::kSnapshot, "a@s", "", 0, 0},
          {Kind::kWrite, "a", "", 1, 1},  {Kind::kFlush, "a", "", 0, 0}};
}

std::vector<Op> standard_workload() {
  std::vector<Op> ops = prologue();
  const std::vector<Op> more{{Kind::kWrite, "a", "", 2, 3},     // in place, shared, and a hole
                             {Kind::kClone, "a@s", "c", 0, 0},  // a head without a layer
                             {Kind::kWriteFua, "c", "", 0, 2},
                             {Kind::kDiscard, "c", "", 1, 1},
                             {Kind::kSettle, "", "", 0, 0},
                             {Kind::kWrite, "a", "", 0, 2},  // in place into a clean region
                             {Kind::kFlush, "a", "", 0, 0},
                             {Kind::kResize, "a", "", 0, 8},
                             {Kind::kWrite, "a", "", 7, 1},
                             {Kind::kSnapshotGroup, "a@g", "c@g", 0, 0},
                             {Kind::kWrite, "a", "", 3, 2},
                             {Kind::kResize, "a", "", 0, 4},
                             {Kind::kClone, "a", "b", 0, 0},
                             {Kind::kWrite, "b", "", 0, 1},
                             {Kind::kKill, "", "", 0, 0},
                             {Kind::kRename, "b", "d", 0, 0},
                             {Kind::kReplace, "a", "d", 0, 0},
                             {Kind::kErase, "", "", 0, 0},
                             {Kind::kWrite, "a", "", 1, 2},
                             {Kind::kRevert, "a@g", "", 0, 0},
                             {Kind::kRemove, "c", "", 0, 0},
                             {Kind::kWrite, "a", "", 0, 3},
                             {Kind::kReopen, "", "", 0, 0},
                             {Kind::kSweep, "", "", 0, 0},
                             {Kind::kDiscard, "a", "", 2, 2},
                             {Kind::kFlush, "a", "", 0, 0},
                             {Kind::kRemove, "a@s", "", 0, 0},
                             {Kind::kPutFile, "/in/f", "", 0, 19, kSectorBytes},
                             {Kind::kTake, "t", "/in/f", 0, 4},
                             {Kind::kWrite, "t", "", 1, 3},
                             {Kind::kFlush, "t", "", 0, 0},
                             {Kind::kErase, "", "", 0, 0},
                             {Kind::kRemove, "t", "", 0, 0},
                             {Kind::kErase, "", "", 0, 0}};
  ops.insert(ops.end(), more.begin(), more.end());
  return ops;
}

const std::vector<Op>& alphabet() {
  static const std::vector<Op> ops{
      {Kind::kCreate, "b", "", 0, 3},
      {Kind::kWrite, "a", "", 1, 1},  // in place
      {Kind::kWrite, "a", "", 2, 2},  // redirected: one shared, one that was a hole
      {Kind::kWriteFua, "a", "", 1, 2},
      {Kind::kDiscard, "a", "", 0, 2},
      {Kind::kFlush, "a", "", 0, 0},
      {Kind::kSnapshot, "a@t", "", 0, 0},
      {Kind::kSnapshotGroup, "a@g", "b@g", 0, 0},
      {Kind::kClone, "a", "b", 0, 0},
      {Kind::kClone, "a@s", "c", 0, 0},
      {Kind::kWrite, "c", "", 0, 2},
      {Kind::kRevert, "a@s", "", 0, 0},
      {Kind::kRemove, "a", "", 0, 0},
      {Kind::kRemove, "a@s", "", 0, 0},
      {Kind::kReplace, "a", "b", 0, 0},
      {Kind::kResize, "a", "", 0, 8},
      {Kind::kResize, "a", "", 0, 2},
      {Kind::kRename, "a", "d", 0, 0},
      {Kind::kErase, "", "", 0, 0},
      {Kind::kSettle, "", "", 0, 0},
      {Kind::kSweep, "", "", 0, 0},
      {Kind::kReopen, "", "", 0, 0},
      {Kind::kKill, "", "", 0, 0}};
  return ops;
}

namespace {

// Places and lengths up to those of ten blocks, in units.
void in_units(std::vector<Op>& ops, std::uint64_t unit_bytes, std::mt19937_64& random) {
  const std::uint64_t units = kBlockBytes / unit_bytes;
  if (units == 1) return;
  for (Op& op : ops) {
    op.unit_bytes = unit_bytes;
    op.block = op.block * units + random() % units;
    op.blocks = (op.blocks - std::min<std::uint64_t>(op.blocks, 1)) * units + 1 + random() % units;
  }
}

}  // namespace

std::vector<Op> random_workload(std::uint64_t seed, std::size_t length, std::uint64_t unit_bytes) {
  std::mt19937_64 random(seed);
  const auto pick = [&](std::uint64_t below) { return random() % below; };
  const auto volume = [&] { return std::string(1, static_cast<char>('a' + pick(3))); };
  const auto node = [&] {
    return pick(2) == 0 ? volume()
                        : volume() + "@" + std::string(1, static_cast<char>('s' + pick(3)));
  };
  const auto snapshot = [&] {
    return volume() + "@" + std::string(1, static_cast<char>('s' + pick(3)));
  };
  std::vector<Op> ops = prologue();
  while (ops.size() < length) {
    const std::uint64_t block = pick(8);
    switch (pick(21)) {
      case 0:
        ops.push_back({Kind::kCreate, volume(), "", 0, 2 + pick(8)});
        break;
      case 1:
        ops.push_back({Kind::kWriteFua, volume(), "", block, 1 + pick(3)});
        break;
      case 2:
      case 3:
        ops.push_back({Kind::kDiscard, volume(), "", block, 1 + pick(4)});
        break;
      case 4:
      case 5:
        ops.push_back({Kind::kFlush, volume(), "", 0, 0});
        break;
      case 6:
        ops.push_back({Kind::kSnapshot, snapshot(), "", 0, 0});
        break;
      case 7:
        ops.push_back({Kind::kClone, node(), volume(), 0, 0});
        break;
      case 8:
        ops.push_back({Kind::kRevert, snapshot(), "", 0, 0});
        break;
      case 20:
        ops.push_back({Kind::kReplace, volume(), volume(), 0, 0});
        break;
      case 9:
        ops.push_back({Kind::kRemove, node(), "", 0, 0});
        break;
      case 10:
        ops.push_back({Kind::kResize, volume(), "", 0, 1 + pick(10)});
        break;
      case 11:
        ops.push_back({Kind::kRename, volume(), volume(), 0, 0});
        break;
      case 12: {
        const Kind kinds[] = {Kind::kErase, Kind::kSettle, Kind::kSweep, Kind::kReopen,
                              Kind::kKill};
        ops.push_back({kinds[pick(5)], "", "", 0, 0});
        break;
      }
      default:
        ops.push_back({Kind::kWrite, volume(), "", block, 1 + pick(4)});
        break;
    }
  }
  in_units(ops, unit_bytes, random);
  return ops;
}

std::vector<Op> random_concurrent_workload(std::uint64_t seed, std::size_t length,
                                           std::uint64_t unit_bytes) {
  std::mt19937_64 random(seed);
  const auto pick = [&](std::uint64_t below) { return random() % below; };
  const std::vector<Op> between = random_workload(seed, length, unit_bytes);
  std::vector<Op> ops = prologue();
  ops.push_back({Kind::kCreate, "b", "", 0, 8});
  for (std::size_t i = ops.size(); ops.size() < length; ++i) {
    std::vector<Op> group;
    for (std::uint64_t writers = 1 + pick(4); writers > 0; --writers) {
      const Kind kinds[] = {Kind::kWrite, Kind::kWrite, Kind::kWriteFua, Kind::kDiscard};
      group.push_back({kinds[pick(4)], pick(2) == 0 ? "a" : "b", "", pick(5), 1 + pick(3)});
    }
    if (pick(2) == 0) group.push_back({Kind::kFlush, pick(2) == 0 ? "a" : "b", "", 0, 0});
    if (pick(3) == 0) group.push_back({Kind::kSettle, "", "", 0, 0});
    const std::string name = "g" + std::to_string(i);
    switch (pick(4)) {
      case 0:
        group.push_back({Kind::kSnapshot, "a@" + name, "", 0, 0});
        break;
      case 1:
        group.push_back({Kind::kSnapshotGroup, "a@" + name, "b@" + name, 0, 0});
        break;
      case 2:
        group.push_back({Kind::kClone, "a", name, 0, 0});
        break;
      default:
        break;
    }
    in_units(group, unit_bytes, random);
    for (std::size_t k = 0; k + 1 < group.size(); ++k) group[k].with_next = true;
    ops.insert(ops.end(), group.begin(), group.end());
    if (i < between.size() && pick(2) == 0) ops.push_back(between[i]);
  }
  return ops;
}

}  // namespace voltree::crash
