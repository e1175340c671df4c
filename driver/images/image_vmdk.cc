// VMDK: only images that are one file, VMware's "Virtual Disk Format 5.0".
#include <algorithm>
#include <cctype>
#include <string>

#include "blockstore/base/units.h"
#include "driver/images/image_headers.h"

namespace voltree {
namespace {

constexpr std::uint64_t kDescriptorMaxBytes = std::uint64_t{1} << 20;
// What QEMU looks at, whatever the header says.
constexpr std::uint64_t kDescriptorReadBytes = 20 * kSectorBytes;
constexpr std::uint64_t kAtEnd = ~std::uint64_t{0};  // the tables are told of by the footer
constexpr std::uint64_t kFooterBytes = 3 * kSectorBytes;

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return out;
}

std::string_view trimmed(std::string_view text) {
  const std::size_t first = text.find_first_not_of(" \t\r");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r") - first + 1);
}

Status check_extent(std::string_view line) {
  // ACCESS SECTORS TYPE "FILE" ...
  const std::size_t size = line.find(' ') + 1;
  const std::size_t type = line.find(' ', size) + 1;
  if (type <= size || line.substr(type, 7) != "sparse ") {
    return error(Code::kNotSupported, "it names another file for its data: {}", quoted(line));
  }
  return {};
}

Status check_descriptor(std::string_view text) {
  std::size_t extents = 0;
  bool type_known = false;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    const std::string line = lower(trimmed(text.substr(at, end - at)));
    at = end + 1;
    if (line.starts_with("rw ") || line.starts_with("rdonly ") || line.starts_with("noaccess ")) {
      ++extents;
      VT_RETURN_IF_ERROR(check_extent(line));
    } else if (line.starts_with("createtype")) {
      const std::string value(trimmed(std::string_view(line).substr(line.find('=') + 1)));
      if (value != "\"monolithicsparse\"" && value != "\"streamoptimized\"") {
        return error(Code::kNotSupported,
                     "a VMDK of type {}: monolithicSparse and streamOptimized are supported",
                     quoted(value));
      }
      type_known = true;
    } else if (line.starts_with("parentcid")) {
      if (trimmed(std::string_view(line).substr(line.find('=') + 1)) != "ffffffff") {
        return error(Code::kNotSupported, "it has a parent image: flatten it first");
      }
    }
  }
  if (!type_known) return error(Code::kInvalid, "its descriptor does not say what type it is");
  if (extents != 1) return error(Code::kNotSupported, "it has {} extents, not 1", extents);
  return {};
}

// The tables' place, and the footer's where that is at the end.
Status check_tables(const ImageBytes& bytes, const Piece& header) {
  if (header.little(56, 8) != kAtEnd) {
    const std::uint64_t directory = header.little(56, 8);
    if (directory > bytes.size_bytes() / kSectorBytes) {
      return error(Code::kInvalid, "the grain directory lies beyond the end of the file");
    }
    return {};
  }
  if (bytes.size_bytes() < kFooterBytes + kSectorBytes) {
    return error(Code::kInvalid, "its end is missing");
  }
  VT_ASSIGN_OR_RETURN(const Piece end, Piece::read(bytes, bytes.size_bytes() - kFooterBytes,
                                                   kFooterBytes, "the footer"));
  if (!end.equals(kSectorBytes, "KDMV")) {
    return error(Code::kInvalid, "its end is missing: the file is cut off");
  }
  if (end.little(kSectorBytes + 12, 8) != header.little(12, 8) ||
      end.little(kSectorBytes + 28, 8) != header.little(28, 8)) {
    return error(Code::kInvalid, "its header and its footer say different things");
  }
  return {};
}

}  // namespace

Result<std::uint64_t> inspect_vmdk(const ImageBytes& bytes) {
  VT_ASSIGN_OR_RETURN(const Piece header, Piece::read(bytes, 0, 512, "the header"));
  if (!header.equals(0, "KDMV")) return error(Code::kInvalid, "there is no VMDK header");
  const std::uint64_t version = header.little(4, 4);
  const std::uint64_t capacity = header.little(12, 8);
  const std::uint64_t grain = header.little(20, 8);
  const std::uint64_t descriptor = header.little(28, 8);
  const std::uint64_t descriptor_sectors = header.little(36, 8);
  if (version < 1 || version > 3) {
    return error(Code::kNotSupported, "VMDK version {} is not known", version);
  }
  // Without a capacity the descriptor's extents would be opened instead of this file.
  if (capacity == 0) return error(Code::kNotSupported, "its data is in other files");
  if (capacity > (std::uint64_t{1} << 53)) {
    return error(Code::kTooLarge, "a disk of {} sectors", capacity);
  }
  if (grain < 8 || grain > 0x4000 || (grain & (grain - 1)) != 0 || header.little(44, 4) != 512) {
    return error(Code::kInvalid, "grains of {} sectors in tables of {}", grain,
                 header.little(44, 4));
  }
  if (header.little(77, 2) > 1) {
    return error(Code::kNotSupported, "compression {} is not known", header.little(77, 2));
  }
  if (descriptor == 0 || descriptor > bytes.size_bytes() / kSectorBytes ||
      descriptor_sectors > kDescriptorMaxBytes / kSectorBytes) {
    return error(Code::kInvalid, "it has no descriptor where it says");
  }
  const std::uint64_t descriptor_bytes = descriptor * kSectorBytes;
  const std::uint64_t read_bytes =
      std::min(std::max(descriptor_sectors * kSectorBytes, kDescriptorReadBytes),
               bytes.size_bytes() - descriptor_bytes);
  VT_ASSIGN_OR_RETURN(const Piece text,
                      Piece::read(bytes, descriptor_bytes, read_bytes, "the descriptor"));
  if (lower(text.text()).find("parentfilenamehint") != std::string::npos) {
    return error(Code::kNotSupported, "it has a parent image: flatten it first");
  }
  VT_RETURN_IF_ERROR(check_descriptor(text.text()));
  VT_RETURN_IF_ERROR(check_tables(bytes, header));
  return capacity * kSectorBytes;
}

}  // namespace voltree
