#include "driver/images/image_file.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>

#include "driver/images/stop_signals.h"

namespace voltree {
namespace {

constexpr int kPollMs = 200;

Status sync_folder_of(const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path().string();
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return Status::from_errno(errno, folder);
  const Status status = ::fsync(fd) == 0 ? Status() : Status::from_errno(errno, folder);
  ::close(fd);
  return status;
}

}  // namespace

Result<std::unique_ptr<SourceFile>> SourceFile::open(const std::string& path) {
  const bool standard = path == "-";
  const int fd = standard ? ::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3)
                          : ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY);
  if (fd < 0) return Status::from_errno(errno, path);
  std::unique_ptr<SourceFile> file(new SourceFile(fd, standard ? "standard input" : path));
  if (::fstat(fd, &file->opened_) != 0) return Status::from_errno(errno, path);
  if (S_ISDIR(file->opened_.st_mode)) return error(Code::kInvalid, "{} is a directory", path);
  if (standard && ::isatty(fd) != 0) {
    return error(Code::kInvalid, "standard input is a terminal: give a file, or a pipe");
  }
  // Standard input is read from where it stands.
  file->seekable_ = !standard && (S_ISREG(file->opened_.st_mode) || S_ISBLK(file->opened_.st_mode));
  if (!file->seekable_) return file;
  const off_t end = ::lseek(fd, 0, SEEK_END);
  if (end < 0) return Status::from_errno(errno, path);
  file->size_bytes_ = static_cast<std::uint64_t>(end);
  return file;
}

SourceFile::~SourceFile() { ::close(fd_); }

Status SourceFile::read(std::uint64_t offset_bytes, std::span<std::byte> out) const {
  while (!out.empty()) {
    const ssize_t got = ::pread(fd_, out.data(), out.size(), static_cast<off_t>(offset_bytes));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return Status::from_errno(errno, path_);
    if (got == 0) return error(Code::kInvalid, "{} became shorter while it was read", path_);
    out = out.subspan(static_cast<std::size_t>(got));
    offset_bytes += static_cast<std::uint64_t>(got);
  }
  return {};
}

Result<FormatGuess> SourceFile::guess() const {
  std::array<std::byte, kGuessBytes> start{};
  const auto part = std::span(start).first(std::min<std::uint64_t>(size_bytes_, start.size()));
  VT_RETURN_IF_ERROR(read(0, part));
  return guess_format(part);
}

Result<AllocationRun> SourceFile::next_run(std::uint64_t offset_bytes) const {
  const std::uint64_t left_bytes = size_bytes_ - offset_bytes;
  const off_t data = ::lseek(fd_, static_cast<off_t>(offset_bytes), SEEK_DATA);
  if (data < 0 && errno == ENXIO) return AllocationRun{offset_bytes, left_bytes, false};
  // A block device, or a file system that does not know.
  if (data < 0) return AllocationRun{offset_bytes, left_bytes, true};
  if (static_cast<std::uint64_t>(data) > offset_bytes) {
    const std::uint64_t hole_bytes = static_cast<std::uint64_t>(data) - offset_bytes;
    return AllocationRun{offset_bytes, std::min(hole_bytes, left_bytes), false};
  }
  const off_t hole = ::lseek(fd_, static_cast<off_t>(offset_bytes), SEEK_HOLE);
  if (hole <= data) return AllocationRun{offset_bytes, left_bytes, true};
  const std::uint64_t data_bytes = static_cast<std::uint64_t>(hole) - offset_bytes;
  return AllocationRun{offset_bytes, std::min(data_bytes, left_bytes), true};
}

Status SourceFile::check_unchanged() const {
  struct stat now {};
  if (::fstat(fd_, &now) != 0) return Status::from_errno(errno, path_);
  if (S_ISREG(now.st_mode) &&
      (now.st_size != opened_.st_size || now.st_mtim.tv_sec != opened_.st_mtim.tv_sec ||
       now.st_mtim.tv_nsec != opened_.st_mtim.tv_nsec)) {
    return error(Code::kInvalid, "{} was changed while it was read", path_);
  }
  return {};
}

Result<std::size_t> SourceFile::read_next(std::span<std::byte> out) {
  std::size_t filled = 0;
  while (filled < out.size()) {
    VT_RETURN_IF_ERROR(check_stop());
    pollfd ready{fd_, POLLIN, 0};
    if (::poll(&ready, 1, kPollMs) <= 0) continue;
    const ssize_t got = ::read(fd_, out.data() + filled, out.size() - filled);
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (got < 0) return Status::from_errno(errno, path_);
    if (got == 0) break;
    filled += static_cast<std::size_t>(got);
  }
  return filled;
}

Result<std::unique_ptr<TargetFile>> TargetFile::create(const std::string& path, bool force) {
  std::error_code failure;
  std::filesystem::path final_path = std::filesystem::absolute(path, failure);
  struct stat there {};
  if (::stat(path.c_str(), &there) == 0) {
    if (!S_ISREG(there.st_mode)) {
      return error(Code::kInvalid, "{} is no regular file: export to - and redirect it", path);
    }
    if (!force) return error(Code::kExists, "{} is there already: --force replaces it", path);
    final_path = std::filesystem::canonical(path, failure);  // through symbolic links
  } else if (errno != ENOENT) {
    return Status::from_errno(errno, path);
  }
  if (final_path.filename().empty()) return error(Code::kInvalid, "{} names no file", path);
  std::string temporary = (final_path.parent_path() / ".voltree-export-XXXXXX").string();
  const int fd = ::mkostemp(temporary.data(), O_CLOEXEC);
  if (fd < 0) return Status::from_errno(errno, final_path.parent_path().string());
  return std::unique_ptr<TargetFile>(
      new TargetFile(fd, std::move(temporary), final_path.string(), force));
}

TargetFile::~TargetFile() {
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
  ::close(fd_);
}

Status TargetFile::commit() {
  if (::fsync(fd_) != 0) return Status::from_errno(errno, path_);
  const unsigned flags = force_ ? 0 : RENAME_NOREPLACE;  // what came meanwhile is not ours to lose
  if (::renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, path_.c_str(), flags) != 0) {
    if (errno == EEXIST) return error(Code::kExists, "{} is there by now", path_);
    return Status::from_errno(errno, path_);
  }
  temporary_.clear();
  return sync_folder_of(path_);
}

}  // namespace voltree
