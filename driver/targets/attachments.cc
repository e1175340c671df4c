#include "driver/targets/attachments.h"

namespace voltree {
namespace {

bool may_be_beside(const AttachOptions& options, const AttachmentRow& other) {
  const bool one_writes = options.read_only != other.read_only;
  return one_writes ? options.beside_others : options.read_only;
}

}  // namespace

void Attachments::remove(std::string_view target) {
  std::erase_if(targets_, [&](const auto& known) { return known->name() == target; });
}

Target* Attachments::find(std::string_view name) const {
  for (const std::unique_ptr<Target>& target : targets_) {
    if (target->name() == name) return target.get();
  }
  return nullptr;
}

std::vector<Attachment> Attachments::list() {
  std::vector<Attachment> all;
  for (auto& [name, row] : runtime_.sync_wait(store_.attachments())) {
    const Target* target = find(row.target);
    const bool live = target != nullptr && target->is_live(row);
    all.push_back({name, std::move(row), live});
  }
  return all;
}

Result<AttachmentRow> Attachments::book(const std::string& name, const AttachOptions& options) {
  AttachmentRow row;
  row.target = options.target;
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

Status Attachments::bind(Target& target, Attachment& attachment) {
  VT_ASSIGN_OR_RETURN(attachment.row.device, target.bind(attachment));
  Status status = runtime_.sync_wait(store_.update_attachment(attachment.row));
  if (!status.ok()) {
    // A device that is not in the books would be in use without anyone knowing. The first failure
    // is the one to tell.
    (void)target.unbind(attachment.row);
  }
  return status;
}

Result<Attachment> Attachments::attach(const std::string& name, AttachOptions options) {
  const std::lock_guard lock(mutex_);
  Target* target = find(options.target);
  if (target == nullptr) {
    return error(Code::kInvalid, "there are no devices of the kind {}: file, loop or nbd",
                 voltree::quoted(options.target));
  }
  VT_ASSIGN_OR_RETURN(const NodeName node, parse_node_name(name));
  VT_ASSIGN_OR_RETURN(const NodeInfo info, runtime_.sync_wait(store_.info(name)));
  VT_RETURN_IF_ERROR(target->check_supported());
  if (node.is_snapshot()) options.read_only = true;
  if (info.size_bytes % options.sector_size_bytes != 0) {
    return error(Code::kInvalid, "{} is {} bytes, not a multiple of {}-byte sectors",
                 voltree::quoted(name), info.size_bytes, options.sector_size_bytes);
  }
  for (const Attachment& other : list()) {
    if (other.name.str() != node.str() || may_be_beside(options, other.row)) continue;
    return error(Code::kBusy, "{} is attached already as {}{}", voltree::quoted(name),
                 other.row.device.empty() ? "a device that was never made" : other.row.device,
                 other.live ? "" : "; that attachment is stale: voltree detach it first");
  }
  VT_ASSIGN_OR_RETURN(AttachmentRow row, book(name, options));
  Attachment attachment{node, std::move(row), true};
  if (Status status = bind(*target, attachment); !status.ok()) {
    (void)runtime_.sync_wait(store_.remove_attachment(attachment.row.id));
    return status;
  }
  return attachment;
}

Result<std::vector<Attachment>> Attachments::detach(const std::string& name_or_device) {
  const std::lock_guard lock(mutex_);
  std::vector<Attachment> gone;
  for (Attachment& attachment : list()) {
    Target* target = find(attachment.row.target);
    if (target == nullptr) continue;
    if (attachment.name.str() != name_or_device && attachment.row.device != name_or_device) {
      continue;
    }
    if (attachment.live) VT_RETURN_IF_ERROR(target->unbind(attachment.row));
    VT_RETURN_IF_ERROR(runtime_.sync_wait(store_.remove_attachment(attachment.row.id)));
    gone.push_back(std::move(attachment));
  }
  if (gone.empty())
    return error(Code::kNotFound, "{} is not attached", voltree::quoted(name_or_device));
  return gone;
}

void Attachments::capacity_changed(const std::string& name, std::uint64_t size_bytes) {
  const std::lock_guard lock(mutex_);
  for (const Attachment& attachment : list()) {
    if (!attachment.live || attachment.name.str() != name) continue;
    (void)find(attachment.row.target)->capacity_changed(attachment, size_bytes);
  }
}

std::vector<std::string> Attachments::resume_all() {
  const std::lock_guard lock(mutex_);
  std::vector<std::string> failed;
  for (const Attachment& attachment : list()) {
    Target* target = find(attachment.row.target);
    if (target == nullptr) continue;
    const Status status = target->resume(attachment);
    if (status.ok() || status.code() == Code::kNotFound) continue;  // stale, as the list says
    failed.push_back(fmt::format("{} of {} is not served again: {}", attachment.row.device,
                                 attachment.name.str(), status.message()));
  }
  return failed;
}

std::vector<std::string> Attachments::release_all() {
  const std::lock_guard lock(mutex_);
  std::vector<std::string> in_use;
  for (const Attachment& attachment : list()) {
    if (!attachment.live) continue;
    Target* target = find(attachment.row.target);
    if (target->unbind(attachment.row).ok()) continue;
    in_use.push_back(
        fmt::format("{} is still in use: {}", attachment.row.device,
                    target->resumes() ? "it waits for the next daemon" : "it fails from now on"));
  }
  return in_use;
}

}  // namespace voltree
