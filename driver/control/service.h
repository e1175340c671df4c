// Service: everything that can be asked of a store by name, with JSON in and JSON out
// (docs/CONTROL.md).
//
// The one path behind both the control socket and commands that open the store themselves. Handlers
// run on the caller's thread, which must not be an executor of the runtime: they block, and some of
// them open files of our own FUSE tree, which the executors serve.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "blockstore/runtime/io.h"
#include "blockstore/store.h"
#include "driver/control/json.h"
#include "driver/control/params.h"

namespace voltree {

class Attachments;
namespace nbd {
class Server;
}

// The tree in which volumes are files. Implemented by whoever mounts it (this layer knows nothing
// of FUSE).
class ExportedTree {
 public:
  virtual ~ExportedTree() = default;
  virtual std::string mountpoint() const = 0;
  virtual std::string path_of(const NodeName& name) const = 0;
  // What the kernel remembers of this name may be wrong now (size, existence).
  virtual void invalidate(const NodeName& name) = 0;
};

struct Progress {
  std::uint64_t done = 0;
  std::uint64_t total = 0;
};
using ProgressSink = std::function<void(const Progress&)>;

// Who waits for an answer. All of it may be empty.
struct Caller {
  Caller() = default;
  // As whoever wants to hear of progress and nothing else passes it on.
  Caller(ProgressSink sink, std::function<bool()> has_gone = {})  // NOLINT(google-explicit-*)
      : progress(std::move(sink)), gone(std::move(has_gone)) {}

  ProgressSink progress;
  std::function<bool()> gone;  // true once nobody waits any more
};

// What went wrong at the level of the protocol, for JSON-RPC's own error codes.
enum class Refusal : std::uint8_t { kNone, kUnknownMethod, kBadParams };

class Service {
 public:
  // `tree` may be null: nothing is mounted, and attaching answers kNotSupported. All must outlive
  // this.
  Service(Runtime& runtime, Store& store, ExportedTree* tree);
  ~Service();

  // Thread-safe; blocks until the answer. The caller's functions are called on this thread, several
  // times a second at most. `refusal` (may be null) says whether a failure is one of the protocol.
  Result<Json> call(std::string_view method, const Json& params, const Caller& caller = {},
                    Refusal* refusal = nullptr);

  // The NBD server of this process; without one there are no NBD devices, and nbd.* methods say so.
  // Before the first call; it must outlive this.
  void set_nbd(nbd::Server* server);
  // Answers with the path of an NBD socket for commands of the store's owner, without rules of
  // access; makes the socket when it must. Before the first call.
  void set_private_nbd(std::function<Result<std::string>()> door) {
    private_nbd_ = std::move(door);
  }

  // The ssh configuration through which volumes move to stores of other hosts; none: they do not.
  // Before the first call.
  void set_migrate_ssh(std::string config_path) { migrate_ssh_ = std::move(config_path); }

  // Waits that have no end of their own (erase.wait) answer kCancelled from now on.
  void stop() { stopping_.store(true, std::memory_order_release); }
  // Takes up the devices that the last daemon left, as far as they can be. Returns what went wrong.
  std::vector<std::string> resume_devices();
  // Data of attached devices is written back and the idle ones are released; their books stay.
  // Returns what there is to say of those that are still in use. For a daemon that is about to go.
  std::vector<std::string> release_devices();

  static std::vector<std::string_view> method_names();

 private:
  friend class Call;
  Runtime& runtime_;
  Store& store_;
  ExportedTree* tree_;
  nbd::Server* nbd_ = nullptr;
  std::function<Result<std::string>()> private_nbd_;
  std::string migrate_ssh_;
  std::unique_ptr<Attachments> attachments_;
  std::atomic<bool> stopping_{false};
  const std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
};

// One request on its way through a handler. (For service_*.cc.)
class Call {
 public:
  Call(Service& service, const Json& params, const Caller& caller)
      : service_(service), params_(params), caller_(caller) {}

  Service& service() { return service_; }
  Store& store() { return service_.store_; }
  ExportedTree* tree() { return service_.tree_; }
  Attachments& attachments() { return *service_.attachments_; }
  nbd::Server* nbd() { return service_.nbd_; }
  const std::string& migrate_ssh() const { return service_.migrate_ssh_; }
  const std::function<Result<std::string>()>& private_nbd() const { return service_.private_nbd_; }
  const Json& params() const { return params_; }
  const Caller& caller() const { return caller_; }
  bool stopping() const { return service_.stopping_.load(std::memory_order_acquire); }
  std::chrono::steady_clock::duration uptime() const {
    return std::chrono::steady_clock::now() - service_.started_;
  }

  // params.done(), remembered as the protocol's refusal.
  Status accept(const Params& params) {
    Status status = params.done();
    bad_params_ = !status.ok();
    return status;
  }
  Status refuse(std::string message) {
    bad_params_ = true;
    return Status(Code::kInvalid, std::move(message));
  }
  bool bad_params() const { return bad_params_; }

  // Runs a task of the store to its end.
  template <typename T>
  T wait(Task<T> task) {
    return service_.runtime_.sync_wait(std::move(task));
  }
  // The same, reporting `sample()` meanwhile. nullopt when the service stops first and `may_leave`:
  // the task then goes on by itself.
  template <typename T>
  std::optional<T> wait_reporting(Task<T> task, const std::function<Progress()>& sample,
                                  bool may_leave);

  void invalidate(const std::string& name);

 private:
  Service& service_;
  const Json& params_;
  const Caller& caller_;
  bool bad_params_ = false;
};

template <typename T>
std::optional<T> Call::wait_reporting(Task<T> task, const std::function<Progress()>& sample,
                                      bool may_leave) {
  struct Meeting {
    std::mutex mutex;
    std::condition_variable arrived;
    std::optional<T> result;
  };
  const auto meeting = std::make_shared<Meeting>();
  spawn(service_.runtime_.executor(0), [](Task<T> body, std::shared_ptr<Meeting> at) -> Task<void> {
    T result = co_await std::move(body);
    const std::lock_guard lock(at->mutex);
    at->result.emplace(std::move(result));
    at->arrived.notify_all();
  }(std::move(task), meeting));
  while (true) {
    {
      std::unique_lock lock(meeting->mutex);
      meeting->arrived.wait_for(lock, std::chrono::milliseconds(200),
                                [&] { return meeting->result.has_value(); });
      if (meeting->result) return std::move(meeting->result);
    }
    if (may_leave && stopping()) return std::nullopt;
    const Progress now = sample();
    if (caller_.progress) caller_.progress(now);
  }
}

// The methods, by group; each table is one file.
struct Method {
  std::string_view name;
  Result<Json> (*handler)(Call&);
};
const std::vector<Method>& volume_methods();  // service_volumes.cc
const std::vector<Method>& store_methods();   // service_store.cc
const std::vector<Method>& device_methods();  // service_devices.cc
const std::vector<Method>& nbd_methods();     // service_nbd.cc
const std::vector<Method>& qos_methods();     // service_qos.cc
const std::vector<Method>& scrub_methods();   // service_scrub.cc
const std::vector<Method>& driver_methods();  // service_driver.cc
const std::vector<Method>& guard_methods();   // service_guard.cc

// A node as the methods show it.
Json node_json(const NodeInfo& info);
Json settings_json(const VolumeSettings& settings);  // of a volume: members of the same
Json guard_json(const GuardInfo& guard);
Json limits_json(const QosLimits::Entries& entries);

}  // namespace voltree
