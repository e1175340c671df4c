#include "tools/voltree/daemon.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <utility>

#include "tools/voltree/output.h"

namespace voltree::cli {
namespace {

// One byte of exit status, then the message, then the end of the stream.
[[noreturn]] void wait_for_report(int fd) {
  std::string report;
  char chunk[4096];
  while (true) {
    const ssize_t got = ::read(fd, chunk, sizeof chunk);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    report.append(chunk, static_cast<std::size_t>(got));
  }
  if (report.empty()) {
    fmt::print(stderr, "voltree: the daemon died while it was starting\n");
    std::_Exit(1);
  }
  const int exit_code = static_cast<unsigned char>(report[0]);
  const std::string message = report.substr(1);
  if (!message.empty()) {
    fmt::print(exit_code == 0 ? stdout : stderr, "{}{}\n",
               exit_code == 0 ? "" : "voltree: ", message);
  }
  std::fflush(nullptr);
  std::_Exit(exit_code);
}

}  // namespace

Result<Background> Background::enter() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return Status::from_errno(errno, "making a pipe");
  std::fflush(nullptr);
  const pid_t child = ::fork();
  if (child < 0) return Status::from_errno(errno, "starting the daemon");
  if (child > 0) {
    ::close(ends[1]);
    wait_for_report(ends[0]);
  }
  ::close(ends[0]);
  ::setsid();
  const int null = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (null >= 0) {
    ::dup2(null, STDIN_FILENO);
    ::close(null);
  }
  if (::chdir("/") != 0) return Status::from_errno(errno, "/");
  Background background;
  background.pipe_ = ends[1];
  return background;
}

Background::Background(Background&& other) noexcept : pipe_(std::exchange(other.pipe_, -1)) {}

Background::~Background() {
  if (pipe_ >= 0) ::close(pipe_);
}

void Background::report(int exit_code, std::string_view message) {
  if (pipe_ < 0) return;
  std::string text(1, static_cast<char>(exit_code));
  text += message;
  for (std::size_t sent = 0; sent < text.size();) {
    const ssize_t put = ::write(pipe_, text.data() + sent, text.size() - sent);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) break;  // nobody waits any more
    sent += static_cast<std::size_t>(put);
  }
  ::close(std::exchange(pipe_, -1));
}

Status Background::ready(std::string_view message, const std::string& log_path) {
  if (pipe_ < 0) return {};
  const int log = ::open(log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (log < 0) return Status::from_errno(errno, log_path);
  std::fflush(nullptr);
  ::dup2(log, STDOUT_FILENO);
  ::dup2(log, STDERR_FILENO);
  ::close(log);
  report(0, message);
  return {};
}

void Background::failed(const Status& status) { report(status.exit_code(), status.message()); }

void tell_service_manager(std::string_view state, std::string_view message) {
  const char* path = std::getenv("NOTIFY_SOCKET");
  if (path == nullptr) return;
  const std::size_t length = std::strlen(path);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (length == 0 || length >= sizeof address.sun_path) return;
  std::memcpy(address.sun_path, path, length);
  if (path[0] == '@') address.sun_path[0] = '\0';  // an abstract name
  const int fd = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return;
  const std::string text = fmt::format("{}\nSTATUS={}\n", state, message);
  (void)::sendto(fd, text.data(), text.size(), MSG_NOSIGNAL, reinterpret_cast<sockaddr*>(&address),
                 static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + length));
  ::close(fd);
}

void log_line(std::string_view text) {
  std::timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  fmt::print(stderr, "{} {}\n", format_time(std::int64_t{now.tv_sec} * 1'000'000'000), text);
}

}  // namespace voltree::cli
