#include "tests/crash/crash_model.h"

#include <algorithm>
#include <cstring>

namespace voltree::crash {
namespace {

using Kind = Op::Kind;

bool is_free(const StoreModel& model, const std::string& volume) {
  return std::none_of(model.begin(), model.end(), [&volume](const auto& entry) {
    return entry.first == volume || entry.first.starts_with(volume + "@");
  });
}

bool has_snapshots(const StoreModel& model, const std::string& volume) {
  return std::any_of(model.begin(), model.end(), [&volume](const auto& entry) {
    return entry.first.starts_with(volume + "@");
  });
}

bool can_snapshot(const StoreModel& model, const std::string& name) {
  return model.contains(volume_of(name)) && !model.contains(name);
}

template <typename Change>
void for_each_sector(StoreModel& model, const Op& op, Change change) {
  std::vector<SectorTags>& sectors = model.at(op.a).sectors;
  const std::uint64_t first = op.offset_bytes() / kSectorBytes;
  const std::uint64_t count = op.length_bytes() / kSectorBytes;
  for (std::uint64_t i = first; i < first + count; ++i) change(sectors[i]);
}

}  // namespace

void fill_sectors(std::span<std::byte> out, Tag tag, std::uint64_t first) {
  for (std::size_t at = 0; at < out.size(); at += sizeof(std::uint64_t)) {
    const std::uint64_t word = tag == 0 ? 0 : tag << 32 | (first + at / kSectorBytes);
    std::memcpy(out.data() + at, &word, sizeof word);
  }
}

std::optional<Tag> tag_of(std::span<const std::byte> sector, std::uint64_t number) {
  const auto word_at = [&](std::size_t at) {
    std::uint64_t word = 0;
    std::memcpy(&word, sector.data() + at, sizeof word);
    return word;
  };
  const std::uint64_t first = word_at(0);
  for (std::size_t at = sizeof first; at < kSectorBytes; at += sizeof first) {
    if (word_at(at) != first) return std::nullopt;
  }
  if (first == 0) return Tag{0};
  if ((first & 0xffffffff) != number) return std::nullopt;
  return first >> 32;
}

void SectorTags::write(Tag tag) {
  tags.push_back(tag);
  acknowledged = tags.size() - 1;
}

void SectorTags::flush() { forget(acknowledged); }

void SectorTags::forget(std::size_t count) {
  tags.erase(tags.begin(), tags.begin() + static_cast<std::ptrdiff_t>(count));
  acknowledged -= count;
  torn -= std::min(torn, count);
}

// The death of a daemon loses nothing that was acknowledged.
bool SectorTags::allows(Tag tag, bool power_loss) const {
  const auto first = tags.begin() + (power_loss ? 0 : static_cast<std::ptrdiff_t>(acknowledged));
  return std::find(first, tags.end(), tag) != tags.end();
}

void NodeModel::flush() {
  for (SectorTags& sector : sectors) sector.flush();
}

std::string volume_of(const std::string& node) { return node.substr(0, node.find('@')); }

bool possible(const StoreModel& model, const Op& op) {
  const auto size_bytes = [&] { return model.at(op.a).sectors.size() * kSectorBytes; };
  switch (op.kind) {
    case Kind::kCreate:
      return is_free(model, op.a);
    case Kind::kWrite:
    case Kind::kWriteFua:
    case Kind::kDiscard:
      return model.contains(op.a) && op.offset_bytes() + op.length_bytes() <= size_bytes();
    case Kind::kFlush:
    case Kind::kRemove:
      return model.contains(op.a);
    case Kind::kSnapshot:
      return can_snapshot(model, op.a);
    case Kind::kSnapshotGroup:
      return can_snapshot(model, op.a) && can_snapshot(model, op.b);
    case Kind::kClone:
      return model.contains(op.a) && is_free(model, op.b);
    case Kind::kRevert:
      return model.contains(op.a) && model.contains(volume_of(op.a));
    case Kind::kReplace:
      return op.a != op.b && model.contains(op.a) && model.contains(op.b) &&
             !has_snapshots(model, op.b);
    case Kind::kResize:
      return model.contains(op.a) && op.length_bytes() != size_bytes();
    case Kind::kRename:
      return model.contains(op.a) && is_free(model, op.b);
    case Kind::kPutFile:
      return !model.contains(op.a);
    case Kind::kGive:
      return model.contains(op.a);
    case Kind::kTakeGiven:
      return model.contains("/leaving/" + op.a) && is_free(model, op.a);
    case Kind::kTake:
      return model.contains(op.b) && is_free(model, op.a);
    default:
      return true;
  }
}

StoreModel after(const StoreModel& model, const Op& op, Tag tag) {
  StoreModel next = model;
  switch (op.kind) {
    case Kind::kCreate:
    case Kind::kResize:
      next[op.a].sectors.resize(op.length_bytes() / kSectorBytes);
      break;
    case Kind::kWrite:
    case Kind::kWriteFua:
      for_each_sector(next, op, [tag](SectorTags& sector) { sector.write(tag); });
      if (op.kind == Kind::kWriteFua) next[op.a].flush();
      break;
    case Kind::kDiscard:
      for_each_sector(next, op, [](SectorTags& sector) { sector.write(0); });
      break;
    case Kind::kFlush:
      next[op.a].flush();
      break;
    case Kind::kSnapshot:
    case Kind::kSnapshotGroup:
      for (const std::string& name : {op.a, op.b}) {
        if (name.empty()) continue;
        next[volume_of(name)].flush();
        next[name] = next[volume_of(name)];
      }
      break;
    case Kind::kClone:
      next[op.a].flush();
      next[op.b] = next[op.a];
      break;
    case Kind::kRevert:
      next[volume_of(op.a)] = next[op.a];
      break;
    case Kind::kRemove:
      next.erase(op.a);
      break;
    case Kind::kReplace:
      next[op.a] = next[op.b];
      next[op.a].flush();
      next.erase(op.b);
      break;
    case Kind::kRename:
      for (const auto& [name, node] : model) {
        if (name != op.a && !name.starts_with(op.a + "@")) continue;
        next.erase(name);
        next[op.b + name.substr(op.a.size())] = node;
      }
      break;
    case Kind::kPutFile:
      next[op.a].sectors.resize(op.length_bytes() / kSectorBytes);
      for (SectorTags& sector : next[op.a].sectors) sector.write(tag);
      next[op.a].flush();
      break;
    case Kind::kTake: {
      std::vector<SectorTags>& sectors = next[op.a].sectors;
      sectors = next[op.b].sectors;
      sectors.resize(std::max<std::size_t>(sectors.size(), op.length_bytes() / kSectorBytes));
      next.erase(op.b);
      break;
    }
    case Kind::kGive:
    case Kind::kTakeGiven: {
      const bool back = op.kind == Kind::kTakeGiven;
      const std::string left = "/leaving/" + op.a;
      NodeModel node = next.at(back ? left : op.a);
      node.flush();
      next.erase(back ? left : op.a);
      next[back ? op.a : left] = std::move(node);
      break;
    }
    case Kind::kReopen:
      for (auto& [name, node] : next) node.flush();
      break;
    default:
      break;
  }
  return next;
}

Expectation during(const StoreModel& model, const Op& op, Tag tag) {
  if (!op.writes()) return {{model, after(model, op, tag)}};
  // Any sector of it may be old or new, whatever else is not flushed.
  StoreModel trying = model;
  const Tag made = op.kind == Kind::kDiscard ? 0 : tag;
  for_each_sector(trying, op, [made](SectorTags& sector) { sector.try_write(made); });
  return {{std::move(trying)}};
}

Together::Together(const StoreModel& before, const std::vector<Op>& ops, Tag tag)
    : before_(before), ops_(ops), trying_(before) {
  for (const auto& [name, node] : before) acknowledged_[name].resize(node.sectors.size());
  for (std::size_t i = 0; i < ops_.size(); ++i, ++tag) {
    const Op& op = ops_[i];
    const Tag made = op.kind == Kind::kDiscard ? 0 : tag;
    if (op.writes()) {
      for_each_sector(trying_, op, [made](SectorTags& sector) { sector.try_write(made); });
    }
    if (op.forks()) fork_ = i;
  }
}

void Together::began(std::size_t index) {
  const Op& op = ops_[index];
  if (op.forks() || op.kind == Kind::kFlush || op.kind == Kind::kWriteFua) {
    at_begin_[index] = acknowledged_;
  }
}

void Together::done(std::size_t index) {
  const Op& op = ops_[index];
  if (op.writes()) {
    // Which of the group's writes to a sector was the last one is not known.
    std::vector<SectorTags>& sectors = trying_.at(op.a).sectors;
    const std::uint64_t first = op.offset_bytes() / kSectorBytes;
    for (std::uint64_t i = first; i < first + op.length_bytes() / kSectorBytes; ++i) {
      sectors[i].acknowledged = before_.at(op.a).sectors[i].tags.size();
      acknowledged_.at(op.a)[i] = true;
      // Its own flush comes after it.
      if (op.kind == Kind::kWriteFua) at_begin_.at(index).at(op.a)[i] = true;
    }
  }
  fork_done_ |= index == fork_;
  const auto began = at_begin_.find(index);
  if (began == at_begin_.end()) return;
  cover(volume_of(op.a), began->second);
  if (op.kind == Kind::kSnapshotGroup) cover(volume_of(op.b), began->second);
}

void Together::tore(std::size_t index) {
  for_each_sector(trying_, ops_[index], [](SectorTags& sector) { sector.tear(); });
}

// What was acknowledged when a flush of `name` began is durable.
void Together::cover(const std::string& name, const Sectors& acknowledged) {
  const std::vector<SectorTags>& before = before_.at(name).sectors;
  std::vector<std::size_t>& covered = covered_[name];
  covered.resize(before.size());
  for (std::size_t i = 0; i < before.size(); ++i) {
    const bool anew = acknowledged.at(name)[i];
    covered[i] = std::max(covered[i], anew ? before[i].tags.size() : before[i].acknowledged);
  }
}

StoreModel Together::durable() const {
  StoreModel model = trying_;
  for (const auto& [name, covered] : covered_) {
    std::vector<SectorTags>& sectors = model.at(name).sectors;
    for (std::size_t i = 0; i < sectors.size(); ++i) sectors[i].forget(covered[i]);
  }
  return model;
}

// With what the fork makes.
StoreModel Together::forked() const {
  const Op& op = ops_[fork_];
  StoreModel model = durable();
  const auto fork_of = [&](const std::string& source, const std::string& name) {
    NodeModel& node = model[name];
    node = trying_.at(source);
    const NodeModel& was = before_.at(source);
    for (std::size_t i = 0; i < node.sectors.size(); ++i) {
      const bool anew = at_begin_.at(fork_).at(source)[i];
      node.sectors[i].acknowledged =
          anew ? was.sectors[i].tags.size() : was.sectors[i].acknowledged;
    }
    node.flush();
  };
  if (op.kind == Kind::kClone) {
    fork_of(op.a, op.b);
    return model;
  }
  for (const std::string& name : {op.a, op.b}) {
    if (!name.empty()) fork_of(volume_of(name), name);
  }
  return model;
}

Expectation Together::expectation() const {
  if (!at_begin_.contains(fork_)) return {{durable()}};
  if (fork_done_) return {{forked()}};
  return {{durable(), forked()}};
}

StoreModel Together::result() const { return fork_done_ ? forked() : durable(); }

}  // namespace voltree::crash
