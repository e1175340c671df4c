// What outlives a simulated process: the files of a simulated machine.
//
// A SimWorld holds files and folders in memory. Several SimRuntimes may be made over one in turn,
// which is how a test closes a store and opens it again. Every change of a file's bytes goes
// through SimWorld::apply and every change of a name through SimWorld::apply_name: faults belong
// there.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "blockstore/base/status.h"
#include "blockstore/runtime/sim_log.h"

namespace voltree {

struct SimWorldOptions {
  // Space for the files' pages; beyond it writes and reservations are kNoSpace.
  std::uint64_t capacity_bytes = std::numeric_limits<std::int64_t>::max();
  std::uint64_t file_size_max_bytes = (std::uint64_t{16} << 40) - 4096;
};

// Sets of pages, as ranges.
class SimPageSet {
 public:
  std::uint64_t add(std::uint64_t first, std::uint64_t end);     // how many were not in it
  std::uint64_t remove(std::uint64_t first, std::uint64_t end);  // how many were
  std::uint64_t count(std::uint64_t first, std::uint64_t end) const;
  bool contains(std::uint64_t page) const { return count(page, page + 1) != 0; }
  std::uint64_t size() const { return size_; }
  const std::map<std::uint64_t, std::uint64_t>& ranges() const { return ranges_; }  // first, end

 private:
  std::map<std::uint64_t, std::uint64_t> ranges_;
  std::uint64_t size_ = 0;
};

// One file. Its pages are either separate, or, in the part that has been mapped, in one address
// range, so that a File and a MappedFile of one path show the same bytes.
class SimInode {
 public:
  static constexpr std::uint64_t kPageBytes = 4096;

  // `used_pages` counts the pages of all files of the world.
  SimInode(std::shared_ptr<std::uint64_t> used_pages, std::uint32_t id)
      : used_pages_(std::move(used_pages)), id_(id) {}
  SimInode(const SimInode&) = delete;
  SimInode& operator=(const SimInode&) = delete;
  ~SimInode();

  std::uint32_t id() const { return id_; }
  std::uint64_t size_bytes() const { return size_bytes_; }
  std::uint64_t allocated_bytes() const { return (pages_.size() + reserved_.size()) * kPageBytes; }
  void read(std::span<std::byte> out, std::uint64_t offset_bytes) const;  // zeros past the end
  std::uint64_t seek_data(std::uint64_t offset_bytes) const;
  std::uint64_t seek_hole(std::uint64_t offset_bytes) const;

  // Moves the first `reserve_bytes` into one address range. kNotSupported when that would move an
  // address that a mapping shows.
  Status map(std::uint64_t reserve_bytes);
  void unmap() { --mappings_; }
  std::byte* region() const { return region_; }

  // Which pages the simulated page cache holds for mappings.
  bool cached(std::uint64_t page) const { return cached_.contains(page); }
  bool reserved(std::uint64_t page) const {
    return pages_.contains(page) || reserved_.contains(page);
  }
  void set_cached(std::uint64_t page) { cached_.insert(page); }
  void drop_cache() { cached_.clear(); }

  // The page cache gives up a page that it could not write back: what the disk has shows again.
  void revert_page(std::uint64_t page, const std::byte* bytes, bool written);
  std::vector<std::uint64_t> page_numbers() const;

  // As it is on a disk from which a machine starts (SimImage). `bytes` null: zeros.
  void restore_page(std::uint64_t page, const std::byte* bytes, bool written);
  void restore_reserved(std::uint64_t first_page, std::uint64_t end_page) {
    *used_pages_ += reserved_.add(first_page, end_page);
  }
  void restore_size(std::uint64_t size_bytes) { size_bytes_ = size_bytes; }

 private:
  friend class SimWorld;
  using PageBytes = std::array<std::byte, kPageBytes>;
  struct Page {
    std::unique_ptr<PageBytes> own;  // null: in the region, or zeros
    bool written = false;            // false: punched in part only; seek_data calls it a hole
  };

  std::byte* bytes_of(std::uint64_t page);
  Page& make_page(std::uint64_t page);
  std::byte* make_bytes(std::uint64_t page);  // written from now on
  std::uint64_t missing_pages(std::uint64_t offset_bytes, std::uint64_t length_bytes) const;
  void write(std::span<const std::byte> data, std::uint64_t offset_bytes);
  void allocate(std::uint64_t offset_bytes, std::uint64_t length_bytes, bool as_written);
  void punch(std::uint64_t offset_bytes, std::uint64_t length_bytes);
  void drop_page(std::uint64_t page);
  void truncate(std::uint64_t size_bytes);
  // Logs each cached page that differs from what was seen of it last.
  void log_stores(SimLog& log);
  // Cached pages of the range are as they should be: their change is logged as another event.
  void forget_stores(std::uint64_t offset_bytes, std::uint64_t length_bytes);

  std::shared_ptr<std::uint64_t> used_pages_;
  const std::uint32_t id_;
  std::map<std::uint64_t, std::unique_ptr<PageBytes>> seen_;  // of cached pages
  std::uint64_t size_bytes_ = 0;
  std::map<std::uint64_t, Page> pages_;
  SimPageSet reserved_;  // allocated and never written; never in pages_
  std::set<std::uint64_t> cached_;
  std::byte* region_ = nullptr;
  std::uint64_t region_bytes_ = 0;
  std::size_t mappings_ = 0;
};

// A change of a file's bytes.
struct SimMutation {
  enum class Kind : std::uint8_t {
    kWrite,     // data at offset
    kAllocate,  // reserves; the size stays
    kPopulate,  // reserves, and the pages count as written from now on
    kPunch,
    kTruncate,  // to offset_bytes
  };
  Kind kind = Kind::kWrite;
  std::uint64_t offset_bytes = 0;
  std::uint64_t length_bytes = 0;
  const std::byte* data = nullptr;
};

// A change of a name.
struct SimNameMutation {
  enum class Kind : std::uint8_t { kCreate, kUnlink, kRename, kLink, kMakeDir };
  Kind kind = Kind::kCreate;
  std::string path;
  std::string to;                             // kRename
  std::shared_ptr<SimInode> inode = nullptr;  // kLink
};

// What is about to be done, for whoever makes it fail.
enum class SimAct : std::uint8_t {
  kRead,
  kWrite,
  kAllocate,  // fallocate, and pages of a mapping
  kPunch,
  kTruncate,
  kCreate,
  kUnlink,
  kRename,
  kLink,
  kMakeDir,
  kSync,
  kSyncDir,
  kOpen,   // of what is there
  kAsk,    // sizes, names, where data is
  kTouch,  // what a mapping's page was touched for: failing, MappedFile::failure() says so for good
};
struct SimCall {
  SimAct act = SimAct::kRead;
  std::string path;
  SimInode* inode = nullptr;  // of a file that is open
  std::uint64_t length_bytes = 0;
};

// What becomes of a call.
struct SimFault {
  Status status;  // not OK: the call fails
  // Of a write: so many bytes get there first. When it does not fail, the others follow as a second
  // transfer.
  std::uint64_t first_bytes = 0;
};

// Not thread-safe: a simulation has one thread. It must outlive its runtimes.
class SimWorld {
 public:
  // Asked before each call. One that fails does nothing, but for `first_bytes`. For a sync that
  // means more: what it should have covered is lost to the disk, and no later sync brings it back.
  using Fault = std::function<SimFault(const SimCall& call)>;

  explicit SimWorld(SimWorldOptions options = {});

  // The one place where a file changes; all or nothing.
  Status apply(SimInode& inode, const SimMutation& mutation);
  // The one place where names change.
  Status apply_name(const SimNameMutation& mutation);
  // The one place where anything is made durable. `length_bytes` 0: the whole file.
  Status sync(SimInode& inode, std::uint64_t offset_bytes, std::uint64_t length_bytes);
  Status sync_dir(const std::string& path);
  // Before what changes nothing: a read, an open, a question.
  Status check(SimAct act, SimInode& inode) const;
  Status check(SimAct act, const std::string& path) const;

  // From now on all is logged, until nullptr. What is there already counts as durable, but is not
  // in the log: begin with an empty world to have it whole.
  void record(SimLog* log) { log_ = log; }
  // Logs what was stored through mappings so far.
  void log_stores();
  void set_fault(Fault fault) { fault_ = std::move(fault); }
  // As media that cannot be written: whatever would change anything is kReadOnly.
  void set_read_only(bool read_only) { read_only_ = read_only; }
  bool read_only() const { return read_only_; }
  static Status refused(const std::string& path);
  // The process is dead: what its destructors still ask for does not happen.
  void halt(bool halted) { halted_ = halted; }

  Result<std::shared_ptr<SimInode>> find(const std::string& path) const;
  bool is_dir(const std::string& path) const;
  // How many names a file has, and one of them.
  std::uint64_t links(const SimInode& inode) const;
  std::string path_of(const SimInode& inode) const;
  Result<std::vector<std::string>> list(const std::string& path) const;

  const SimWorldOptions& options() const { return options_; }
  void set_capacity(std::uint64_t capacity_bytes) { options_.capacity_bytes = capacity_bytes; }
  std::uint64_t used_bytes() const { return *used_pages_ * SimInode::kPageBytes; }

  // The machine starts again: another boot id, an empty page cache. (Nothing is lost: a clean
  // reboot.)
  void reboot();
  std::uint64_t boot_count() const { return boot_count_; }
  std::uint64_t mount_count() const { return mount_count_; }

  // Of SimImage.
  void restore_dir(const std::string& path) { dirs_.insert(path); }
  std::shared_ptr<SimInode> restore_file(const std::string& path, std::uint32_t inode);
  void restore_link(const std::string& path, std::shared_ptr<SimInode> inode) {
    files_[path] = std::move(inode);
  }
  // Numbers below are taken, though no name leads to them any more.
  void take_inodes(std::uint32_t end) { next_inode_ = std::max(next_inode_, end); }
  void set_boot_count(std::uint64_t boot_count) { boot_count_ = boot_count; }
  // Another one: the host's file system was mounted anew.
  void set_mount_count(std::uint64_t mount_count) { mount_count_ = mount_count; }

  // The device number of the host's file system, and what such numbers lie on.
  std::uint64_t device() const { return device_; }
  void set_device(std::uint64_t device) { device_ = device; }
  std::string storage_of(std::uint64_t device) const {
    const auto found = storages_.find(device);
    return found == storages_.end() ? std::string() : found->second;
  }
  void set_storage(std::uint64_t device, const std::string& storage) {
    storages_[device] = storage;
  }

  // "a//b/./c/" and "a/b/c" are one path.
  static std::string normal(const std::string& path);
  static std::string parent_of(const std::string& path);  // of one that is normal

 private:
  Status check_parent(const std::string& path) const;
  Status change_name(const SimNameMutation& mutation);
  Status change(SimInode& inode, const SimMutation& mutation);
  SimFault fault_at(const SimCall& call) const;

  SimWorldOptions options_;
  std::shared_ptr<std::uint64_t> used_pages_ = std::make_shared<std::uint64_t>(0);
  std::map<std::string, std::shared_ptr<SimInode>> files_;
  std::set<std::string> dirs_;
  std::uint64_t boot_count_ = 1;
  std::uint64_t mount_count_ = 1;
  std::uint64_t device_ = 1;
  std::map<std::uint64_t, std::string> storages_;
  std::uint32_t next_inode_ = 1;
  SimLog* log_ = nullptr;
  Fault fault_;
  bool halted_ = false;
  bool read_only_ = false;
};

}  // namespace voltree
