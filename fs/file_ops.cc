// Requests about open files: opening, reading, writing, making durable, closing.
#define FUSE_USE_VERSION 314
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <linux/fuse.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "fs/frontend.h"
#include "fs/request_loop.h"

namespace voltree {

namespace {

bool wants_write(int flags) { return (flags & O_ACCMODE) != O_RDONLY; }

// How the kernel is to treat the open file. With O_DIRECT, reads and writes pass by its page cache,
// and writes to one file may run side by side. libfuse 3.14 has no name for the latter in
// fuse_file_info, so the reply is put together here from the kernel's own header
// (FOPEN_PARALLEL_DIRECT_WRITES: protocol 7.36; an older kernel ignores the bit). Without
// FOPEN_KEEP_CACHE each open starts with nothing cached.
fuse_open_out open_reply(std::uint64_t fh, int flags) {
  fuse_open_out out{};
  out.fh = fh;
  if ((flags & O_DIRECT) != 0) out.open_flags = FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES;
  return out;
}

void copy_attributes(const struct stat& from, fuse_attr& to) {
  to.ino = from.st_ino;
  to.mode = from.st_mode;
  to.nlink = static_cast<std::uint32_t>(from.st_nlink);
  to.uid = from.st_uid;
  to.gid = from.st_gid;
  to.size = static_cast<std::uint64_t>(from.st_size);
  to.blocks = static_cast<std::uint64_t>(from.st_blocks);
  to.blksize = static_cast<std::uint32_t>(from.st_blksize);
  to.atime = static_cast<std::uint64_t>(from.st_atim.tv_sec);
  to.mtime = static_cast<std::uint64_t>(from.st_mtim.tv_sec);
  to.ctime = static_cast<std::uint64_t>(from.st_ctim.tv_sec);
  to.atimensec = static_cast<std::uint32_t>(from.st_atim.tv_nsec);
  to.mtimensec = static_cast<std::uint32_t>(from.st_mtim.tv_nsec);
  to.ctimensec = static_cast<std::uint32_t>(from.st_ctim.tv_nsec);
}

Task<Result<std::shared_ptr<Handle>>> open_place(Frontend& fs, Place place, int flags) {
  if (!place.is_file()) co_return error(Code::kInvalid, "a folder");
  VT_CO_ASSIGN_OR_RETURN(std::shared_ptr<OpenNode> node, co_await fs.open_node(place));
  auto handle = std::make_shared<Handle>();
  handle->node = std::move(node);
  handle->writable = place.kind == PlaceKind::kVolume && wants_write(flags);
  if ((flags & O_DIRECT) == 0) handle->set_cached();
  co_return handle;
}

Task<Result<std::shared_ptr<Handle>>> open_file(Frontend& fs, fuse_ino_t ino, int flags) {
  VT_CO_ASSIGN_OR_RETURN(Place place, co_await fs.tree.find(ino));
  if (place.kind == PlaceKind::kSnapshot && wants_write(flags)) {
    co_return error(Code::kReadOnly, "{} is a snapshot", place.node.name.str());
  }
  co_return co_await open_place(fs, std::move(place), flags);
}

Task<void> open(Frontend& fs, fuse_req_t request, fuse_ino_t ino, int flags) {
  const Result<std::shared_ptr<Handle>> handle = co_await open_file(fs, ino, flags);
  if (!handle.ok()) {
    fuse_reply_err(request, handle.status().to_errno());
    co_return;
  }
  (*handle)->opener = fuse_req_ctx(request)->pid;
  const std::uint64_t fh = fs.open_files.add_handle(*handle);
  const fuse_open_out out = open_reply(fh, flags);
  // A failed reply means that the opener is gone: no release will follow.
  if (fuse_reply_buf(request, reinterpret_cast<const char*>(&out), sizeof out) != 0) {
    fs.open_files.remove_handle(fh);
  }
}

// A new volume that grows as it is written; or, in snapshots/<volume>, a snapshot.
Task<Result<std::shared_ptr<Handle>>> create_file(Frontend& fs, fuse_ino_t parent, std::string name,
                                                  int flags, pid_t creator) {
  VT_CO_ASSIGN_OR_RETURN(const Place folder, co_await fs.tree.find(parent));
  Status made;
  if (folder.kind == PlaceKind::kVolumes) {
    made = co_await fs.store.create_volume(name, kSectorBytes, std::nullopt);
  } else if (folder.kind == PlaceKind::kFolder) {
    const Result<Place> volume = co_await fs.tree.find_child(kVolumesIno, folder.folder);
    const auto growing = volume.ok() ? fs.open_files.find(volume->ino) : nullptr;
    if (growing != nullptr && growing->growth() != nullptr) {
      co_return error(Code::kBusy, "{} is still being created", folder.folder);
    }
    made = co_await fs.store.snapshot(folder.folder, name);
  } else {
    co_return error(Code::kPermission, "nothing can be made here");
  }
  // Someone else was faster: then it is an open like any other.
  if (!made.ok() && (made.code() != Code::kExists || (flags & O_EXCL) != 0)) co_return made;
  Result<Place> place = co_await fs.tree.find_child(parent, name);
  // The name is taken and not there: a deleted volume whose snapshots remain keeps it.
  if (!place.ok()) co_return made.ok() ? place.status() : made;
  if (!made.ok() || folder.kind == PlaceKind::kFolder) {
    co_return co_await open_place(fs, std::move(*place), flags);
  }
  VT_CO_ASSIGN_OR_RETURN(std::shared_ptr<BlockDevice> device, co_await fs.store.open_device(name));
  auto fresh = std::make_shared<OpenNode>(place->ino, place->node.id, std::move(device));
  fresh->start_growth(fs.open_files.last_read_by(creator));
  auto handle = std::make_shared<Handle>();
  handle->node = fs.open_files.add_node(fresh);
  handle->writable = wants_write(flags);
  handle->creator = handle->node == fresh;
  if ((flags & O_DIRECT) == 0) handle->set_cached();
  co_return handle;
}

Task<void> create(Frontend& fs, fuse_req_t request, fuse_ino_t parent, std::string name,
                  int flags) {
  const pid_t creator = fuse_req_ctx(request)->pid;
  Result<std::shared_ptr<Handle>> handle =
      co_await create_file(fs, parent, std::move(name), flags, creator);
  Status status = handle.status();
  struct stat attributes {};
  if (status.ok()) {
    const Result<struct stat> found = co_await fs.attributes((*handle)->node->ino());
    status = found.status();
    if (status.ok()) attributes = *found;
  }
  if (!status.ok()) {
    // EPERM, not EACCES: no mode or owner would allow it.
    fuse_reply_err(request, status.code() == Code::kPermission ? EPERM : status.to_errno());
    co_return;
  }
  const std::uint64_t fh = fs.open_files.add_handle(*handle);
  struct {
    fuse_entry_out entry;
    fuse_open_out open;
  } out{};
  out.entry.nodeid = (*handle)->node->ino();
  copy_attributes(attributes, out.entry.attr);
  out.open = open_reply(fh, flags);
  if (fuse_reply_buf(request, reinterpret_cast<const char*>(&out), sizeof out) != 0) {
    (void)(co_await fs.grower.fit((*handle)->node, (*handle)->creator)).ok();
    fs.open_files.remove_handle(fh);
  }
}

// --- Data

Task<void> read(Frontend& fs, fuse_req_t request, std::shared_ptr<Handle> handle,
                std::uint64_t offset, std::size_t length) {
  const std::uint64_t size = handle->node->size_bytes();
  if (offset >= size || length == 0) {
    fuse_reply_buf(request, nullptr, 0);
    co_return;
  }
  length = static_cast<std::size_t>(std::min<std::uint64_t>(length, size - offset));
  const BufferPool::Buffer buffer = co_await fs.buffers.take();
  const std::span<std::byte> out = buffer.data().first(std::min(length, buffer.data().size()));
  const Status status = co_await handle->node->device()->read(offset, out);
  if (status.ok()) {
    fuse_reply_buf(request, reinterpret_cast<const char*>(out.data()), out.size());
  } else {
    fuse_reply_err(request, status.to_errno());
  }
}

// How many bytes were written: fewer than asked where the volume ends.
Task<Result<std::size_t>> write_file(Frontend& fs, std::shared_ptr<Handle> handle,
                                     std::uint64_t offset, std::span<const std::byte> data,
                                     WriteOptions options) {
  OpenNode& node = *handle->node;
  if (data.empty()) co_return std::size_t{0};
  if (!handle->writable) co_return error(Code::kReadOnly, "opened for reading");
  node.note_change();
  const Growth* growth = handle->creator ? node.growth() : nullptr;
  if (growth != nullptr && offset + data.size() > growth->exact_bytes.load()) {
    const Status status = co_await fs.grower.write(handle->node, offset, data, options);
    if (status.ok()) co_return data.size();
    if (status.code() != Code::kBusy || node.growth() != nullptr) co_return status;
  }
  const std::uint64_t size = node.size_bytes();
  if (offset >= size) co_return error(Code::kNoSpace, "beyond the end of the volume");
  data = data.first(static_cast<std::size_t>(std::min<std::uint64_t>(data.size(), size - offset)));
  VT_CO_RETURN_IF_ERROR(co_await node.device()->write(offset, data, options));
  co_return data.size();
}

Task<void> write(Frontend& fs, fuse_req_t request, std::shared_ptr<Handle> handle,
                 [[maybe_unused]] BufferPool::Buffer keeps_data, std::uint64_t offset,
                 std::span<const std::byte> data, int flags) {
  // The kernel passes the open flags of the write, with O_DSYNC for RWF_DSYNC (fuse_write_flags in
  // fs/fuse/file.c); it sends no fsync of its own after it.
  const WriteOptions options{.fua = (flags & (O_DSYNC | O_SYNC)) != 0};
  const Result<std::size_t> written =
      co_await write_file(fs, std::move(handle), offset, data, options);
  if (written.ok()) {
    fuse_reply_write(request, *written);
  } else {
    fuse_reply_err(request, written.status().to_errno());
  }
}

Task<void> fsync(Frontend& fs, fuse_req_t request, std::shared_ptr<Handle> handle) {
  (void)fs;
  const Status status = co_await handle->node->device()->flush();
  fuse_reply_err(request, status.to_errno());
}

// --- Closing. FLUSH comes with every close() and is waited for; RELEASE comes once, after the last
// one, and is not.

Task<void> flush(Frontend& fs, fuse_req_t request, std::shared_ptr<Handle> handle) {
  const Status status = co_await fs.grower.fit(handle->node, false);
  fuse_reply_err(request, status.to_errno());
}

Task<void> release(Frontend& fs, fuse_req_t request, std::shared_ptr<Handle> handle) {
  Status status;
  if (handle->creator) status = co_await fs.grower.fit(handle->node, true);
  fs.tree.forget_referenced(handle->node->id());
  handle.reset();
  fuse_reply_err(request, status.to_errno());
}

void on_open(fuse_req_t request, fuse_ino_t ino, fuse_file_info* info) {
  Frontend& fs = frontend_of(request);
  fs.start(open(fs, request, ino, info->flags));
}

void on_create(fuse_req_t request, fuse_ino_t parent, const char* name, mode_t,
               fuse_file_info* info) {
  Frontend& fs = frontend_of(request);
  fs.start(create(fs, request, parent, name, info->flags));
}

void on_read(fuse_req_t request, fuse_ino_t, size_t size, off_t offset, fuse_file_info* info) {
  Frontend& fs = frontend_of(request);
  fs.start(
      read(fs, request, OpenFiles::handle(info->fh), static_cast<std::uint64_t>(offset), size));
}

void on_write(fuse_req_t request, fuse_ino_t, const char* data, size_t size, off_t offset,
              fuse_file_info* info) {
  Frontend& fs = frontend_of(request);
  const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data), size);
  fs.start(write(fs, request, OpenFiles::handle(info->fh), RequestLoop::keep_request(),
                 static_cast<std::uint64_t>(offset), bytes, info->flags));
}

void on_fsync(fuse_req_t request, fuse_ino_t, int, fuse_file_info* info) {
  Frontend& fs = frontend_of(request);
  fs.start(fsync(fs, request, OpenFiles::handle(info->fh)));
}

void on_flush(fuse_req_t request, fuse_ino_t, fuse_file_info* info) {
  Frontend& fs = frontend_of(request);
  std::shared_ptr<Handle> handle = OpenFiles::handle(info->fh);
  if (!handle->creator || handle->node->growth() == nullptr) {
    fuse_reply_err(request, 0);
    return;
  }
  fs.start(flush(fs, request, std::move(handle)));
}

void on_release(fuse_req_t request, fuse_ino_t, fuse_file_info* info) {
  Frontend& fs = frontend_of(request);
  fs.start(release(fs, request, fs.open_files.remove_handle(info->fh)));
}

}  // namespace

void set_file_ops(fuse_lowlevel_ops& ops) {
  ops.open = on_open;
  ops.create = on_create;
  ops.read = on_read;
  ops.write = on_write;
  ops.fsync = on_fsync;
  ops.flush = on_flush;
  ops.release = on_release;
}

}  // namespace voltree
