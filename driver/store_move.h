// A volume's move to another store, of this host or of another.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "driver/control/client.h"
#include "driver/images/nbd_disk.h"
#include "driver/images/store_volume.h"
#include "driver/ssh_stream.h"

namespace voltree {

// A store that a daemon serves: its methods and its disks. For one thread.
class PeerStore {
 public:
  // kNotFound when nobody listens there.
  static Result<std::unique_ptr<PeerStore>> connect(const std::string& control_socket);
  static Result<std::unique_ptr<PeerStore>> connect_to_host(const std::string& ssh_config,
                                                            const std::string& host,
                                                            const std::string& control_socket);

  Client& client() { return *client_; }
  const std::string& uuid() const { return uuid_; }
  bool on_this_host() const { return host_.empty(); }
  // It must be gone before this is.
  Result<std::unique_ptr<NbdDisk>> disk(const std::string& name);
  // The failure, with what ssh has to say of it.
  Status explain(const Status& failure) const;

 private:
  PeerStore(std::string ssh_config, std::string host)
      : ssh_config_(std::move(ssh_config)), host_(std::move(host)) {}
  Status open(const std::string& control_socket);
  Result<int> dial(const std::string& socket_path);

  const std::string ssh_config_;
  const std::string host_;  // empty: this one
  std::vector<std::unique_ptr<SshStream>> streams_;
  std::unique_ptr<SocketClient> client_;
  std::string uuid_;
  std::string nbd_socket_;
};

// What fails leaves the volume where it is.
class StoreMove {
 public:
  StoreMove(Client& here, PeerStore& there, std::string name, const ProgressSink& progress)
      : here_(here), there_(there), name_(std::move(name)), progress_(progress) {}

  // When it succeeds, a whole and equal volume of this name is there; this one is here still.
  Status run();
  // Whether run() has put it there, and not an earlier try.
  bool published() const { return made_.has_value(); }

 private:
  Status send(const std::string& copy);
  Result<bool> share(const std::string& copy, std::uint64_t size_bytes);
  Status compare(const std::string& copy, const std::string& other, const ProgressSink& progress);
  Status send_settings(const Json& here, const std::string& to);
  Status check_unchanged(const std::string& copy);
  ProgressSink half(std::uint64_t which) const;

  Client& here_;
  PeerStore& there_;
  const std::string name_;
  const ProgressSink& progress_;
  std::string from_socket_;
  std::optional<UnfinishedVolume> made_;
};

}  // namespace voltree
