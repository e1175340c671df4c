// VHDX: Microsoft's MS-VHDX.
#include <string_view>

#include "blockstore/base/units.h"
#include "driver/images/image_headers.h"

namespace voltree {
namespace {

using std::string_view_literals::operator""sv;
constexpr std::string_view kMetadataRegion =
    "\x06\xa2\x7c\x8b\x90\x47\x9a\x4b\xb8\xfe\x57\x5f\x05\x0f\x88\x6e"sv;
constexpr std::string_view kBatRegion =
    "\x66\x77\xc2\x2d\x23\xf6\x00\x42\x9d\x64\x11\x5e\x9b\xfd\x4a\x08"sv;
constexpr std::string_view kFileParameters =
    "\x37\x67\xa1\xca\x36\xfa\x43\x4d\xb3\xb6\x33\xf0\xaa\x44\xe7\x6b"sv;
constexpr std::string_view kDiskSize =
    "\x24\x42\xa5\x2f\x1b\xcd\x76\x48\xb2\x11\x5d\xbe\xd8\x3b\xf4\xb8"sv;
constexpr std::string_view kParentLocator =
    "\x2d\x5f\xd3\xa8\x0b\xb3\x4d\x45\xab\xf7\xd3\xd8\x48\x34\xab\x0c"sv;

constexpr std::uint64_t kRegionTableBytes = 65536;
constexpr std::uint64_t kMetadataTableBytes = 65536;
constexpr std::uint64_t kEntriesMax = 2047;
constexpr std::uint64_t kHasParent = 2;
constexpr std::uint64_t kDiskMaxBytes = std::uint64_t{64} << 40;  // the format's
constexpr std::uint64_t kBatMaxBytes = std::uint64_t{256} << 20;

struct Region {
  std::uint64_t offset_bytes = 0;
  std::uint64_t length_bytes = 0;
};

Result<Region> find_metadata(const ImageBytes& bytes, const Piece& table) {
  const std::uint64_t entries = table.little(8, 4);
  if (entries > kEntriesMax) return error(Code::kInvalid, "{} regions", entries);
  Region metadata;
  for (std::uint64_t i = 0; i < entries; ++i) {
    const std::size_t at = 16 + i * 32;
    const Region region{table.little(at + 16, 8), table.little(at + 24, 4)};
    const bool bat = table.equals(at, kBatRegion);
    if (!bat && !table.equals(at, kMetadataRegion)) {
      if (table.little(at + 28, 4) == 0) continue;
      return error(Code::kNotSupported, "it needs a region that is not known here");
    }
    VT_RETURN_IF_ERROR(check_within(bytes, region.offset_bytes, region.length_bytes, "a region"));
    if (bat && region.length_bytes > kBatMaxBytes) {
      return error(Code::kInvalid, "a block table of {} bytes", region.length_bytes);
    }
    if (!bat) metadata = region;
  }
  if (metadata.length_bytes < kMetadataTableBytes) {
    return error(Code::kInvalid, "it has no metadata");
  }
  return metadata;
}

}  // namespace

Result<std::uint64_t> inspect_vhdx(const ImageBytes& bytes) {
  VT_ASSIGN_OR_RETURN(const Piece start, Piece::read(bytes, 0, 8, "the header"));
  if (!start.equals(0, "vhdxfile")) return error(Code::kInvalid, "there is no VHDX header");
  VT_ASSIGN_OR_RETURN(const Piece regions, Piece::read(bytes, 3 * kRegionTableBytes,
                                                       kRegionTableBytes, "the region table"));
  if (!regions.equals(0, "regi")) return error(Code::kInvalid, "it has no region table");
  VT_ASSIGN_OR_RETURN(const Region region, find_metadata(bytes, regions));
  VT_ASSIGN_OR_RETURN(const Piece table,
                      Piece::read(bytes, region.offset_bytes, kMetadataTableBytes, "the metadata"));
  const std::uint64_t entries = table.little(10, 2);
  if (!table.equals(0, "metadata") || entries > kEntriesMax) {
    return error(Code::kInvalid, "its metadata is no such thing");
  }
  std::uint64_t size_bytes = 0;
  for (std::uint64_t i = 0; i < entries; ++i) {
    const std::size_t at = 32 + i * 32;
    const std::uint64_t item_bytes = region.offset_bytes + table.little(at + 16, 4);
    if (table.equals(at, kParentLocator)) {
      return error(Code::kNotSupported, "it has a parent image: flatten it first");
    }
    if (!table.equals(at, kFileParameters) && !table.equals(at, kDiskSize)) continue;
    VT_ASSIGN_OR_RETURN(const Piece item, Piece::read(bytes, item_bytes, 8, "a metadata item"));
    if (table.equals(at, kDiskSize)) {
      size_bytes = item.little(0, 8);
    } else if ((item.little(4, 4) & kHasParent) != 0) {
      return error(Code::kNotSupported, "it has a parent image: flatten it first");
    }
  }
  if (size_bytes > kDiskMaxBytes || size_bytes % kSectorBytes != 0) {
    return error(Code::kTooLarge, "a disk of {} bytes", size_bytes);
  }
  return size_bytes;
}

}  // namespace voltree
