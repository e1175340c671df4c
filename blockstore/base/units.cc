#include "blockstore/base/units.h"

#include <array>
#include <cctype>
#include <limits>

namespace voltree {
namespace {

__extension__ using Wide = unsigned __int128;

constexpr std::uint64_t kSizeMaxBytes = std::numeric_limits<std::int64_t>::max();
constexpr std::string_view kUnitLetters = "KMGTPE";

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// The power of two that a unit such as "", "B", "k", "GiB" or "gb" stands for; nullopt for no unit.
std::optional<unsigned> unit_shift(std::string_view unit) {
  if (unit.empty()) return 0;
  unsigned shift = 0;
  const auto upper = static_cast<char>(std::toupper(static_cast<unsigned char>(unit.front())));
  if (const std::size_t at = kUnitLetters.find(upper); at != std::string_view::npos) {
    shift = 10 * (static_cast<unsigned>(at) + 1);
    unit.remove_prefix(1);
    if (!unit.empty() && unit.front() == 'i') unit.remove_prefix(1);
  }
  if (!unit.empty() && (unit.front() == 'B' || unit.front() == 'b')) unit.remove_prefix(1);
  if (!unit.empty()) return std::nullopt;
  return shift;
}

Status bad_size(std::string_view text) {
  return error(Code::kInvalid,
               "{} is not a size: write a number of bytes, or one with K, M, G, T, P or E behind "
               "it, such as 10G",
               quoted(text));
}

Status not_whole(std::string_view text) {
  return error(Code::kInvalid, "{} is not a whole number of bytes", quoted(text));
}

// One UTF-8 sequence at the start of `text`: its length and code point; length 0 when it is not
// one.
struct Utf8 {
  std::size_t length = 0;
  std::uint32_t point = 0;
};

Utf8 decode_utf8(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const std::uint32_t first = byte(0);
  if (first < 0x80) return {1, first};
  std::size_t length = 0;
  std::uint32_t least = 0;  // a smaller code point would be an overlong form
  std::uint32_t point = 0;
  if ((first & 0xE0) == 0xC0) {
    length = 2, least = 0x80, point = first & 0x1F;
  } else if ((first & 0xF0) == 0xE0) {
    length = 3, least = 0x800, point = first & 0x0F;
  } else if ((first & 0xF8) == 0xF0) {
    length = 4, least = 0x10000, point = first & 0x07;
  }
  if (length == 0 || text.size() < length) return {};
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return {};
    point = (point << 6) | (byte(i) & 0x3Fu);
  }
  const bool surrogate = point >= 0xD800 && point <= 0xDFFF;
  if (point < least || point > 0x10FFFF || surrogate) return {};
  return {length, point};
}

bool is_control(std::uint32_t point) { return point < 0x20 || (point >= 0x7F && point < 0xA0); }

}  // namespace

Result<std::uint64_t> parse_size(std::string_view text) {
  std::string_view rest = text;
  std::size_t digits = 0;
  Wide whole = 0;
  for (; !rest.empty() && is_digit(rest.front()); rest.remove_prefix(1), ++digits) {
    whole = whole * 10 + static_cast<unsigned>(rest.front() - '0');
    if (whole > kSizeMaxBytes) return bad_size(text);
  }
  if (digits == 0) return bad_size(text);

  // Enough for every fraction of a tebibyte that is whole bytes; more digits must be zeros.
  constexpr int kFractionDigitsMax = 12;
  Wide fraction = 0;
  Wide fraction_scale = 1;
  bool has_fraction = false;
  if (!rest.empty() && rest.front() == '.') {
    has_fraction = true;
    rest.remove_prefix(1);
    int seen = 0;
    for (; !rest.empty() && is_digit(rest.front()); rest.remove_prefix(1), ++seen) {
      if (seen >= kFractionDigitsMax) {
        if (rest.front() != '0') return not_whole(text);
        continue;
      }
      fraction = fraction * 10 + static_cast<unsigned>(rest.front() - '0');
      fraction_scale *= 10;
    }
    if (seen == 0) return bad_size(text);
  }
  if (rest.size() > 1 && rest.front() == ' ') rest.remove_prefix(1);

  const std::optional<unsigned> shift = unit_shift(rest);
  if (!shift || (has_fraction && *shift == 0)) return bad_size(text);
  // Rounding would make a volume of another size than was asked for.
  if ((fraction << *shift) % fraction_scale != 0) return not_whole(text);
  const Wide bytes = (whole << *shift) + (fraction << *shift) / fraction_scale;
  if (bytes > kSizeMaxBytes) return bad_size(text);
  return static_cast<std::uint64_t>(bytes);
}

std::string format_size(std::uint64_t bytes) {
  if (bytes < 1024) return fmt::format("{} B", bytes);
  auto value = static_cast<double>(bytes) / 1024;
  std::size_t unit = 0;
  // 1023.95 would print as 1024.0: the next unit says it shorter.
  while (value >= 1023.95 && unit + 1 < kUnitLetters.size()) {
    value /= 1024;
    ++unit;
  }
  return fmt::format("{:.1f} {}iB", value, kUnitLetters[unit]);
}

Status check_volume_size(std::uint64_t size_bytes) {
  if (size_bytes == 0)
    return error(Code::kInvalid, "a volume must have at least {} bytes", kSectorBytes);
  if (size_bytes % kSectorBytes != 0) {
    return error(Code::kInvalid, "a volume's size must be a multiple of {} bytes; {} is not",
                 kSectorBytes, size_bytes);
  }
  return {};
}

Status check_name(std::string_view name) {
  if (name.empty()) return error(Code::kInvalid, "a name must not be empty");
  if (name.size() > kNameMaxBytes) {
    return error(Code::kInvalid, "a name may have {} bytes; {} has {}", kNameMaxBytes,
                 quoted(name.substr(0, 32)) + "...", name.size());
  }
  if (name == "." || name == ".." || name.front() == '-') {
    return error(Code::kInvalid,
                 "{} cannot be a name: \".\", \"..\" and a leading '-' are not allowed",
                 quoted(name));
  }
  for (std::string_view rest = name; !rest.empty();) {
    const Utf8 letter = decode_utf8(rest);
    if (letter.length == 0) return error(Code::kInvalid, "{} is not valid UTF-8", quoted(name));
    if (letter.point == '/' || letter.point == '@' || is_control(letter.point)) {
      return error(Code::kInvalid,
                   "{} cannot be a name: '/', '@' and control characters are not allowed",
                   quoted(name));
    }
    rest.remove_prefix(letter.length);
  }
  return {};
}

std::string quoted(std::string_view text) {
  std::string out = "\"";
  while (!text.empty()) {
    const Utf8 letter = decode_utf8(text);
    const std::size_t length = letter.length == 0 ? 1 : letter.length;
    if (letter.length == 0 || is_control(letter.point)) {
      for (const char c : text.substr(0, length)) {
        out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
      }
    } else {
      if (letter.point == '"' || letter.point == '\\') out += '\\';
      out += text.substr(0, length);
    }
    text.remove_prefix(length);
  }
  return out + "\"";
}

Result<NodeName> parse_node_name(std::string_view text) {
  NodeName name;
  const std::size_t at = text.find('@');
  name.volume = text.substr(0, at);
  VT_RETURN_IF_ERROR(check_name(name.volume));
  if (at == std::string_view::npos) return name;
  name.snapshot = text.substr(at + 1);
  if (name.snapshot.empty()) {
    return error(Code::kInvalid, "{} names no snapshot after the '@'", quoted(text));
  }
  VT_RETURN_IF_ERROR(check_name(name.snapshot));
  return name;
}

}  // namespace voltree
