// Taking in files that are no volumes: raw ones, below the directories that the operator allows.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <climits>
#include <cstdlib>
#include <memory>

#include "blockstore/runtime/host_fs.h"
#include "driver/images/file_take.h"
#include "driver/images/image_import.h"
#include "driver/store_driver.h"
#include "driver/store_driver_impl.h"

namespace voltree {
namespace {

DriverStatus bad_file(const std::string& path, std::string_view why) {
  return {Exception::kManageExistingInvalidReference, fmt::format("{} {}", path, why)};
}

// Without symbolic links; empty when there is nothing.
std::string resolved(const std::string& path) {
  const std::unique_ptr<char, decltype(&std::free)> real(::realpath(path.c_str(), nullptr),
                                                         &std::free);
  return real == nullptr ? std::string() : std::string(real.get());
}

std::string proc_path(int fd) { return fmt::format("/proc/self/fd/{}", fd); }

// Where an open file is, whichever way led to it.
std::string path_of_fd(int fd) {
  std::string path(PATH_MAX, '\0');
  const ssize_t length = ::readlink(proc_path(fd).c_str(), path.data(), path.size());
  path.resize(length < 0 ? 0 : static_cast<std::size_t>(length));
  return path;
}

bool is_below(const std::string& path, const std::string& directory) {
  if (directory.empty()) return false;
  if (directory == "/") return path.starts_with('/');
  return path.starts_with(directory + "/");
}

}  // namespace

struct StoreDriver::ExistingFile {
  UniqueFd fd;  // O_PATH: nothing is opened that must not be
  std::uint64_t size_bytes = 0;
};

// What counts is where the file is, not what its name looks like: symbolic links are followed
// first.
Answer<StoreDriver::ExistingFile> StoreDriver::find_file(const std::string& path) {
  if (options_.manage_directories.empty()) {
    return bad_file(path, "is a file: none are taken in without voltree_manage_directories");
  }
  ExistingFile file{UniqueFd(::open(path.c_str(), O_PATH | O_CLOEXEC)), 0};
  struct stat info {};
  if (!file.fd.valid() || ::fstat(file.fd.get(), &info) != 0) {
    return bad_file(path, "cannot be opened: " + std::generic_category().message(errno));
  }
  if (!S_ISREG(info.st_mode)) return bad_file(path, "is no regular file");
  const std::string where = path_of_fd(file.fd.get());
  const bool allowed = std::any_of(
      options_.manage_directories.begin(), options_.manage_directories.end(),
      [&](const std::string& directory) { return is_below(where, resolved(directory)); });
  if (!allowed) return bad_file(path, "is in no directory that files may be taken from");
  const Result<Json> pool = client_.call("pool.stats", Json::object());
  if (!pool.ok()) return DriverStatus::of(pool.status());
  const Result<Json> ping = client_.call("ping", Json::object());
  if (!ping.ok()) return DriverStatus::of(ping.status());
  for (const std::string& ours : {text_in(*pool, "directory"), text_in(*ping, "mountpoint")}) {
    if (!ours.empty() && is_below(where, resolved(ours))) {
      return bad_file(path, "is a part of the store");
    }
  }
  if (info.st_size <= 0) return bad_file(path, "is empty");
  file.size_bytes = static_cast<std::uint64_t>(info.st_size);
  return file;
}

Answer<std::uint64_t> StoreDriver::file_size_gib(const std::string& path) {
  VT_ASSIGN_OR_RETURN(const ExistingFile file, find_file(path));
  return gib_of(file.size_bytes);
}

// All or nothing: the volume has its name when everything is there and durable. The file becomes
// the volume where it can; elsewhere, and when it is to be kept, it stays as it is.
Answer<Json> StoreDriver::manage_file(const DriverVolume& volume, const std::string& path) {
  // The answer to an earlier try may have been lost.
  VT_ASSIGN_OR_RETURN(const std::optional<Json> there, find(volume.name));
  if (there) return Json(nullptr);
  VT_DRIVER_RETURN_IF_ERROR(check_room());
  VT_ASSIGN_OR_RETURN(const ExistingFile file, find_file(path));
  ImportOptions import;
  import.file = proc_path(file.fd.get());
  import.name = volume.name;
  import.size_bytes = bytes_of(gib_of(file.size_bytes));
  Result<TakeResult> moved = TakeResult{};
  if (const Status raw = check_raw(import.file); !raw.ok()) {
    moved = raw;
  } else if (!options_.manage_keeps_files) {
    moved = take_file(client_, import.file, volume.name, *import.size_bytes, options_.progress);
  }
  Status taken = moved.status();
  if (moved.ok() && !moved->taken) {
    taken = import_image(client_, import, options_.progress).status();
    if (taken.ok() && !options_.manage_keeps_files) {
      options_.warn(
          fmt::format("{} was copied, and stays: {}", path, named(moved->why, import.file, path)));
    }
  }
  if (taken.ok()) return limited(volume);
  const std::string why = named(std::string(taken.message()), import.file, path);
  // What looks like an image of another format, or changed meanwhile.
  if (taken.code() == Code::kInvalid || taken.code() == Code::kPermission) {
    return bad_file(path, "cannot be taken in: " + why);
  }
  return DriverStatus::of(Status(taken.code(), why));
}

}  // namespace voltree
