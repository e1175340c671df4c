// The steps of an import that are the store's: calls of methods, and waiting for NBD clients to go.
#pragma once

#include <cstdint>
#include <string>

#include "driver/control/client.h"

namespace voltree {

// The path of the socket for NbdDisk.
Result<std::string> private_nbd(Client& client);
// Bytes of a volume or snapshot that hold data.
Result<std::uint64_t> referenced_bytes(Client& client, const std::string& name);
// Until no NBD client has it: their good-bye takes a moment to be heard.
Status wait_until_free(Client& client, const std::string& name);

// A volume that is deleted unless it gets its final name.
class UnfinishedVolume {
 public:
  // kExists when `final_name` is taken already.
  static Result<UnfinishedVolume> create(Client& client, const std::string& final_name,
                                         std::uint64_t size_bytes);
  UnfinishedVolume(UnfinishedVolume&& other) noexcept;
  UnfinishedVolume& operator=(UnfinishedVolume&&) = delete;
  UnfinishedVolume(const UnfinishedVolume&) = delete;
  ~UnfinishedVolume() { (void)discard(); }

  const std::string& name() const { return name_; }
  Status resize(std::uint64_t size_bytes);
  // Its final name.
  Status publish();
  // Deletes it. Says so when it stays behind.
  Status discard();

 private:
  UnfinishedVolume(Client& client, std::string name, std::string final_name)
      : client_(client), name_(std::move(name)), final_name_(std::move(final_name)) {}
  Client& client_;
  std::string name_;  // empty: published, discarded or moved from
  const std::string final_name_;
};

}  // namespace voltree
