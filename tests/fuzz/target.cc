#include "tests/fuzz/target.h"

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

namespace voltree::fuzz {

Bytes bytes_of(std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text.data(), text.size()));
  return {bytes.begin(), bytes.end()};
}

std::string_view text_of(std::span<const std::byte> bytes) {
  return {static_cast<const char*>(static_cast<const void*>(bytes.data())), bytes.size()};
}

Bytes mutate(const std::vector<Bytes>& seeds, std::mt19937_64& random) {
  const auto below = [&random](std::size_t limit) { return random() % limit; };
  Bytes bytes = seeds[below(seeds.size())];
  for (std::size_t change = below(4) + 1; change > 0 && !bytes.empty(); --change) {
    const std::size_t at = below(bytes.size());
    const auto where = bytes.begin() + static_cast<std::ptrdiff_t>(at);
    switch (below(6)) {
      case 0:
        *where ^= static_cast<std::byte>(1U << below(8));
        break;
      case 1:
        *where = static_cast<std::byte>(below(2) == 0 ? 0xFF : 0x7F);
        break;
      case 2:
        bytes.resize(at);
        break;
      case 3:
        bytes.erase(where);
        break;
      case 4:
        bytes.insert(where, static_cast<std::byte>(below(256)));
        break;
      default: {
        const Bytes other = seeds[below(seeds.size())];
        if (other.empty()) break;
        bytes.insert(where, other.end() - static_cast<std::ptrdiff_t>(below(other.size())),
                     other.end());
      }
    }
  }
  return bytes;
}

void run_mutations(const Target& target, std::size_t count) {
  const std::vector<Bytes> seeds = target.seeds();
  for (const Bytes& seed : seeds) target.run(seed);
  std::mt19937_64 random(20261121);
  for (std::size_t i = 0; i < count; ++i) target.run(mutate(seeds, random));
}

std::size_t run_kept(const Target& target, std::string_view name) {
  std::size_t count = 0;
  const std::filesystem::path folder = std::filesystem::path(VOLTREE_FUZZ_CORPUS) / name;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    std::ifstream file(entry.path(), std::ios::binary);
    const std::string text((std::istreambuf_iterator<char>(file)),
                           std::istreambuf_iterator<char>());
    target.run(bytes_of(text));
    ++count;
  }
  return count;
}

}  // namespace voltree::fuzz
