// What a store may hold after a crash: the oracle of the crash tests.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "blockstore/base/units.h"

namespace voltree::crash {

// A block's contents are told by the tag of the write that made them; 0: zeros.
using Tag = std::uint64_t;

// The bytes of a block with this tag: each sector says which it is, so that none can pass for
// another.
void fill_block(std::span<std::byte> out, Tag tag, std::uint64_t block);

// What a block may hold. The last tag is what it holds while nothing goes wrong; those before it
// were not covered by a flush when they were overwritten, the first is durable.
struct BlockTags {
  std::vector<Tag> tags{0};
};

struct NodeModel {
  std::vector<BlockTags> blocks;

  void set(std::uint64_t block, Tag tag) { blocks[block].tags.push_back(tag); }
  void flush();  // only the last ones are left
  bool operator==(const NodeModel& other) const;
};

using StoreModel = std::map<std::string, NodeModel>;

// What a crash may leave: one of these as a whole, each block of it as its tags say.
struct Expectation {
  std::vector<StoreModel> either;
  // Of a write or discard under way: these blocks hold what they did or what they will, also when
  // only the daemon dies, which otherwise loses nothing.
  std::string writing;
  std::uint64_t first_block = 0;
  std::uint64_t block_count = 0;
};

}  // namespace voltree::crash
