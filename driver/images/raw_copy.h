// Raw bytes to and from a volume: several requests at a time, zeros as holes.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "driver/control/service.h"
#include "driver/images/nbd_disk.h"
#include "driver/images/sha256.h"

namespace voltree {

// What one request moves.
inline constexpr std::size_t kChunkBytes = std::size_t{1} << 20;

// Calls `sink` at most five times a second.
class PacedProgress {
 public:
  explicit PacedProgress(const ProgressSink& sink) : sink_(sink) {}
  void tell(std::uint64_t done, std::uint64_t total);

 private:
  const ProgressSink& sink_;
  std::chrono::steady_clock::time_point last_{};
};

// Whole blocks of zeros, and what lies between them, in order.
struct ZeroRun {
  std::size_t offset_bytes = 0;
  std::size_t length_bytes = 0;
  bool zero = false;
};
std::vector<ZeroRun> zero_runs(std::span<const std::byte> data);

// Writes to a volume that reads as zeros: what is zero is not written.
class RawWriter {
 public:
  explicit RawWriter(NbdDisk& disk) : disk_(disk) {}
  // Memory for the next chunk; waits for an older one when there is none.
  Result<std::span<std::byte>> buffer();
  // The first `length_bytes` of buffer() are on their way.
  Status write(std::uint64_t offset_bytes, std::size_t length_bytes);
  // Everything is acknowledged.
  Status drain();

 private:
  struct Chunk {
    std::vector<std::byte> memory;
    std::vector<NbdDisk::Ticket> tickets;
  };
  Status finish_oldest();

  NbdDisk& disk_;
  std::deque<Chunk> under_way_;
  std::vector<std::byte> next_;
};

// Where the bytes of a volume go, in order and without gaps.
class RawSink {
 public:
  virtual ~RawSink() = default;
  virtual Status data(std::uint64_t offset_bytes, std::span<const std::byte> bytes) = 0;
  virtual Status zeros(std::uint64_t offset_bytes, std::uint64_t length_bytes) = 0;
};
// A file that is empty: zeros stay holes. It has its size at the end.
std::unique_ptr<RawSink> make_file_sink(int fd, std::string name);
// Anything that can be written to.
std::unique_ptr<RawSink> make_stream_sink(int fd, std::string name);

// The whole disk; `data_bytes` is what of it was no hole. `hash` may be null.
Status read_raw(NbdDisk& disk, RawSink& sink, Sha256* hash, std::uint64_t& data_bytes,
                const ProgressSink& progress);

}  // namespace voltree
