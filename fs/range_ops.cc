// Requests about ranges of open files: fallocate, SEEK_DATA and SEEK_HOLE, copy_file_range.
#define FUSE_USE_VERSION 314
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>

#include "fs/frontend.h"

#ifndef FALLOC_FL_KEEP_SIZE
#include <linux/falloc.h>
#endif

namespace voltree {

namespace {

constexpr std::size_t kRunsAtOnce = 256;
// One request moves at most this much, so that it ends in a time that a caller can wait (and be
// interrupted).
constexpr std::uint64_t kCopyAtOnceBytes = std::uint64_t{64} << 20;

// --- fallocate

Task<Status> zero_range(Frontend& fs, std::shared_ptr<Handle> handle, int mode,
                        std::uint64_t offset, std::uint64_t length) {
  OpenNode& node = *handle->node;
  if (!handle->writable) co_return error(Code::kReadOnly, "opened for reading");
  const bool punch = mode == (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
  const bool zero = (mode & ~FALLOC_FL_KEEP_SIZE) == FALLOC_FL_ZERO_RANGE;
  // Space is never promised ahead: where a block goes is known when it is written.
  if (!punch && !zero) co_return error(Code::kNotSupported, "only punching and zeroing");
  std::uint64_t size = node.size_bytes();
  if (length > std::numeric_limits<std::uint64_t>::max() - offset) length = 0;
  const std::uint64_t end = offset + length;
  if (end > size && (mode & FALLOC_FL_KEEP_SIZE) == 0) {
    if (!handle->creator || node.growth() == nullptr) {
      co_return error(Code::kNoSpace, "beyond the end of the volume");
    }
    VT_CO_RETURN_IF_ERROR(co_await fs.grower.truncate(handle->node, end));
    size = node.size_bytes();
  }
  node.note_change();
  if (offset >= size) co_return Status();
  co_return co_await node.device()->write_zeroes(offset, std::min(end, size) - offset, {});
}

Task<void> fallocate(Frontend& fs, fuse_req_t request, std::shared_ptr<Handle> handle, int mode,
                     std::uint64_t offset, std::uint64_t length) {
  const Status status = co_await zero_range(fs, std::move(handle), mode, offset, length);
  fuse_reply_err(request, status.to_errno());
}

// --- lseek

// The first byte at or after `offset` that is data (or not); the size when there is none.
std::uint64_t find_run(const BlockDevice& device, std::uint64_t offset, std::uint64_t size,
                       bool data) {
  while (offset < size) {
    const auto runs = device.allocation(offset, size - offset, kRunsAtOnce);
    if (runs.empty()) break;
    for (const AllocationRun& run : runs) {
      if (run.data == data) return std::max(run.offset_bytes, offset);
    }
    offset = runs.back().offset_bytes + runs.back().length_bytes;
  }
  return size;
}

void lseek(fuse_req_t request, const OpenNode& node, std::uint64_t offset, int whence) {
  const std::uint64_t size = std::min(node.size_bytes(), node.device()->size_bytes());
  if (whence != SEEK_DATA && whence != SEEK_HOLE) {
    fuse_reply_err(request, EINVAL);
    return;
  }
  const std::uint64_t found =
      offset >= size ? size : find_run(*node.device(), offset, size, whence == SEEK_DATA);
  if (offset >= size || (whence == SEEK_DATA && found >= size)) {
    fuse_reply_err(request, ENXIO);
  } else {
    fuse_reply_lseek(request, static_cast<off_t>(found));
  }
}

// --- copy_file_range

struct Copy {
  std::shared_ptr<Handle> in, out;
  std::uint64_t from = 0, to = 0, length = 0;
};

Task<Status> copy_run(Frontend& fs, const Copy& copy, AllocationRun run,
                      std::span<std::byte> buffer) {
  const std::shared_ptr<BlockDevice> target = copy.out->node->device();
  const std::uint64_t shift = run.offset_bytes - copy.from;
  (void)fs;
  if (!run.data) {
    co_return co_await Grower::zero_data(target, copy.to + shift,
                                         copy.to + shift + run.length_bytes);
  }
  const std::shared_ptr<BlockDevice> source = copy.in->node->device();
  for (std::uint64_t done = 0; done < run.length_bytes;) {
    const auto part = buffer.first(
        static_cast<std::size_t>(std::min<std::uint64_t>(buffer.size(), run.length_bytes - done)));
    VT_CO_RETURN_IF_ERROR(co_await source->read(run.offset_bytes + done, part));
    VT_CO_RETURN_IF_ERROR(co_await target->write(copy.to + shift + done, part, {}));
    done += part.size();
  }
  co_return Status();
}

// Moves bytes; holes stay holes.
Task<Result<std::uint64_t>> copy_bytes(Frontend& fs, Copy copy) {
  OpenNode& out = *copy.out->node;
  copy.length = std::min(copy.length, kCopyAtOnceBytes);
  if (copy.out->creator && out.growth() != nullptr && copy.to + copy.length > out.size_bytes()) {
    VT_CO_RETURN_IF_ERROR(co_await fs.grower.truncate(copy.out->node, copy.to + copy.length));
  }
  const std::uint64_t size = out.size_bytes();
  if (copy.to >= size) co_return error(Code::kNoSpace, "beyond the end of the volume");
  copy.length = std::min(copy.length, size - copy.to);
  const BufferPool::Buffer buffer = co_await fs.buffers.take();
  const std::uint64_t end = copy.from + copy.length;
  for (std::uint64_t at = copy.from; at < end;) {
    const auto runs = copy.in->node->device()->allocation(at, end - at, kRunsAtOnce);
    if (runs.empty()) break;
    for (AllocationRun run : runs) {
      const std::uint64_t run_end = std::min(run.offset_bytes + run.length_bytes, end);
      run.offset_bytes = std::max(run.offset_bytes, at);
      run.length_bytes = run_end - run.offset_bytes;
      VT_CO_RETURN_IF_ERROR(co_await copy_run(fs, copy, run, buffer.data()));
      at = run_end;
    }
  }
  co_return copy.length;
}

Task<Result<std::uint64_t>> copy_range(Frontend& fs, Copy copy) {
  if (!copy.out->writable) co_return error(Code::kReadOnly, "opened for reading");
  const std::uint64_t size = copy.in->node->size_bytes();
  if (copy.from >= size || copy.length == 0) co_return std::uint64_t{0};
  copy.length = std::min(copy.length, size - copy.from);
  copy.out->node->note_change();
  if (copy.out->creator && copy.from == copy.to) {
    VT_CO_ASSIGN_OR_RETURN(
        const std::optional<std::uint64_t> by_reference,
        co_await fs.grower.copy(copy.in->node, copy.out->node, copy.from, copy.length));
    if (by_reference) co_return *by_reference;
  }
  co_return co_await copy_bytes(fs, std::move(copy));
}

Task<void> copy_file_range(Frontend& fs, fuse_req_t request, Copy copy) {
  const Result<std::uint64_t> copied = co_await copy_range(fs, std::move(copy));
  if (copied.ok()) {
    fuse_reply_write(request, *copied);
  } else {
    fuse_reply_err(request, copied.status().to_errno());
  }
}

void on_fallocate(fuse_req_t request, fuse_ino_t, int mode, off_t offset, off_t length,
                  fuse_file_info* info) {
  Frontend& fs = frontend_of(request);
  fs.start(fallocate(fs, request, OpenFiles::handle(info->fh), mode,
                     static_cast<std::uint64_t>(offset), static_cast<std::uint64_t>(length)));
}

void on_lseek(fuse_req_t request, fuse_ino_t, off_t offset, int whence, fuse_file_info* info) {
  lseek(request, *OpenFiles::handle(info->fh)->node, static_cast<std::uint64_t>(offset), whence);
}

void on_copy_file_range(fuse_req_t request, fuse_ino_t, off_t from, fuse_file_info* in, fuse_ino_t,
                        off_t to, fuse_file_info* out, size_t length, int) {
  Frontend& fs = frontend_of(request);
  // The reply counts in 32 bits.
  constexpr std::uint64_t kMostBytes = std::numeric_limits<std::uint32_t>::max() - kBlockBytes + 1;
  Copy copy{OpenFiles::handle(in->fh), OpenFiles::handle(out->fh), static_cast<std::uint64_t>(from),
            static_cast<std::uint64_t>(to), std::min<std::uint64_t>(length, kMostBytes)};
  fs.start(copy_file_range(fs, request, std::move(copy)));
}

}  // namespace

void set_range_ops(fuse_lowlevel_ops& ops) {
  ops.fallocate = on_fallocate;
  ops.lseek = on_lseek;
  ops.copy_file_range = on_copy_file_range;
}

}  // namespace voltree
