#include "driver/control/client.h"

#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <thread>

#include "driver/control/protocol.h"
#include "driver/targets/nbd/server.h"

namespace voltree {
namespace {

constexpr std::chrono::milliseconds kBusyPatience{1000};
constexpr std::chrono::milliseconds kBusyPause{50};

template <typename Derived>
Result<std::unique_ptr<Client>> as_client(Result<std::unique_ptr<Derived>> made) {
  if (!made.ok()) return made.status();
  return std::unique_ptr<Client>(std::move(made).value());
}

}  // namespace

Result<std::unique_ptr<SocketClient>> SocketClient::connect(const std::string& socket_path) {
  VT_ASSIGN_OR_RETURN(const int fd, connect_unix(socket_path));
  return over(fd);
}

std::unique_ptr<SocketClient> SocketClient::over(int fd) {
  return std::unique_ptr<SocketClient>(new SocketClient(fd));
}

Result<Json> SocketClient::call(std::string_view method, Json params,
                                const ProgressSink& progress) {
  const std::uint64_t id = ++last_id_;
  const Json request{
      {"jsonrpc", "2.0"}, {"id", id}, {"method", method}, {"params", std::move(params)}};
  const std::string line = dump_json(request);
  if (line.size() > kRequestLineMaxBytes) {
    return error(Code::kInvalid, "the request is longer than {} bytes", kRequestLineMaxBytes);
  }
  // A server that refuses the connection closes it at once; why it did is still there to be read.
  const Status sent = socket_.write_line(line);
  Result<Json> answer = read_answer(id, progress);
  if (!sent.ok() && !answer.ok() && answer.status().code() == Code::kIoError) return sent;
  return answer;
}

Result<Json> SocketClient::read_answer(std::uint64_t id, const ProgressSink& progress) {
  while (true) {
    VT_ASSIGN_OR_RETURN(const std::optional<std::string> line,
                        socket_.read_line(kAnswerLineMaxBytes));
    if (!line) {
      return error(Code::kIoError, "the daemon closed the connection before it answered");
    }
    VT_ASSIGN_OR_RETURN(const Json message, parse_json(*line));
    if (!message.is_object()) return error(Code::kIoError, "the daemon's answer is no object");
    if (message.contains("method")) {
      const Json params = message.value("params", Json::object());
      const Json done = params.is_object() ? params.value("done", Json()) : Json();
      const Json total = params.is_object() ? params.value("total", Json()) : Json();
      if (progress && done.is_number_unsigned() && total.is_number_unsigned()) {
        progress({done.get<std::uint64_t>(), total.get<std::uint64_t>()});
      }
      continue;
    }
    if (const auto failure = message.find("error"); failure != message.end()) {
      return status_of_rpc_error(*failure);
    }
    const auto result = message.find("result");
    if (result == message.end() || message.value("id", Json()) != Json(id)) {
      return error(Code::kIoError, "the daemon answered something that was not asked");
    }
    return Json(*result);
  }
}

namespace {

Result<bool> is_there(const std::string& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) == 0) return true;
  if (errno == ENOENT || errno == ENOTDIR) return false;
  return Status::from_errno(errno, path);
}

}  // namespace

Result<std::unique_ptr<Store>> open_store_blocking(Runtime& runtime, const std::string& directory,
                                                   StoreOpenOptions options) {
  VT_ASSIGN_OR_RETURN(const bool catalog, is_there(directory + "/catalog.db"));
  VT_ASSIGN_OR_RETURN(const bool layers, is_there(directory + "/layers"));
  VT_ASSIGN_OR_RETURN(const bool lock, is_there(directory + "/LOCK"));
  // One that has lost its catalog is a store all the same: opening it says what to do.
  if ((!catalog && !layers) || !lock) {
    return error(Code::kNotFound,
                 "there is no store in {} (it has no {}): make one with \"voltree init {}\"",
                 directory, catalog || layers ? "LOCK" : "catalog.db", directory);
  }
  return runtime.sync_wait(Store::open(runtime, directory, options));
}

EmbeddedClient::EmbeddedClient(std::unique_ptr<Runtime> runtime, std::unique_ptr<Store> store,
                               std::string store_directory)
    : store_directory_(std::move(store_directory)),
      runtime_(std::move(runtime)),
      store_(std::move(store)),
      service_(std::make_unique<Service>(*runtime_, *store_, nullptr)) {
  service_->set_private_nbd([this] { return serve_nbd(); });
}

// On the path that a daemon's has: there is none while the store is ours. On media that cannot be
// written it is in a folder of its own.
Result<std::string> EmbeddedClient::nbd_socket_path() {
  if (!socket_directory_.empty()) return socket_directory_ + "/nbd.sock";
  const std::string run = store_directory_ + "/run";
  const bool read_only = ::access(store_directory_.c_str(), W_OK) != 0 && errno == EROFS;
  if (read_only) {
    const char* temporary = std::getenv("TMPDIR");
    std::string directory =
        fmt::format("{}/voltree-XXXXXX", temporary != nullptr ? temporary : "/tmp");
    if (::mkdtemp(directory.data()) == nullptr) return Status::from_errno(errno, directory);
    socket_directory_ = std::move(directory);
    return socket_directory_ + "/nbd.sock";
  }
  if (::mkdir(run.c_str(), 0700) != 0 && errno != EEXIST) return Status::from_errno(errno, run);
  return private_nbd_path(store_directory_);
}

Result<std::string> EmbeddedClient::serve_nbd() {
  VT_ASSIGN_OR_RETURN(const std::string path, nbd_socket_path());
  if (nbd_ != nullptr) return path;
  nbd::ServerOptions options;
  VT_ASSIGN_OR_RETURN(options.private_listener, listen_unix(path));
  VT_ASSIGN_OR_RETURN(nbd_, nbd::Server::start(*runtime_, *store_, std::move(options), nullptr));
  return path;
}

EmbeddedClient::~EmbeddedClient() { (void)EmbeddedClient::close(); }

Result<std::unique_ptr<EmbeddedClient>> EmbeddedClient::open(const std::string& store_directory,
                                                             bool background_work) {
  RuntimeOptions runtime_options;
  runtime_options.executors = 1;
  VT_ASSIGN_OR_RETURN(std::unique_ptr<Runtime> runtime, make_host_runtime(runtime_options));
  StoreOpenOptions options;
  options.background_work = background_work;
  VT_ASSIGN_OR_RETURN(std::unique_ptr<Store> store,
                      open_store_blocking(*runtime, store_directory, options));
  return std::unique_ptr<EmbeddedClient>(
      new EmbeddedClient(std::move(runtime), std::move(store), store_directory));
}

Result<Json> EmbeddedClient::call(std::string_view method, Json params,
                                  const ProgressSink& progress) {
  if (service_ == nullptr) return error(Code::kGone, "the store is closed");
  return service_->call(method, params, progress);
}

Status EmbeddedClient::close() {
  if (store_ == nullptr) return {};
  service_.reset();
  if (nbd_ != nullptr) {
    const Result<std::string> path = nbd_socket_path();
    if (path.ok()) ::unlink(path->c_str());
  }
  nbd_.reset();
  if (!socket_directory_.empty()) ::rmdir(socket_directory_.c_str());
  Status status = runtime_->sync_wait(store_->close());
  store_.reset();
  return status;
}

Result<std::unique_ptr<Client>> open_client(const ClientOptions& options) {
  const auto deadline = std::chrono::steady_clock::now() + kBusyPatience;
  while (true) {
    auto daemon = SocketClient::connect(control_socket_path(options.store_directory));
    if (daemon.ok() || daemon.status().code() != Code::kNotFound) {
      return as_client(std::move(daemon));
    }
    auto embedded = EmbeddedClient::open(options.store_directory, options.background_work);
    const bool busy = embedded.status().code() == Code::kBusy;
    if (!busy || std::chrono::steady_clock::now() >= deadline) {
      return as_client(std::move(embedded));
    }
    // Another command that is about to end, or a daemon that is about to listen.
    std::this_thread::sleep_for(kBusyPause);
  }
}

}  // namespace voltree
