// Bytes that say what to change where, for targets whose input is large and mostly left as it is.
#pragma once

#include <cstdint>
#include <vector>

#include "tests/fuzz/target.h"

namespace voltree::fuzz {

// file: 1 byte; offset: 4 bytes, little-endian; length: 1 byte; then the bytes themselves.
struct Patch {
  std::uint8_t file = 0;
  std::uint32_t offset_bytes = 0;
  Bytes bytes;
};

// At most 64; what is cut off at the end is left out.
std::vector<Patch> patches_of(std::span<const std::byte> input);
void add_patch(Bytes& input, std::uint8_t file, std::uint32_t offset_bytes, std::string_view bytes);

}  // namespace voltree::fuzz
