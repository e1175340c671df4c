// The files of an import and an export.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "blockstore/block_device.h"
#include "driver/images/image_format.h"

namespace voltree {

// What is read: a file, a block device, or something that can only be read once.
class SourceFile : public ImageBytes {
 public:
  // "-" is standard input.
  static Result<std::unique_ptr<SourceFile>> open(const std::string& path);
  ~SourceFile() override;
  SourceFile(const SourceFile&) = delete;
  SourceFile& operator=(const SourceFile&) = delete;

  int fd() const { return fd_; }
  // True when it has a size and bytes at offsets; false: read_next is all there is.
  bool seekable() const { return seekable_; }
  std::uint64_t size_bytes() const override { return size_bytes_; }
  Status read(std::uint64_t offset_bytes, std::span<std::byte> out) const override;
  Result<FormatGuess> guess() const;
  // From `offset_bytes` (before the end) on: data, or a hole of the file.
  Result<AllocationRun> next_run(std::uint64_t offset_bytes) const;
  // kInvalid when it was changed since it was opened.
  Status check_unchanged() const;

  // Fills `out`, less only at the end. kCancelled by a signal.
  Result<std::size_t> read_next(std::span<std::byte> out);

 private:
  SourceFile(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}
  const int fd_;
  const std::string path_;
  struct stat opened_ {};
  bool seekable_ = false;
  std::uint64_t size_bytes_ = 0;
};

// What is written: a file beside the final one that takes its place when everything is there.
class TargetFile {
 public:
  // kExists when there is such a file and `force` was not said; kInvalid for what is no regular
  // file.
  static Result<std::unique_ptr<TargetFile>> create(const std::string& path, bool force);
  ~TargetFile();  // removes it unless commit() was called
  TargetFile(const TargetFile&) = delete;
  TargetFile& operator=(const TargetFile&) = delete;

  int fd() const { return fd_; }
  // Durable, and under its name.
  Status commit();

 private:
  TargetFile(int fd, std::string temporary, std::string path, bool force)
      : fd_(fd), temporary_(std::move(temporary)), path_(std::move(path)), force_(force) {}
  const int fd_;
  std::string temporary_;  // empty: committed
  const std::string path_;
  const bool force_;
};

}  // namespace voltree
