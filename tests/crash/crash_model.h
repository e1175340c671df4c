// What a store may hold after a crash: the oracle of the crash tests.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "blockstore/base/units.h"
#include "tests/crash/workload.h"

namespace voltree::crash {

// The contents of a sector are told by the tag of the write that made them; 0: zeros.
using Tag = std::uint64_t;

// The bytes of sectors with this tag, from the sector `first` on: each says which it is, so that
// none can pass for another.
void fill_sectors(std::span<std::byte> out, Tag tag, std::uint64_t first);

// The tag of the sector `number`; nothing when its words are not those of one tag and that place.
std::optional<Tag> tag_of(std::span<const std::byte> sector, std::uint64_t number);

// What a sector may hold.
struct SectorTags {
  // Those before `acknowledged` were not covered by a flush when they were overwritten, the first
  // is durable; those after it are of writes that were not acknowledged (yet).
  std::vector<Tag> tags{0};
  std::size_t acknowledged = 0;
  // A fault may have torn a block that held one of the first so many tags: it reads as damaged, and
  // never as anything that is not in `tags`.
  std::size_t torn = 0;

  void write(Tag tag);
  void try_write(Tag tag) { tags.push_back(tag); }
  void flush();
  void forget(std::size_t count);  // the first tags, which no power loss brings back any more
  void tear() { torn = tags.size(); }
  bool allows(Tag tag, bool power_loss) const;
  bool may_be_damaged(bool power_loss) const { return torn > (power_loss ? 0 : acknowledged); }
};

struct NodeModel {
  std::vector<SectorTags> sectors;
  void flush();
};

// Files below /in, which may be taken in, are nodes, too, by their paths; so are volumes that have
// left, as /leaving/NAME.
using StoreModel = std::map<std::string, NodeModel>;

// What a crash may leave: one of these as a whole, each sector of it as its tags say.
struct Expectation {
  std::vector<StoreModel> either;
};

std::string volume_of(const std::string& node);
// Whether the store would do it.
bool possible(const StoreModel& model, const Op& op);
// What there is when the operation is through.
StoreModel after(const StoreModel& model, const Op& op, Tag tag);
// What there may be while it is under way, or when it failed.
Expectation during(const StoreModel& model, const Op& op, Tag tag);

// Operations at the same time: writes, discards and flushes, at most one that forks, and upkeep.
// Overlapping writes leave either one's sectors. A fork has of each sector what was acknowledged
// before it began, or what one of the group's writes brings.
class Together {
 public:
  Together(const StoreModel& before, const std::vector<Op>& ops, Tag tag);
  void began(std::size_t index);
  // Only of those that were not refused: what a refused write brings may be there or not.
  void done(std::size_t index);
  // A write that was refused has torn the blocks that it goes to.
  void tore(std::size_t index);
  // What a crash may leave now; so it is when all have ended, and the store does no more.
  Expectation expectation() const;
  // What there is when all have ended, and the store goes on: a fork that was refused is not there.
  StoreModel result() const;

 private:
  // Of each node, the sectors to which a write of the group was acknowledged.
  using Sectors = std::map<std::string, std::vector<bool>>;

  void cover(const std::string& name, const Sectors& acknowledged);
  StoreModel durable() const;
  StoreModel forked() const;

  const StoreModel before_;
  const std::vector<Op>& ops_;
  StoreModel trying_;
  Sectors acknowledged_;
  std::map<std::size_t, Sectors> at_begin_;  // of what covers, or forks
  // Of each sector, how many of its tags no power loss brings back.
  std::map<std::string, std::vector<std::size_t>> covered_;
  std::size_t fork_ = ~std::size_t{0};  // none
  bool fork_done_ = false;
};

}  // namespace voltree::crash
