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

// Volumes of imports and exports to and from `name` that a process which was killed has left
// behind; what is in use stays.
Status remove_leftovers(Client& client, const std::string& name);

// What becomes of an unfinished volume: a new one, or the contents of one that is there.
enum class Purpose : std::uint8_t { kNew, kReplace };

// A volume that is deleted unless it gets its final name.
class UnfinishedVolume {
 public:
  // kExists when `final_name` is taken already and the purpose a new volume; kNotFound when it is
  // not there to be replaced. An empty erase policy is the store's.
  static Result<UnfinishedVolume> create(Client& client, const std::string& final_name,
                                         std::uint64_t size_bytes, Purpose purpose,
                                         const std::string& erase_policy = {});
  // What `source` holds now: to be read, and deleted in the end.
  static Result<UnfinishedVolume> clone(Client& client, const std::string& source);
  UnfinishedVolume(UnfinishedVolume&& other) noexcept;
  UnfinishedVolume& operator=(UnfinishedVolume&&) = delete;
  UnfinishedVolume(const UnfinishedVolume&) = delete;
  ~UnfinishedVolume() { (void)discard(); }

  const std::string& name() const { return name_; }
  Status resize(std::uint64_t size_bytes);
  // Its final name, or its contents to the volume of that name; what that one held is erased by
  // this policy (empty: the volume's own).
  Status publish(const std::string& erase_policy = {});
  // Deletes it. Says so when it stays behind.
  Status discard();

 private:
  UnfinishedVolume(Client& client, std::string name, std::string final_name, Purpose purpose)
      : client_(client),
        name_(std::move(name)),
        final_name_(std::move(final_name)),
        purpose_(purpose) {}
  Client& client_;
  std::string name_;  // empty: published, discarded or moved from
  const std::string final_name_;
  const Purpose purpose_;
};

}  // namespace voltree
