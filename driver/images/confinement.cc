#include "driver/images/confinement.h"

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>

namespace voltree {
namespace {

// Newer than the headers of Debian 12.
constexpr std::uint64_t kAccessTruncate = std::uint64_t{1} << 14;  // from version 3 on
constexpr std::uint64_t kAccessVersion1 = (std::uint64_t{1} << 13) - 1;
constexpr std::uint64_t kAccessRefer = std::uint64_t{1} << 13;  // from version 2 on
constexpr std::uint64_t kRead = LANDLOCK_ACCESS_FS_READ_FILE;

long landlock_version() {
  return ::syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION);
}

Status allow(int ruleset, int fd, std::uint64_t access, const std::string& what) {
  struct stat info {};
  if (::fstat(fd, &info) != 0) return Status::from_errno(errno, what);
  if (S_ISSOCK(info.st_mode)) return {};  // has no path; it is used as it is
  landlock_path_beneath_attr rule{};
  rule.allowed_access = access;
  rule.parent_fd = fd;
  if (::syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) == 0) {
    return {};
  }
  return Status::from_errno(errno, "Landlock, " + what);
}

Status allow_path(int ruleset, const std::string& path, std::uint64_t access) {
  const int fd = ::open(path.c_str(), O_PATH | O_CLOEXEC);
  if (fd < 0) return {};  // what is not there needs no rule
  Status status = allow(ruleset, fd, access, path);
  ::close(fd);
  return status;
}

Status add_rules(int ruleset, const std::string& program, const std::vector<ConfinedFile>& files,
                 std::uint64_t write) {
  VT_RETURN_IF_ERROR(allow_path(ruleset, program, kRead | LANDLOCK_ACCESS_FS_EXECUTE));
  for (const char* folder : {"/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/local/lib"}) {
    VT_RETURN_IF_ERROR(allow_path(ruleset, folder, kRead | LANDLOCK_ACCESS_FS_EXECUTE));
  }
  // What the C library and QEMU's own ask the system at their start.
  for (const char* path : {"/etc/ld.so.cache", "/dev/urandom", "/dev/null"}) {
    VT_RETURN_IF_ERROR(allow_path(ruleset, path, kRead));
  }
  for (const ConfinedFile& file : files) {
    VT_RETURN_IF_ERROR(allow(ruleset, file.fd, file.writable ? kRead | write : kRead, "its file"));
  }
  return {};
}

#if defined(__x86_64__)
constexpr std::uint32_t kArchitecture = AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
constexpr std::uint32_t kArchitecture = AUDIT_ARCH_AARCH64;
#else
#error "which architecture is this for seccomp?"
#endif
constexpr std::uint32_t kOtherAbi = 0x40000000;  // x32's calls have this bit

constexpr std::array kForbidden{SYS_socket,
                                SYS_socketpair,
                                SYS_connect,
                                SYS_bind,
                                SYS_listen,
                                SYS_accept,
                                SYS_accept4,
                                SYS_ptrace,
                                SYS_io_uring_setup,
                                SYS_mount,
                                SYS_umount2,
                                SYS_unshare,
                                SYS_setns,
                                SYS_bpf,
                                SYS_process_vm_readv,
                                SYS_process_vm_writev,
                                SYS_keyctl,
                                SYS_add_key,
                                SYS_request_key,
                                SYS_perf_event_open,
                                SYS_userfaultfd,
                                SYS_pidfd_getfd,
                                SYS_open_by_handle_at,
                                SYS_init_module,
                                SYS_finit_module,
                                SYS_kexec_load,
                                SYS_pivot_root,
                                SYS_chroot,
                                SYS_kill,
                                SYS_pidfd_send_signal};

constexpr sock_filter statement(unsigned code, std::uint32_t value) {
  return {static_cast<std::uint16_t>(code), 0, 0, value};
}
constexpr sock_filter jump(unsigned code, std::uint32_t value, unsigned yes, unsigned no) {
  return {static_cast<std::uint16_t>(code), static_cast<std::uint8_t>(yes),
          static_cast<std::uint8_t>(no), value};
}

// Forbidden calls answer "no such call": QEMU then does without io_uring, for one.
constexpr auto make_filter() {
  constexpr std::size_t kBefore = 5;
  std::array<sock_filter, kBefore + kForbidden.size() + 2> filter{};
  filter[0] = statement(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch));
  filter[1] = jump(BPF_JMP | BPF_JEQ | BPF_K, kArchitecture, 1, 0);
  filter[2] = statement(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
  filter[3] = statement(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr));
  filter[4] = jump(BPF_JMP | BPF_JGE | BPF_K, kOtherAbi, kForbidden.size() + 1, 0);
  for (std::size_t i = 0; i < kForbidden.size(); ++i) {
    filter[kBefore + i] = jump(BPF_JMP | BPF_JEQ | BPF_K, static_cast<std::uint32_t>(kForbidden[i]),
                               static_cast<unsigned>(kForbidden.size() - i), 0);
  }
  filter[kBefore + kForbidden.size()] = statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  filter[kBefore + kForbidden.size() + 1] =
      statement(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<std::uint32_t>(ENOSYS));
  return filter;
}
constexpr auto kFilter = make_filter();

}  // namespace

bool has_landlock() { return landlock_version() >= 1; }

Result<int> make_ruleset(const std::string& program, const std::vector<ConfinedFile>& files) {
  const long version = landlock_version();
  if (version < 1) return -1;
  landlock_ruleset_attr attributes{};
  attributes.handled_access_fs = kAccessVersion1;
  std::uint64_t write = LANDLOCK_ACCESS_FS_WRITE_FILE;
  if (version >= 2) attributes.handled_access_fs |= kAccessRefer;
  if (version >= 3) {
    attributes.handled_access_fs |= kAccessTruncate;
    write |= kAccessTruncate;
  }
  const long ruleset =
      ::syscall(SYS_landlock_create_ruleset, &attributes, sizeof attributes.handled_access_fs, 0);
  if (ruleset < 0) return Status::from_errno(errno, "Landlock");
  const Status status = add_rules(static_cast<int>(ruleset), program, files, write);
  if (status.ok()) return static_cast<int>(ruleset);
  ::close(static_cast<int>(ruleset));
  return status;
}

bool restrict_self(int ruleset) { return ::syscall(SYS_landlock_restrict_self, ruleset, 0) == 0; }

bool forbid_calls() {
  sock_fprog program{};
  program.len = kFilter.size();
  program.filter = const_cast<sock_filter*>(kFilter.data());
  return ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) == 0;
}

}  // namespace voltree
