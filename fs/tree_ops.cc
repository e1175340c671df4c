// Requests about names and attributes.
#define FUSE_USE_VERSION 314
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <linux/fs.h>

#include <cerrno>
#include <cstring>
#include <ctime>

#include "fs/frontend.h"

namespace voltree {

namespace {

// The fixed folders stay; what other doors create, delete, resize and rename must be seen at once,
// so nothing else is kept by the kernel.
constexpr double kForeverSeconds = 3600;
double keep_seconds(std::uint64_t ino) { return ino <= kSnapshotsIno ? kForeverSeconds : 0; }

int errno_of(const Status& status) { return status.to_errno(); }

Task<Status> reply_entry(Frontend& fs, fuse_req_t request, Place place) {
  fuse_entry_param entry{};
  entry.ino = place.ino;
  entry.entry_timeout = entry.attr_timeout = keep_seconds(place.ino);
  entry.attr = co_await fs.attributes(place);
  fuse_reply_entry(request, &entry);
  co_return Status();
}

Task<void> lookup(Frontend& fs, fuse_req_t request, fuse_ino_t parent, std::string name) {
  Result<Place> place = co_await fs.tree.find_child(parent, std::move(name));
  if (!place.ok()) {
    fuse_reply_err(request, errno_of(place.status()));
    co_return;
  }
  (void)(co_await reply_entry(fs, request, std::move(*place))).ok();
}

Task<void> getattr(Frontend& fs, fuse_req_t request, fuse_ino_t ino) {
  const Result<struct stat> attributes = co_await fs.attributes(ino);
  if (attributes.ok()) {
    fuse_reply_attr(request, &*attributes, keep_seconds(ino));
  } else {
    fuse_reply_err(request, errno_of(attributes.status()));
  }
}

// --- setattr

struct AttributeChange {
  struct stat to {};
  int what = 0;  // FUSE_SET_ATTR_*
  std::shared_ptr<Handle> handle;
};

// A truncate below the size discards what lies beyond and keeps the size; above, it extends.
// Through the handle that creates a file, it is what it is for any file.
Task<Status> truncate(Frontend& fs, Place place, std::uint64_t size,
                      std::shared_ptr<Handle> handle) {
  VT_CO_ASSIGN_OR_RETURN(std::shared_ptr<OpenNode> node, co_await fs.open_node(place));
  node->note_change();
  if (handle != nullptr && handle->creator && node->growth() != nullptr) {
    const Status status = co_await fs.grower.truncate(node, size);
    if (status.code() != Code::kBusy || node->growth() != nullptr) co_return status;
  }
  const std::shared_ptr<BlockDevice> device = node->device();
  const std::uint64_t now = node->size_bytes();
  fs.tree.forget_referenced(node->id());
  if (size <= now) co_return co_await Grower::zero_data(device, size, now);
  const std::uint64_t whole = volume_size_for(size);
  if (node->growth() != nullptr) {
    co_return error(Code::kBusy, "{} is still being created", place.node.name.str());
  }
  if (whole <= device->size_bytes()) co_return Status();
  co_return co_await fs.store.resize(place.node.name.str(), whole, false);
}

timespec time_for(bool now, const timespec& given) {
  timespec time = given;
  if (now) clock_gettime(CLOCK_REALTIME, &time);
  return time;
}

Status check_change(const Place& place, int what) {
  constexpr int kTimes = FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_ATIME_NOW |
                         FUSE_SET_ATTR_MTIME_NOW | FUSE_SET_ATTR_CTIME;
  const bool only_times = (what & ~kTimes) == 0;
  if (place.kind == PlaceKind::kVolume || only_times) return {};
  if (place.kind == PlaceKind::kSnapshot) {
    return error(Code::kReadOnly, "{} is a snapshot", place.node.name.str());
  }
  return error(Code::kPermission,
               "the folders of the tree have the owner that it was mounted with");
}

Task<void> setattr(Frontend& fs, fuse_req_t request, fuse_ino_t ino, AttributeChange change) {
  Result<Place> place = co_await fs.tree.find(ino);
  Status status = place.ok() ? check_change(*place, change.what) : place.status();
  std::optional<off_t> shown_size;
  if (status.ok() && (change.what & FUSE_SET_ATTR_SIZE) != 0) {
    const auto size = static_cast<std::uint64_t>(change.to.st_size);
    status = co_await truncate(fs, *place, size, change.handle);
    // The reply says the size that was asked for, so that the kernel drops the cached pages beyond
    // it (fuse_do_setattr); it is not kept (timeout 0), and the next question brings the true one.
    shown_size = change.to.st_size;
  }
  if (!status.ok()) {
    fuse_reply_err(request, errno_of(status));
    co_return;
  }
  AttributeOverrides set;
  if ((change.what & FUSE_SET_ATTR_MODE) != 0) set.mode = change.to.st_mode & 07777U;
  if ((change.what & FUSE_SET_ATTR_UID) != 0) set.uid = change.to.st_uid;
  if ((change.what & FUSE_SET_ATTR_GID) != 0) set.gid = change.to.st_gid;
  if ((change.what & FUSE_SET_ATTR_ATIME) != 0) {
    set.atime = time_for((change.what & FUSE_SET_ATTR_ATIME_NOW) != 0, change.to.st_atim);
  }
  if ((change.what & FUSE_SET_ATTR_MTIME) != 0) {
    set.mtime = time_for((change.what & FUSE_SET_ATTR_MTIME_NOW) != 0, change.to.st_mtim);
  }
  fs.tree.set_overrides(ino, set);
  Result<struct stat> now = co_await fs.attributes(ino);
  if (!now.ok()) {
    fuse_reply_err(request, errno_of(now.status()));
    co_return;
  }
  if (shown_size) now->st_size = std::min(now->st_size, *shown_size);
  fuse_reply_attr(request, &*now, 0);
}

// --- Folders

Task<void> opendir(Frontend& fs, fuse_req_t request, fuse_ino_t ino, fuse_file_info info) {
  Result<std::vector<Tree::Entry>> entries = co_await fs.tree.entries(ino);
  if (!entries.ok()) {
    fuse_reply_err(request, errno_of(entries.status()));
    co_return;
  }
  info.fh = fs.open_folders.add(std::move(*entries));
  // A failed reply means that the opener is gone: no release will follow.
  if (fuse_reply_open(request, &info) != 0) fs.open_folders.remove(info.fh);
}

void reply_entries(fuse_req_t request, const OpenFolders::Entries& entries, std::size_t first,
                   std::size_t limit) {
  std::vector<char> out(limit);
  std::size_t used = 0;
  for (std::size_t i = first; i < entries.size(); ++i) {
    const Tree::Entry& entry = entries[i];
    struct stat attributes {};
    attributes.st_ino = entry.ino;
    attributes.st_mode = entry.type;
    const std::size_t needed =
        fuse_add_direntry(request, out.data() + used, limit - used, entry.name.c_str(), &attributes,
                          static_cast<off_t>(i + 1));
    if (needed > limit - used) break;
    used += needed;
  }
  fuse_reply_buf(request, out.data(), used);
}

// --- Making, removing, renaming

Task<Result<Place>> make_file(Frontend& fs, fuse_ino_t parent, std::string name, mode_t mode) {
  if (!S_ISREG(mode)) co_return error(Code::kPermission, "only regular files");
  if (parent == kVolumesIno) {
    VT_CO_RETURN_IF_ERROR(co_await fs.store.create_volume(name, kSectorBytes, std::nullopt));
  } else {
    const Result<Place> folder = co_await fs.tree.find(parent);
    if (!folder.ok() || folder->kind != PlaceKind::kFolder) {
      co_return error(Code::kPermission, "nothing can be made here");
    }
    VT_CO_RETURN_IF_ERROR(co_await fs.store.snapshot(folder->folder, name));
  }
  co_return co_await fs.tree.find_child(parent, std::move(name));
}

Task<void> mknod(Frontend& fs, fuse_req_t request, fuse_ino_t parent, std::string name,
                 mode_t mode) {
  Result<Place> place = co_await make_file(fs, parent, std::move(name), mode);
  if (!place.ok()) {
    // EPERM, not EACCES: no mode or owner would allow it.
    const bool forbidden = place.status().code() == Code::kPermission;
    fuse_reply_err(request, forbidden ? EPERM : errno_of(place.status()));
    co_return;
  }
  (void)(co_await reply_entry(fs, request, std::move(*place))).ok();
}

Task<void> unlink(Frontend& fs, fuse_req_t request, fuse_ino_t parent, std::string name) {
  const Result<Place> place = co_await fs.tree.find_child(parent, std::move(name));
  if (!place.ok()) {
    fuse_reply_err(request, errno_of(place.status()));
    co_return;
  }
  if (!place->is_file()) {
    fuse_reply_err(request, EISDIR);
    co_return;
  }
  const auto removed = co_await fs.store.remove(place->node.name.str(), {});
  fuse_reply_err(request, removed.ok() ? 0 : errno_of(removed.status()));
}

Task<Status> rename_file(Frontend& fs, fuse_ino_t parent, std::string from, std::string to) {
  VT_CO_ASSIGN_OR_RETURN(const Place place, co_await fs.tree.find_child(parent, from));
  if (!place.is_file()) co_return error(Code::kInvalid, "the folders of the tree keep their names");
  // A volume is never replaced by a rename: its data would go without anybody having said "delete".
  std::string target = std::move(to);
  if (place.kind == PlaceKind::kSnapshot) target = place.node.name.volume + "@" + target;
  co_return co_await fs.store.rename(place.node.name.str(), std::move(target));
}

Task<void> rename(Frontend& fs, fuse_req_t request, fuse_ino_t parent, std::string from,
                  std::string to) {
  const Status status = co_await rename_file(fs, parent, std::move(from), std::move(to));
  fuse_reply_err(request, errno_of(status));
}

Task<void> statfs(Frontend& fs, fuse_req_t request) {
  const Result<PoolInfo> pool = co_await fs.store.pool();
  if (!pool.ok()) {
    fuse_reply_err(request, errno_of(pool.status()));
    co_return;
  }
  struct statvfs out {};
  out.f_bsize = out.f_frsize = kBlockBytes;
  out.f_blocks = pool->host.total_bytes / kBlockBytes;
  out.f_bfree = out.f_bavail = pool->host.free_bytes / kBlockBytes;
  out.f_files = pool->volumes + pool->snapshots;
  out.f_namemax = kNameMaxBytes;
  fuse_reply_statfs(request, &out);
}

// --- What libfuse calls. Everything that a coroutine needs later is copied: the request's buffer
// is reused.

void on_lookup(fuse_req_t request, fuse_ino_t parent, const char* name) {
  Frontend& fs = frontend_of(request);
  fs.start(lookup(fs, request, parent, name));
}

void on_getattr(fuse_req_t request, fuse_ino_t ino, fuse_file_info*) {
  Frontend& fs = frontend_of(request);
  fs.start(getattr(fs, request, ino));
}

void on_setattr(fuse_req_t request, fuse_ino_t ino, struct stat* to, int what,
                fuse_file_info* info) {
  Frontend& fs = frontend_of(request);
  AttributeChange change{*to, what, info != nullptr ? OpenFiles::handle(info->fh) : nullptr};
  fs.start(setattr(fs, request, ino, std::move(change)));
}

void on_opendir(fuse_req_t request, fuse_ino_t ino, fuse_file_info* info) {
  Frontend& fs = frontend_of(request);
  fs.start(opendir(fs, request, ino, *info));
}

void on_readdir(fuse_req_t request, fuse_ino_t, size_t size, off_t offset, fuse_file_info* info) {
  reply_entries(request, OpenFolders::entries(info->fh), static_cast<std::size_t>(offset), size);
}

void on_releasedir(fuse_req_t request, fuse_ino_t, fuse_file_info* info) {
  frontend_of(request).open_folders.remove(info->fh);
  fuse_reply_err(request, 0);
}

void on_fsyncdir(fuse_req_t request, fuse_ino_t, int, fuse_file_info*) {
  fuse_reply_err(request, 0);  // changes of names are durable when they return (I3)
}

void on_mknod(fuse_req_t request, fuse_ino_t parent, const char* name, mode_t mode, dev_t) {
  Frontend& fs = frontend_of(request);
  fs.start(mknod(fs, request, parent, name, mode));
}

void on_mkdir(fuse_req_t request, fuse_ino_t, const char*, mode_t) {
  fuse_reply_err(request, EPERM);
}
void on_rmdir(fuse_req_t request, fuse_ino_t, const char*) { fuse_reply_err(request, EPERM); }
void on_symlink(fuse_req_t request, const char*, fuse_ino_t, const char*) {
  fuse_reply_err(request, EPERM);
}
void on_link(fuse_req_t request, fuse_ino_t, fuse_ino_t, const char*) {
  fuse_reply_err(request, EPERM);
}

void on_unlink(fuse_req_t request, fuse_ino_t parent, const char* name) {
  Frontend& fs = frontend_of(request);
  fs.start(unlink(fs, request, parent, name));
}

void on_rename(fuse_req_t request, fuse_ino_t parent, const char* name, fuse_ino_t new_parent,
               const char* new_name, unsigned int flags) {
  Frontend& fs = frontend_of(request);
  // RENAME_NOREPLACE is what always holds here.
  if ((flags & ~static_cast<unsigned int>(RENAME_NOREPLACE)) != 0) {
    fuse_reply_err(request, EINVAL);
  } else if (parent != new_parent) {
    fuse_reply_err(request, EXDEV);
  } else {
    fs.start(rename(fs, request, parent, name, new_name));
  }
}

void on_statfs(fuse_req_t request, fuse_ino_t) {
  Frontend& fs = frontend_of(request);
  fs.start(statfs(fs, request));
}

// Nothing is remembered for the kernel's sake (tree.h): forgetting takes no work.
void on_forget(fuse_req_t request, fuse_ino_t, uint64_t) { fuse_reply_none(request); }
void on_forget_multi(fuse_req_t request, size_t, fuse_forget_data*) { fuse_reply_none(request); }

}  // namespace

void set_tree_ops(fuse_lowlevel_ops& ops) {
  ops.lookup = on_lookup;
  ops.forget = on_forget;
  ops.forget_multi = on_forget_multi;
  ops.getattr = on_getattr;
  ops.setattr = on_setattr;
  ops.opendir = on_opendir;
  ops.readdir = on_readdir;
  ops.releasedir = on_releasedir;
  ops.fsyncdir = on_fsyncdir;
  ops.mknod = on_mknod;
  ops.mkdir = on_mkdir;
  ops.rmdir = on_rmdir;
  ops.symlink = on_symlink;
  ops.link = on_link;
  ops.unlink = on_unlink;
  ops.rename = on_rename;
  ops.statfs = on_statfs;
}

Frontend& frontend_of(fuse_req* request) {
  return *static_cast<Frontend*>(fuse_req_userdata(request));
}

}  // namespace voltree
