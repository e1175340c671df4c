// Params: a method's parameters, read strictly.
//
// A handler asks for each parameter by name and then calls done(). The first thing that is wrong is
// what done() answers: a member that is missing, of the wrong type or beyond its limits, or one
// that nobody asked for (a misspelt option must not be silently ignored). Readers give a harmless
// value after an error.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "blockstore/catalog.h"
#include "blockstore/volume_settings.h"
#include "driver/control/json.h"

namespace voltree {

class Params {
 public:
  static constexpr std::size_t kTextMaxBytes = 4096;
  static constexpr std::size_t kListMax = 10'000;
  // Byte counts fit the host's signed 64-bit offsets.
  static constexpr std::uint64_t kNumberMax =
      static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());

  // `params` must outlive this. null (the member was left out) is the empty object.
  explicit Params(const Json& params);

  bool has(std::string_view name) const;
  std::string text(std::string_view name);
  std::string text_or(std::string_view name, std::string fallback);
  std::vector<std::string> texts(std::string_view name);
  std::uint64_t number(std::string_view name);
  std::uint64_t number_or(std::string_view name, std::uint64_t fallback,
                          std::uint64_t max = kNumberMax);
  std::optional<std::uint64_t> optional_number(std::string_view name);
  Json object_or_empty(std::string_view name);  // {} when absent
  VolumeNotes notes_or_empty(std::string_view name);
  bool flag(std::string_view name);  // false when absent
  std::optional<ErasePolicy> optional_erase_policy(std::string_view name);
  IoPriority io_priority_or_none(std::string_view name);  // 0 when it is not given

  // OK, or kInvalid naming the first parameter that is wrong.
  Status done() const;

 private:
  const Json* find(std::string_view name);
  const Json* require(std::string_view name);
  void fail(std::string message);
  std::string take_text(std::string_view name, const Json& value);
  std::uint64_t take_number(std::string_view name, const Json& value, std::uint64_t max);

  const Json& params_;
  std::vector<std::string> asked_;
  std::string error_;
};

}  // namespace voltree
