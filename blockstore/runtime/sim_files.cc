#include "blockstore/runtime/sim_files.h"

#include <algorithm>
#include <vector>

namespace voltree {

Status SimFile::check_direct(const std::byte* data, std::uint64_t offset_bytes,
                             std::uint64_t length_bytes) const {
  if (!mode_.direct) return {};
  const bool aligned = reinterpret_cast<std::uintptr_t>(data) % 512 == 0 &&
                       offset_bytes % SimInode::kPageBytes == 0 &&
                       length_bytes % SimInode::kPageBytes == 0;
  if (aligned) return {};
  return error(Code::kInvalid, "{}: direct I/O that is not aligned: {} + {}", path_, offset_bytes,
               length_bytes);
}

Status SimFile::change(SimMutation mutation) {
  if (!mode_.writable) return error(Code::kReadOnly, "{}: opened for reading", path_);
  const Status status = runtime_.world_.apply(*inode_, mutation);
  return status.with_context(path_);
}

Status SimFile::execute(const IoRequest& request) {
  switch (request.kind) {
    case IoKind::kRead:
      return read_sync({request.data, request.length_bytes}, request.offset_bytes);
    case IoKind::kWrite:
      return write_sync({request.data, request.length_bytes}, request.offset_bytes);
    case IoKind::kSyncData:
      return sync_sync();
    case IoKind::kAllocate:
      return allocate_sync(request.offset_bytes, request.length_bytes);
    case IoKind::kPunchHole:
      return change({SimMutation::Kind::kPunch, request.offset_bytes, request.length_bytes});
    case IoKind::kPopulate:
      break;
  }
  return error(Code::kNotSupported, "{}: not an operation on a file", path_);
}

void SimFile::submit(IoRequest& request) {
  assert(request.home != nullptr && request.home == Executor::current());
  runtime_.submit_io(*this, request);
}

Status SimFile::read_sync(std::span<std::byte> out, std::uint64_t offset_bytes) {
  VT_RETURN_IF_ERROR(check_direct(out.data(), offset_bytes, out.size()));
  VT_RETURN_IF_ERROR(runtime_.world_.check(SimAct::kRead, *inode_));
  inode_->read(out, offset_bytes);
  return {};
}

Status SimFile::write_sync(std::span<const std::byte> data, std::uint64_t offset_bytes) {
  VT_RETURN_IF_ERROR(check_direct(data.data(), offset_bytes, data.size()));
  return change({SimMutation::Kind::kWrite, offset_bytes, data.size(), data.data()});
}

Status SimFile::sync_sync() {
  const Status status = runtime_.world_.sync(*inode_, 0, 0);
  return status.with_context(path_);
}

Status SimFile::truncate(std::uint64_t size_bytes) {
  return change({SimMutation::Kind::kTruncate, size_bytes});
}

Status SimFile::allocate_sync(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
  return change({SimMutation::Kind::kAllocate, offset_bytes, length_bytes});
}

Status SimFile::clone_range_sync(File& source, std::uint64_t source_offset_bytes,
                                 std::uint64_t length_bytes, std::uint64_t offset_bytes) {
  auto* const from = dynamic_cast<SimFile*>(&source);
  if (from == nullptr) return error(Code::kNotSupported, "{}: not of this simulation", path_);
  VT_RETURN_IF_ERROR(runtime_.world_.check(SimAct::kRead, *from->inode_));
  std::vector<std::byte> bytes(length_bytes);
  from->inode_->read(bytes, source_offset_bytes);
  return change({SimMutation::Kind::kWrite, offset_bytes, length_bytes, bytes.data()});
}

Result<std::uint64_t> SimFile::size_bytes() {
  VT_RETURN_IF_ERROR(runtime_.world_.check(SimAct::kAsk, *inode_));
  return inode_->size_bytes();
}

Result<std::uint64_t> SimFile::allocated_bytes() {
  VT_RETURN_IF_ERROR(runtime_.world_.check(SimAct::kAsk, *inode_));
  return inode_->allocated_bytes();
}

Result<std::uint64_t> SimFile::seek_data(std::uint64_t offset_bytes) {
  VT_RETURN_IF_ERROR(runtime_.world_.check(SimAct::kAsk, *inode_));
  return inode_->seek_data(offset_bytes);
}

Result<std::uint64_t> SimFile::seek_hole(std::uint64_t offset_bytes) {
  VT_RETURN_IF_ERROR(runtime_.world_.check(SimAct::kAsk, *inode_));
  return inode_->seek_hole(offset_bytes);
}

Result<std::uint64_t> SimFile::links() {
  VT_RETURN_IF_ERROR(runtime_.world_.check(SimAct::kAsk, *inode_));
  return runtime_.world_.links(*inode_);
}

Result<std::string> SimFile::path_now() {
  VT_RETURN_IF_ERROR(runtime_.world_.check(SimAct::kAsk, *inode_));
  return runtime_.world_.path_of(*inode_);
}

// Each name holds the file, and so does each that has it open.
Status SimFile::take_lease() {
  VT_RETURN_IF_ERROR(runtime_.world_.check(SimAct::kAsk, *inode_));
  const auto open = static_cast<std::uint64_t>(inode_.use_count()) - runtime_.world_.links(*inode_);
  if (open > 1) return error(Code::kBusy, "{}: somebody has it open", path_);
  return {};
}

Status SimFile::check_lease() { return runtime_.world_.check(SimAct::kAsk, *inode_); }

Status SimFile::link(const std::string& path) {
  return runtime_.world_.apply_name(
      {SimNameMutation::Kind::kLink, SimWorld::normal(path), {}, inode_});
}

Status SimFile::unlink_name(const std::string& path) {
  const std::string name = SimWorld::normal(path);
  const auto there = runtime_.world_.find(name);
  if (!there.ok() || *there != inode_) {
    return error(Code::kNotFound, "{} is another file by now", path);
  }
  return runtime_.world_.apply_name({SimNameMutation::Kind::kUnlink, name, {}, {}});
}

Status SimFile::make_ours() { return runtime_.world_.check(SimAct::kAsk, *inode_); }

Status SimMappedFile::check_range(std::uint64_t offset_bytes, std::uint64_t length_bytes) const {
  if (offset_bytes <= size_bytes_ && length_bytes <= size_bytes_ - offset_bytes) return {};
  return error(Code::kInvalid, "{}: {} + {} is beyond the mapped {} bytes", path_, offset_bytes,
               length_bytes, size_bytes_);
}

// What was stored is kept all the same: that it is lost is one of the things that may have become
// of it.
Status SimMappedFile::failure() const {
  if (failure_.ok()) {
    failure_ = runtime_.world_.check(SimAct::kTouch, *inode_).with_context(path_);
  }
  return failure_;
}

bool SimMappedFile::resident(std::uint64_t offset_bytes, std::uint64_t length_bytes,
                             bool for_write) {
  if (!failure_.ok() || !check_range(offset_bytes, length_bytes).ok()) return false;
  // Memory may be taken away at any time: now and then it just was.
  constexpr std::uint64_t kOneIn = 16;
  if (runtime_.next_random() % kOneIn == 0) return false;
  const std::uint64_t end = offset_bytes + length_bytes;
  for (std::uint64_t page = offset_bytes / SimInode::kPageBytes; page * SimInode::kPageBytes < end;
       ++page) {
    if (!inode_->cached(page) || (for_write && !inode_->reserved(page))) return false;
  }
  return true;
}

Status SimMappedFile::populate_sync(std::uint64_t offset_bytes, std::uint64_t length_bytes,
                                    bool for_write) {
  VT_RETURN_IF_ERROR(failure_);
  VT_RETURN_IF_ERROR(check_range(offset_bytes, length_bytes));
  if (for_write) {
    const SimMutation mutation{SimMutation::Kind::kPopulate, offset_bytes, length_bytes};
    VT_RETURN_IF_ERROR(runtime_.world_.apply(*inode_, mutation).with_context(path_));
  } else {
    VT_RETURN_IF_ERROR(runtime_.world_.check(SimAct::kRead, *inode_).with_context(path_));
  }
  const std::uint64_t end = offset_bytes + length_bytes;
  for (std::uint64_t page = offset_bytes / SimInode::kPageBytes; page * SimInode::kPageBytes < end;
       ++page) {
    inode_->set_cached(page);
  }
  return {};
}

Status SimMappedFile::sync_sync(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
  VT_RETURN_IF_ERROR(failure_);
  VT_RETURN_IF_ERROR(check_range(offset_bytes, length_bytes));
  if (length_bytes == 0) return {};
  return runtime_.world_.sync(*inode_, offset_bytes, length_bytes).with_context(path_);
}

Status SimMappedFile::punch_sync(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
  VT_RETURN_IF_ERROR(failure_);
  VT_RETURN_IF_ERROR(check_range(offset_bytes, length_bytes));
  const SimMutation mutation{SimMutation::Kind::kPunch, offset_bytes, length_bytes};
  return runtime_.world_.apply(*inode_, mutation).with_context(path_);
}

Result<std::uint64_t> SimMappedFile::seek_data(std::uint64_t offset_bytes) {
  VT_RETURN_IF_ERROR(runtime_.world_.check(SimAct::kAsk, *inode_));
  return inode_->seek_data(offset_bytes);
}

Result<std::uint64_t> SimMappedFile::seek_hole(std::uint64_t offset_bytes) {
  VT_RETURN_IF_ERROR(runtime_.world_.check(SimAct::kAsk, *inode_));
  return inode_->seek_hole(offset_bytes);
}

Status SimMappedFile::grow(std::uint64_t size_bytes) {
  if (size_bytes <= size_bytes_) return {};
  if (size_bytes > reserve_bytes_) {
    return error(Code::kTooLarge, "{}: cannot grow to {} bytes; {} were reserved", path_,
                 size_bytes, reserve_bytes_);
  }
  if (size_bytes > inode_->size_bytes()) {
    const SimMutation mutation{SimMutation::Kind::kTruncate, size_bytes};
    VT_RETURN_IF_ERROR(runtime_.world_.apply(*inode_, mutation).with_context(path_));
  }
  size_bytes_ = size_bytes;
  return {};
}

}  // namespace voltree
