#include "driver/targets/loop_target.h"

#include <sys/stat.h>

#include "driver/control/service.h"
#include "driver/targets/loop_device.h"

namespace voltree {

bool LoopTarget::is_live(const AttachmentRow& row) const {
  if (row.target != "loop" || row.device.empty() || tree_ == nullptr) return false;
  if (row.boot_id != runtime_.boot_id()) return false;
  const loop::State state = loop::state_of(row.device);
  struct stat mount {};
  // Every mount has a device number of its own: a device left over from an earlier daemon is told
  // apart by it, even when the path of its file is the same.
  return state.bound && ::stat(tree_->mountpoint().c_str(), &mount) == 0 &&
         mount.st_dev == state.backing_device;
}

std::vector<Attachment> LoopTarget::list() {
  std::vector<Attachment> all;
  for (auto& [name, row] : runtime_.sync_wait(store_.attachments())) {
    const bool live = is_live(row);
    all.push_back({name, std::move(row), live});
  }
  return all;
}

Result<AttachmentRow> LoopTarget::book(const std::string& name, const AttachOptions& options) {
  AttachmentRow row;
  row.target = "loop";
  row.read_only = options.read_only;
  row.sector_size_bytes = options.sector_size_bytes;
  VT_ASSIGN_OR_RETURN(const std::uint64_t id, runtime_.sync_wait(store_.add_attachment(name, row)));
  // The store filled in the node and the boot: take the whole row, it is written back with the
  // device in it.
  for (auto& [node, booked] : runtime_.sync_wait(store_.attachments())) {
    if (booked.id == id) return std::move(booked);
  }
  return error(Code::kGone, "{} was deleted while it was being attached", voltree::quoted(name));
}

Status LoopTarget::bind(const NodeName& name, AttachmentRow& row) {
  VT_ASSIGN_OR_RETURN(row.device,
                      loop::bind({tree_->path_of(name), row.read_only, row.sector_size_bytes}));
  Status status = runtime_.sync_wait(store_.update_attachment(row));
  if (!status.ok()) {
    // A device that is not in the books would be in use without anyone knowing. The first failure
    // is the one to tell.
    (void)loop::unbind(row.device);
  }
  return status;
}

Result<Attachment> LoopTarget::attach(const std::string& name, AttachOptions options) {
  const std::lock_guard lock(mutex_);
  if (tree_ == nullptr) {
    return error(Code::kNotSupported,
                 "attaching needs a daemon with a mounted tree: voltree serve --mount DIR");
  }
  VT_ASSIGN_OR_RETURN(const NodeName node, parse_node_name(name));
  VT_ASSIGN_OR_RETURN(const NodeInfo info, runtime_.sync_wait(store_.info(name)));
  VT_RETURN_IF_ERROR(loop::check_supported());
  if (node.is_snapshot()) options.read_only = true;
  if (info.size_bytes % options.sector_size_bytes != 0) {
    return error(Code::kInvalid, "{} is {} bytes, not a multiple of {}-byte sectors",
                 voltree::quoted(name), info.size_bytes, options.sector_size_bytes);
  }
  for (const Attachment& other : list()) {
    if (other.name.str() != node.str() || (options.read_only && other.row.read_only)) continue;
    return error(Code::kBusy, "{} is attached already as {}{}", voltree::quoted(name),
                 other.row.device.empty() ? "a device that was never made" : other.row.device,
                 other.live ? "" : "; that attachment is stale: voltree detach it first");
  }
  VT_ASSIGN_OR_RETURN(AttachmentRow row, book(name, options));
  if (Status status = bind(node, row); !status.ok()) {
    (void)runtime_.sync_wait(store_.remove_attachment(row.id));
    return status;
  }
  return Attachment{node, std::move(row), true};
}

Result<std::vector<Attachment>> LoopTarget::detach(const std::string& name_or_device) {
  const std::lock_guard lock(mutex_);
  std::vector<Attachment> gone;
  for (Attachment& attachment : list()) {
    if (attachment.row.target != "loop") continue;
    if (attachment.name.str() != name_or_device && attachment.row.device != name_or_device) {
      continue;
    }
    if (attachment.live) VT_RETURN_IF_ERROR(loop::unbind(attachment.row.device));
    VT_RETURN_IF_ERROR(runtime_.sync_wait(store_.remove_attachment(attachment.row.id)));
    gone.push_back(std::move(attachment));
  }
  if (gone.empty())
    return error(Code::kNotFound, "{} is not attached", voltree::quoted(name_or_device));
  return gone;
}

void LoopTarget::capacity_changed(const std::string& name) {
  const std::lock_guard lock(mutex_);
  for (const Attachment& attachment : list()) {
    if (!attachment.live || attachment.name.str() != name) continue;
    (void)loop::refresh_size(tree_->path_of(attachment.name));
    (void)loop::update_capacity(attachment.row.device);
  }
}

std::vector<std::string> LoopTarget::release_all() {
  const std::lock_guard lock(mutex_);
  std::vector<std::string> in_use;
  for (const Attachment& attachment : list()) {
    if (attachment.live && !loop::unbind(attachment.row.device).ok()) {
      in_use.push_back(attachment.row.device);
    }
  }
  return in_use;
}

}  // namespace voltree
