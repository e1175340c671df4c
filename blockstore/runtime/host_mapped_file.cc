// HostMappedFile: a file mapped shared into an address range that is reserved once and never moves.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <limits>

#include "blockstore/runtime/host_fs.h"

namespace voltree {
namespace {

constexpr std::uint64_t kChunkBytes = std::uint64_t{64} * 1024;
constexpr std::uint64_t kWordBits = 64;

std::uint64_t page_bytes() {
  static const auto bytes = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  return bytes;
}

std::uint64_t page_down(std::uint64_t bytes) { return bytes / page_bytes() * page_bytes(); }
std::uint64_t page_up(std::uint64_t bytes) { return page_down(bytes + page_bytes() - 1); }

}  // namespace

Result<std::unique_ptr<MappedFile>> HostMappedFile::make(UniqueFd fd, std::string path,
                                                         std::uint64_t size_bytes,
                                                         std::uint64_t reserve_bytes,
                                                         bool writable) {
  struct stat st {};
  if (::fstat(fd.get(), &st) != 0) return Status::from_errno(errno, path);
  const std::uint64_t size = std::max(size_bytes, static_cast<std::uint64_t>(st.st_size));

  std::unique_ptr<HostMappedFile> file(
      new HostMappedFile(std::move(fd), std::move(path), writable));
  VT_RETURN_IF_ERROR(file->reserve_address_space(std::max(reserve_bytes, size)));
  {
    const std::lock_guard guard(file->grow_mutex_);
    VT_RETURN_IF_ERROR(file->extend(size));
  }
  return std::unique_ptr<MappedFile>(std::move(file));
}

HostMappedFile::~HostMappedFile() {
  guard_.reset();
  if (base_ != nullptr) ::munmap(base_, reserve_bytes_);
  if (chunk_words_ != nullptr) ::munmap(chunk_words_, chunk_words_bytes_);
}

Status HostMappedFile::reserve_address_space(std::uint64_t reserve_bytes) {
  constexpr std::uint64_t kReserveMaxBytes = std::uint64_t{1} << 46;
  if (reserve_bytes > kReserveMaxBytes) {
    return error(Code::kTooLarge, "{}: {} bytes cannot be mapped", path_, reserve_bytes);
  }
  const std::uint64_t reserve = page_up(std::max<std::uint64_t>(reserve_bytes, 1));
  void* const range =
      ::mmap(nullptr, reserve, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (range == MAP_FAILED) {
    return Status::from_errno(errno, fmt::format("{}: cannot map {} bytes", path_, reserve));
  }
  base_ = static_cast<std::byte*>(range);
  reserve_bytes_ = reserve;
  guard_.emplace(base_, reserve_bytes_);

  const std::uint64_t words = reserve / kChunkBytes / kWordBits + 1;
  const std::uint64_t words_bytes = page_up(words * sizeof(std::uint64_t));
  void* const bits = ::mmap(nullptr, words_bytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (bits == MAP_FAILED) return Status::from_errno(errno, path_);
  chunk_words_ = static_cast<std::uint64_t*>(bits);
  chunk_words_bytes_ = words_bytes;
  return {};
}

Status HostMappedFile::extend(std::uint64_t size_bytes) {
  if (size_bytes > reserve_bytes_) {
    return error(Code::kTooLarge, "{}: cannot grow to {} bytes; {} were reserved", path_,
                 size_bytes, reserve_bytes_);
  }
  struct stat st {};
  if (::fstat(fd_.get(), &st) != 0) return Status::from_errno(errno, path_);
  if (writable_ && static_cast<std::uint64_t>(st.st_size) < size_bytes &&
      ::ftruncate(fd_.get(), static_cast<off_t>(size_bytes)) != 0) {
    return Status::from_errno(errno, fmt::format("{}: cannot grow to {}", path_, size_bytes));
  }
  const std::uint64_t mapped = page_up(size_bytes);
  if (mapped > mapped_bytes_) {
    // Over the reservation: what was mapped before stays as it is.
    const int protection = writable_ ? PROT_READ | PROT_WRITE : PROT_READ;
    void* const range =
        ::mmap(base_ + mapped_bytes_, mapped - mapped_bytes_, protection, MAP_SHARED | MAP_FIXED,
               fd_.get(), static_cast<off_t>(mapped_bytes_));
    if (range == MAP_FAILED) return Status::from_errno(errno, fmt::format("{}: mmap", path_));
    mapped_bytes_ = mapped;
  }
  const std::lock_guard guard(chunk_mutex_);
  // Of the chunk that the old end cut, only the part before that end is reserved.
  mark_chunk(this->size_bytes() / kChunkBytes, false);
  size_.store(size_bytes, std::memory_order_release);
  return {};
}

Status HostMappedFile::grow(std::uint64_t size_bytes) {
  const std::lock_guard guard(grow_mutex_);
  if (size_bytes <= this->size_bytes()) return {};
  return extend(size_bytes);
}

Status HostMappedFile::check_range(std::uint64_t offset_bytes, std::uint64_t length_bytes) const {
  const std::uint64_t size = size_bytes();
  if (offset_bytes <= size && length_bytes <= size - offset_bytes) return {};
  return error(Code::kInvalid, "{}: {} + {} is beyond the mapped {} bytes", path_, offset_bytes,
               length_bytes, size);
}

Status HostMappedFile::failure() const {
  if (!guard_->failed()) return {};
  return error(Code::kIoError, "{}: the host has lost a page of it", path_);
}

bool HostMappedFile::chunk_reserved(std::uint64_t chunk) const {
  const std::atomic_ref<std::uint64_t> word(chunk_words_[chunk / kWordBits]);
  return (word.load(std::memory_order_acquire) >> (chunk % kWordBits) & 1) != 0;
}

void HostMappedFile::mark_chunk(std::uint64_t chunk, bool reserved) {
  const std::atomic_ref<std::uint64_t> word(chunk_words_[chunk / kWordBits]);
  const std::uint64_t bit = std::uint64_t{1} << (chunk % kWordBits);
  if (reserved) {
    word.fetch_or(bit, std::memory_order_acq_rel);
  } else {
    word.fetch_and(~bit, std::memory_order_acq_rel);
  }
}

bool HostMappedFile::resident(std::uint64_t offset_bytes, std::uint64_t length_bytes,
                              bool for_write) {
  if (!failure().ok() || !check_range(offset_bytes, length_bytes).ok()) return false;
  if (length_bytes == 0) return true;
  const std::uint64_t end = offset_bytes + length_bytes;
  if (for_write) {
    for (std::uint64_t chunk = offset_bytes / kChunkBytes; chunk * kChunkBytes < end; ++chunk) {
      if (!chunk_reserved(chunk)) return false;
    }
  }
  constexpr std::uint64_t kPagesAtOnce = 256;
  std::array<unsigned char, kPagesAtOnce> in_core;
  for (std::uint64_t at = page_down(offset_bytes); at < end;) {
    const std::uint64_t bytes = std::min(page_up(end) - at, kPagesAtOnce * page_bytes());
    if (::mincore(base_ + at, bytes, in_core.data()) != 0) return false;
    const auto last = in_core.begin() + static_cast<std::ptrdiff_t>(bytes / page_bytes());
    if (!std::all_of(in_core.begin(), last, [](unsigned char page) { return (page & 1) != 0; })) {
      return false;
    }
    at += bytes;
  }
  return true;
}

Status HostMappedFile::reserve_chunks(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
  const std::uint64_t first = offset_bytes / kChunkBytes;
  const std::uint64_t end = (offset_bytes + length_bytes + kChunkBytes - 1) / kChunkBytes;
  // Held across fallocate, so that a punch cannot free space between it and the mark.
  const std::lock_guard guard(chunk_mutex_);
  for (std::uint64_t chunk = first; chunk < end;) {
    if (chunk_reserved(chunk)) {
      ++chunk;
      continue;
    }
    std::uint64_t run_end = chunk + 1;
    while (run_end < end && !chunk_reserved(run_end)) ++run_end;
    const std::uint64_t from = chunk * kChunkBytes;
    const std::uint64_t file_end = page_up(size_bytes());
    const std::uint64_t to = std::min(run_end * kChunkBytes, file_end);
    int result = 0;
    do {
      result = ::fallocate(fd_.get(), FALLOC_FL_KEEP_SIZE, static_cast<off_t>(from),
                           static_cast<off_t>(to - from));
    } while (result != 0 && errno == EINTR);
    // A file system that cannot reserve leaves the risk of SIGBUS where it was.
    if (result != 0 && errno != EOPNOTSUPP) {
      return Status::from_errno(errno, fmt::format("{}: cannot reserve space", path_));
    }
    for (; chunk < run_end; ++chunk) mark_chunk(chunk, true);
  }
  return {};
}

Status HostMappedFile::populate_sync(std::uint64_t offset_bytes, std::uint64_t length_bytes,
                                     bool for_write) {
  VT_RETURN_IF_ERROR(failure());
  VT_RETURN_IF_ERROR(check_range(offset_bytes, length_bytes));
  if (length_bytes == 0) return {};
  if (for_write) VT_RETURN_IF_ERROR(reserve_chunks(offset_bytes, length_bytes));

  const std::uint64_t from = page_down(offset_bytes);
  const std::uint64_t to = page_up(offset_bytes + length_bytes);
  const int advice = for_write ? MADV_POPULATE_WRITE : MADV_POPULATE_READ;
  while (::madvise(base_ + from, to - from, advice) != 0) {
    if (errno == EINTR || errno == EAGAIN) continue;
    if (errno == EINVAL) return touch_pages(from, to, for_write);  // before Linux 5.14
    // EFAULT and EHWPOISON stand for the SIGBUS that touching the page would have been.
    return error(Code::kIoError, "{}: cannot bring {} + {} into memory: {}", path_, offset_bytes,
                 length_bytes, std::generic_category().message(errno));
  }
  return {};
}

Status HostMappedFile::touch_pages(std::uint64_t first_bytes, std::uint64_t end_bytes,
                                   bool for_write) {
  for (std::uint64_t at = first_bytes; at < end_bytes; at += page_bytes()) {
    auto* const byte = reinterpret_cast<std::uint8_t*>(base_ + at);
    const std::atomic_ref<std::uint8_t> first(*byte);
    // Or-ing nothing in makes the page writable without changing what others store there.
    if (for_write) {
      first.fetch_or(0, std::memory_order_relaxed);
    } else {
      (void)first.load(std::memory_order_relaxed);
    }
  }
  return failure();
}

Status HostMappedFile::sync_sync(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
  VT_RETURN_IF_ERROR(check_range(offset_bytes, length_bytes));
  if (length_bytes == 0) return {};
  const std::uint64_t from = page_down(offset_bytes);
  const std::uint64_t to = page_up(offset_bytes + length_bytes);
  if (::msync(base_ + from, to - from, MS_SYNC) == 0) {
    VT_RETURN_IF_ERROR(failure());  // what it has lost is not synced
    return check_sync_holds(fd_.get(), path_);
  }
  return Status::from_errno(errno, fmt::format("{}: cannot sync", path_));
}

Status HostMappedFile::zero_edge(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
  if (length_bytes == 0) return {};
  // A page that is a hole is zero already, and storing to it could fail for want of space.
  const std::uint64_t page = page_down(offset_bytes);
  VT_ASSIGN_OR_RETURN(const std::uint64_t data, seek_data(page));
  if (data < page + page_bytes() && data < size_bytes()) {
    std::memset(base_ + offset_bytes, 0, length_bytes);
  }
  return failure();
}

Status HostMappedFile::punch_sync(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
  VT_RETURN_IF_ERROR(failure());
  VT_RETURN_IF_ERROR(check_range(offset_bytes, length_bytes));
  const std::uint64_t end = offset_bytes + length_bytes;
  const std::uint64_t first_page = page_up(offset_bytes);
  // The file's last page is whole for this purpose.
  const std::uint64_t last_page = end == size_bytes() ? page_up(end) : page_down(end);
  if (first_page >= last_page) {
    if (page_down(offset_bytes) == page_down(end)) return zero_edge(offset_bytes, length_bytes);
    VT_RETURN_IF_ERROR(zero_edge(offset_bytes, first_page - offset_bytes));
    return zero_edge(first_page, end - first_page);
  }
  VT_RETURN_IF_ERROR(zero_edge(offset_bytes, first_page - offset_bytes));
  if (last_page < end) VT_RETURN_IF_ERROR(zero_edge(last_page, end - last_page));

  const std::lock_guard guard(chunk_mutex_);
  // Forgotten first: from here on nobody may take the space for granted.
  for (std::uint64_t chunk = first_page / kChunkBytes; chunk * kChunkBytes < last_page; ++chunk) {
    mark_chunk(chunk, false);
  }
  int result = 0;
  do {
    result =
        ::fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                    static_cast<off_t>(first_page), static_cast<off_t>(last_page - first_page));
  } while (result != 0 && errno == EINTR);
  if (result == 0) return {};
  return Status::from_errno(errno, fmt::format("{}: cannot punch a hole", path_));
}

Result<std::uint64_t> HostMappedFile::seek_data(std::uint64_t offset_bytes) {
  return host_seek(fd_.get(), path_, offset_bytes, SEEK_DATA);
}

Result<std::uint64_t> HostMappedFile::seek_hole(std::uint64_t offset_bytes) {
  return host_seek(fd_.get(), path_, offset_bytes, SEEK_HOLE);
}

}  // namespace voltree
