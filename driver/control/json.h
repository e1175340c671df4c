// JSON of the control socket and of --json: one type, parsed with limits and never throwing.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "blockstore/base/status.h"

namespace voltree {

// Members keep the order in which they were put: what people read comes first.
using Json = nlohmann::ordered_json;

// How deep arrays and objects may nest in what a peer sends.
inline constexpr std::size_t kJsonDepthMax = 32;

// kInvalid for text that is not one JSON value, or nests deeper than kJsonDepthMax.
Result<Json> parse_json(std::string_view text);
// One line without a newline. Bytes that are not UTF-8 become U+FFFD: it never fails.
std::string dump_json(const Json& value);
// Indented, for people and for files.
std::string dump_json_pretty(const Json& value);

}  // namespace voltree
