#include "driver/images/raw_copy.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstring>

#include "driver/images/stop_signals.h"

namespace voltree {
namespace {

constexpr std::size_t kChunksUnderWay = 8;
// Holes in the queue cost nothing, but there must be an end.
constexpr std::size_t kQueueMax = 64;
constexpr std::chrono::milliseconds kTellInterval{200};

bool is_zero(std::span<const std::byte> data) {
  return data.empty() || (data[0] == std::byte{0} &&
                          std::memcmp(data.data(), data.data() + 1, data.size() - 1) == 0);
}

class FileSink : public RawSink {
 public:
  FileSink(int fd, std::string name) : fd_(fd), name_(std::move(name)) {}

  Status data(std::uint64_t offset_bytes, std::span<const std::byte> bytes) override {
    for (const ZeroRun& run : zero_runs(bytes)) {
      if (run.zero) continue;
      VT_RETURN_IF_ERROR(
          put(offset_bytes + run.offset_bytes, bytes.subspan(run.offset_bytes, run.length_bytes)));
    }
    return set_size(offset_bytes + bytes.size());
  }
  Status zeros(std::uint64_t offset_bytes, std::uint64_t length_bytes) override {
    return set_size(offset_bytes + length_bytes);
  }

 private:
  Status put(std::uint64_t offset_bytes, std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ssize_t put =
          ::pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset_bytes));
      if (put < 0 && errno == EINTR) continue;
      if (put < 0) return Status::from_errno(errno, name_);
      bytes = bytes.subspan(static_cast<std::size_t>(put));
      offset_bytes += static_cast<std::uint64_t>(put);
    }
    return {};
  }
  Status set_size(std::uint64_t size_bytes) {
    if (::ftruncate(fd_, static_cast<off_t>(size_bytes)) == 0) return {};
    return Status::from_errno(errno, name_);
  }

  const int fd_;
  const std::string name_;
};

class StreamSink : public RawSink {
 public:
  StreamSink(int fd, std::string name) : fd_(fd), name_(std::move(name)) {}

  Status data(std::uint64_t /*offset_bytes*/, std::span<const std::byte> bytes) override {
    while (!bytes.empty()) {
      VT_RETURN_IF_ERROR(check_stop());
      pollfd ready{fd_, POLLOUT, 0};
      if (::poll(&ready, 1, 200) <= 0) continue;
      // A pipe that blocks takes all of it or waits: so much as it has room for anyway.
      const std::size_t part = std::min(bytes.size(), std::size_t{PIPE_BUF});
      const ssize_t put = ::write(fd_, bytes.data(), part);
      if (put < 0 && (errno == EINTR || errno == EAGAIN)) continue;
      if (put < 0) return Status::from_errno(errno, name_);
      bytes = bytes.subspan(static_cast<std::size_t>(put));
    }
    return {};
  }
  Status zeros(std::uint64_t offset_bytes, std::uint64_t length_bytes) override {
    static const std::array<std::byte, 65536> kZeros{};
    while (length_bytes > 0) {
      const std::size_t part = std::min<std::uint64_t>(length_bytes, kZeros.size());
      VT_RETURN_IF_ERROR(data(offset_bytes, std::span(kZeros).first(part)));
      length_bytes -= part;
    }
    return {};
  }

 private:
  const int fd_;
  const std::string name_;
};

// Reads ahead, hands over in order.
class RawReader {
 public:
  RawReader(NbdDisk& disk, RawSink& sink, Sha256* hash, const ProgressSink& progress)
      : disk_(disk), sink_(sink), hash_(hash), paced_(progress) {}

  Status run() {
    for (std::uint64_t at = 0; at < disk_.size_bytes();) {
      VT_ASSIGN_OR_RETURN(const std::vector<AllocationRun> runs,
                          disk_.allocation(at, disk_.size_bytes() - at));
      for (const AllocationRun& run : runs) {
        VT_RETURN_IF_ERROR(run.data ? ask(run) : queue({run.offset_bytes, run.length_bytes}));
        at = run.offset_bytes + run.length_bytes;
      }
    }
    while (!queue_.empty()) VT_RETURN_IF_ERROR(hand_over());
    return {};
  }
  std::uint64_t data_bytes() const { return data_bytes_; }

 private:
  struct Piece {
    std::uint64_t offset_bytes = 0;
    std::uint64_t length_bytes = 0;
    std::vector<std::byte> memory{};  // empty: a hole
    NbdDisk::Ticket ticket = 0;
  };

  Status ask(const AllocationRun& run) {
    const std::uint64_t end_bytes = run.offset_bytes + run.length_bytes;
    for (std::uint64_t at = run.offset_bytes; at < end_bytes;) {
      Piece piece{at, std::min<std::uint64_t>(end_bytes - at, kChunkBytes)};
      piece.memory.resize(piece.length_bytes);
      VT_ASSIGN_OR_RETURN(piece.ticket, disk_.begin_read(at, piece.memory));
      at += piece.length_bytes;
      VT_RETURN_IF_ERROR(queue(std::move(piece)));
    }
    return {};
  }

  Status queue(Piece piece) {
    if (!piece.memory.empty()) ++reads_;
    queue_.push_back(std::move(piece));
    while (reads_ > kChunksUnderWay || queue_.size() > kQueueMax) VT_RETURN_IF_ERROR(hand_over());
    return {};
  }

  Status hand_over() {
    VT_RETURN_IF_ERROR(check_stop());
    Piece& piece = queue_.front();
    if (piece.memory.empty()) {
      if (hash_ != nullptr) hash_->zeros(piece.length_bytes);
      VT_RETURN_IF_ERROR(sink_.zeros(piece.offset_bytes, piece.length_bytes));
    } else {
      VT_RETURN_IF_ERROR(disk_.wait(piece.ticket));
      if (hash_ != nullptr) hash_->update(piece.memory);
      VT_RETURN_IF_ERROR(sink_.data(piece.offset_bytes, piece.memory));
      --reads_;
      data_bytes_ += piece.length_bytes;
    }
    paced_.tell(piece.offset_bytes + piece.length_bytes, disk_.size_bytes());
    queue_.pop_front();
    return {};
  }

  NbdDisk& disk_;
  RawSink& sink_;
  Sha256* const hash_;
  PacedProgress paced_;
  std::deque<Piece> queue_;
  std::size_t reads_ = 0;
  std::uint64_t data_bytes_ = 0;
};

}  // namespace

void PacedProgress::tell(std::uint64_t done, std::uint64_t total) {
  const auto now = std::chrono::steady_clock::now();
  if (!sink_ || now - last_ < kTellInterval) return;
  last_ = now;
  sink_({done, total});
}

std::vector<ZeroRun> zero_runs(std::span<const std::byte> data) {
  std::vector<ZeroRun> runs;
  for (std::size_t at = 0; at < data.size(); at += kBlockBytes) {
    const std::size_t length = std::min<std::size_t>(data.size() - at, kBlockBytes);
    const bool zero = is_zero(data.subspan(at, length));
    if (runs.empty() || runs.back().zero != zero) {
      runs.push_back({at, length, zero});
    } else {
      runs.back().length_bytes += length;
    }
  }
  return runs;
}

Result<std::span<std::byte>> RawWriter::buffer() {
  if (under_way_.size() >= kChunksUnderWay) VT_RETURN_IF_ERROR(finish_oldest());
  if (next_.empty()) next_.resize(kChunkBytes);
  return std::span(next_);
}

Status RawWriter::write(std::uint64_t offset_bytes, std::size_t length_bytes) {
  Chunk chunk{std::move(next_), {}};
  next_ = {};
  const std::span<const std::byte> data = std::span(chunk.memory).first(length_bytes);
  // In its place before the first request: what is under way must keep its memory.
  under_way_.push_back(std::move(chunk));
  for (const ZeroRun& run : zero_runs(data)) {
    if (run.zero) continue;
    VT_ASSIGN_OR_RETURN(const NbdDisk::Ticket ticket,
                        disk_.begin_write(offset_bytes + run.offset_bytes,
                                          data.subspan(run.offset_bytes, run.length_bytes)));
    under_way_.back().tickets.push_back(ticket);
  }
  return {};
}

Status RawWriter::finish_oldest() {
  for (const NbdDisk::Ticket ticket : under_way_.front().tickets) {
    VT_RETURN_IF_ERROR(disk_.wait(ticket));
  }
  next_ = std::move(under_way_.front().memory);
  under_way_.pop_front();
  return {};
}

Status RawWriter::drain() {
  while (!under_way_.empty()) VT_RETURN_IF_ERROR(finish_oldest());
  return {};
}

std::unique_ptr<RawSink> make_file_sink(int fd, std::string name) {
  return std::make_unique<FileSink>(fd, std::move(name));
}

std::unique_ptr<RawSink> make_stream_sink(int fd, std::string name) {
  return std::make_unique<StreamSink>(fd, std::move(name));
}

Status read_raw(NbdDisk& disk, RawSink& sink, Sha256* hash, std::uint64_t& data_bytes,
                const ProgressSink& progress) {
  RawReader reader(disk, sink, hash, progress);
  VT_RETURN_IF_ERROR(reader.run());
  data_bytes = reader.data_bytes();
  return {};
}

}  // namespace voltree
