// LoopTarget: volumes as loop devices on their files in the mounted tree, and the books of it.
//
// An attachment is booked in the store before its device is made and removed after it is gone, so
// that a volume in use is never taken for a free one, whenever the daemon dies. One whose device is
// not ours any more (the host or the daemon was restarted) is stale: it is listed, it still counts
// as in use until somebody detaches it, and detaching it needs no device.
#pragma once

#include <mutex>
#include <string>
#include <vector>

#include "blockstore/runtime/io.h"
#include "blockstore/store.h"

namespace voltree {

class ExportedTree;

struct AttachOptions {
  bool read_only = false;
  std::uint32_t sector_size_bytes = 512;
};

struct Attachment {
  NodeName name;
  AttachmentRow row;
  bool live = false;
};

// Thread-safe; everything blocks, on a thread that is no executor.
class LoopTarget {
 public:
  // `tree` null: nothing is mounted; attach() answers kNotSupported, the rest works.
  LoopTarget(Runtime& runtime, Store& store, ExportedTree* tree)
      : runtime_(runtime), store_(store), tree_(tree) {}

  // kBusy when it is attached already, unless both are read-only. Snapshots are always read-only.
  Result<Attachment> attach(const std::string& name, AttachOptions options);
  // By volume (all its attachments) or by device. kNotFound when there is none; kBusy, naming who,
  // when in use.
  Result<std::vector<Attachment>> detach(const std::string& name_or_device);
  std::vector<Attachment> list();
  // Tells the devices of a volume that it was resized. What fails is left to the next attach.
  void capacity_changed(const std::string& name);
  // Unbinds every live device that is not in use; the books stay. Returns those in use.
  std::vector<std::string> release_all();

 private:
  bool is_live(const AttachmentRow& row) const;
  Result<AttachmentRow> book(const std::string& name, const AttachOptions& options);
  Status bind(const NodeName& name, AttachmentRow& row);

  Runtime& runtime_;
  Store& store_;
  ExportedTree* tree_;
  std::mutex mutex_;  // one attach or detach at a time
};

}  // namespace voltree
