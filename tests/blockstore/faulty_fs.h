// A FileSystem that passes everything on, until a test tells it to fail. For tests of the catalog's
// own failures.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "blockstore/runtime/io.h"
#include "blockstore/runtime/sync.h"

namespace voltree::testing {

struct Faults {
  bool fail_sync = false;
  bool fail_data_sync = false;  // of volumes only: the asynchronous ones
  bool fail_write = false;
  int fail_write_from_sync = -1;  // writes fail once so many syncs were asked for; -1: they do not
  int syncs = 0;                  // asked for, failed ones included
  int dir_syncs = 0;
  bool share = false;                 // files can share their space
  std::function<void()> after_share;  // called when some do
  std::string synced_dir;
  // The next request of this kind is kept from the host until release(), on an executor.
  std::optional<IoKind> hold;
  std::shared_ptr<Event> held = std::make_shared<Event>();
  std::function<void()> release;
  // Of a file that is taken in.
  std::uint64_t more_links = 0;
  bool lease_broken = false;
  bool fail_unlink_name = false;
  std::function<void()> before_lease_check;
};

class FaultyFile final : public File {
 public:
  FaultyFile(Faults& faults, std::unique_ptr<File> file)
      : faults_(faults), file_(std::move(file)) {}
  void submit(IoRequest& request) override {
    if (request.kind == IoKind::kSyncData) ++faults_.syncs;
    if (request.kind == IoKind::kSyncData && (faults_.fail_sync || faults_.fail_data_sync)) {
      request.status = Status(Code::kIoError, "injected sync failure");
      spawn(*request.home, [](IoRequest& failed) -> Task<void> {
        failed.on_done(failed);
        co_return;
      }(request));
      return;
    }
    if (request.kind == faults_.hold) {
      faults_.hold.reset();
      faults_.release = [this, &request] { file_->submit(request); };
      faults_.held->set();
      return;
    }
    file_->submit(request);
  }
  Status read_sync(std::span<std::byte> out, std::uint64_t at) override {
    return file_->read_sync(out, at);
  }
  Status write_sync(std::span<const std::byte> data, std::uint64_t at) override {
    const int from_sync = faults_.fail_write_from_sync;
    if (faults_.fail_write || (from_sync >= 0 && faults_.syncs >= from_sync))
      return Status(Code::kIoError, "injected write failure");
    return file_->write_sync(data, at);
  }
  Status sync_sync() override {
    ++faults_.syncs;
    if (faults_.fail_sync) return Status(Code::kIoError, "injected sync failure");
    return file_->sync_sync();
  }
  Result<std::uint64_t> size_bytes() override { return file_->size_bytes(); }
  Status truncate(std::uint64_t size) override { return file_->truncate(size); }
  Status allocate_sync(std::uint64_t at, std::uint64_t length) override {
    return file_->allocate_sync(at, length);
  }
  Result<std::uint64_t> allocated_bytes() override { return file_->allocated_bytes(); }
  Result<std::uint64_t> seek_data(std::uint64_t at) override { return file_->seek_data(at); }
  Result<std::uint64_t> seek_hole(std::uint64_t at) override { return file_->seek_hole(at); }
  Status clone_range_sync(File& source, std::uint64_t source_at, std::uint64_t length,
                          std::uint64_t at) override {
    if (!faults_.share) return Status(Code::kNotSupported, "this host shares nothing");
    File& from = *static_cast<FaultyFile&>(source).file_;
    Status status = file_->clone_range_sync(from, source_at, length, at);
    if (faults_.after_share) faults_.after_share();
    return status;
  }
  Status drain_foreign_io() override { return file_->drain_foreign_io(); }
  Result<std::uint64_t> links() override {
    VT_ASSIGN_OR_RETURN(const std::uint64_t names, file_->links());
    return names + faults_.more_links;
  }
  Result<std::string> path_now() override { return file_->path_now(); }
  Status take_lease() override { return file_->take_lease(); }
  Status check_lease() override {
    if (faults_.before_lease_check) faults_.before_lease_check();
    if (faults_.lease_broken) return Status(Code::kBusy, "somebody waits for the file");
    return file_->check_lease();
  }
  Status link(const std::string& path) override { return file_->link(path); }
  Status unlink_name(const std::string& path) override {
    if (faults_.fail_unlink_name) return Status(Code::kPermission, "injected: a name that stays");
    return file_->unlink_name(path);
  }
  Status make_ours() override { return file_->make_ours(); }

 private:
  Faults& faults_;
  std::unique_ptr<File> file_;
};

class FaultyFs final : public FileSystem {
 public:
  explicit FaultyFs(FileSystem& fs) : fs_(fs) {}
  bool on_host() const override { return fs_.on_host(); }
  Faults faults;

  Result<std::unique_ptr<File>> open(const std::string& path, OpenMode mode) override {
    Result<std::unique_ptr<File>> file = fs_.open(path, mode);
    if (!file.ok()) return file;
    return std::unique_ptr<File>(new FaultyFile(faults, std::move(file).value()));
  }
  Result<std::unique_ptr<MappedFile>> map(const std::string& path, std::uint64_t size,
                                          std::uint64_t reserve) override {
    return fs_.map(path, size, reserve);
  }
  Result<std::unique_ptr<MappedFile>> map_read_only(const std::string& path) override {
    return fs_.map_read_only(path);
  }
  Result<bool> exists(const std::string& path) override { return fs_.exists(path); }
  Status unlink(const std::string& path) override { return fs_.unlink(path); }
  Status rename(const std::string& from, const std::string& to) override {
    return fs_.rename(from, to);
  }
  Status make_dir(const std::string& path) override { return fs_.make_dir(path); }
  Result<std::vector<std::string>> list_dir(const std::string& path) override {
    return fs_.list_dir(path);
  }
  Status sync_dir(const std::string& path) override {
    ++faults.dir_syncs;
    faults.synced_dir = path;
    return fs_.sync_dir(path);
  }
  Result<FsInfo> info(const std::string& path) override { return fs_.info(path); }
  Result<FsSpace> space(const std::string& path) override { return fs_.space(path); }
  Result<FileIdentity> identity(const std::string& path) override { return fs_.identity(path); }
  Result<std::string> storage(const std::string& path) override { return fs_.storage(path); }
  Result<std::string> storage_of(std::uint64_t device) override { return fs_.storage_of(device); }

 private:
  FileSystem& fs_;
};

}  // namespace voltree::testing
