// File and MappedFile of the simulator: views of a SimInode. Private to sim_*.cc.
#pragma once

#include <memory>
#include <string>

#include "blockstore/runtime/sim_runtime.h"

namespace voltree {

class SimFile final : public File {
 public:
  SimFile(SimRuntime& runtime, std::string path, std::shared_ptr<SimInode> inode, OpenMode mode)
      : runtime_(runtime), path_(std::move(path)), inode_(std::move(inode)), mode_(mode) {}

  Status execute(const IoRequest& request);

  void submit(IoRequest& request) override;
  Status read_sync(std::span<std::byte> out, std::uint64_t offset_bytes) override;
  Status write_sync(std::span<const std::byte> data, std::uint64_t offset_bytes) override;
  Status sync_sync() override;
  Result<std::uint64_t> size_bytes() override;
  Status truncate(std::uint64_t size_bytes) override;
  Status allocate_sync(std::uint64_t offset_bytes, std::uint64_t length_bytes) override;
  Status clone_range_sync(File& source, std::uint64_t source_offset_bytes,
                          std::uint64_t length_bytes, std::uint64_t offset_bytes) override;
  Result<std::uint64_t> allocated_bytes() override;
  Result<std::uint64_t> seek_data(std::uint64_t offset_bytes) override;
  Result<std::uint64_t> seek_hole(std::uint64_t offset_bytes) override;
  Status drain_foreign_io() override { return {}; }
  Result<std::uint64_t> links() override;
  Result<std::string> path_now() override;
  Status take_lease() override;
  Status check_lease() override;
  Status link(const std::string& path) override;
  Status unlink_name(const std::string& path) override;
  Status make_ours() override;

 private:
  Status change(SimMutation mutation);
  Status check_direct(const std::byte* data, std::uint64_t offset_bytes,
                      std::uint64_t length_bytes) const;

  SimRuntime& runtime_;
  std::string path_;
  std::shared_ptr<SimInode> inode_;
  OpenMode mode_;
};

class SimMappedFile final : public MappedFile {
 public:
  // `inode` has been map()ped for `reserve_bytes`.
  SimMappedFile(SimRuntime& runtime, std::string path, std::shared_ptr<SimInode> inode,
                std::uint64_t reserve_bytes)
      : runtime_(runtime),
        path_(std::move(path)),
        inode_(std::move(inode)),
        size_bytes_(inode_->size_bytes()),
        reserve_bytes_(reserve_bytes) {}
  ~SimMappedFile() override { inode_->unmap(); }

  std::byte* data() override { return inode_->region(); }
  std::uint64_t size_bytes() const override { return size_bytes_; }
  Status failure() const override;
  bool resident(std::uint64_t offset_bytes, std::uint64_t length_bytes, bool for_write) override;
  Status populate_sync(std::uint64_t offset_bytes, std::uint64_t length_bytes,
                       bool for_write) override;
  Status sync_sync(std::uint64_t offset_bytes, std::uint64_t length_bytes) override;
  Status punch_sync(std::uint64_t offset_bytes, std::uint64_t length_bytes) override;
  Result<std::uint64_t> seek_data(std::uint64_t offset_bytes) override;
  Result<std::uint64_t> seek_hole(std::uint64_t offset_bytes) override;
  Status grow(std::uint64_t size_bytes) override;

 private:
  Status check_range(std::uint64_t offset_bytes, std::uint64_t length_bytes) const;

  SimRuntime& runtime_;
  std::string path_;
  std::shared_ptr<SimInode> inode_;
  std::uint64_t size_bytes_;
  std::uint64_t reserve_bytes_;
  mutable Status failure_;
};

}  // namespace voltree
