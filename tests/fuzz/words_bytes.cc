// What people write on the command line: it is refused, or has one meaning.
#include <cstdlib>
#include <string>

#include "blockstore/base/units.h"
#include "blockstore/catalog.h"
#include "blockstore/runtime/io_priority.h"
#include "tests/fuzz/target.h"

namespace voltree::fuzz {
namespace {

void must(bool holds) {
  if (!holds) std::abort();
}

void run_word(std::span<const std::byte> bytes) {
  const std::string_view text = text_of(bytes);
  if (const auto name = parse_node_name(text); name.ok()) {
    must(name->str() == text && check_name(name->volume).ok());
    must(!name->is_snapshot() || check_name(name->snapshot).ok());
    must(text.find('/') == std::string_view::npos && text.find('\0') == std::string_view::npos);
  }
  (void)quoted(text);
  if (const auto size = parse_size(text); size.ok()) {
    const auto again = parse_size(std::to_string(*size));
    must(again.ok() && *again == *size);
    (void)check_volume_size(*size);
  }
  if (const auto policy = parse_erase_policy(text); policy.ok()) {
    must(erase_policy_name(*policy) == text);
  }
  if (const auto priority = parse_io_priority(text); priority.ok()) {
    must(io_priority_name(*priority) == text && is_io_priority(*priority));
  }
}

std::vector<Bytes> word_seeds() {
  std::vector<Bytes> seeds;
  for (const char* text :
       {"disk", "disk@monday", "a@b@c", "16E", "1.5T", "512k", "18446744073709551615", "0", "10GiB",
        "zero", "discard", "idle", "best-effort:7", "\xc3\xa4@\xe2\x82\xac"}) {
    seeds.push_back(bytes_of(text));
  }
  seeds.push_back(bytes_of(std::string(255, 'n') + "@" + std::string(255, 's')));
  return seeds;
}

}  // namespace

const Target kWords{run_word, word_seeds};

}  // namespace voltree::fuzz
