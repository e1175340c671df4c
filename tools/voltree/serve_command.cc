// serve: the daemon. It owns the store, mounts the tree and answers on the control socket.
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <charconv>
#include <cstring>

#include "blockstore/runtime/worker_threads.h"
#include "driver/control/protocol.h"
#include "driver/control/server.h"
#include "driver/targets/nbd/server.h"
#include "fs/mount.h"
#include "fs/mountpoint.h"
#include "tools/voltree/command.h"
#include "tools/voltree/daemon.h"
#include "tools/voltree/output.h"

namespace voltree::cli {
namespace {

struct ServeOptions {
  std::string mountpoint;
  bool foreground = false;
  bool allow_other = false;
  std::string owner;
  std::string file_mode = "0600";
  bool pool_io = false;
  std::string nbd_socket;
  std::string nbd_listen;
  std::string nbd_tls;
  std::string nbd_psk;
  std::string nbd_access;
  std::size_t nbd_connections = nbd::ServerOptions().connections_max;
  bool insecure = false;
  std::string migrate_ssh;
  bool nbd() const { return !nbd_socket.empty() || !nbd_listen.empty(); }
};

// The service's view of the mount: it knows files, not FUSE.
class MountedTree : public ExportedTree {
 public:
  MountedTree(Mount& mount, std::string mountpoint)
      : mount_(mount), mountpoint_(std::move(mountpoint)) {}
  std::string mountpoint() const override { return mountpoint_; }
  std::string path_of(const NodeName& name) const override { return mount_.path_of(name); }
  void invalidate(const NodeName& name) override { mount_.invalidate(name); }

 private:
  Mount& mount_;
  const std::string mountpoint_;
};

// What NBD clients change, the kernel must not remember otherwise.
class MountedCache : public nbd::ChangeObserver {
 public:
  explicit MountedCache(Mount& mount) : mount_(mount) {}
  Task<void> changed(NodeId node, std::uint64_t offset_bytes, std::uint64_t length_bytes) override {
    return mount_.forget_range(node, offset_bytes, length_bytes);
  }

 private:
  Mount& mount_;
};

// What runs, in the order in which it was started.
struct Daemon {
  std::unique_ptr<Runtime> runtime;
  std::unique_ptr<Store> store;
  std::unique_ptr<Mount> mount;
  std::unique_ptr<MountedTree> tree;
  std::unique_ptr<MountedCache> cache;
  std::unique_ptr<nbd::Server> nbd;
  std::string private_nbd;  // the path of its socket for commands
  std::unique_ptr<Service> service;
  std::unique_ptr<Server> server;
};

std::optional<std::uint32_t> parse_id(const std::string& text, int base) {
  std::uint32_t value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, bad] = std::from_chars(text.data(), end, value, base);
  if (bad != std::errc() || stop != end || text.empty()) return std::nullopt;
  return value;
}

// USER[:GROUP], names or numbers. Without a group: the user's own.
Status parse_owner(const std::string& text, MountOptions& mount) {
  const std::size_t colon = text.find(':');
  const std::string user = text.substr(0, colon);
  const passwd* account = ::getpwnam(user.c_str());
  mount.owner_uid = account ? account->pw_uid : parse_id(user, 10);
  if (!mount.owner_uid) {
    return error(Code::kInvalid, "--owner: there is no user {}", voltree::quoted(user));
  }
  if (colon == std::string::npos) {
    if (account == nullptr) account = ::getpwuid(*mount.owner_uid);
    if (account != nullptr) mount.owner_gid = account->pw_gid;
    return {};
  }
  const std::string group = text.substr(colon + 1);
  const struct group* entry = ::getgrnam(group.c_str());
  mount.owner_gid = entry ? entry->gr_gid : parse_id(group, 10);
  if (!mount.owner_gid) {
    return error(Code::kInvalid, "--owner: there is no group {}", voltree::quoted(group));
  }
  return {};
}

Result<MountOptions> mount_options(const ServeOptions& options) {
  MountOptions mount;
  if (!options.mountpoint.empty()) mount.mountpoint = absolute_path(options.mountpoint);
  mount.allow_other = options.allow_other;
  if (!options.owner.empty()) VT_RETURN_IF_ERROR(parse_owner(options.owner, mount));
  const std::optional<std::uint32_t> mode = parse_id(options.file_mode, 8);
  if (!mode || (*mode & ~0666U) != 0) {
    return error(Code::kInvalid, "--file-mode must be octal permissions within 0666, like 0660");
  }
  mount.file_mode = *mode;
  return mount;
}

Result<nbd::ServerOptions> nbd_options(const ServeOptions& options) {
  nbd::ServerOptions server;
  if (!options.nbd() && (!options.nbd_tls.empty() || !options.nbd_psk.empty() ||
                         !options.nbd_access.empty() || options.insecure)) {
    return error(Code::kInvalid,
                 "there is no NBD server to be so: give --nbd-socket or --nbd-listen");
  }
  if (!options.nbd_socket.empty()) server.socket_path = absolute_path(options.nbd_socket);
  if (!options.nbd_listen.empty()) {
    VT_ASSIGN_OR_RETURN(server.endpoint, nbd::parse_endpoint(options.nbd_listen));
  }
  if (!options.nbd_tls.empty() && !options.nbd_psk.empty()) {
    return error(Code::kInvalid, "--nbd-tls and --nbd-psk: one of the two");
  }
  if (!options.nbd_tls.empty() || !options.nbd_psk.empty()) {
    server.tls = nbd::TlsOptions{options.nbd_tls, options.nbd_psk};
  }
  if (!options.nbd_access.empty()) {
    VT_ASSIGN_OR_RETURN(server.rules, nbd::AccessRules::load(options.nbd_access));
  }
  server.insecure = options.insecure;
  server.connections_max = options.nbd_connections;
  server.log = [](const std::string& line) { log_line(line); };
  return server;
}

// Before the fork, where a mistake is cheapest to tell. What a daemon that died has left is no
// mistake: the next one takes it away.
Status check_mountpoint_exists(const std::string& mountpoint) {
  if (mountpoint.empty() || is_dead_tree(mountpoint)) return {};
  struct stat info {};
  if (::stat(mountpoint.c_str(), &info) != 0) {
    if (errno == ENOENT) {
      return error(Code::kNotFound, "the mountpoint {} does not exist: mkdir {}", mountpoint,
                   mountpoint);
    }
    return Status::from_errno(errno, mountpoint);
  }
  if (!S_ISDIR(info.st_mode)) {
    return error(Code::kInvalid, "the mountpoint {} is no directory", mountpoint);
  }
  return {};
}

Status check_media(const std::string& directory) {
  if (::access((directory + "/run").c_str(), W_OK) == 0 || errno != EROFS) return {};
  return error(Code::kReadOnly,
               "{} lies on a file system that is mounted read-only, and a daemon writes to {}/run: "
               "use the commands without one (voltree list, voltree export)",
               directory, directory);
}

// The code and the heap of whoever serves a block device must not be paged out through it. What
// cannot be locked is no reason not to serve; pages are locked as they are first used, so that big
// stacks stay small.
void lock_memory() { (void)::mlockall(MCL_CURRENT | MCL_ONFAULT); }

Status start(Daemon& daemon, const std::string& directory, const ServeOptions& options,
             const MountOptions& mount) {
  VT_ASSIGN_OR_RETURN(nbd::ServerOptions nbd, nbd_options(options));
  RuntimeOptions runtime_options;
  runtime_options.force_pool = options.pool_io;
  VT_ASSIGN_OR_RETURN(daemon.runtime, make_host_runtime(runtime_options));
  lock_memory();
  VT_ASSIGN_OR_RETURN(daemon.store, open_store_blocking(*daemon.runtime, directory, {}));
  const std::string run = directory + "/run";
  if (::mkdir(run.c_str(), 0700) != 0 && errno != EEXIST) return Status::from_errno(errno, run);
  if (!mount.mountpoint.empty()) {
    VT_ASSIGN_OR_RETURN(daemon.mount, Mount::start(*daemon.runtime, *daemon.store, mount));
    daemon.tree = std::make_unique<MountedTree>(*daemon.mount, mount.mountpoint);
  }
  if (daemon.mount) daemon.cache = std::make_unique<MountedCache>(*daemon.mount);
  // Without a door, too: it serves the kernel's NBD devices, and import and export.
  daemon.private_nbd = private_nbd_path(directory);
  VT_ASSIGN_OR_RETURN(nbd.private_listener, listen_unix(daemon.private_nbd));
  VT_ASSIGN_OR_RETURN(daemon.nbd, nbd::Server::start(*daemon.runtime, *daemon.store, std::move(nbd),
                                                     daemon.cache.get()));
  daemon.service = std::make_unique<Service>(*daemon.runtime, *daemon.store, daemon.tree.get());
  daemon.service->set_nbd(daemon.nbd.get());
  daemon.service->set_private_nbd(
      [path = daemon.private_nbd] { return Result<std::string>(path); });
  if (!options.migrate_ssh.empty()) {
    daemon.service->set_migrate_ssh(absolute_path(options.migrate_ssh));
  }
  if (daemon.mount && !may_flush_io()) {
    log_line(
        "this process may not flush I/O (it has no CAP_SYS_RESOURCE): when memory is very short, a "
        "loop device on a volume may wait for itself");
  }
  for (const std::string& line : daemon.service->resume_devices()) log_line(line);
  const auto pool = daemon.runtime->sync_wait(daemon.store->pool());
  if (pool.ok() && !pool->warning.empty()) log_line("warning: " + pool->warning);
  ServerOptions server;
  server.socket_path = control_socket_path(directory);
  VT_ASSIGN_OR_RETURN(daemon.server, Server::start(*daemon.service, server));
  return {};
}

// In the reverse order. Whatever was started is stopped.
Status stop(Daemon& daemon) {
  if (daemon.server) daemon.server->stop();
  // What still has to be written is not to wait for limits.
  if (daemon.store) daemon.runtime->run_until_done(daemon.store->lift_limits());
  if (daemon.service) {
    for (const std::string& line : daemon.service->release_devices()) log_line(line);
  }
  if (daemon.nbd) {
    ::unlink(daemon.private_nbd.c_str());
    daemon.nbd->stop();
  }
  if (daemon.mount) daemon.mount->stop();
  daemon.server.reset();
  daemon.service.reset();
  daemon.nbd.reset();
  daemon.cache.reset();
  daemon.tree.reset();
  daemon.mount.reset();
  Status status;
  if (daemon.store) status = daemon.runtime->sync_wait(daemon.store->close());
  daemon.store.reset();
  daemon.runtime.reset();
  return status;
}

sigset_t stop_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int number : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&set, number);
  return set;
}

// Until a signal, or until someone unmounts the tree.
void wait_for_the_end(const Daemon& daemon) {
  const sigset_t set = stop_signals();
  const timespec pause{1, 0};
  while (true) {
    const int number = ::sigtimedwait(&set, nullptr, &pause);
    if (number == SIGHUP) continue;  // the terminal is gone; the daemon is not
    if (number > 0) {
      log_line(fmt::format("stopping: {}", ::strsignal(number)));
      return;
    }
    if (daemon.mount && daemon.mount->stopped()) {
      log_line("stopping: the tree was unmounted");
      return;
    }
  }
}

Status serve_until_stopped(Background background, const std::string& directory,
                           const ServeOptions& options, const MountOptions& mount) {
  const sigset_t set = stop_signals();
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);  // before the first thread: all of them inherit it
  ::signal(SIGPIPE, SIG_IGN);
  Daemon daemon;
  Status status = start(daemon, directory, options, mount);
  const std::string where =
      mount.mountpoint.empty() ? std::string() : ", mounted on " + mount.mountpoint;
  if (status.ok()) {
    status = background.ready(fmt::format("serving {}{} (pid {})", directory, where, ::getpid()),
                              directory + "/run/voltree.log");
  }
  if (!status.ok()) {
    (void)stop(daemon);
    background.failed(status);
    return status;
  }
  log_line(fmt::format("serving {}{}, version {}", directory, where, VOLTREE_VERSION));
  tell_service_manager("READY=1", fmt::format("serving {}{}", directory, where));
  wait_for_the_end(daemon);
  tell_service_manager("STOPPING=1", "stopping");
  status = stop(daemon);
  log_line(status.ok() ? "stopped" : fmt::format("stopped: {}", status.message()));
  return status;
}

Status run_serve(Cli& cli, const ServeOptions& options) {
  VT_ASSIGN_OR_RETURN(const MountOptions mount, mount_options(options));
  VT_RETURN_IF_ERROR(check_mountpoint_exists(mount.mountpoint));
  VT_RETURN_IF_ERROR(check_media(cli.store_directory));
  VT_RETURN_IF_ERROR(nbd_options(options).status());
  if (!options.migrate_ssh.empty() && ::access(options.migrate_ssh.c_str(), R_OK) != 0) {
    return Status::from_errno(errno, "--migrate-ssh: " + options.migrate_ssh);
  }
  if (options.foreground) return serve_until_stopped({}, cli.store_directory, options, mount);
  VT_ASSIGN_OR_RETURN(Background background, Background::enter());
  Status status = serve_until_stopped(std::move(background), cli.store_directory, options, mount);
  // The parent has said what there was to say before the start; afterwards it is in the log.
  std::fflush(nullptr);
  std::_Exit(status.exit_code());
}

}  // namespace

void add_serve_command(CLI::App& app, Cli& cli) {
  auto serve = std::make_shared<ServeOptions>();
  CLI::App* command =
      cli.add(app, "serve", "Run the daemon: it owns the store and shows volumes as files",
              "  voltree serve --mount /mnt/voltree\n"
              "  voltree serve --mount /mnt/voltree --foreground\n"
              "  voltree serve --nbd-socket /run/voltree/nbd.sock\n"
              "  voltree serve --mount /mnt/voltree --allow-other --owner cinder:cinder "
              "--file-mode 0660",
              serve, run_serve);
  command->add_option("--mount", serve->mountpoint, "Mount the tree on this empty directory")
      ->type_name("DIR");
  command->add_flag("--foreground", serve->foreground,
                    "Stay; log to the terminal instead of STORE/run/voltree.log");
  command->add_flag("--allow-other", serve->allow_other, "Let other users into the tree");
  command->add_option("--owner", serve->owner, "Who owns the files (default: you)")
      ->type_name("USER[:GROUP]");
  command->add_option("--file-mode", serve->file_mode, "Permissions of the files (default: 0600)")
      ->type_name("OCTAL");
  command->add_option("--nbd-socket", serve->nbd_socket, "Serve NBD on this Unix socket, mode 0600")
      ->type_name("PATH");
  command->add_option("--nbd-listen", serve->nbd_listen, "Serve NBD over TCP; port 0: any")
      ->type_name("HOST:PORT");
  command
      ->add_option("--nbd-tls", serve->nbd_tls,
                   "TLS with client certificates: ca-cert.pem, server-cert.pem, server-key.pem")
      ->type_name("DIR");
  command->add_option("--nbd-psk", serve->nbd_psk, "TLS with pre-shared keys: lines USER:HEXKEY")
      ->type_name("FILE");
  command
      ->add_option("--nbd-access", serve->nbd_access,
                   "Who may have what: lines PEER EXPORT rw|ro|none")
      ->type_name("FILE");
  command
      ->add_option("--nbd-connections", serve->nbd_connections, "At most so many (default: 1024)")
      ->check(CLI::Range(1, 65536))
      ->type_name("N");
  command->add_flag("--insecure", serve->insecure,
                    "Let other machines in over TCP without TLS: anybody there reads and writes");
  command
      ->add_option("--migrate-ssh", serve->migrate_ssh,
                   "Move volumes to the stores of other hosts, through ssh with this configuration")
      ->type_name("FILE");
  command->add_flag("--pool-io", serve->pool_io, "Use threads for I/O even where io_uring works");
}

}  // namespace voltree::cli
