// The bytes of STORE/lineage, the lineage copy (docs/FORMAT.md): a header, then records of rows
// that were put or went. What is checked here is form and checksums; what a row's value means is
// lineage_copy_rows' business.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "blockstore/base/status.h"

namespace voltree {

// Numbers on disk: never given twice.
enum class CopyTable : std::uint8_t {
  kSetting = 1,
  kLastId = 2,
  kVolume = 3,
  kNode = 4,
  kLayer = 5,
  kEraseRequest = 6,
  kEraseItem = 7,
  kAttachment = 8,
  kVolumeLimits = 9,
  kVolumeNotes = 10,
  kEraseOption = 11,
  kVolumeReserve = 12,
  kCertificate = 13,
  kTakenLayer = 14,
};

struct CopyRow {
  CopyTable table = CopyTable::kSetting;
  std::string key;
  std::optional<std::string> value;  // nullopt: the row went
};

inline constexpr std::size_t kCopyHeaderBytes = 32;
// No record is longer; a change that would be is written with the whole copy anew.
inline constexpr std::size_t kCopyRecordMaxBytes = std::size_t{64} << 20;

// `generation` is a random number that tells the records of one copy from those of another.
std::string encode_copy_header(std::uint64_t generation);
// The generation. kDamaged: not a header; kNotSupported: of a later version.
Result<std::uint64_t> decode_copy_header(std::span<const std::byte> bytes);

// One record: all of its rows hold, or none. `sequence` counts from 1.
std::string encode_copy_record(std::span<const CopyRow> rows, std::uint64_t generation,
                               std::uint64_t sequence);
struct CopyRecord {
  std::vector<CopyRow> rows;
  std::size_t length_bytes = 0;  // of the whole record
};
inline constexpr std::size_t kCopyRecordHeadBytes = 4 + 8 + 8;  // length, sequence, sum
// How long the record that begins with these bytes says that it is, its head included; nullopt:
// none is so long. `head`: kCopyRecordHeadBytes or more.
std::optional<std::size_t> copy_record_bytes(std::span<const std::byte> head);
// The record that `bytes` begin with; nullopt when it is torn, rotten, or another's.
std::optional<CopyRecord> decode_copy_record(std::span<const std::byte> bytes,
                                             std::uint64_t generation, std::uint64_t sequence);

}  // namespace voltree
