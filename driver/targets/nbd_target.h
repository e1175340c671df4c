// NbdTarget: the kernel's NBD devices, served by this process over a socket pair: no network, no
// handshake, no mount. They outlive the daemon: the next one gives them a new socket, and what was
// under way is sent again.
#pragma once

#include "blockstore/runtime/io.h"
#include "driver/targets/target.h"

namespace voltree {

namespace nbd {
struct KernelExport;
class Server;
}  // namespace nbd

class NbdTarget final : public Target {
 public:
  // All must outlive it. `store_uuid` tells the devices of two stores apart.
  NbdTarget(Runtime& runtime, nbd::Server& server, std::string store_uuid)
      : runtime_(runtime), server_(server), store_uuid_(std::move(store_uuid)) {}

  std::string_view name() const override { return "nbd"; }
  Status check_supported() const override;
  Result<std::string> bind(const Attachment& attachment) override;
  Status unbind(const AttachmentRow& row) override;
  bool is_live(const AttachmentRow& row) const override;
  Status capacity_changed(const Attachment& attachment, std::uint64_t size_bytes) override;
  bool resumes() const override { return true; }
  Status resume(const Attachment& attachment) override;

 private:
  std::string identifier(const AttachmentRow& row) const;
  Result<nbd::KernelExport> serve(int socket, const Attachment& attachment);
  Result<std::string> connect(const Attachment& attachment, std::optional<std::uint32_t> number);
  Status reconnect(const Attachment& attachment);

  Runtime& runtime_;
  nbd::Server& server_;
  const std::string store_uuid_;
};

}  // namespace voltree
