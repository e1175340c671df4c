// Small things that the files of StoreDriver share.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>

#include "driver/control/json.h"

namespace voltree {

inline constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;

inline std::uint64_t bytes_of(std::uint64_t size_gib) { return size_gib * kGiB; }
inline std::uint64_t gib_of(std::uint64_t size_bytes) { return (size_bytes + kGiB - 1) / kGiB; }

// A member that is text; empty for anything else.
inline std::string text_in(const Json& object, std::string_view member) {
  if (!object.is_object()) return {};
  const auto found = object.find(member);
  if (found == object.end() || !found->is_string()) return {};
  return found->get<std::string>();
}

}  // namespace voltree
