// The short form of tools/fuzz nbd: well-behaved sessions, and what becomes of them when bytes are
// changed, lost, repeated and swapped.
#include <gtest/gtest.h>

#include <random>

#include "tests/fuzz/nbd_bytes.h"

namespace voltree::nbd {
namespace {

TEST(NbdBytes, SeedsAreAnswered) {
  for (const auto& session : seed_sessions()) EXPECT_GT(serve_bytes(session), 18U);
}

TEST(NbdBytes, AnyBytesAreSurvived) {
  const auto seeds = seed_sessions();
  std::mt19937_64 random(20261121);
  const auto below = [&random](std::size_t limit) { return random() % limit; };
  for (int i = 0; i < 200'000; ++i) {
    std::vector<std::byte> bytes = seeds[below(seeds.size())];
    for (std::size_t change = below(4) + 1; change > 0 && bytes.size() > 16; --change) {
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
          const std::vector<std::byte> other = seeds[below(seeds.size())];
          bytes.insert(where, other.end() - static_cast<std::ptrdiff_t>(below(other.size())),
                       other.end());
        }
      }
    }
    serve_bytes(bytes);
  }
}

}  // namespace
}  // namespace voltree::nbd
