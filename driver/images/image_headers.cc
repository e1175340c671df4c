#include "driver/images/image_headers.h"

#include <algorithm>
#include <cassert>
#include <cstring>

#include "blockstore/base/units.h"

namespace voltree {

Status check_within(const ImageBytes& file, std::uint64_t offset_bytes, std::uint64_t length_bytes,
                    std::string_view what) {
  const std::uint64_t size_bytes = file.size_bytes();
  if (offset_bytes <= size_bytes && length_bytes <= size_bytes - offset_bytes) return {};
  return error(Code::kInvalid, "{} would end beyond the end of the file: it is cut off, or lies",
               what);
}

Result<Piece> Piece::read(const ImageBytes& file, std::uint64_t offset_bytes,
                          std::uint64_t length_bytes, std::string_view what) {
  VT_RETURN_IF_ERROR(check_within(file, offset_bytes, length_bytes, what));
  std::vector<std::byte> bytes(length_bytes);
  VT_RETURN_IF_ERROR(file.read(offset_bytes, bytes));
  return Piece(std::move(bytes));
}

std::uint64_t Piece::big(std::size_t offset_bytes, std::size_t width_bytes) const {
  assert(offset_bytes + width_bytes <= bytes_.size());
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < width_bytes; ++i) {
    value = value << 8 | std::to_integer<std::uint64_t>(bytes_[offset_bytes + i]);
  }
  return value;
}

std::uint64_t Piece::little(std::size_t offset_bytes, std::size_t width_bytes) const {
  assert(offset_bytes + width_bytes <= bytes_.size());
  std::uint64_t value = 0;
  for (std::size_t i = width_bytes; i-- > 0;) {
    value = value << 8 | std::to_integer<std::uint64_t>(bytes_[offset_bytes + i]);
  }
  return value;
}

bool Piece::all_zero(std::size_t offset_bytes, std::size_t length_bytes) const {
  assert(offset_bytes + length_bytes <= bytes_.size());
  return std::all_of(bytes_.begin() + static_cast<std::ptrdiff_t>(offset_bytes),
                     bytes_.begin() + static_cast<std::ptrdiff_t>(offset_bytes + length_bytes),
                     [](std::byte byte) { return byte == std::byte{0}; });
}

std::string_view Piece::text() const {
  const char* start = static_cast<const char*>(static_cast<const void*>(bytes_.data()));
  const std::string_view all(start, bytes_.size());
  return all.substr(0, all.find('\0'));
}

bool Piece::equals(std::size_t offset_bytes, std::string_view expected) const {
  assert(offset_bytes + expected.size() <= bytes_.size());
  return std::memcmp(bytes_.data() + offset_bytes, expected.data(), expected.size()) == 0;
}

// VDI: a header, a map of blocks, blocks.
Result<std::uint64_t> inspect_vdi(const ImageBytes& bytes) {
  constexpr std::uint64_t kVdiBlockBytes = std::uint64_t{1} << 20;
  VT_ASSIGN_OR_RETURN(const Piece header, Piece::read(bytes, 0, 512, "the header"));
  if (header.little(64, 4) != 0xbeda107f) return error(Code::kInvalid, "there is no VDI header");
  if (header.little(68, 4) != 0x00010001) {
    return error(Code::kNotSupported, "VDI version {:x} is not known", header.little(68, 4));
  }
  const std::uint64_t type = header.little(76, 4);
  if (type != 1 && type != 2) {
    return error(Code::kNotSupported, "a VDI of type {} needs another file, or is unknown", type);
  }
  // The link to the image that this one is a difference to, and that one's own.
  if (!header.all_zero(424, 16) || !header.all_zero(440, 16)) {
    return error(Code::kNotSupported, "it has a parent image: flatten it first");
  }
  const std::uint64_t size_bytes = header.little(368, 8);
  const std::uint64_t blocks = header.little(384, 4);
  const std::uint64_t allocated = header.little(388, 4);
  if (header.little(360, 4) != kSectorBytes || header.little(376, 4) != kVdiBlockBytes) {
    return error(Code::kNotSupported, "sectors of 512 bytes and blocks of 1 MiB are supported");
  }
  if (size_bytes > blocks * kVdiBlockBytes || allocated > blocks) {
    return error(Code::kInvalid, "a disk of {} bytes does not have {} blocks, {} allocated",
                 size_bytes, blocks, allocated);
  }
  VT_RETURN_IF_ERROR(check_within(bytes, header.little(340, 4), blocks * 4, "the block map"));
  VT_RETURN_IF_ERROR(
      check_within(bytes, header.little(344, 4), allocated * kVdiBlockBytes, "the last block"));
  return size_bytes;
}

}  // namespace voltree
