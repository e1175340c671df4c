// LoopTarget: loop devices on the files of the mounted tree.
#pragma once

#include "blockstore/runtime/io.h"
#include "driver/targets/target.h"

namespace voltree {

class ExportedTree;

class LoopTarget final : public Target {
 public:
  // `tree` null: nothing is mounted, and nothing can be bound.
  LoopTarget(Runtime& runtime, ExportedTree* tree) : runtime_(runtime), tree_(tree) {}

  std::string_view name() const override { return "loop"; }
  Status check_supported() const override;
  Result<std::string> bind(const Attachment& attachment) override;
  Status unbind(const AttachmentRow& row) override;
  bool is_live(const AttachmentRow& row) const override;
  Status capacity_changed(const Attachment& attachment, std::uint64_t size_bytes) override;
  bool resumes() const override { return false; }
  Status resume(const Attachment& attachment) override;

 private:
  Runtime& runtime_;
  ExportedTree* tree_;
};

}  // namespace voltree
