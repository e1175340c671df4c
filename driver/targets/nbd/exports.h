// Exports: what the server shows of a store. Names are VOLUME and VOLUME@SNAPSHOT.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "blockstore/store.h"
#include "driver/targets/nbd/access.h"

namespace voltree::nbd {

// A metadata context ("Metadata querying" in proto.md): a question about ranges of an export.
struct Context {
  enum class Kind : std::uint8_t {
    kAllocation,  // base:allocation
    kLayers,      // voltree:layers, qemu:allocation-depth
    kChanges,     // qemu:dirty-bitmap:SNAPSHOT
  };
  Kind kind = Kind::kAllocation;
  std::string name;
  std::uint32_t id = 0;
  std::shared_ptr<BlockDevice> base;  // kChanges: the snapshot
};

// An export that a client has. While it lives, the volume or snapshot is in use.
struct Export {
  std::shared_ptr<BlockDevice> device;
  NodeInfo node;
  bool read_only = false;
  std::uint64_t size_bytes = 0;  // as the client was told
};

struct ExportInfo {
  NodeInfo node;
  bool read_only = false;
};

// Thread-safe; tasks run on the caller's executor.
class Exports {
 public:
  Exports(Store& store, AccessRules rules) : store_(store), rules_(std::move(rules)) {}

  // What `peer` (access.h) may have, by name.
  Task<std::vector<std::string>> list(std::string peer);
  // kNotFound when there is no such export, and also when it is not for this peer.
  Task<Result<ExportInfo>> info(std::string name, std::string peer);
  Task<Result<Export>> open(std::string name, std::string peer);
  // The contexts of an export that answer to the queries. Listing, "NAMESPACE:" (and
  // "qemu:dirty-bitmap:") stands for all, and no query at all for everything there is. kInvalid for
  // a query without a namespace.
  Task<Result<std::vector<Context>>> contexts(std::string name, std::string peer,
                                              std::vector<std::string> queries, bool listing);

 private:
  Store& store_;
  const AccessRules rules_;
};

}  // namespace voltree::nbd
