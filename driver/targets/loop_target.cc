#include "driver/targets/loop_target.h"

#include <sys/stat.h>

#include <algorithm>

#include "driver/control/service.h"
#include "driver/targets/loop_device.h"

namespace voltree {

Status LoopTarget::check_supported() const {
  if (tree_ == nullptr) {
    return error(Code::kNotSupported,
                 "attaching needs a daemon with a mounted tree: voltree serve --mount DIR");
  }
  return loop::check_supported();
}

Result<std::string> LoopTarget::bind(const Attachment& attachment) {
  const AttachmentRow& row = attachment.row;
  return loop::bind({tree_->path_of(attachment.name), row.read_only, row.sector_size_bytes});
}

Status LoopTarget::unbind(const AttachmentRow& row) { return loop::unbind(row.device); }

bool LoopTarget::is_live(const AttachmentRow& row) const {
  if (row.device.empty() || tree_ == nullptr || row.boot_id != runtime_.boot_id()) return false;
  const loop::State state = loop::state_of(row.device);
  struct stat mount {};
  // Every mount has a device number of its own: a device left over from an earlier daemon is told
  // apart by it, even when the path of its file is the same.
  return state.bound && ::stat(tree_->mountpoint().c_str(), &mount) == 0 &&
         mount.st_dev == state.backing_device;
}

Status LoopTarget::capacity_changed(const Attachment& attachment, std::uint64_t) {
  // A loop device takes the size that the kernel remembers of the file.
  VT_RETURN_IF_ERROR(loop::refresh_size(tree_->path_of(attachment.name)));
  return loop::update_capacity(attachment.row.device);
}

// Who was told of a path goes on using it.
Status LoopTarget::resume(const Attachment& attachment) {
  const AttachmentRow& row = attachment.row;
  if (row.device.empty() || row.boot_id != runtime_.boot_id()) {
    return error(Code::kNotFound, "it is of an earlier boot");
  }
  if (tree_ == nullptr) return error(Code::kNotFound, "nothing is mounted");
  VT_RETURN_IF_ERROR(check_supported());
  // The path in the tree: what is left of the device names it relative to a mount that is gone.
  const std::string path = tree_->path_of(attachment.name);
  const std::string file = path.substr(std::min(path.size(), tree_->mountpoint().size()));
  VT_RETURN_IF_ERROR(loop::release_dead(row.device, file));
  return loop::bind_to(row.device, {path, row.read_only, row.sector_size_bytes});
}

}  // namespace voltree
