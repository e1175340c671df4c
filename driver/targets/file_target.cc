#include "driver/targets/file_target.h"

#include "driver/control/service.h"

namespace voltree {

Status FileTarget::check_supported() const {
  if (tree_ != nullptr) return {};
  return error(Code::kNotSupported,
               "the store is not mounted, so that there are no files: voltree serve --mount DIR");
}

Result<std::string> FileTarget::bind(const Attachment& attachment) {
  return tree_->path_of(attachment.name);
}

Status FileTarget::unbind(const AttachmentRow&) { return {}; }

bool FileTarget::is_live(const AttachmentRow& row) const {
  return tree_ != nullptr && row.device.starts_with(tree_->mountpoint() + "/");
}

// The tree itself tells the kernel.
Status FileTarget::capacity_changed(const Attachment&, std::uint64_t) { return {}; }

Status FileTarget::resume(const Attachment& attachment) {
  if (is_live(attachment.row)) return {};
  return error(Code::kNotFound, "{} is not in the tree that is mounted", attachment.row.device);
}

}  // namespace voltree
