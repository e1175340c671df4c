// Attachments: volumes as kernel block devices, and the books of it.
//
// An attachment is booked in the store before its device is made and removed after it is gone, so
// that a volume in use is never taken for a free one, whenever the daemon dies. One whose device is
// not ours any more (the host or the daemon was restarted) is stale: it is listed, it still counts
// as in use until somebody detaches it, and detaching it needs no device.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "blockstore/runtime/io.h"
#include "driver/targets/target.h"

namespace voltree {

struct AttachOptions {
  std::string target = "loop";
  bool read_only = false;
  // A read-only device and a writable one of the same volume may be there at once. What is cached
  // of the one does not follow what is written through the other.
  bool beside_others = false;
  std::uint32_t sector_size_bytes = 512;
};

// Thread-safe; everything blocks, on a thread that is no executor.
class Attachments {
 public:
  Attachments(Runtime& runtime, Store& store) : runtime_(runtime), store_(store) {}

  // The kinds of devices that there are. Not while other calls run.
  void add(std::unique_ptr<Target> target) { targets_.push_back(std::move(target)); }
  void remove(std::string_view target);

  // kBusy when it is attached already, unless both are read-only, or one is and `beside_others` is
  // asked for. Snapshots are always read-only.
  Result<Attachment> attach(const std::string& name, AttachOptions options);
  // By volume (all its attachments) or by device. kNotFound when there is none; kBusy, naming who,
  // when in use.
  Result<std::vector<Attachment>> detach(const std::string& name_or_device);
  std::vector<Attachment> list();
  // Tells the devices of a volume that it was resized. What fails is left to the next attach.
  void capacity_changed(const std::string& name, std::uint64_t size_bytes);
  // Takes up the devices that an earlier daemon made, under the same paths. Returns what went
  // wrong, a line for each.
  std::vector<std::string> resume_all();
  // Unbinds every live device that is not in use; the books stay. Returns a line for each of those
  // in use, with what becomes of it.
  std::vector<std::string> release_all();

 private:
  Target* find(std::string_view name) const;
  Result<AttachmentRow> book(const std::string& name, const AttachOptions& options);
  Status bind(Target& target, Attachment& attachment);

  Runtime& runtime_;
  Store& store_;
  std::vector<std::unique_ptr<Target>> targets_;
  std::mutex mutex_;  // one attach or detach at a time
};

}  // namespace voltree
