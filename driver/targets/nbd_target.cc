#include "driver/targets/nbd_target.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include <chrono>
#include <thread>

#include "driver/targets/kernel_device.h"
#include "driver/targets/nbd/server.h"
#include "driver/targets/nbd_device.h"

namespace voltree {
namespace {

// How long the kernel may take to notice that an earlier daemon has died.
constexpr int kReconnectTries = 50;
constexpr std::chrono::milliseconds kReconnectPause{100};

struct Pair {
  kernel::Fd ours;
  kernel::Fd kernels;
};

// Of which `ours` stays open here, too: it tells whether the kernel has taken its end.
Result<std::unique_ptr<Pair>> make_pair() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    return Status::from_errno(errno, "making a socket for the kernel");
  }
  return std::unique_ptr<Pair>(new Pair{kernel::Fd(ends[0]), kernel::Fd(ends[1])});
}

}  // namespace

Status NbdTarget::check_supported() const { return nbd_device::check_supported(); }

std::string NbdTarget::identifier(const AttachmentRow& row) const {
  return fmt::format("voltree:{}:{}", store_uuid_, row.id);
}

bool NbdTarget::is_live(const AttachmentRow& row) const {
  if (row.device.empty() || row.boot_id != runtime_.boot_id()) return false;
  const nbd_device::State state = nbd_device::state_of(row.device);
  return state.connected && state.identifier == identifier(row);
}

Result<nbd::KernelExport> NbdTarget::serve(int socket, const Attachment& attachment) {
  const int own = ::fcntl(socket, F_DUPFD_CLOEXEC, 0);
  if (own < 0) return Status::from_errno(errno, "serving the kernel");
  return server_.serve_kernel(own, attachment.name.str(), attachment.row.read_only);
}

Result<std::string> NbdTarget::connect(const Attachment& attachment,
                                       std::optional<std::uint32_t> number) {
  VT_ASSIGN_OR_RETURN(const std::unique_ptr<Pair> pair, make_pair());
  VT_ASSIGN_OR_RETURN(const nbd::KernelExport exported, serve(pair->ours.get(), attachment));
  nbd_device::Config config;
  config.socket = pair->kernels.get();
  config.number = number;
  config.size_bytes = exported.size_bytes;
  config.sector_size_bytes = attachment.row.sector_size_bytes;
  config.server_flags = exported.flags;
  config.identifier = identifier(attachment.row);
  // On failure the kernel's end is closed, and so the server's connection ends.
  return nbd_device::connect(config);
}

Result<std::string> NbdTarget::bind(const Attachment& attachment) {
  return connect(attachment, std::nullopt);
}

Status NbdTarget::unbind(const AttachmentRow& row) { return nbd_device::disconnect(row.device); }

Status NbdTarget::capacity_changed(const Attachment& attachment, std::uint64_t size_bytes) {
  return nbd_device::set_size(attachment.row.device, size_bytes, identifier(attachment.row));
}

Status NbdTarget::reconnect(const Attachment& attachment) {
  VT_ASSIGN_OR_RETURN(const std::unique_ptr<Pair> pair, make_pair());
  VT_RETURN_IF_ERROR(serve(pair->ours.get(), attachment).status());
  VT_RETURN_IF_ERROR(nbd_device::reconnect(attachment.row.device, pair->kernels.get(),
                                           identifier(attachment.row)));
  pair->kernels.close();
  // The kernel says yes even when it has no use for the socket and drops it.
  pollfd state{pair->ours.get(), 0, 0};
  if (::poll(&state, 1, 0) > 0 && (state.revents & POLLHUP) != 0) {
    return error(Code::kBusy, "{} still has its old socket", attachment.row.device);
  }
  return {};
}

Status NbdTarget::resume(const Attachment& attachment) {
  const AttachmentRow& row = attachment.row;
  if (row.device.empty() || row.boot_id != runtime_.boot_id()) {
    return error(Code::kNotFound, "it is of an earlier boot");
  }
  VT_RETURN_IF_ERROR(check_supported());
  if (!nbd_device::state_of(row.device).connected) {
    const int number = nbd_device::device_number(row.device);
    if (number < 0) return error(Code::kNotFound, "it has no device");
    return connect(attachment, static_cast<std::uint32_t>(number)).status();
  }
  if (!is_live(row)) return error(Code::kNotFound, "{} is another's now", row.device);
  Status status;
  for (int i = 0; i < kReconnectTries; ++i) {
    status = reconnect(attachment);
    if (status.code() != Code::kBusy) break;
    std::this_thread::sleep_for(kReconnectPause);
  }
  return status;
}

}  // namespace voltree
