// The host's file system: FileSystem, File and MappedFile over POSIX.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "blockstore/runtime/host_fault_guard.h"
#include "blockstore/runtime/io.h"
#include "blockstore/runtime/worker_threads.h"

namespace voltree {

// Owns a descriptor.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) {
      reset();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  ~UniqueFd() { reset(); }
  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  void reset();

 private:
  int fd_ = -1;
};

class HostFile;

// Where the data operations of a HostFile go: the rings, or the pool.
class HostIoBackend {
 public:
  virtual ~HostIoBackend() = default;
  virtual void submit(HostFile& file, IoRequest& request) = 0;
};

class HostFile final : public File {
 public:
  // `backend` may be null: then only the synchronous calls may be used.
  HostFile(UniqueFd fd, std::string path, bool direct, HostIoBackend* backend)
      : fd_(std::move(fd)), path_(std::move(path)), direct_(direct), backend_(backend) {}

  int fd() const { return fd_.get(); }
  bool direct() const { return direct_; }
  const std::string& path() const { return path_; }
  // Runs `request` on this thread; the Status is not stored.
  Status execute_sync(const IoRequest& request);
  // The Status of a failed operation on this file.
  Status failure(int error_number, std::string_view what) const;

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
  Status drain_foreign_io() override;
  Result<std::uint64_t> links() override;
  Result<std::string> path_now() override;
  Status take_lease() override;
  Status check_lease() override;
  Status link(const std::string& path) override;
  Status unlink_name(const std::string& path) override;
  Status make_ours() override;

 private:
  Status punch_sync(std::uint64_t offset_bytes, std::uint64_t length_bytes);

  UniqueFd fd_;
  std::string path_;
  bool direct_;
  HostIoBackend* backend_;
};

class HostMappedFile final : public MappedFile {
 public:
  static Result<std::unique_ptr<MappedFile>> make(UniqueFd fd, std::string path,
                                                  std::uint64_t size_bytes,
                                                  std::uint64_t reserve_bytes, bool writable);
  ~HostMappedFile() override;

  std::byte* data() override { return base_; }
  std::uint64_t size_bytes() const override { return size_.load(std::memory_order_acquire); }
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
  HostMappedFile(UniqueFd fd, std::string path, bool writable)
      : fd_(std::move(fd)), path_(std::move(path)), writable_(writable) {}
  Status reserve_address_space(std::uint64_t reserve_bytes);
  Status extend(std::uint64_t size_bytes);  // grow_mutex_ is held
  Status reserve_chunks(std::uint64_t offset_bytes, std::uint64_t length_bytes);
  bool chunk_reserved(std::uint64_t chunk) const;
  void mark_chunk(std::uint64_t chunk, bool reserved);
  Status check_range(std::uint64_t offset_bytes, std::uint64_t length_bytes) const;
  Status zero_edge(std::uint64_t offset_bytes, std::uint64_t length_bytes);
  Status touch_pages(std::uint64_t first_bytes, std::uint64_t end_bytes, bool for_write);

  UniqueFd fd_;
  std::string path_;
  const bool writable_;
  std::byte* base_ = nullptr;
  std::uint64_t reserve_bytes_ = 0;
  std::optional<FaultGuard> guard_;  // of the whole reserve
  std::atomic<std::uint64_t> size_{0};
  std::uint64_t mapped_bytes_ = 0;  // whole pages; grow_mutex_
  std::mutex grow_mutex_;

  // One bit a 64 KiB chunk: its space is reserved. Anonymous memory, so that a large reserve costs
  // only what is used. Set and cleared under chunk_mutex_, read without.
  std::uint64_t* chunk_words_ = nullptr;
  std::uint64_t chunk_words_bytes_ = 0;
  std::mutex chunk_mutex_;
};

class HostFileSystem final : public FileSystem {
 public:
  explicit HostFileSystem(HostIoBackend* backend);

  Result<std::unique_ptr<File>> open(const std::string& path, OpenMode mode) override;
  Result<std::unique_ptr<MappedFile>> map(const std::string& path, std::uint64_t size_bytes,
                                          std::uint64_t reserve_bytes) override;
  Result<std::unique_ptr<MappedFile>> map_read_only(const std::string& path) override;
  Result<bool> exists(const std::string& path) override;
  Status unlink(const std::string& path) override;
  Status rename(const std::string& from, const std::string& to) override;
  Status make_dir(const std::string& path) override;
  Result<std::vector<std::string>> list_dir(const std::string& path) override;
  Status sync_dir(const std::string& path) override;
  Result<FsInfo> info(const std::string& path) override;
  Result<FsSpace> space(const std::string& path) override;
  Result<FileIdentity> identity(const std::string& path) override;
  Result<std::string> storage(const std::string& path) override;
  Result<std::string> storage_of(std::uint64_t device) override;

 private:
  HostIoBackend* backend_;
  // One thread, with a table of descriptors of its own: where the process has none left, this one
  // has, and nobody can take them.
  WorkerPool folders_;
};

// kTooLarge when the range is beyond what an off_t can say.
Status check_file_range(std::uint64_t offset_bytes, std::uint64_t length_bytes,
                        const std::string& path);

// For after a sync of `fd`, a regular file, that has succeeded: whether it can be believed. A file
// system that is stopped meanwhile (a forced shutdown, FS_IOC_SHUTDOWN) may answer so for what it
// has lost: ext4's fsync takes a transaction whose commit was aborted for one that was made
// (jbd2_complete_transaction in fs/jbd2/journal.c does not ask). It is marked as stopped before
// that (fs/ext4/ioctl.c), and then serves no read. Never blocks.
Status check_sync_holds(int fd, const std::string& path);

// lseek(SEEK_DATA / SEEK_HOLE); "no more" is the file's size.
Result<std::uint64_t> host_seek(int fd, const std::string& path, std::uint64_t offset_bytes,
                                int whence);

}  // namespace voltree
