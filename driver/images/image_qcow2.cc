// qcow2: QEMU's docs/interop/qcow2.txt.
#include "blockstore/base/units.h"
#include "driver/images/image_headers.h"

namespace voltree {
namespace {

constexpr std::uint64_t kVersion3HeaderBytes = 104;
constexpr std::uint64_t kL1MaxBytes = std::uint64_t{32} << 20;  // QEMU's own limits
constexpr std::uint64_t kRefTableMaxBytes = std::uint64_t{8} << 20;
constexpr std::uint64_t kSnapshotsMax = 65536;

constexpr std::uint64_t kDirty = 1, kCorrupt = 2, kDataFile = 4, kCompressionType = 8,
                        kExtendedL2 = 16;
constexpr std::uint64_t kExtensionEnd = 0, kBackingFormat = 0xe2792aca, kDataFileName = 0x44415441,
                        kCryptoHeader = 0x0537be77;

struct Qcow2 {
  std::uint64_t version, backing_offset, cluster_bits, size_bytes, crypt, l1_entries, l1_offset,
      ref_offset, ref_clusters, snapshots, snapshots_offset;
  std::uint64_t incompatible = 0, header_bytes = 72, compression = 0;
  std::uint64_t cluster_bytes() const { return std::uint64_t{1} << cluster_bits; }
};

Result<Qcow2> read_header(const ImageBytes& bytes) {
  VT_ASSIGN_OR_RETURN(const Piece first, Piece::read(bytes, 0, 72, "the header"));
  Qcow2 header{first.big(4, 4),  first.big(8, 8),  first.big(20, 4), first.big(24, 8),
               first.big(32, 4), first.big(36, 4), first.big(40, 8), first.big(48, 8),
               first.big(56, 4), first.big(60, 4), first.big(64, 8)};
  if (!first.equals(0, "QFI\xfb")) return error(Code::kInvalid, "there is no qcow2 header");
  if (header.version != 2 && header.version != 3) {
    return error(Code::kNotSupported, "qcow version {} is not known", header.version);
  }
  if (header.cluster_bits < 9 || header.cluster_bits > 21) {
    return error(Code::kInvalid, "clusters of 2^{} bytes", header.cluster_bits);
  }
  if (header.version == 2) return header;
  VT_ASSIGN_OR_RETURN(const Piece second,
                      Piece::read(bytes, 0, kVersion3HeaderBytes, "the header"));
  header.incompatible = second.big(72, 8);
  header.header_bytes = second.big(100, 4);
  if (second.big(96, 4) > 6) return error(Code::kInvalid, "refcounts of more than 64 bits");
  if (header.header_bytes < kVersion3HeaderBytes || header.header_bytes % 8 != 0 ||
      header.header_bytes > header.cluster_bytes()) {
    return error(Code::kInvalid, "a header of {} bytes", header.header_bytes);
  }
  if (header.header_bytes > kVersion3HeaderBytes) {
    VT_ASSIGN_OR_RETURN(const Piece third,
                        Piece::read(bytes, kVersion3HeaderBytes, 8, "the header"));
    header.compression = third.big(0, 1);
  }
  return header;
}

Status check_features(const Qcow2& header) {
  if (header.backing_offset != 0) {
    return error(Code::kNotSupported, "it has a backing file: flatten it first (qemu-img convert)");
  }
  if (header.crypt != 0) return error(Code::kNotSupported, "it is encrypted: decrypt it first");
  if ((header.incompatible & kDataFile) != 0) {
    return error(Code::kNotSupported, "its data is in another file: flatten it first");
  }
  if ((header.incompatible & kCorrupt) != 0) {
    return error(Code::kInvalid,
                 "it is marked as corrupt: \"qemu-img check -r all\" may repair it");
  }
  const std::uint64_t known = kDirty | kCorrupt | kDataFile | kCompressionType | kExtendedL2;
  if ((header.incompatible & ~known) != 0) {
    return error(Code::kNotSupported, "it uses features that are not known here: {:#x}",
                 header.incompatible & ~known);
  }
  const bool other = (header.incompatible & kCompressionType) != 0;
  if (header.compression > 1 || (header.compression == 1) != other) {
    return error(Code::kNotSupported, "compression type {} is not known", header.compression);
  }
  return {};
}

Status check_tables(const ImageBytes& bytes, const Qcow2& header) {
  const std::uint64_t l1_bytes = header.l1_entries * 8;
  const std::uint64_t ref_bytes = header.ref_clusters * header.cluster_bytes();
  if (l1_bytes > kL1MaxBytes) return error(Code::kInvalid, "an L1 table of {} bytes", l1_bytes);
  if (ref_bytes > kRefTableMaxBytes) {
    return error(Code::kInvalid, "a refcount table of {} bytes", ref_bytes);
  }
  if (header.snapshots > kSnapshotsMax) {
    return error(Code::kInvalid, "{} snapshots", header.snapshots);
  }
  const std::uint64_t in_cluster = header.cluster_bytes() - 1;
  if (((header.l1_offset | header.ref_offset | header.snapshots_offset) & in_cluster) != 0) {
    return error(Code::kInvalid, "a table that does not begin with a cluster");
  }
  VT_RETURN_IF_ERROR(check_within(bytes, header.l1_offset, l1_bytes, "the L1 table"));
  VT_RETURN_IF_ERROR(check_within(bytes, header.ref_offset, ref_bytes, "the refcount table"));
  if (header.snapshots != 0) {
    // An entry takes 40 bytes at least.
    VT_RETURN_IF_ERROR(
        check_within(bytes, header.snapshots_offset, header.snapshots * 40, "the snapshot table"));
  }
  if (header.size_bytes > (std::uint64_t{1} << 62)) {
    return error(Code::kTooLarge, "a disk of {} bytes", header.size_bytes);
  }
  const bool extended = (header.incompatible & kExtendedL2) != 0;
  const std::uint64_t l2_entries = header.cluster_bytes() / (extended ? 16 : 8);
  const std::uint64_t l1_covers_bytes = l2_entries * header.cluster_bytes();
  if (header.l1_entries < (header.size_bytes + l1_covers_bytes - 1) / l1_covers_bytes) {
    return error(Code::kInvalid, "an L1 table of {} entries is too small for {} bytes",
                 header.l1_entries, header.size_bytes);
  }
  return {};
}

// The extensions follow the header and end within the first cluster.
Status check_extensions(const ImageBytes& bytes, const Qcow2& header) {
  std::uint64_t at = header.header_bytes;
  while (at + 8 <= header.cluster_bytes() && at + 8 <= bytes.size_bytes()) {
    VT_ASSIGN_OR_RETURN(const Piece extension, Piece::read(bytes, at, 8, "a header extension"));
    const std::uint64_t type = extension.big(0, 4);
    const std::uint64_t length_bytes = extension.big(4, 4);
    if (type == kExtensionEnd) return {};
    if (type == kBackingFormat) {
      return error(Code::kNotSupported, "it names the format of a backing file: flatten it first");
    }
    if (type == kDataFileName) {
      return error(Code::kNotSupported, "its data is in another file: flatten it first");
    }
    if (type == kCryptoHeader) return error(Code::kNotSupported, "it is encrypted");
    if (length_bytes > header.cluster_bytes() - at - 8) {
      return error(Code::kInvalid, "a header extension of {} bytes", length_bytes);
    }
    at += 8 + (length_bytes + 7) / 8 * 8;
  }
  return {};
}

}  // namespace

Result<std::uint64_t> inspect_qcow2(const ImageBytes& bytes) {
  VT_ASSIGN_OR_RETURN(const Qcow2 header, read_header(bytes));
  VT_RETURN_IF_ERROR(check_features(header));
  VT_RETURN_IF_ERROR(check_tables(bytes, header));
  VT_RETURN_IF_ERROR(check_extensions(bytes, header));
  return header.size_bytes;
}

}  // namespace voltree
