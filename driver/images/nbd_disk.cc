#include "driver/images/nbd_disk.h"

#include <libnbd.h>
#include <unistd.h>

#include <algorithm>

#include "driver/control/socket.h"
#include "driver/images/stop_signals.h"

namespace voltree {
namespace {

// How long a signal may go unnoticed.
constexpr int kPollMs = 200;
// What one question asks about: the protocol counts in 32 bits.
constexpr std::uint64_t kStatusMaxBytes = std::uint64_t{1} << 30;

struct Extents {
  std::vector<AllocationRun> runs;
};

int take_extents(void* user_data, const char* context, std::uint64_t offset, std::uint32_t* entries,
                 std::size_t entry_count, int* /*error*/) {
  if (std::string_view(context) != LIBNBD_CONTEXT_BASE_ALLOCATION) return 0;
  auto& extents = *static_cast<Extents*>(user_data);
  for (std::size_t i = 0; i + 1 < entry_count; i += 2) {
    const bool zero = (entries[i + 1] & LIBNBD_STATE_ZERO) != 0;
    extents.runs.push_back({offset, entries[i], !zero});
    offset += entries[i];
  }
  return 0;
}

}  // namespace

Result<std::unique_ptr<NbdDisk>> NbdDisk::connect(const std::string& socket_path,
                                                  const std::string& export_name) {
  VT_ASSIGN_OR_RETURN(const int fd, connect_unix(socket_path));
  return connect(fd, export_name);
}

Result<std::unique_ptr<NbdDisk>> NbdDisk::connect(int fd, const std::string& export_name) {
  nbd_handle* handle = nbd_create();
  if (handle == nullptr) {
    ::close(fd);
    return error(Code::kIoError, "libnbd: {}", nbd_get_error());
  }
  std::unique_ptr<NbdDisk> disk(new NbdDisk(handle));
  VT_RETURN_IF_ERROR(disk->open(fd, export_name));
  return disk;
}

// libnbd closes the descriptor once it has it, whatever becomes of the connection.
Status NbdDisk::open(int fd, const std::string& export_name) {
  name_ = export_name;
  (void)nbd_set_pread_initialize(handle_, false);  // every byte is read or the read fails
  if (nbd_set_export_name(handle_, export_name.c_str()) != 0 ||
      nbd_add_meta_context(handle_, LIBNBD_CONTEXT_BASE_ALLOCATION) != 0) {
    ::close(fd);
    return failure("connecting");
  }
  if (nbd_connect_socket(handle_, fd) != 0) return failure("connecting");
  const std::int64_t size = nbd_get_size(handle_);
  if (size < 0) return failure("its size");
  size_bytes_ = static_cast<std::uint64_t>(size);
  return {};
}

NbdDisk::~NbdDisk() {
  // With requests under way the memory of which may be gone: without a good-bye.
  if (nbd_aio_in_flight(handle_) == 0) (void)nbd_shutdown(handle_, 0);
  nbd_close(handle_);
}

Status NbdDisk::failure(const std::string& what) const {
  const int code = nbd_get_errno();
  if (code == 0) return error(Code::kIoError, "{}, {}: {}", name_, what, nbd_get_error());
  return Status::from_errno(code, fmt::format("{}, {}", name_, what));
}

Result<NbdDisk::Ticket> NbdDisk::begin_read(std::uint64_t offset_bytes, std::span<std::byte> out) {
  const Ticket ticket =
      nbd_aio_pread(handle_, out.data(), out.size(), offset_bytes, nbd_completion_callback{}, 0);
  if (ticket < 0) return failure(fmt::format("reading at {}", offset_bytes));
  return ticket;
}

Result<NbdDisk::Ticket> NbdDisk::begin_write(std::uint64_t offset_bytes,
                                             std::span<const std::byte> data) {
  const Ticket ticket =
      nbd_aio_pwrite(handle_, data.data(), data.size(), offset_bytes, nbd_completion_callback{}, 0);
  if (ticket < 0) return failure(fmt::format("writing at {}", offset_bytes));
  return ticket;
}

Status NbdDisk::wait(Ticket ticket) {
  while (true) {
    VT_RETURN_IF_ERROR(check_stop());
    const int done = nbd_aio_command_completed(handle_, static_cast<std::uint64_t>(ticket));
    if (done == 1) return {};
    if (done < 0 || nbd_poll(handle_, kPollMs) < 0) return failure("a request");
  }
}

Status NbdDisk::flush() { return nbd_flush(handle_, 0) == 0 ? Status() : failure("flushing"); }

Result<std::vector<AllocationRun>> NbdDisk::allocation(std::uint64_t offset_bytes,
                                                       std::uint64_t length_bytes) {
  Extents extents;
  nbd_extent_callback callback{};
  callback.callback = take_extents;
  callback.user_data = &extents;
  const std::uint64_t asked_bytes = std::min(length_bytes, kStatusMaxBytes);
  if (nbd_block_status(handle_, asked_bytes, offset_bytes, callback, 0) != 0) {
    return failure("its allocation");
  }
  if (extents.runs.empty()) extents.runs.push_back({offset_bytes, asked_bytes, true});
  for (AllocationRun& run : extents.runs) {  // the last may tell of more than was asked
    const std::uint64_t left_bytes = offset_bytes + asked_bytes - run.offset_bytes;
    run.length_bytes = std::min(run.length_bytes, left_bytes);
  }
  return std::move(extents.runs);
}

}  // namespace voltree
