#include "driver/control/params.h"

#include <algorithm>

namespace voltree {

Params::Params(const Json& params) : params_(params) {
  if (!params.is_object() && !params.is_null()) fail("params must be an object of named values");
}

bool Params::has(std::string_view name) const {
  return params_.is_object() && params_.find(name) != params_.end();
}

void Params::fail(std::string message) {
  if (error_.empty()) error_ = std::move(message);
}

const Json* Params::find(std::string_view name) {
  asked_.emplace_back(name);
  if (!params_.is_object()) return nullptr;
  const auto found = params_.find(name);
  return found == params_.end() ? nullptr : &*found;
}

const Json* Params::require(std::string_view name) {
  const Json* value = find(name);
  if (value == nullptr) fail(fmt::format("parameter \"{}\" is missing", name));
  return value;
}

std::string Params::take_text(std::string_view name, const Json& value) {
  const std::string* text = value.get_ptr<const std::string*>();
  if (text == nullptr) {
    fail(fmt::format("parameter \"{}\" must be a string", name));
    return {};
  }
  if (text->size() > kTextMaxBytes) {
    fail(fmt::format("parameter \"{}\" is longer than {} bytes", name, kTextMaxBytes));
    return {};
  }
  return *text;
}

std::uint64_t Params::take_number(std::string_view name, const Json& value, std::uint64_t max) {
  // A literal without a sign is stored as unsigned; one built in C++ may be signed and positive.
  std::optional<std::uint64_t> number;
  if (const auto* bits = value.get_ptr<const std::uint64_t*>()) {
    number = *bits;
  } else if (const auto* whole = value.get_ptr<const std::int64_t*>(); whole && *whole >= 0) {
    number = static_cast<std::uint64_t>(*whole);
  }
  if (!number || *number > max) {
    fail(fmt::format("parameter \"{}\" must be a whole number from 0 to {}", name, max));
    return 0;
  }
  return *number;
}

std::string Params::text(std::string_view name) {
  const Json* value = require(name);
  return value ? take_text(name, *value) : std::string();
}

std::string Params::text_or(std::string_view name, std::string fallback) {
  const Json* value = find(name);
  return value ? take_text(name, *value) : std::move(fallback);
}

std::vector<std::string> Params::texts(std::string_view name) {
  const Json* value = require(name);
  if (value == nullptr) return {};
  if (!value->is_array() || value->size() > kListMax) {
    fail(fmt::format("parameter \"{}\" must be an array of at most {} strings", name, kListMax));
    return {};
  }
  std::vector<std::string> list;
  list.reserve(value->size());
  for (const Json& item : *value) list.push_back(take_text(name, item));
  return list;
}

std::uint64_t Params::number(std::string_view name) {
  const Json* value = require(name);
  return value ? take_number(name, *value, kNumberMax) : 0;
}

std::uint64_t Params::number_or(std::string_view name, std::uint64_t fallback, std::uint64_t max) {
  const Json* value = find(name);
  return value ? take_number(name, *value, max) : fallback;
}

std::optional<std::uint64_t> Params::optional_number(std::string_view name) {
  const Json* value = find(name);
  if (value == nullptr) return std::nullopt;
  return take_number(name, *value, kNumberMax);
}

Json Params::object_or_empty(std::string_view name) {
  const Json* value = find(name);
  if (value == nullptr) return Json::object();
  if (!value->is_object()) {
    fail(fmt::format("parameter \"{}\" must be an object", name));
    return Json::object();
  }
  return *value;
}

VolumeNotes Params::notes_or_empty(std::string_view name) {
  VolumeNotes notes;
  const Json object = object_or_empty(name);
  for (const auto& [key, text] : object.items()) {
    if (text.is_string()) {
      notes[key] = text.get<std::string>();
    } else {
      fail(fmt::format("parameter \"{}\" must have texts alone", name));
    }
  }
  return notes;
}

bool Params::flag(std::string_view name) {
  const Json* value = find(name);
  if (value == nullptr) return false;
  if (!value->is_boolean()) {
    fail(fmt::format("parameter \"{}\" must be true or false", name));
    return false;
  }
  return *value->get_ptr<const bool*>();
}

std::optional<ErasePolicy> Params::optional_erase_policy(std::string_view name) {
  const Json* value = find(name);
  if (value == nullptr) return std::nullopt;
  const Result<ErasePolicy> policy = parse_erase_policy(take_text(name, *value));
  if (!policy.ok()) {
    fail(fmt::format("parameter \"{}\" must be zero, random, discard or none", name));
    return std::nullopt;
  }
  return *policy;
}

IoPriority Params::io_priority_or_none(std::string_view name) {
  const Json* value = find(name);
  if (value == nullptr) return 0;
  const Result<IoPriority> priority = parse_io_priority(take_text(name, *value));
  if (!priority.ok()) {
    fail(fmt::format("parameter \"{}\": {}", name, priority.status().message()));
    return 0;
  }
  return *priority;
}

Status Params::done() const {
  if (!error_.empty()) return Status(Code::kInvalid, error_);
  if (!params_.is_object()) return {};
  for (const auto& [name, value] : params_.items()) {
    if (std::find(asked_.begin(), asked_.end(), name) == asked_.end()) {
      return error(Code::kInvalid, "unknown parameter {}", voltree::quoted(name));
    }
  }
  return {};
}

}  // namespace voltree
