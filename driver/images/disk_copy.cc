#include "driver/images/disk_copy.h"

#include <algorithm>
#include <cstring>

#include "driver/images/raw_copy.h"

namespace voltree {
namespace {

class DiskSink : public RawSink {
 public:
  explicit DiskSink(NbdDisk& disk) : writer_(disk) {}

  Status data(std::uint64_t offset_bytes, std::span<const std::byte> bytes) override {
    VT_ASSIGN_OR_RETURN(const std::span<std::byte> buffer, writer_.buffer());
    std::copy(bytes.begin(), bytes.end(), buffer.begin());
    return writer_.write(offset_bytes, bytes.size());
  }
  Status zeros(std::uint64_t, std::uint64_t) override { return {}; }
  Status drain() { return writer_.drain(); }

 private:
  RawWriter writer_;
};

class CompareSink : public RawSink {
 public:
  explicit CompareSink(NbdDisk& disk) : disk_(disk), memory_(kChunkBytes) {}

  Status data(std::uint64_t offset_bytes, std::span<const std::byte> bytes) override {
    const std::span<std::byte> other = std::span(memory_).first(bytes.size());
    VT_ASSIGN_OR_RETURN(const NbdDisk::Ticket ticket, disk_.begin_read(offset_bytes, other));
    VT_RETURN_IF_ERROR(disk_.wait(ticket));
    if (std::memcmp(bytes.data(), other.data(), bytes.size()) == 0) return {};
    return error(Code::kInvalid, "it has other bytes at {}", offset_bytes);
  }
  Status zeros(std::uint64_t offset_bytes, std::uint64_t length_bytes) override {
    static const std::vector<std::byte> zeros(kChunkBytes);
    const std::uint64_t end_bytes = offset_bytes + length_bytes;
    for (std::uint64_t at = offset_bytes; at < end_bytes;) {
      VT_ASSIGN_OR_RETURN(const std::vector<AllocationRun> runs,
                          disk_.allocation(at, end_bytes - at));
      for (const AllocationRun& run : runs) {
        at = run.offset_bytes + run.length_bytes;
        if (!run.data) continue;
        for (std::uint64_t from = run.offset_bytes; from < at;) {
          const std::size_t part = std::min<std::uint64_t>(at - from, zeros.size());
          VT_RETURN_IF_ERROR(data(from, std::span(zeros).first(part)));
          from += part;
        }
      }
    }
    return {};
  }

 private:
  NbdDisk& disk_;
  std::vector<std::byte> memory_;
};

}  // namespace

Status copy_disk(NbdDisk& from, NbdDisk& to, const ProgressSink& progress) {
  DiskSink sink(to);
  std::uint64_t data_bytes = 0;
  VT_RETURN_IF_ERROR(read_raw(from, sink, nullptr, data_bytes, progress));
  return sink.drain();
}

Status compare_disks(NbdDisk& from, NbdDisk& to, const ProgressSink& progress) {
  if (from.size_bytes() != to.size_bytes()) {
    return error(Code::kInvalid, "it has {} bytes, not {}", to.size_bytes(), from.size_bytes());
  }
  CompareSink sink(to);
  std::uint64_t data_bytes = 0;
  return read_raw(from, sink, nullptr, data_bytes, progress);
}

}  // namespace voltree
