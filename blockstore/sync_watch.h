// SyncWatch: remembers the first sync that failed among steps of which others may fail, too, so
// that the caller can go read-only for the one and not for the other (I10).
#pragma once

#include <utility>

#include "blockstore/base/status.h"

namespace voltree {

class SyncWatch {
 public:
  Status operator()(Status synced) {
    if (!synced.ok() && failure_.ok()) failure_ = synced;
    return synced;
  }
  const Status& failure() const { return failure_; }

 private:
  Status failure_;
};

}  // namespace voltree
