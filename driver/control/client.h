// Client: how commands reach a store, whether a daemon serves it or not.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "driver/control/json.h"
#include "driver/control/service.h"
#include "driver/control/socket.h"

namespace voltree {

class Client {
 public:
  virtual ~Client() = default;
  // A method of docs/CONTROL.md. Blocks; `progress` is called on this thread. Used by one thread at
  // a time.
  virtual Result<Json> call(std::string_view method, Json params,
                            const ProgressSink& progress = {}) = 0;
  // True when a daemon answers.
  virtual bool is_daemon() const = 0;
  // Ends the use of the store. Embedded: everything is settled and the store closed.
  virtual Status close() = 0;
};

// Through the control socket.
class SocketClient : public Client {
 public:
  // kNotFound when no daemon listens.
  static Result<std::unique_ptr<SocketClient>> connect(const std::string& socket_path);
  // Over a stream to such a socket, which it takes over.
  static std::unique_ptr<SocketClient> over(int fd);
  Result<Json> call(std::string_view method, Json params, const ProgressSink& progress) override;
  bool is_daemon() const override { return true; }
  Status close() override { return {}; }

 private:
  explicit SocketClient(int fd) : socket_(fd) {}
  Result<Json> read_answer(std::uint64_t id, const ProgressSink& progress);
  LineSocket socket_;
  std::uint64_t last_id_ = 0;
};

// Through a service of this process, which must outlive it.
class ServiceClient : public Client {
 public:
  explicit ServiceClient(Service& service) : service_(service) {}
  Result<Json> call(std::string_view method, Json params, const ProgressSink& progress) override {
    return service_.call(method, params, progress);
  }
  bool is_daemon() const override { return true; }
  Status close() override { return {}; }

 private:
  Service& service_;
};

// In this process: opens the store, and owns it until close().
class EmbeddedClient : public Client {
 public:
  // kBusy, naming the owner, when another process has it. `background_work`: the eraser runs
  // meanwhile.
  static Result<std::unique_ptr<EmbeddedClient>> open(const std::string& store_directory,
                                                      bool background_work);
  ~EmbeddedClient() override;
  Result<Json> call(std::string_view method, Json params, const ProgressSink& progress) override;
  bool is_daemon() const override { return false; }
  Status close() override;

 private:
  EmbeddedClient(std::unique_ptr<Runtime> runtime, std::unique_ptr<Store> store,
                 std::string store_directory);
  Result<std::string> serve_nbd();
  Result<std::string> nbd_socket_path();
  const std::string store_directory_;
  std::string socket_directory_;  // made where the store's own cannot be written
  std::unique_ptr<Runtime> runtime_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<nbd::Server> nbd_;  // from the first nbd.private on
  std::unique_ptr<Service> service_;
};

struct ClientOptions {
  std::string store_directory;
  bool background_work = false;  // when embedded
};
// The daemon of the store when there is one, the store itself otherwise. A store that another
// process holds is tried for a second before the answer is kBusy.
Result<std::unique_ptr<Client>> open_client(const ClientOptions& options);

// Opens a store with messages for people: what is missing, who holds it.
Result<std::unique_ptr<Store>> open_store_blocking(Runtime& runtime, const std::string& directory,
                                                   StoreOpenOptions options);

}  // namespace voltree
