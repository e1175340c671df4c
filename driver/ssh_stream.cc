#include "driver/ssh_stream.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <utility>
#include <vector>

#include "blockstore/base/units.h"
#include "driver/control/socket.h"
#include "driver/images/stop_signals.h"

namespace voltree {
namespace {

constexpr int kPollMs = 200;
constexpr char kSsh[] = "/usr/bin/ssh";

// A host's name as ssh_config(5) knows it, an address, or an alias.
bool is_host(const std::string& text) {
  const auto fits = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '-' || c == '_';
  };
  return !text.empty() && text.size() <= 255 && text.front() != '-' &&
         std::all_of(text.begin(), text.end(), fits);
}

// ssh takes "PATH:PATH" and expands "%x" and "${X}" in what it is told to forward.
bool is_plain_path(const std::string& text) {
  return text.starts_with('/') && text.size() < 4096 &&
         text.find_first_of(":[]\\%$") == std::string::npos &&
         std::none_of(text.begin(), text.end(),
                      [](char c) { return static_cast<unsigned char>(c) <= ' '; });
}

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

// A folder that nobody else can enter, for the moment in which ssh listens in it.
class PrivateFolder {
 public:
  PrivateFolder() {
    if (::mkdtemp(path_.data()) == nullptr) path_.clear();
  }
  ~PrivateFolder() {
    if (path_.empty()) return;
    ::unlink(socket().c_str());
    ::rmdir(path_.c_str());
  }
  PrivateFolder(const PrivateFolder&) = delete;
  PrivateFolder& operator=(const PrivateFolder&) = delete;
  bool made() const { return !path_.empty(); }
  std::string socket() const { return path_ + "/socket"; }

 private:
  std::string path_ = "/tmp/voltree-ssh-XXXXXX";
};

// Between fork and exec only system calls are made: other threads may hold any lock.
[[noreturn]] void run_ssh(char* const* arguments, int readiness, int complaints, pid_t parent) {
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);  // the daemon's threads leave signals to one of them
  ::signal(SIGPIPE, SIG_DFL);
  const int null = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (::prctl(PR_SET_PDEATHSIG, SIGTERM) == 0 && ::getppid() == parent && null >= 0 &&
      ::dup2(null, STDIN_FILENO) >= 0 && ::dup2(readiness, STDOUT_FILENO) >= 0 &&
      ::dup2(complaints, STDERR_FILENO) >= 0) {
    ::execv(kSsh, arguments);
  }
  ::_exit(127);
}

Result<pid_t> start_ssh(std::vector<std::string> arguments, int readiness, int complaints) {
  if (::access(kSsh, X_OK) != 0) {
    return error(Code::kNotSupported,
                 "this needs ssh, which is not installed (Debian: openssh-client)");
  }
  std::vector<char*> pointers;
  pointers.reserve(arguments.size() + 1);
  for (std::string& argument : arguments) pointers.push_back(argument.data());
  pointers.push_back(nullptr);
  const pid_t parent = ::getpid();
  const pid_t process = ::fork();
  if (process < 0) return Status::from_errno(errno, "starting ssh");
  if (process == 0) run_ssh(pointers.data(), readiness, complaints, parent);
  return process;
}

// A peer that has gone without a word is noticed after 45 seconds. ssh runs the local command once
// it has logged in and listens.
std::vector<std::string> ssh_arguments(const std::string& config_path, const std::string& forward,
                                       const std::string& host) {
  return {"ssh",
          "-F",
          config_path,
          "-N",
          "-T",
          "-o",
          "BatchMode=yes",
          "-o",
          "LogLevel=INFO",
          "-o",
          "ConnectTimeout=20",
          "-o",
          "ServerAliveInterval=15",
          "-o",
          "ServerAliveCountMax=3",
          "-o",
          "ExitOnForwardFailure=yes",
          "-o",
          "ControlPath=none",
          "-o",
          "PermitLocalCommand=yes",
          "-o",
          "LocalCommand=echo",
          "-L",
          forward,
          "--",
          host};
}

}  // namespace

Result<std::unique_ptr<SshStream>> SshStream::open(const std::string& config_path,
                                                   const std::string& host,
                                                   const std::string& socket_path) {
  if (!is_host(host)) {
    return error(Code::kInvalid, "{} is no host that ssh can be asked for", voltree::quoted(host));
  }
  if (!is_plain_path(socket_path)) {
    return error(Code::kInvalid, "{} is no path that ssh can be asked for",
                 voltree::quoted(socket_path));
  }
  const PrivateFolder folder;
  if (!folder.made()) return Status::from_errno(errno, "a folder in /tmp");
  Descriptor complaints(::memfd_create("ssh", MFD_CLOEXEC));
  std::array<int, 2> ends{-1, -1};
  if (complaints.get() < 0 || ::pipe2(ends.data(), O_CLOEXEC) != 0) {
    return Status::from_errno(errno, "a pipe to ssh");
  }
  const Descriptor readiness(ends[0]);
  std::unique_ptr<SshStream> stream;
  {
    const Descriptor told(ends[1]);
    VT_ASSIGN_OR_RETURN(
        const pid_t process,
        start_ssh(ssh_arguments(config_path, folder.socket() + ":" + socket_path, host), told.get(),
                  complaints.get()));
    stream.reset(new SshStream(process, complaints.release()));
  }
  VT_RETURN_IF_ERROR(stream->wait_until_there(readiness.get()));
  VT_ASSIGN_OR_RETURN(stream->fd_, connect_unix(folder.socket()));
  return stream;
}

Status SshStream::wait_until_there(int readiness) {
  while (true) {
    VT_RETURN_IF_ERROR(check_stop());
    pollfd ready{readiness, POLLIN, 0};
    if (::poll(&ready, 1, kPollMs) <= 0) continue;
    char said = 0;
    if (::read(readiness, &said, 1) == 1) return {};
    return error(Code::kIoError, "ssh did not get through: {}", complaint());
  }
}

SshStream::~SshStream() {
  if (fd_ >= 0) ::close(fd_);
  ::kill(process_, SIGTERM);
  while (::waitpid(process_, nullptr, 0) < 0 && errno == EINTR) {
  }
  ::close(complaints_);
}

int SshStream::take_fd() { return std::exchange(fd_, -1); }

std::string SshStream::complaint() const {
  std::array<char, 1024> text;
  const ssize_t got = ::pread(complaints_, text.data(), text.size(), 0);
  std::string line(text.data(), static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
  while (!line.empty() && static_cast<unsigned char>(line.back()) <= ' ') line.pop_back();
  for (char& c : line) {
    if (static_cast<unsigned char>(c) < ' ') c = ' ';
  }
  return line;
}

}  // namespace voltree
