#include "blockstore/catalog_log.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
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

// Each frame's checksum goes on from the one before it.
class Chain {
 public:
  explicit Chain(bool big) : big_(big) {}
  // From a checksum as it is stored.
  void go_on_from(std::span<const std::byte> stored) {
    first_ = big_endian(stored.first(4));
    second_ = big_endian(stored.subspan(4, 4));
  }
  void add(std::span<const std::byte> bytes) {
    for (std::size_t at = 0; at < bytes.size(); at += 8) {
      first_ += word(bytes, at) + second_;
      second_ += word(bytes, at + 4) + first_;
    }
  }
  void add_frame(std::span<const std::byte> frame) {
    add(frame.first(8));
    add(frame.subspan(kFrameHeaderBytes));
  }
  bool matches(std::span<const std::byte> stored) const {
    return big_endian(stored.first(4)) == first_ && big_endian(stored.subspan(4, 4)) == second_;
  }

 private:
  std::uint32_t word(std::span<const std::byte> bytes, std::size_t at) const {
    std::uint32_t value = 0;
    std::memcpy(&value, bytes.data() + at, sizeof value);
    const bool swap = big_ == (std::endian::native == std::endian::little);
    return swap ? __builtin_bswap32(value) : value;
  }

  bool big_;
  std::uint32_t first_ = 0;
  std::uint32_t second_ = 0;
};

// How many bits of the salts differ: frames of an earlier use of the file have others altogether.
int salt_distance(std::span<const std::byte> head, std::span<const std::byte> frame) {
  return std::popcount(big_endian(head.subspan(16)) ^ big_endian(frame.subspan(8))) +
         std::popcount(big_endian(head.subspan(20)) ^ big_endian(frame.subspan(12)));
}

// Goes through the frames of a log in order.
class LogReader {
 public:
  LogReader(std::span<const std::byte> head, const Chain& chain) : head_(head), chain_(chain) {
    stored_.go_on_from(head.subspan(24));
  }

  void add(std::span<const std::byte> frame, std::uint64_t at) {
    ++number_;
    const bool current = salt_distance(head_, frame) == 0;
    const bool commit = big_endian(frame.subspan(4)) != 0;
    const auto sum = frame.subspan(16);
    if (damaged_ == 0) {
      chain_.add_frame(frame);
      if (current && chain_.matches(sum)) {
        if (commit) whole_ = at + kFrameBytes;
      } else {
        damaged_ = number_;
        // Where a sector ends behind the mark, it may be of an earlier use of the file.
        const bool one_write = at % 512 != 504;
        commits_after_ += commit && one_write && salt_distance(head_, frame) <= 1 ? 1 : 0;
      }
    } else if (current && commit && follows(frame)) {
      ++commits_after_;
    }
    stored_.go_on_from(sum);
  }

  std::uint64_t whole() const { return whole_; }
  std::uint64_t damaged() const { return damaged_; }
  // Of the damaged frame, and of those that match what is stored before them.
  int commits_after() const { return commits_after_; }

 private:
  bool follows(std::span<const std::byte> frame) const {
    Chain from_stored = stored_;
    from_stored.add_frame(frame);
    if (from_stored.matches(frame.subspan(16))) return true;
    // What is damaged may be the stored checksum itself.
    Chain from_bytes = chain_;
    from_bytes.add_frame(frame);
    return number_ == damaged_ + 1 && from_bytes.matches(frame.subspan(16));
  }

  const std::span<const std::byte> head_;
  Chain chain_;           // up to the first frame that does not match, with it
  Chain stored_{chain_};  // as the frame before says
  std::uint64_t number_ = 0;
  std::uint64_t whole_ = kHeaderBytes;  // up to the end of the last commit that matches
  std::uint64_t damaged_ = 0;           // the first frame that does not match, from 1
  int commits_after_ = 0;
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
  LogReader reader(head, chain);
  for (std::uint64_t at = kHeaderBytes; at + kFrameBytes <= size; at += kFrameBytes) {
    VT_RETURN_IF_ERROR(file->read_sync(*frame, at));
    reader.add(bytes, at);
  }
  // One is of the transaction that a crash cut off; the next began when it was durable.
  if (reader.commits_after() > 1) {
    return error(Code::kDamaged, "{}: frame {} is damaged, and commits follow it: restore the file",
                 path, reader.damaged());
  }
  if (reader.whole() == size) return {};
  VT_RETURN_IF_ERROR(file->truncate(reader.whole()));
  return syncs(file->sync_sync());
}

}  // namespace voltree
