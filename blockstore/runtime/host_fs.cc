#include "blockstore/runtime/host_fs.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <limits>
#include <mutex>
#include <optional>
#include <system_error>

#include "blockstore/runtime/host_storage.h"

namespace voltree {
namespace {

// Runs a system call again for as long as a signal interrupts it.
template <typename Call>
auto retry_eintr(Call call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

off_t as_off(std::uint64_t bytes) { return static_cast<off_t>(bytes); }

struct FsKind {
  std::uint32_t magic;
  std::string_view name;
  bool copy_on_write;
};

constexpr std::uint64_t kNoFileLimit = std::numeric_limits<std::int64_t>::max();
constexpr std::uint32_t kExtMagic = 0xEF53;

constexpr std::array<FsKind, 10> kFsKinds{{
    {kExtMagic, "ext4", false},
    {0x58465342, "xfs", false},
    {0x9123683E, "btrfs", true},
    {0x01021994, "tmpfs", false},
    {0xCA451A4E, "bcachefs", true},
    {0x2FC12FC1, "zfs", true},
    {0xF2F52010, "f2fs", false},
    {0x794C7630, "overlay", false},
    {0x00006969, "nfs", false},
    {0x65735546, "fuse", false},
}};

// A file that has no name, in `folder`, to try things with.
UniqueFd open_scratch(const std::string& folder) {
  const int fd =
      retry_eintr([&] { return ::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600); });
  if (fd >= 0) return UniqueFd(fd);
  std::string name = folder + "/.voltree-try-XXXXXX";
  UniqueFd named(::mkostemp(name.data(), O_CLOEXEC));
  if (named.valid()) ::unlink(name.c_str());
  return named;
}

// Whether holes work in `folder`, found out by making some.
bool try_sparse(const std::string& folder) {
  constexpr off_t kSize = off_t{64} << 20;
  constexpr off_t kPage = 4096;
  const UniqueFd scratch = open_scratch(folder);
  if (!scratch.valid() || ::ftruncate(scratch.get(), kSize) != 0) return false;
  const std::array<char, kPage> page{'x'};
  if (::pwrite(scratch.get(), page.data(), page.size(), kPage) != kPage) return false;
  if (::fallocate(scratch.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, kPage, kPage) != 0) {
    return false;
  }
  struct stat st {};
  return ::fstat(scratch.get(), &st) == 0 && st.st_blocks * 512 < kSize / 2;
}

// This thread's I/O priority, for a while.
class ThreadIoPriority {
 public:
  explicit ThreadIoPriority(IoPriority priority) : changed_(priority != 0) {
    if (!changed_) return;
    before_ = ::syscall(SYS_ioprio_get, kWhoProcess, 0);
    (void)::syscall(SYS_ioprio_set, kWhoProcess, 0, priority);
  }
  ~ThreadIoPriority() {
    if (changed_) (void)::syscall(SYS_ioprio_set, kWhoProcess, 0, before_);
  }
  ThreadIoPriority(const ThreadIoPriority&) = delete;
  ThreadIoPriority& operator=(const ThreadIoPriority&) = delete;

 private:
  static constexpr int kWhoProcess = 1;  // IOPRIO_WHO_PROCESS of linux/ioprio.h, which is not C++
  const bool changed_;
  long before_ = 0;
};

// statx(2).
Result<std::string> mount_id_of(const std::string& path) {
  constexpr unsigned kUniqueMountId = 0x4000;  // STATX_MNT_ID_UNIQUE, from Linux 6.8 on
  struct statx info {};
  if (::statx(AT_FDCWD, path.c_str(), 0, kUniqueMountId | STATX_MNT_ID, &info) != 0) {
    return Status::from_errno(errno, path);
  }
  const bool unique = (info.stx_mask & kUniqueMountId) != 0;
  return fmt::format("{}{}", unique ? "" : "reused-", info.stx_mnt_id);
}

FsSpace space_of(const struct statfs& fs) {
  const auto block_bytes = static_cast<std::uint64_t>(fs.f_bsize);
  return {static_cast<std::uint64_t>(fs.f_blocks) * block_bytes,
          static_cast<std::uint64_t>(fs.f_bavail) * block_bytes};
}

// As check_sync_holds: a folder cannot be read so. Of one that has stopped ext4 refuses to sync it,
// and XFS to open it. False: errno says why.
bool sync_of_folder_holds(int fd) {
  if (::fsync(fd) != 0) return false;
  return UniqueFd(::openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)).valid();
}

// 0, or an errno.
int sync_folder(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const bool synced = fd.valid() && ::fsync(fd.get()) == 0 && sync_of_folder_holds(fd.get());
  return synced ? 0 : errno;
}

std::string proc_path(int fd) { return fmt::format("/proc/self/fd/{}", fd); }

}  // namespace

Status check_file_range(std::uint64_t offset_bytes, std::uint64_t length_bytes,
                        const std::string& path) {
  constexpr std::uint64_t kMax = std::numeric_limits<off_t>::max();
  if (offset_bytes <= kMax && length_bytes <= kMax - offset_bytes) return {};
  return error(Code::kTooLarge, "{}: offset {} + {} is beyond what a file can hold", path,
               offset_bytes, length_bytes);
}

Status check_sync_holds(int fd, const std::string& path) {
  std::byte nothing{};
  if (retry_eintr([&] { return ::pread(fd, &nothing, 0, 0); }) == 0) return {};
  return Status::from_errno(errno,
                            fmt::format("{}: was synced to a file system that stopped", path));
}

void UniqueFd::reset() {
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
}

Result<std::uint64_t> host_seek(int fd, const std::string& path, std::uint64_t offset_bytes,
                                int whence) {
  struct stat st {};
  if (::fstat(fd, &st) != 0) return Status::from_errno(errno, path);
  const auto size = static_cast<std::uint64_t>(st.st_size);
  if (offset_bytes >= size) return size;
  const off_t found = ::lseek(fd, as_off(offset_bytes), whence);
  if (found >= 0) return static_cast<std::uint64_t>(found);
  if (errno == ENXIO) return size;
  return Status::from_errno(errno, path);
}

Status HostFile::failure(int error_number, std::string_view what) const {
  return Status::from_errno(error_number, fmt::format("{}: {}", path_, what));
}

void HostFile::submit(IoRequest& request) {
  assert(backend_ != nullptr && "this file was opened without a runtime");
  assert(request.home != nullptr && request.home == Executor::current());
  backend_->submit(*this, request);
}

Status HostFile::execute_sync(const IoRequest& request) {
  const ThreadIoPriority priority(request.io_priority);
  switch (request.kind) {
    case IoKind::kRead:
      return read_sync({request.data, request.length_bytes}, request.offset_bytes);
    case IoKind::kWrite:
      return write_sync({request.data, request.length_bytes}, request.offset_bytes);
    case IoKind::kSyncData:
      return sync_sync();
    case IoKind::kAllocate:
      return allocate_sync(request.offset_bytes, request.length_bytes);
    case IoKind::kPunchHole:
      return punch_sync(request.offset_bytes, request.length_bytes);
    case IoKind::kPopulate:
      break;
  }
  return error(Code::kNotSupported, "{}: not an operation on a file", path_);
}

Status HostFile::read_sync(std::span<std::byte> out, std::uint64_t offset_bytes) {
  VT_RETURN_IF_ERROR(check_file_range(offset_bytes, out.size(), path_));
  std::size_t done = 0;
  while (done < out.size()) {
    const ssize_t got = retry_eintr([&] {
      return ::pread(fd(), out.data() + done, out.size() - done, as_off(offset_bytes + done));
    });
    if (got < 0) return failure(errno, "cannot read");
    done += static_cast<std::size_t>(got);
    // A direct read that ends inside a sector has met the end of the file.
    if (got == 0 || (direct_ && got % 512 != 0)) break;
  }
  std::fill(out.begin() + static_cast<std::ptrdiff_t>(done), out.end(), std::byte{0});
  return {};
}

Status HostFile::write_sync(std::span<const std::byte> data, std::uint64_t offset_bytes) {
  VT_RETURN_IF_ERROR(check_file_range(offset_bytes, data.size(), path_));
  std::size_t done = 0;
  while (done < data.size()) {
    const ssize_t put = retry_eintr([&] {
      return ::pwrite(fd(), data.data() + done, data.size() - done, as_off(offset_bytes + done));
    });
    if (put < 0) return failure(errno, "cannot write");
    if (put == 0) return failure(EIO, "cannot write");
    done += static_cast<std::size_t>(put);
  }
  return {};
}

Status HostFile::sync_sync() {
  // Not repeated on EINTR or anything else: after a failed sync nobody knows what is durable (I10).
  if (::fdatasync(fd()) != 0) return failure(errno, "cannot sync");
  return check_sync_holds(fd(), path_);
}

Result<std::uint64_t> HostFile::size_bytes() {
  struct stat st {};
  if (::fstat(fd(), &st) != 0) return failure(errno, "cannot stat");
  return static_cast<std::uint64_t>(st.st_size);
}

Status HostFile::truncate(std::uint64_t size_bytes) {
  VT_RETURN_IF_ERROR(check_file_range(size_bytes, 0, path_));
  if (retry_eintr([&] { return ::ftruncate(fd(), as_off(size_bytes)); }) != 0) {
    return failure(errno, fmt::format("cannot truncate to {}", size_bytes));
  }
  return {};
}

Status HostFile::allocate_sync(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
  VT_RETURN_IF_ERROR(check_file_range(offset_bytes, length_bytes, path_));
  if (length_bytes == 0) return {};
  const int result = retry_eintr([&] {
    return ::fallocate(fd(), FALLOC_FL_KEEP_SIZE, as_off(offset_bytes), as_off(length_bytes));
  });
  return result == 0 ? Status() : failure(errno, "cannot reserve space");
}

Status HostFile::punch_sync(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
  VT_RETURN_IF_ERROR(check_file_range(offset_bytes, length_bytes, path_));
  if (length_bytes == 0) return {};
  const int result = retry_eintr([&] {
    return ::fallocate(fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, as_off(offset_bytes),
                       as_off(length_bytes));
  });
  return result == 0 ? Status() : failure(errno, "cannot punch a hole");
}

Status HostFile::clone_range_sync(File& source, std::uint64_t source_offset_bytes,
                                  std::uint64_t length_bytes, std::uint64_t offset_bytes) {
  const auto* const from = dynamic_cast<HostFile*>(&source);
  if (from == nullptr) return error(Code::kNotSupported, "{}: not of this host", path_);
  VT_RETURN_IF_ERROR(check_file_range(source_offset_bytes, length_bytes, from->path_));
  VT_RETURN_IF_ERROR(check_file_range(offset_bytes, length_bytes, path_));
  file_clone_range range{};
  range.src_fd = from->fd();
  range.src_offset = source_offset_bytes;
  range.src_length = length_bytes;
  range.dest_offset = offset_bytes;
  if (length_bytes == 0) return {};  // the kernel would take it for "to the end"
  if (retry_eintr([&] { return ::ioctl(fd(), FICLONERANGE, &range); }) == 0) return {};
  // Another file system, one that shares nothing, or another size of block.
  constexpr std::array<int, 6> kCannot{EOPNOTSUPP, ENOTTY, EXDEV, EINVAL, EPERM, ETXTBSY};
  const int error_number = errno;
  if (std::find(kCannot.begin(), kCannot.end(), error_number) == kCannot.end()) {
    return failure(error_number, "cannot share blocks");
  }
  return error(Code::kNotSupported, "{}: cannot share blocks with {}", path_, from->path_);
}

Result<std::uint64_t> HostFile::allocated_bytes() {
  struct stat st {};
  if (::fstat(fd(), &st) != 0) return failure(errno, "cannot stat");
  return static_cast<std::uint64_t>(st.st_blocks) * 512;
}

Result<std::uint64_t> HostFile::seek_data(std::uint64_t offset_bytes) {
  return host_seek(fd(), path_, offset_bytes, SEEK_DATA);
}

Result<std::uint64_t> HostFile::seek_hole(std::uint64_t offset_bytes) {
  return host_seek(fd(), path_, offset_bytes, SEEK_HOLE);
}

Status HostFile::drain_foreign_io() {
  // Direct writes that a killed process had handed to the kernel (an io_uring is torn down after
  // the process is gone) may still be on their way to the disk. ext4 and XFS let fallocate, and a
  // truncate, wait for all direct I/O of the inode, and btrfs for its ordered extents. So ask for
  // something that is so already: space that is allocated, or, in a file without data, the size
  // that it has.
  VT_ASSIGN_OR_RETURN(const std::uint64_t size, size_bytes());
  if (size == 0) return {};
  VT_ASSIGN_OR_RETURN(const std::uint64_t data, seek_data(0));
  if (data < size) {
    const int result =
        retry_eintr([&] { return ::fallocate(fd(), FALLOC_FL_KEEP_SIZE, as_off(data), 1); });
    if (result == 0) return {};
    if (errno != EOPNOTSUPP) return failure(errno, "cannot wait for earlier writes");
  }
  return truncate(size);
}

Result<std::uint64_t> HostFile::links() {
  struct stat st {};
  if (::fstat(fd(), &st) != 0) return failure(errno, "cannot stat");
  return std::uint64_t{st.st_nlink};
}

Result<std::string> HostFile::path_now() {
  std::string path(PATH_MAX, '\0');
  const ssize_t length = ::readlink(proc_path(fd()).c_str(), path.data(), path.size());
  if (length < 0) return failure(errno, "cannot find its path");
  path.resize(static_cast<std::size_t>(length));
  if (!path.starts_with('/')) return error(Code::kNotSupported, "{}: it has no path here", path_);
  return path;
}

// fcntl(2). The signal that tells of somebody who waits is one that nobody minds: the default one
// would end the process.
Status HostFile::take_lease() {
  if (::fcntl(fd(), F_SETSIG, SIGURG) == 0 && ::fcntl(fd(), F_SETLEASE, F_WRLCK) == 0) return {};
  if (errno == EAGAIN) return error(Code::kBusy, "{}: somebody has it open", path_);
  if (errno == EINVAL) return error(Code::kNotSupported, "{}: its host gives no leases", path_);
  return failure(errno, "cannot get a lease");
}

Status HostFile::check_lease() {
  if (::fcntl(fd(), F_GETLEASE) == F_WRLCK) return {};
  return error(Code::kBusy, "{}: somebody opens it", path_);
}

// By its descriptor: what a path leads to may change.
Status HostFile::link(const std::string& path) {
  if (::linkat(AT_FDCWD, proc_path(fd()).c_str(), AT_FDCWD, path.c_str(), AT_SYMLINK_FOLLOW) == 0) {
    return {};
  }
  const int error_number = errno;
  // Another file system or mount; one without links, or at the end of them; a rule against them.
  constexpr std::array<int, 5> kCannot{EXDEV, EOPNOTSUPP, EMLINK, EPERM, EACCES};
  if (std::find(kCannot.begin(), kCannot.end(), error_number) == kCannot.end()) {
    return failure(error_number, fmt::format("cannot be linked to {}", path));
  }
  return error(Code::kNotSupported, "{}: cannot be linked to {}: {}", path_, path,
               std::generic_category().message(error_number));
}

Status HostFile::unlink_name(const std::string& path) {
  const UniqueFd folder(::open(parent_folder(path).c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!folder.valid()) return Status::from_errno(errno, parent_folder(path));
  const std::string name = path.substr(path.rfind('/') + 1);
  struct stat mine {};
  struct stat there {};
  if (::fstat(fd(), &mine) != 0) return failure(errno, "cannot stat");
  if (::fstatat(folder.get(), name.c_str(), &there, AT_SYMLINK_NOFOLLOW) != 0) {
    return Status::from_errno(errno, path);
  }
  if (mine.st_dev != there.st_dev || mine.st_ino != there.st_ino) {
    return error(Code::kNotFound, "{} is another file by now", path);
  }
  return ::unlinkat(folder.get(), name.c_str(), 0) == 0 ? Status()
                                                        : Status::from_errno(errno, path);
}

Status HostFile::make_ours() {
  struct stat st {};
  if (::fstat(fd(), &st) != 0) return failure(errno, "cannot stat");
  const bool ours = st.st_uid == ::geteuid() && st.st_gid == ::getegid();
  if (!ours && ::fchown(fd(), ::geteuid(), ::getegid()) != 0) {
    return failure(errno, "cannot be given to the store's owner");
  }
  return ::fchmod(fd(), 0600) == 0 ? Status() : failure(errno, "cannot get its mode");
}

Result<std::unique_ptr<File>> HostFileSystem::open(const std::string& path, OpenMode mode) {
  int flags = O_CLOEXEC | (mode.writable ? O_RDWR : O_RDONLY);
  if (mode.create) flags |= O_CREAT;
  if (mode.create && mode.exclusive) flags |= O_EXCL;
  UniqueFd fd(retry_eintr([&] { return ::open(path.c_str(), flags, 0600); }));
  if (!fd.valid()) return Status::from_errno(errno, path);

  // O_DIRECT is added afterwards: an open that is refused because of it has made the file already.
  bool direct = false;
  if (mode.direct) {
    const int now = ::fcntl(fd.get(), F_GETFL);
    direct = now >= 0 && ::fcntl(fd.get(), F_SETFL, now | O_DIRECT) == 0;
  }
  return std::unique_ptr<File>(std::make_unique<HostFile>(std::move(fd), path, direct, backend_));
}

Result<std::unique_ptr<MappedFile>> HostFileSystem::map(const std::string& path,
                                                        std::uint64_t size_bytes,
                                                        std::uint64_t reserve_bytes) {
  UniqueFd fd(
      retry_eintr([&] { return ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600); }));
  if (!fd.valid()) return Status::from_errno(errno, path);
  return HostMappedFile::make(std::move(fd), path, size_bytes, reserve_bytes, /*writable=*/true);
}

Result<std::unique_ptr<MappedFile>> HostFileSystem::map_read_only(const std::string& path) {
  UniqueFd fd(retry_eintr([&] { return ::open(path.c_str(), O_RDONLY | O_CLOEXEC); }));
  if (!fd.valid()) return Status::from_errno(errno, path);
  return HostMappedFile::make(std::move(fd), path, 0, 0, /*writable=*/false);
}

Result<bool> HostFileSystem::exists(const std::string& path) {
  struct stat st {};
  if (::lstat(path.c_str(), &st) == 0) return true;
  if (errno == ENOENT || errno == ENOTDIR) return false;
  return Status::from_errno(errno, path);
}

Status HostFileSystem::unlink(const std::string& path) {
  return ::unlink(path.c_str()) == 0 ? Status() : Status::from_errno(errno, path);
}

Status HostFileSystem::rename(const std::string& from, const std::string& to) {
  if (::rename(from.c_str(), to.c_str()) == 0) return {};
  return Status::from_errno(errno, fmt::format("{} to {}", from, to));
}

Status HostFileSystem::make_dir(const std::string& path) {
  if (::mkdir(path.c_str(), 0700) == 0) return {};
  const int error_number = errno;
  struct stat st {};
  if (error_number == EEXIST && ::stat(path.c_str(), &st) == 0 && S_ISDIR(st.st_mode)) return {};
  return Status::from_errno(error_number, path);
}

Result<std::vector<std::string>> HostFileSystem::list_dir(const std::string& path) {
  DIR* folder = ::opendir(path.c_str());
  if (folder == nullptr) return Status::from_errno(errno, path);
  std::vector<std::string> names;
  errno = 0;
  while (const dirent* entry = ::readdir(folder)) {
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
    errno = 0;
  }
  const int error_number = errno;
  ::closedir(folder);
  if (error_number != 0) return Status::from_errno(error_number, path);
  std::sort(names.begin(), names.end());
  return names;
}

HostFileSystem::HostFileSystem(HostIoBackend* backend)
    : backend_(backend), folders_("vt-folders", 1, 1) {
  // All of them: a daemon that lets go of its terminal, or of who waits for it at a pipe, must not
  // hold it here.
  folders_.post([] { (void)::close_range(0, ~0U, CLOSE_RANGE_UNSHARE); });
}

// For want of a descriptor a sync would count as failed, and the store would go read-only.
Status HostFileSystem::sync_dir(const std::string& path) {
  int failed = sync_folder(path);
  if (failed == EMFILE || failed == ENFILE) {
    std::mutex mutex;
    std::condition_variable ended;
    std::optional<int> result;
    folders_.post([&] {
      const int synced = sync_folder(path);
      const std::lock_guard lock(mutex);
      result = synced;
      ended.notify_one();  // locked: all of this goes when the waiter does
    });
    std::unique_lock lock(mutex);
    ended.wait(lock, [&result] { return result.has_value(); });
    failed = *result;
  }
  return failed == 0 ? Status() : Status::from_errno(failed, path);
}

Result<FileIdentity> HostFileSystem::identity(const std::string& path) {
  struct statx st {};
  constexpr unsigned kWanted = STATX_INO | STATX_BTIME;
  if (retry_eintr([&] { return ::statx(AT_FDCWD, path.c_str(), 0, kWanted, &st); }) != 0) {
    return Status::from_errno(errno, path);
  }
  FileIdentity identity;
  identity.device = (std::uint64_t{st.stx_dev_major} << 32) | st.stx_dev_minor;
  identity.inode = st.stx_ino;
  if ((st.stx_mask & STATX_BTIME) != 0) {
    identity.born_ns = st.stx_btime.tv_sec * 1'000'000'000 + st.stx_btime.tv_nsec;
  }
  return identity;
}

Result<std::string> HostFileSystem::storage(const std::string& path) { return host_storage(path); }

Result<std::string> HostFileSystem::storage_of(std::uint64_t device) {
  return host_storage_of(device);
}

Result<FsInfo> HostFileSystem::info(const std::string& path) {
  struct statfs fs {};
  if (retry_eintr([&] { return ::statfs(path.c_str(), &fs); }) != 0) {
    return Status::from_errno(errno, path);
  }
  FsInfo info;
  const auto magic = static_cast<std::uint32_t>(fs.f_type);
  info.type = fmt::format("0x{:x}", magic);
  for (const FsKind& kind : kFsKinds) {
    if (kind.magic != magic) continue;
    info.type = kind.name;
    info.copy_on_write = kind.copy_on_write;
  }
  const FsSpace space = space_of(fs);
  info.total_bytes = space.total_bytes;
  info.free_bytes = space.free_bytes;
  // ext4 counts the blocks of a file in 32 bits; the others reach the largest off_t.
  constexpr std::uint64_t kExtBlocksMax = (std::uint64_t{1} << 32) - 1;
  info.file_size_max_bytes = magic == kExtMagic ? kExtBlocksMax * fs.f_bsize : kNoFileLimit;
  info.read_only = (fs.f_flags & ST_RDONLY) != 0;
  info.sparse_files = !info.read_only && try_sparse(path);
  VT_ASSIGN_OR_RETURN(info.mount_id, mount_id_of(path));
  return info;
}

Result<FsSpace> HostFileSystem::space(const std::string& path) {
  struct statfs fs {};
  if (retry_eintr([&] { return ::statfs(path.c_str(), &fs); }) != 0) {
    return Status::from_errno(errno, path);
  }
  return space_of(fs);
}

}  // namespace voltree
