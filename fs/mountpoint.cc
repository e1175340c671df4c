#include "fs/mountpoint.h"

#include <fcntl.h>
#include <mntent.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <memory>

#include "blockstore/base/units.h"

namespace voltree {
namespace {

// As mounts are listed. The folder itself is not looked at: it may be dead.
std::string canonical_path(const std::string& path) {
  std::filesystem::path where(path);
  if (!where.has_filename()) where = where.parent_path();
  std::error_code failed;
  const auto folder =
      std::filesystem::canonical(std::filesystem::absolute(where).parent_path(), failed);
  return failed ? path : (folder / where.filename()).string();
}

// Of what is mounted there last, which hides all else.
std::string file_system_at(const std::string& path) {
  struct Close {
    void operator()(std::FILE* file) const { ::endmntent(file); }
  };
  const std::unique_ptr<std::FILE, Close> mounts(::setmntent("/proc/self/mounts", "re"));
  std::string type;
  if (mounts == nullptr) return type;
  mntent entry{};
  std::array<char, 16384> text{};
  while (::getmntent_r(mounts.get(), &entry, text.data(), static_cast<int>(text.size())) !=
         nullptr) {
    if (path == entry.mnt_dir) type = entry.mnt_type;
  }
  return type;
}

bool run_fusermount(const char* flags, const std::string& path) {
  const pid_t child = fork();
  if (child < 0) return false;
  if (child == 0) {
    const int null = ::open("/dev/null", O_RDWR);
    if (null >= 0) dup2(null, STDERR_FILENO);
    execlp("fusermount3", "fusermount3", flags, "--", path.c_str(), nullptr);
    _exit(127);
  }
  int result = 0;
  while (waitpid(child, &result, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(result) && WEXITSTATUS(result) == 0;
}

}  // namespace

// A stat() may be answered from what the kernel remembers of the folder; this asks the daemon.
bool is_dead_tree(const std::string& path) {
  struct statvfs unused {};
  if (::statvfs(path.c_str(), &unused) == 0 || (errno != ENOTCONN && errno != ECONNABORTED)) {
    return false;
  }
  return file_system_at(canonical_path(path)) == "fuse.voltree";
}

Status detach_dead_tree(const std::string& path) {
  const std::string where = canonical_path(path);
  const bool gone = geteuid() == 0 ? umount2(where.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) == 0
                                   : run_fusermount("-uz", where);
  if (gone) return {};
  return error(Code::kPermission,
               "{} is the mount of a daemon that died, and cannot be unmounted by this user: "
               "fusermount3 -uz {}",
               voltree::quoted(path), path);
}

Status check_mountpoint(const std::string& path) {
  struct stat here {};
  if (stat(path.c_str(), &here) != 0) return Status::from_errno(errno, path);
  if (!S_ISDIR(here.st_mode))
    return error(Code::kInvalid, "{} is not a folder", voltree::quoted(path));
  struct stat above {};
  if (stat((path + "/..").c_str(), &above) != 0) return Status::from_errno(errno, path);
  if (here.st_dev != above.st_dev || here.st_ino == above.st_ino) {
    return error(Code::kBusy, "{} is a mount point already", voltree::quoted(path));
  }
  std::error_code failed;
  const bool empty = std::filesystem::is_empty(path, failed);
  if (failed) return Status::from_errno(failed.value(), path);
  if (!empty) return error(Code::kBusy, "{} is not empty", voltree::quoted(path));
  return {};
}

bool unmount_idle(const std::string& path) {
  if (geteuid() == 0) return umount2(path.c_str(), UMOUNT_NOFOLLOW) == 0;
  return run_fusermount("-u", path);
}

}  // namespace voltree
