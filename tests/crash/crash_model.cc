#include "tests/crash/crash_model.h"

#include <cstring>

namespace voltree::crash {

void fill_block(std::span<std::byte> out, Tag tag, std::uint64_t block) {
  constexpr std::size_t kSector = 512;
  for (std::size_t at = 0; at < out.size(); at += sizeof(std::uint64_t)) {
    const std::uint64_t word = tag == 0 ? 0 : tag << 32 | block << 8 | at / kSector;
    std::memcpy(out.data() + at, &word, sizeof word);
  }
}

void NodeModel::flush() {
  for (BlockTags& block : blocks) block.tags = {block.tags.back()};
}

bool NodeModel::operator==(const NodeModel& other) const {
  if (blocks.size() != other.blocks.size()) return false;
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    if (blocks[i].tags != other.blocks[i].tags) return false;
  }
  return true;
}

}  // namespace voltree::crash
