// Target: a way of giving a node out as a path of this host, mostly that of a kernel block device.
// What is attached, attachments.h keeps.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "blockstore/base/status.h"
#include "blockstore/store.h"

namespace voltree {

struct Attachment {
  NodeName name;
  AttachmentRow row;
  bool live = false;  // its device is there, and it is this one
};

// Calls may block, come from threads that are no executors, and never two at once.
class Target {
 public:
  virtual ~Target() = default;
  // As it stands in the books and in messages: "file", "loop", "nbd".
  virtual std::string_view name() const = 0;
  // OK when this daemon can make such devices on this host; otherwise why not, and what to do.
  virtual Status check_supported() const = 0;
  // Makes a device and returns its path.
  virtual Result<std::string> bind(const Attachment& attachment) = 0;
  // Writes back what is cached of the device and lets go of it. kBusy, naming who, when it is in
  // use: nothing changed then.
  virtual Status unbind(const AttachmentRow& row) = 0;
  virtual bool is_live(const AttachmentRow& row) const = 0;
  // Tells the device that the node was resized.
  virtual Status capacity_changed(const Attachment& attachment, std::uint64_t size_bytes) = 0;
  // Whether devices outlive the daemon: who uses one waits for the next daemon.
  virtual bool resumes() const = 0;
  // What an earlier daemon has made is there again, under the same path. kNotFound when there is
  // nothing to take up any more; kBusy, naming who, when somebody still uses what is left of it.
  virtual Status resume(const Attachment& attachment) = 0;
};

}  // namespace voltree
