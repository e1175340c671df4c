#include "tests/fuzz/patches.h"

#include <algorithm>

namespace voltree::fuzz {

std::vector<Patch> patches_of(std::span<const std::byte> input) {
  constexpr std::size_t kHeadBytes = 6;
  constexpr std::size_t kPatchesMax = 64;
  std::vector<Patch> patches;
  while (input.size() >= kHeadBytes && patches.size() < kPatchesMax) {
    Patch patch;
    patch.file = static_cast<std::uint8_t>(input[0]);
    for (std::size_t i = 0; i < 4; ++i) {
      patch.offset_bytes |= std::to_integer<std::uint32_t>(input[1 + i]) << (8 * i);
    }
    const auto length = std::min(std::to_integer<std::size_t>(input[5]), input.size() - kHeadBytes);
    input = input.subspan(kHeadBytes);
    patch.bytes.assign(input.begin(), input.begin() + static_cast<std::ptrdiff_t>(length));
    input = input.subspan(length);
    patches.push_back(std::move(patch));
  }
  return patches;
}

void add_patch(Bytes& input, std::uint8_t file, std::uint32_t offset_bytes,
               std::string_view bytes) {
  constexpr std::size_t kPieceBytes = 255;
  while (!bytes.empty()) {
    const std::string_view piece = bytes.substr(0, kPieceBytes);
    input.push_back(static_cast<std::byte>(file));
    for (std::size_t i = 0; i < 4; ++i) {
      input.push_back(static_cast<std::byte>(offset_bytes >> (8 * i)));
    }
    input.push_back(static_cast<std::byte>(piece.size()));
    for (const char c : piece) input.push_back(static_cast<std::byte>(c));
    offset_bytes += static_cast<std::uint32_t>(piece.size());
    bytes.remove_prefix(piece.size());
  }
}

}  // namespace voltree::fuzz
