#include "blockstore/format/lineage_copy_format.h"

#include <cstring>

#include "blockstore/base/checksum.h"
#include "blockstore/format/varint.h"

namespace voltree {
namespace {

constexpr std::string_view kMagic = "vltrline";
constexpr std::uint32_t kVersion = 1;
constexpr std::uint8_t kPut = 1;
constexpr std::uint8_t kGone = 0;

template <typename T>
void put_fixed(std::string& out, T value) {
  for (std::size_t i = 0; i < sizeof(T); ++i, value = static_cast<T>(value >> 8)) {
    out.push_back(static_cast<char>(value & 0xff));
  }
}

template <typename T>
T get_fixed(std::span<const std::byte> bytes, std::size_t at) {
  T value = 0;
  for (std::size_t i = sizeof(T); i-- > 0;) {
    value = static_cast<T>((value << 8) | std::to_integer<T>(bytes[at + i]));
  }
  return value;
}

bool known_table(std::uint8_t table) {
  return table >= static_cast<std::uint8_t>(CopyTable::kSetting) &&
         table <= static_cast<std::uint8_t>(CopyTable::kTakenLayer);
}

// Rows of tables that this version does not know are left out.
bool decode_rows(std::span<const std::byte> body, std::vector<CopyRow>& rows) {
  VarintReader reader(body);
  while (!reader.done()) {
    const auto table = reader.byte();
    const auto what = reader.byte();
    auto key = reader.bytes();
    if (!table || !what || !key || *what > kPut) return false;
    CopyRow row{static_cast<CopyTable>(*table), std::move(*key), std::nullopt};
    if (*what == kPut) {
      row.value = reader.bytes();
      if (!row.value) return false;
    }
    if (known_table(*table)) rows.push_back(std::move(row));
  }
  return true;
}

}  // namespace

std::string encode_copy_header(std::uint64_t generation) {
  std::string out(kMagic);
  put_fixed(out, kVersion);
  put_fixed(out, std::uint32_t{0});
  put_fixed(out, generation);
  put_fixed(out, keyed_checksum(out, kVersion, generation));
  return out;
}

Result<std::uint64_t> decode_copy_header(std::span<const std::byte> bytes) {
  if (bytes.size() < kCopyHeaderBytes ||
      std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) != 0) {
    return error(Code::kDamaged, "not a lineage copy");
  }
  const auto version = get_fixed<std::uint32_t>(bytes, 8);
  if (version > kVersion) {
    return error(Code::kNotSupported, "the lineage copy has version {}, this voltree knows {}",
                 version, kVersion);
  }
  const auto generation = get_fixed<std::uint64_t>(bytes, 16);
  const std::string_view summed(reinterpret_cast<const char*>(bytes.data()), 24);
  if (get_fixed<std::uint64_t>(bytes, 24) != keyed_checksum(summed, version, generation)) {
    return error(Code::kDamaged, "the header of the lineage copy does not match its checksum");
  }
  return generation;
}

std::string encode_copy_record(std::span<const CopyRow> rows, std::uint64_t generation,
                               std::uint64_t sequence) {
  std::string body;
  for (const CopyRow& row : rows) {
    body.push_back(static_cast<char>(row.table));
    body.push_back(static_cast<char>(row.value ? kPut : kGone));
    put_bytes(body, row.key);
    if (row.value) put_bytes(body, *row.value);
  }
  std::string out;
  put_fixed(out, static_cast<std::uint32_t>(body.size()));
  put_fixed(out, sequence);
  put_fixed(out, keyed_checksum(body, generation, sequence));
  return out + body;
}

std::optional<std::size_t> copy_record_bytes(std::span<const std::byte> head) {
  const std::size_t body_bytes = get_fixed<std::uint32_t>(head, 0);
  if (body_bytes > kCopyRecordMaxBytes) return std::nullopt;
  return kCopyRecordHeadBytes + body_bytes;
}

std::optional<CopyRecord> decode_copy_record(std::span<const std::byte> bytes,
                                             std::uint64_t generation, std::uint64_t sequence) {
  if (bytes.size() < kCopyRecordHeadBytes) return std::nullopt;
  const std::optional<std::size_t> length = copy_record_bytes(bytes);
  if (!length || *length > bytes.size()) return std::nullopt;
  if (get_fixed<std::uint64_t>(bytes, 4) != sequence) return std::nullopt;
  const auto body = bytes.first(*length).subspan(kCopyRecordHeadBytes);
  const std::string_view text(reinterpret_cast<const char*>(body.data()), body.size());
  if (get_fixed<std::uint64_t>(bytes, 12) != keyed_checksum(text, generation, sequence)) {
    return std::nullopt;
  }
  CopyRecord record;
  record.length_bytes = *length;
  if (!decode_rows(body, record.rows)) return std::nullopt;
  return record;
}

}  // namespace voltree
