#include "blockstore/volume_settings.h"

#include <fmt/format.h>

#include <charconv>
#include <sstream>
#include <vector>

#include "blockstore/base/units.h"

namespace voltree {
namespace {

constexpr std::size_t kNotesMax = 64;
constexpr std::size_t kNoteKeyMaxBytes = 128;
constexpr std::size_t kNoteTextMaxBytes = 1024;

// A note may hold any byte.
std::string to_hex(const std::string& bytes) {
  std::string hex;
  for (const char byte : bytes) hex += fmt::format("{:02x}", static_cast<unsigned char>(byte));
  return hex;
}

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (std::size_t at = 0; at + 1 < hex.size(); at += 2) {
    unsigned char byte = 0;
    std::from_chars(hex.data() + at, hex.data() + at + 2, byte, /*base=*/16);
    bytes += static_cast<char>(byte);
  }
  return bytes;
}

}  // namespace

Status check_notes(const VolumeNotes& notes) {
  if (notes.size() > kNotesMax) {
    return error(Code::kInvalid, "a volume may have {} notes, not {}", kNotesMax, notes.size());
  }
  for (const auto& [key, text] : notes) {
    if (key.empty() || key.size() > kNoteKeyMaxBytes || text.size() > kNoteTextMaxBytes) {
      return error(Code::kInvalid, "a note has a key of 1 to {} bytes and a text of at most {}",
                   kNoteKeyMaxBytes, kNoteTextMaxBytes);
    }
  }
  return {};
}

Status VolumeSettings::check(std::uint64_t size_bytes) const {
  VT_RETURN_IF_ERROR(limits.check());
  VT_RETURN_IF_ERROR(check_notes(notes));
  if (reserve_bytes <= size_bytes) return {};
  return error(Code::kInvalid, "a volume of {} can not use a reserve of {}",
               format_size(size_bytes), format_size(reserve_bytes));
}

Status VolumeSettings::put(CatalogDb& db, VolumeId volume) const {
  std::vector<VolumeLimitRow> limit_rows;
  for (const auto& [key, value] : limits.entries()) limit_rows.push_back({volume, key, value});
  VT_RETURN_IF_ERROR(db.put_volume_limits(volume, limit_rows));
  std::vector<VolumeNoteRow> note_rows;
  for (const auto& [key, text] : notes) note_rows.push_back({volume, key, text});
  VT_RETURN_IF_ERROR(db.put_volume_notes(volume, note_rows));
  return db.put_volume_reserve(volume, reserve_bytes);
}

std::string VolumeSettings::encode() const {
  std::string lines;
  for (const auto& [key, value] : limits.entries()) lines += fmt::format("{} {}\n", key, value);
  if (erase_policy) lines += fmt::format("erase {}\n", erase_policy_name(*erase_policy));
  if (reserve_bytes != 0) lines += fmt::format("reserve {}\n", reserve_bytes);
  for (const auto& [key, text] : notes) {
    lines += fmt::format("note {} {}\n", to_hex(key), to_hex(text));
  }
  return lines;
}

VolumeSettings VolumeSettings::parse(const std::string& lines) {
  VolumeSettings settings;
  std::istringstream all(lines);
  for (std::string line; std::getline(all, line);) {
    std::istringstream words(line);
    std::string word;
    std::string first;
    std::string second;
    words >> word >> first >> second;
    std::uint64_t value = 0;
    std::from_chars(first.data(), first.data() + first.size(), value);
    if (word == "erase") {
      const auto policy = parse_erase_policy(first);
      if (policy.ok()) settings.erase_policy = *policy;
    } else if (word == "reserve") {
      settings.reserve_bytes = value;
    } else if (word == "note") {
      settings.notes[from_hex(first)] = from_hex(second);
    } else {
      (void)settings.limits.set(word, value);
    }
  }
  return settings;
}

}  // namespace voltree
