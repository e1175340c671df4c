#include "blockstore/sqlite_vfs.h"

#include <sqlite3.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <span>
#include <utility>

#include "blockstore/catalog_page.h"

namespace voltree {

struct SqliteVfs::Impl {
  FileSystem& fs;
  std::string name;
  sqlite3_vfs vfs{};
  Status failure;
  bool sync_failed = false;  // I10: from then on nothing is written or synced
  std::uint64_t random_state = 0;

  explicit Impl(FileSystem& file_system) : fs(file_system) {}

  // Remembers why, for take_failure, and gives SQLite's code.
  int failed(const Status& status, int code) {
    failure = status;
    return status.code() == Code::kNoSpace ? SQLITE_FULL : code;
  }
};

namespace {

constexpr int kSectorBytes = 4096;
constexpr int kPathMaxBytes = 4096;

// What we keep of an open file; SQLite's sqlite3_file only points to it.
struct OpenFile {
  SqliteVfs::Impl& vfs;
  std::string path;
  std::unique_ptr<File> file;
  std::uint64_t size_bytes = 0;  // nobody else writes the file, so it need not be asked for again
  bool name_unsynced = false;    // its name becomes durable with its first sync
  bool delete_on_close = false;
  bool is_database = false;
  bool page_sums = false;  // of a database: catalog_page.h

  // The last operation may have changed the size before it failed.
  void refresh_size() {
    if (Result<std::uint64_t> size = file->size_bytes(); size.ok()) size_bytes = *size;
  }
};

struct VfsFile : sqlite3_file {
  OpenFile* open;
};

OpenFile& open_of(sqlite3_file* file) { return *static_cast<VfsFile*>(file)->open; }

SqliteVfs::Impl& impl_of(sqlite3_vfs* vfs) { return *static_cast<SqliteVfs::Impl*>(vfs->pAppData); }

int vfs_close(sqlite3_file* file) {
  std::unique_ptr<OpenFile> open(&open_of(file));
  static_cast<VfsFile*>(file)->open = nullptr;
  open->file.reset();
  if (!open->delete_on_close) return SQLITE_OK;
  if (Status status = open->vfs.fs.unlink(open->path); !status.ok()) {
    return open->vfs.failed(status, SQLITE_IOERR_DELETE);
  }
  return SQLITE_OK;
}

// The page at `offset`, checked.
int read_page(OpenFile& open, std::span<std::byte> out, std::uint64_t offset) {
  const std::uint64_t number = offset / kCatalogPageBytes + 1;
  std::array<std::byte, kCatalogPageBytes> page;
  if (Status status = open.file->read_sync(page, (number - 1) * kCatalogPageBytes); !status.ok()) {
    return open.vfs.failed(status, SQLITE_IOERR_READ);
  }
  if (!take_page_sum(page, number)) {
    return open.vfs.failed(
        error(Code::kDamaged, "{}: page {} does not match its checksum", open.path, number),
        SQLITE_IOERR_DATA);
  }
  std::memcpy(out.data(), page.data(), out.size());
  return SQLITE_OK;
}

int vfs_read(sqlite3_file* file, void* out, int length, sqlite3_int64 offset) {
  OpenFile& open = open_of(file);
  const auto at = static_cast<std::uint64_t>(offset);
  const auto wanted = static_cast<std::size_t>(length);
  const std::size_t there =
      at >= open.size_bytes
          ? 0
          : static_cast<std::size_t>(std::min<std::uint64_t>(wanted, open.size_bytes - at));
  std::span<std::byte> bytes(static_cast<std::byte*>(out), wanted);
  // A part of the first page SQLite reads before it looks at the log, which may have the page
  // whole where a crash has torn it here. Before it heeds a page it reads all of it.
  const bool whole_page = at % kCatalogPageBytes == 0 && wanted == kCatalogPageBytes;
  if (open.page_sums && whole_page && there == wanted) return read_page(open, bytes, at);
  if (there > 0) {
    if (Status status = open.file->read_sync(bytes.first(there), at); !status.ok()) {
      return open.vfs.failed(status, SQLITE_IOERR_READ);
    }
  }
  if (there == wanted) return SQLITE_OK;
  std::memset(bytes.data() + there, 0, wanted - there);
  return SQLITE_IOERR_SHORT_READ;
}

int vfs_write(sqlite3_file* file, const void* data, int length, sqlite3_int64 offset) {
  OpenFile& open = open_of(file);
  if (open.vfs.sync_failed) return SQLITE_IOERR_WRITE;
  const auto at = static_cast<std::uint64_t>(offset);
  const auto count = static_cast<std::size_t>(length);
  std::span<const std::byte> bytes(static_cast<const std::byte*>(data), count);
  std::array<std::byte, kCatalogPageBytes> page;
  if (open.is_database && count == page.size() && at % page.size() == 0) {
    if (at == 0) open.page_sums = page_sums_of(bytes) == PageSums::kThere;
    if (open.page_sums) {
      std::copy(bytes.begin(), bytes.end(), page.begin());
      put_page_sum(page, at / page.size() + 1);
      bytes = page;
    }
  }
  if (Status status = open.file->write_sync(bytes, at); !status.ok()) {
    open.refresh_size();
    return open.vfs.failed(status, SQLITE_IOERR_WRITE);
  }
  open.size_bytes = std::max<std::uint64_t>(open.size_bytes, at + count);
  return SQLITE_OK;
}

int vfs_truncate(sqlite3_file* file, sqlite3_int64 size) {
  OpenFile& open = open_of(file);
  if (open.vfs.sync_failed) return SQLITE_IOERR_TRUNCATE;
  if (Status status = open.file->truncate(static_cast<std::uint64_t>(size)); !status.ok()) {
    open.refresh_size();
    return open.vfs.failed(status, SQLITE_IOERR_TRUNCATE);
  }
  open.size_bytes = static_cast<std::uint64_t>(size);
  return SQLITE_OK;
}

int vfs_sync(sqlite3_file* file, int /*flags*/) {
  OpenFile& open = open_of(file);
  if (open.vfs.sync_failed) return SQLITE_IOERR_FSYNC;
  // A sync that failed for want of space has lost data all the same: never SQLITE_FULL, which means
  // "nothing happened, try later".
  if (Status status = open.file->sync_sync(); !status.ok()) {
    open.vfs.sync_failed = true;
    open.vfs.failure = status;
    return SQLITE_IOERR_FSYNC;
  }
  if (!open.name_unsynced) return SQLITE_OK;
  if (Status status = open.vfs.fs.sync_dir(parent_folder(open.path)); !status.ok()) {
    open.vfs.sync_failed = true;
    open.vfs.failure = status;
    return SQLITE_IOERR_DIR_FSYNC;
  }
  open.name_unsynced = false;
  return SQLITE_OK;
}

int vfs_file_size(sqlite3_file* file, sqlite3_int64* size) {
  *size = static_cast<sqlite3_int64>(open_of(file).size_bytes);
  return SQLITE_OK;
}

// Locks: the store's LOCK has admitted us alone.
int vfs_lock(sqlite3_file* /*file*/, int /*level*/) { return SQLITE_OK; }
int vfs_check_reserved_lock(sqlite3_file* /*file*/, int* held) {
  *held = 0;
  return SQLITE_OK;
}

int vfs_file_control(sqlite3_file* /*file*/, int /*op*/, void* /*arg*/) { return SQLITE_NOTFOUND; }
int vfs_sector_size(sqlite3_file* /*file*/) { return kSectorBytes; }
// A torn write leaves every sector old or new, so bytes around the written range stay what they
// were.
int vfs_device_characteristics(sqlite3_file* /*file*/) { return SQLITE_IOCAP_POWERSAFE_OVERWRITE; }

const sqlite3_io_methods kIoMethods = {
    .iVersion = 1,
    .xClose = vfs_close,
    .xRead = vfs_read,
    .xWrite = vfs_write,
    .xTruncate = vfs_truncate,
    .xSync = vfs_sync,
    .xFileSize = vfs_file_size,
    .xLock = vfs_lock,
    .xUnlock = vfs_lock,
    .xCheckReservedLock = vfs_check_reserved_lock,
    .xFileControl = vfs_file_control,
    .xSectorSize = vfs_sector_size,
    .xDeviceCharacteristics = vfs_device_characteristics,
    .xShmMap = nullptr,
    .xShmLock = nullptr,
    .xShmBarrier = nullptr,
    .xShmUnmap = nullptr,
    .xFetch = nullptr,
    .xUnfetch = nullptr,
};

// Whether the pages of a database have checksums.
Status look_at_first_page(OpenFile& open) {
  std::array<std::byte, kCatalogPageBytes> page;
  if (!open.is_database || open.size_bytes < page.size()) return {};
  VT_RETURN_IF_ERROR(open.file->read_sync(page, 0));
  const PageSums sums = page_sums_of(page);
  if (sums == PageSums::kDamaged) {
    return error(Code::kDamaged, "{}: page 1 does not match its checksum", open.path);
  }
  open.page_sums = sums == PageSums::kThere;
  return {};
}

int vfs_open(sqlite3_vfs* vfs, const char* path, sqlite3_file* file, int flags, int* out_flags) {
  file->pMethods = nullptr;  // SQLite calls xClose only where this is set
  SqliteVfs::Impl& impl = impl_of(vfs);
  if (path == nullptr) {
    impl.failure = Status(Code::kNotSupported, "the catalog uses no temporary files");
    return SQLITE_CANTOPEN;
  }
  OpenMode mode;
  mode.create = (flags & SQLITE_OPEN_CREATE) != 0;
  mode.exclusive = mode.create && (flags & SQLITE_OPEN_EXCLUSIVE) != 0;
  mode.writable = (flags & SQLITE_OPEN_READWRITE) != 0;
  auto open = std::make_unique<OpenFile>(OpenFile{impl, path, nullptr});
  // Also when it is there: who made it may not have lived to sync its name.
  open->name_unsynced = mode.create;
  Result<std::unique_ptr<File>> opened = impl.fs.open(open->path, mode);
  if (!opened.ok()) return impl.failed(opened.status(), SQLITE_CANTOPEN);
  open->file = std::move(opened).value();
  Result<std::uint64_t> size = open->file->size_bytes();
  if (!size.ok()) return impl.failed(size.status(), SQLITE_CANTOPEN);
  open->size_bytes = *size;
  open->is_database = (flags & SQLITE_OPEN_MAIN_DB) != 0;
  if (Status status = look_at_first_page(*open); !status.ok()) {
    return impl.failed(status, SQLITE_CANTOPEN);
  }
  open->delete_on_close = (flags & SQLITE_OPEN_DELETEONCLOSE) != 0;
  static_cast<VfsFile*>(file)->open = open.release();
  file->pMethods = &kIoMethods;
  if (out_flags != nullptr) *out_flags = flags;
  return SQLITE_OK;
}

int vfs_delete(sqlite3_vfs* vfs, const char* path, int sync_folder) {
  SqliteVfs::Impl& impl = impl_of(vfs);
  if (impl.sync_failed) return SQLITE_IOERR_DELETE;
  if (Status status = impl.fs.unlink(path); !status.ok()) {
    if (status.code() == Code::kNotFound) return SQLITE_IOERR_DELETE_NOENT;
    return impl.failed(status, SQLITE_IOERR_DELETE);
  }
  if (sync_folder == 0) return SQLITE_OK;
  if (Status status = impl.fs.sync_dir(parent_folder(path)); !status.ok()) {
    impl.sync_failed = true;
    impl.failure = status;
    return SQLITE_IOERR_DIR_FSYNC;
  }
  return SQLITE_OK;
}

int vfs_access(sqlite3_vfs* vfs, const char* path, int /*flags*/, int* answer) {
  SqliteVfs::Impl& impl = impl_of(vfs);
  Result<bool> there = impl.fs.exists(path);
  if (!there.ok()) return impl.failed(there.status(), SQLITE_IOERR_ACCESS);
  *answer = *there ? 1 : 0;
  return SQLITE_OK;
}

// Paths are the FileSystem's to understand: no symbolic links are followed, no folder is put in
// front.
int vfs_full_pathname(sqlite3_vfs* /*vfs*/, const char* path, int out_bytes, char* out) {
  const std::size_t needed = std::strlen(path) + 1;
  if (needed > static_cast<std::size_t>(out_bytes)) return SQLITE_CANTOPEN;
  std::memcpy(out, path, needed);
  return SQLITE_OK;
}

// splitmix64 from a fixed start: the same in every run. SQLite asks the default VFS, not this one,
// for the seed of its generator; what is left to ask here are names of temporary files, and there
// are none.
int vfs_randomness(sqlite3_vfs* vfs, int length, char* out) {
  SqliteVfs::Impl& impl = impl_of(vfs);
  for (int i = 0; i < length; ++i) {
    impl.random_state += 0x9e3779b97f4a7c15U;
    std::uint64_t mixed = impl.random_state;
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9U;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebU;
    out[i] = static_cast<char>((mixed ^ (mixed >> 31)) & 0xff);
  }
  return length;
}

// Nobody holds a lock that is worth waiting for.
int vfs_sleep(sqlite3_vfs* /*vfs*/, int /*microseconds*/) { return 0; }

// The Julian day of 2000-01-01T12:00Z, always: no statement of the catalog asks for the time, rows
// carry their own.
int vfs_current_time(sqlite3_vfs* /*vfs*/, double* julian_day) {
  *julian_day = 2451545.0;
  return SQLITE_OK;
}

int vfs_last_error(sqlite3_vfs* /*vfs*/, int /*length*/, char* /*out*/) { return 0; }

std::atomic<std::uint64_t> next_instance{1};

// Each allocation would take a mutex, for statistics that nobody reads. A process that uses SQLite
// already keeps them.
void count_no_memory() {
  [[maybe_unused]] static const int once = sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
}

}  // namespace

SqliteVfs::SqliteVfs(FileSystem& fs) : impl_(std::make_unique<Impl>(fs)) {
  impl_->name = fmt::format("voltree-{}", next_instance.fetch_add(1, std::memory_order_relaxed));
  sqlite3_vfs& vfs = impl_->vfs;
  vfs.iVersion = 1;
  vfs.szOsFile = static_cast<int>(sizeof(VfsFile));
  vfs.mxPathname = kPathMaxBytes;
  vfs.zName = impl_->name.c_str();
  vfs.pAppData = impl_.get();
  vfs.xOpen = vfs_open;
  vfs.xDelete = vfs_delete;
  vfs.xAccess = vfs_access;
  vfs.xFullPathname = vfs_full_pathname;
  vfs.xRandomness = vfs_randomness;
  vfs.xSleep = vfs_sleep;
  vfs.xCurrentTime = vfs_current_time;
  vfs.xGetLastError = vfs_last_error;
  count_no_memory();
  // Fails only when SQLite cannot start; sqlite3_open_v2 then says so for the unknown name.
  sqlite3_vfs_register(&vfs, /*makeDflt=*/0);
}

SqliteVfs::~SqliteVfs() { sqlite3_vfs_unregister(&impl_->vfs); }

const char* SqliteVfs::name() const { return impl_->name.c_str(); }

Status SqliteVfs::take_failure() { return std::exchange(impl_->failure, Status()); }

void seed_sqlite_randomness(std::uint32_t seed) {
  count_no_memory();
  sqlite3_initialize();
  sqlite3_test_control(SQLITE_TESTCTRL_PRNG_SEED, static_cast<int>(seed), nullptr);
}

}  // namespace voltree
