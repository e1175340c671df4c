#include "blockstore/catalog_log.h"

#include <algorithm>
#include <array>
#include <memory>
#include <span>

#include "blockstore/catalog_page.h"

namespace voltree {
namespace {

// https://www.sqlite.org/fileformat2.html#the_write_ahead_log
constexpr std::size_t kHeaderBytes = 32;
constexpr std::size_t kFrameHeaderBytes = 24;
constexpr std::size_t kFrameBytes = kFrameHeaderBytes + kCatalogPageBytes;
constexpr std::uint32_t kMagic = 0x377f0682;  // or with the lowest bit set: big-endian checksums
constexpr std::uint32_t kVersion = 3007000;

std::uint32_t big_endian(std::span<const std::byte> at) {
  std::uint32_t value = 0;
  for (std::size_t i = 0; i < 4; ++i) value = value << 8 | static_cast<std::uint32_t>(at[i]);
  return value;
}

std::uint32_t little_endian(std::span<const std::byte> at) {
  std::uint32_t value = 0;
  for (std::size_t i = 4; i-- > 0;) value = value << 8 | static_cast<std::uint32_t>(at[i]);
  return value;
}

// Each frame's checksum goes on from the one before it.
class Chain {
 public:
  explicit Chain(bool big) : word_(big ? big_endian : little_endian) {}
  void add(std::span<const std::byte> bytes) {
    for (std::size_t at = 0; at < bytes.size(); at += 8) {
      first_ += word_(bytes.subspan(at, 4)) + second_;
      second_ += word_(bytes.subspan(at + 4, 4)) + first_;
    }
  }
  bool matches(std::span<const std::byte> stored) const {
    return big_endian(stored.first(4)) == first_ && big_endian(stored.subspan(4, 4)) == second_;
  }

 private:
  std::uint32_t (*word_)(std::span<const std::byte>);
  std::uint32_t first_ = 0;
  std::uint32_t second_ = 0;
};

}  // namespace

Status trim_log(FileSystem& fs, const std::string& path, SyncWatch& syncs) {
  VT_ASSIGN_OR_RETURN(const bool there, fs.exists(path));
  if (!there) return {};
  VT_ASSIGN_OR_RETURN(auto file, fs.open(path, {}));
  VT_ASSIGN_OR_RETURN(const std::uint64_t size, file->size_bytes());
  // The header is synced before the first frame is written.
  if (size < kHeaderBytes + kFrameBytes) return {};
  std::array<std::byte, kHeaderBytes> header;
  VT_RETURN_IF_ERROR(file->read_sync(header, 0));
  const std::span<const std::byte> head(header);
  const std::uint32_t magic = big_endian(head);
  Chain chain((magic & 1) != 0);
  chain.add(head.first(24));
  const bool known = (magic & ~1U) == kMagic && big_endian(head.subspan(4)) == kVersion &&
                     big_endian(head.subspan(8)) == kCatalogPageBytes;
  if (!known || !chain.matches(head.subspan(24))) {
    return error(Code::kDamaged,
                 "{}: its header is damaged, and the commits in it are lost: "
                 "restore the file",
                 path);
  }
  const auto frame = std::make_unique<std::array<std::byte, kFrameBytes>>();
  const std::span<const std::byte> bytes(*frame);
  std::uint64_t whole = kHeaderBytes;  // up to the end of the last commit that matches
  std::uint64_t damaged = 0;           // the first frame that does not match, from 1
  int commits_after = 0;
  std::uint64_t number = 1;
  for (std::uint64_t at = kHeaderBytes; at + kFrameBytes <= size; at += kFrameBytes, ++number) {
    VT_RETURN_IF_ERROR(file->read_sync(*frame, at));
    // Frames of an earlier use of the file have other salts.
    const bool current = std::equal(bytes.begin() + 8, bytes.begin() + 16, head.begin() + 16);
    const bool commit = big_endian(bytes.subspan(4)) != 0;
    if (damaged == 0) {
      chain.add(bytes.first(8));
      chain.add(bytes.subspan(kFrameHeaderBytes));
      if (!current || !chain.matches(bytes.subspan(16))) damaged = number;
    }
    if (damaged == 0 && commit) whole = at + kFrameBytes;
    if (damaged != 0 && current && commit) ++commits_after;
  }
  // One is of the transaction that a crash cut off; the next began when it was durable.
  if (commits_after > 1) {
    return error(Code::kDamaged, "{}: frame {} is damaged, and commits follow it: restore the file",
                 path, damaged);
  }
  if (whole == size) return {};
  VT_RETURN_IF_ERROR(file->truncate(whole));
  return syncs(file->sync_sync());
}

}  // namespace voltree
