// Mount: a store's volumes and snapshots as files under a folder (DESIGN section 5).
//
//   volumes/<name>              read/write; behaves like a block device whose size is the volume's
//   snapshots/<volume>/<name>   read-only; creating one takes a snapshot, removing it deletes it
//
// What each system call does to these files is written down in docs/FILES.md and tried in tests/fs.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "blockstore/base/status.h"
#include "blockstore/base/units.h"
#include "blockstore/runtime/io.h"
#include "blockstore/store.h"

namespace voltree {

struct MountOptions {
  std::string mountpoint;
  bool allow_other = false;                // users other than the one who mounts may look inside
  std::optional<std::uint32_t> owner_uid;  // unset: the effective user of this process
  std::optional<std::uint32_t> owner_gid;
  std::uint32_t file_mode = 0600;  // of volumes; snapshots get mode & 0444
  // How many executors read requests; 0: one. Backing I/O runs on the executor that read the
  // request. More readers than the load needs cost: each request wakes all that wait.
  std::size_t reader_executors = 0;
};

class Mount {
 public:
  // Mounts, and serves on the runtime's executors. Blocking: call it from a thread that is not an
  // executor. A tree that a daemon left there when it died is detached first. kNotFound: no such
  // folder. kBusy: something else is mounted there, or it is not empty (the message says which).
  // kPermission: the host forbids it. The runtime and the store must outlive the Mount.
  static Result<std::unique_ptr<Mount>> start(Runtime& runtime, Store& store, MountOptions options);
  ~Mount();  // stop()
  Mount(const Mount&) = delete;
  Mount& operator=(const Mount&) = delete;

  // Unmounts (detaches when files are still open: these fail with ENOTCONN from then on), waits for
  // what is being served, drops the devices. Idempotent. Blocking: never from an executor.
  void stop();
  // True once the tree is no longer served: stop() was called, or someone unmounted it from
  // outside.
  bool stopped() const;

  // Where the file of `name` is.
  std::string path_of(const NodeName& name) const;

  // Makes the kernel forget what it caches of the file: after a revert, or a write through another
  // door. Thread-safe, returns at once; the kernel is told from a thread that serves no requests.
  void invalidate(const NodeName& name);
  // The same for a range of a node, and returns when the kernel has forgotten it; at once when the
  // file is not open here. Thread-safe, on an executor.
  Task<void> forget_range(NodeId node, std::uint64_t offset_bytes, std::uint64_t length_bytes);

 private:
  class Session;
  explicit Mount(std::unique_ptr<Session> session);
  std::unique_ptr<Session> session_;
};

}  // namespace voltree
