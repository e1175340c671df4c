#include "blockstore/store_lock.h"

#include <fcntl.h>
#include <unistd.h>

#include <boost/interprocess/exceptions.hpp>
#include <boost/interprocess/sync/file_lock.hpp>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <set>

namespace voltree {
namespace {

// A file_lock is the process's, so a second Store of the same process is kept out by this set. It
// is never destroyed: a store that lives in a static variable is closed after it would be.
std::mutex& owned_mutex() {
  static std::mutex mutex;
  return mutex;
}
std::set<std::string>& owned_stores() {
  static auto* const stores = new std::set<std::string>;
  return *stores;
}

// Who has it: a file of its own, since closing any descriptor of LOCK would drop the lock
// (fcntl(2)).
std::string owner_path(const std::string& directory) { return directory + "/run/owner"; }

std::string command_of_this_process() {
  std::ifstream file("/proc/self/comm");
  std::string name;
  std::getline(file, name);
  return name;
}

std::string owner_of(const std::string& directory) {
  std::ifstream file(owner_path(directory));
  std::string text;
  std::getline(file, text);
  return text.empty() ? "another process" : text;
}

Status busy(const std::string& directory, const std::string& owner) {
  return error(Code::kBusy, "the store {} is in use by {}: reach it through its daemon, or stop it",
               directory, owner);
}

// Without symbolic links; kBusy when it is this process's. Under owned_mutex().
Result<std::string> unowned(const std::string& directory) {
  const std::unique_ptr<char, decltype(&std::free)> real(::realpath(directory.c_str(), nullptr),
                                                         &std::free);
  if (real == nullptr) return Status::from_errno(errno, directory);
  if (owned_stores().contains(real.get())) return busy(directory, "this process");
  return std::string(real.get());
}

}  // namespace

struct StoreLock::Impl {
  std::string directory;
  boost::interprocess::file_lock lock;
  int shared_fd = -1;  // instead of `lock`
};

StoreLock::StoreLock(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

StoreLock::~StoreLock() {
  if (impl_->shared_fd >= 0) {
    ::close(impl_->shared_fd);
  } else {
    ::unlink(owner_path(impl_->directory).c_str());
    impl_->lock.unlock();
  }
  const std::lock_guard guard(owned_mutex());
  owned_stores().erase(impl_->directory);
}

Result<std::unique_ptr<StoreLock>> StoreLock::take(const std::string& directory) {
  const std::lock_guard guard(owned_mutex());
  auto impl = std::make_unique<Impl>();
  VT_ASSIGN_OR_RETURN(impl->directory, unowned(directory));
  try {
    impl->lock = boost::interprocess::file_lock((impl->directory + "/LOCK").c_str());
    if (!impl->lock.try_lock()) return busy(directory, owner_of(impl->directory));
  } catch (const boost::interprocess::interprocess_exception& failure) {
    return error(Code::kIoError, "{}/LOCK: {}", directory, failure.what());
  }
  owned_stores().insert(impl->directory);
  std::ofstream(owner_path(impl->directory), std::ios::trunc)
      << "process " << ::getpid() << " (" << command_of_this_process() << ")\n";
  return std::unique_ptr<StoreLock>(new StoreLock(std::move(impl)));
}

// A file_lock wants a file that can be written, even for a shared lock; this is the same lock of
// the kernel's.
Result<std::unique_ptr<StoreLock>> StoreLock::share(const std::string& directory) {
  const std::lock_guard guard(owned_mutex());
  auto impl = std::make_unique<Impl>();
  VT_ASSIGN_OR_RETURN(impl->directory, unowned(directory));
  const std::string path = impl->directory + "/LOCK";
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return Status::from_errno(errno, path);
  struct flock lock {};
  lock.l_type = F_RDLCK;
  lock.l_whence = SEEK_SET;
  if (::fcntl(fd, F_SETLK, &lock) != 0) {
    const int error_number = errno;
    ::close(fd);
    if (error_number != EAGAIN && error_number != EACCES) {
      return Status::from_errno(error_number, path);
    }
    return busy(directory, owner_of(impl->directory));
  }
  impl->shared_fd = fd;
  owned_stores().insert(impl->directory);
  return std::unique_ptr<StoreLock>(new StoreLock(std::move(impl)));
}

}  // namespace voltree
