// LOCK: one process owns a store (Boost.Interprocess file_lock; see docs/FORMAT.md).
#pragma once

#include <memory>
#include <string>

#include "blockstore/base/status.h"

namespace voltree {

class StoreLock {
 public:
  // kBusy, naming the owner, when another process (or another Store of this one) has it. Blocking,
  // but never waits.
  static Result<std::unique_ptr<StoreLock>> take(const std::string& directory);
  // For reading a store that lies where nothing can be written, with others that do the same: kBusy
  // when somebody has it as its owner (the file system may be writable at another mountpoint).
  static Result<std::unique_ptr<StoreLock>> share(const std::string& directory);
  ~StoreLock();

 private:
  struct Impl;
  explicit StoreLock(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace voltree
