#include "driver/images/confined_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

#include "driver/images/confinement.h"
#include "driver/images/stop_signals.h"

namespace voltree {
namespace {

constexpr int kPollMs = 200;
constexpr std::size_t kOutputMaxBytes = std::size_t{1} << 20;
constexpr std::size_t kErrorsMaxBytes = std::size_t{16} << 10;
constexpr rlim_t kDescriptorsMax = 64;
constexpr unsigned kCloseRangeCloexec = 1U << 2;  // CLOSE_RANGE_CLOEXEC

class Descriptor {
 public:
  explicit Descriptor(int fd = -1) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    reset(std::exchange(other.fd_, -1));
    return *this;
  }
  ~Descriptor() { reset(); }
  int get() const { return fd_; }
  void reset(int fd = -1) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = fd;
  }

 private:
  int fd_;
};

struct Pipe {
  Descriptor reader;
  Descriptor writer;
};

Result<Pipe> make_pipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return Status::from_errno(errno, "making a pipe");
  return Pipe{Descriptor(ends[0]), Descriptor(ends[1])};
}

// Not what PATH says: the program reads what nobody vouches for, and may run as root.
Result<std::string> find_program(const std::string& name) {
  for (const char* folder : {"/usr/bin/", "/usr/local/bin/", "/bin/"}) {
    std::string path = folder + name;
    if (::access(path.c_str(), X_OK) == 0) return path;
  }
  return error(Code::kNotSupported, "this needs {}, which is not installed (Debian: qemu-utils)",
               name);
}

// Everything that the child needs, made before the fork: between fork and exec it may only make
// system calls, as other threads may hold any lock.
struct Launch {
  std::string program;
  std::vector<char*> arguments;
  std::array<char*, 4> environment;
  const std::vector<ConfinedFile>* files = nullptr;
  std::array<std::pair<__rlimit_resource, rlimit>, 5> limits;
  Descriptor null;
  Descriptor ruleset;  // -1: no Landlock
  Pipe output, errors, failure;
};

// Which step failed, and why: what the child says of itself.
struct Failure {
  int step = 0;
  int code = 0;
};
constexpr std::array kSteps{"its descriptors", "its limits", "Landlock", "seccomp", "starting it"};

// The step that failed, or -1.
int confine_self(const Launch& launch, pid_t parent) {
  if (::prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || ::getppid() != parent) return 0;
  if (::dup2(launch.null.get(), STDIN_FILENO) < 0 ||
      ::dup2(launch.output.writer.get(), STDOUT_FILENO) < 0 ||
      ::dup2(launch.errors.writer.get(), STDERR_FILENO) < 0 ||
      ::syscall(SYS_close_range, 3U, ~0U, kCloseRangeCloexec) != 0) {
    return 0;
  }
  for (const ConfinedFile& file : *launch.files) {
    if (::fcntl(file.fd, F_SETFD, 0) != 0) return 0;
  }
  for (const auto& [resource, limit] : launch.limits) {
    if (::setrlimit(resource, &limit) != 0) return 1;
  }
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return 2;
  if (launch.ruleset.get() >= 0 && !restrict_self(launch.ruleset.get())) return 2;
  return forbid_calls() ? -1 : 3;
}

[[noreturn]] void run_child(const Launch& launch, pid_t parent) {
  Failure failure;
  failure.step = confine_self(launch, parent);
  if (failure.step < 0) {
    ::execve(launch.program.c_str(), launch.arguments.data(), launch.environment.data());
    failure.step = 4;
  }
  failure.code = errno;
  (void)!::write(launch.failure.writer.get(), &failure, sizeof failure);
  ::_exit(127);
}

Status prepare(const ConfinedCommand& command, Launch& launch) {
  VT_ASSIGN_OR_RETURN(launch.program, find_program(command.program));
  VT_ASSIGN_OR_RETURN(launch.output, make_pipe());
  VT_ASSIGN_OR_RETURN(launch.errors, make_pipe());
  VT_ASSIGN_OR_RETURN(launch.failure, make_pipe());
  launch.null.reset(::open("/dev/null", O_RDWR | O_CLOEXEC));
  if (launch.null.get() < 0) return Status::from_errno(errno, "/dev/null");
  VT_ASSIGN_OR_RETURN(const int ruleset, make_ruleset(launch.program, command.files));
  launch.ruleset.reset(ruleset);
  launch.files = &command.files;
  launch.arguments.push_back(launch.program.data());
  for (const std::string& argument : command.arguments) {
    launch.arguments.push_back(const_cast<char*>(argument.c_str()));
  }
  launch.arguments.push_back(nullptr);
  // One arena: each of the others reserves address space that counts against the limit.
  static char path[] = "PATH=/usr/bin:/bin", locale[] = "LC_ALL=C", arenas[] = "MALLOC_ARENA_MAX=1";
  launch.environment = {path, locale, arenas, nullptr};
  launch.limits = {{{RLIMIT_CPU, {command.cpu_seconds, command.cpu_seconds}},
                    {RLIMIT_AS, {command.memory_bytes, command.memory_bytes}},
                    {RLIMIT_FSIZE, {command.file_size_bytes, command.file_size_bytes}},
                    {RLIMIT_NOFILE, {kDescriptorsMax, kDescriptorsMax}},
                    {RLIMIT_CORE, {0, 0}}}};
  return {};
}

// Keeps what fits; false at the end of the stream.
bool take(const Descriptor& from, std::string& into, std::size_t max_bytes,
          const std::function<void(std::string_view)>& also) {
  std::array<char, 16384> chunk;
  const ssize_t got = ::read(from.get(), chunk.data(), chunk.size());
  if (got < 0 && (errno == EINTR || errno == EAGAIN)) return true;
  if (got <= 0) return false;
  const std::string_view text(chunk.data(), static_cast<std::size_t>(got));
  if (also) also(text);
  into += text.substr(0, max_bytes - std::min(max_bytes, into.size()));
  return true;
}

// Until both streams have ended.
Status listen(Launch& launch, const ConfinedCommand& command, ConfinedOutcome& outcome) {
  bool output = true;
  bool errors = true;
  while (output || errors) {
    VT_RETURN_IF_ERROR(check_stop());
    std::array<pollfd, 2> ready{{{output ? launch.output.reader.get() : -1, POLLIN, 0},
                                 {errors ? launch.errors.reader.get() : -1, POLLIN, 0}}};
    if (::poll(ready.data(), ready.size(), kPollMs) <= 0) continue;
    if (ready[0].revents != 0) {
      output = take(launch.output.reader, outcome.output, kOutputMaxBytes, command.on_output);
    }
    if (ready[1].revents != 0) {
      errors = take(launch.errors.reader, outcome.errors, kErrorsMaxBytes, {});
    }
  }
  return {};
}

Status judge(const ConfinedCommand& command, int status, const Failure& failure,
             ConfinedOutcome& outcome) {
  if (failure.code != 0 || failure.step != 0) {
    const Status why = Status::from_errno(failure.code, kSteps.at(failure.step));
    return error(Code::kNotSupported, "{} cannot be confined: {}", command.program, why.message());
  }
  if (WIFSIGNALED(status)) {
    const int number = WTERMSIG(status);
    const bool limit = number == SIGXCPU || number == SIGXFSZ || number == SIGKILL;
    return error(Code::kInvalid, "{} was ended by {}{}", command.program, ::strsignal(number),
                 limit ? ": the image takes more than it may" : "");
  }
  outcome.exit_code = WEXITSTATUS(status);
  return {};
}

}  // namespace

Result<ConfinedOutcome> run_confined(const ConfinedCommand& command) {
  Launch launch;
  VT_RETURN_IF_ERROR(prepare(command, launch));
  const pid_t parent = ::getpid();
  const pid_t child = ::fork();
  if (child < 0) return Status::from_errno(errno, "starting " + command.program);
  if (child == 0) run_child(launch, parent);
  launch.output.writer.reset();
  launch.errors.writer.reset();
  launch.failure.writer.reset();
  ConfinedOutcome outcome;
  const Status heard = listen(launch, command, outcome);
  if (!heard.ok()) ::kill(child, SIGKILL);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  VT_RETURN_IF_ERROR(heard);
  Failure failure;
  if (::read(launch.failure.reader.get(), &failure, sizeof failure) != sizeof failure) failure = {};
  VT_RETURN_IF_ERROR(judge(command, status, failure, outcome));
  return outcome;
}

std::string confinement_gap() {
  if (has_landlock()) return {};
  return "this kernel has no Landlock: QEMU reads the image without sockets and within limits, but "
         "could open other files";
}

}  // namespace voltree
