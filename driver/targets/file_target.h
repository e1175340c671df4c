// FileTarget: the file of the mounted tree itself, for who opens files rather than block devices
// (a QEMU disk of the type "file"). The books say that it is given out, so that it counts as in
// use.
#pragma once

#include "driver/targets/target.h"

namespace voltree {

class ExportedTree;

class FileTarget final : public Target {
 public:
  // `tree` null: nothing is mounted, and there are no files.
  explicit FileTarget(ExportedTree* tree) : tree_(tree) {}

  std::string_view name() const override { return "file"; }
  Status check_supported() const override;
  Result<std::string> bind(const Attachment& attachment) override;
  // Never kBusy: who still has it open goes on.
  Status unbind(const AttachmentRow& row) override;
  bool is_live(const AttachmentRow& row) const override;
  Status capacity_changed(const Attachment& attachment, std::uint64_t size_bytes) override;
  bool resumes() const override { return true; }
  // kNotFound when the tree is mounted elsewhere now.
  Status resume(const Attachment& attachment) override;

 private:
  ExportedTree* tree_;
};

}  // namespace voltree
