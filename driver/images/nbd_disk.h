// NbdDisk: a volume or snapshot over the private NBD socket of its store, for one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "blockstore/base/status.h"
#include "blockstore/block_device.h"

struct nbd_handle;

namespace voltree {

class NbdDisk {
 public:
  static Result<std::unique_ptr<NbdDisk>> connect(const std::string& socket_path,
                                                  const std::string& export_name);
  // Over a stream to such a socket, which it takes over.
  static Result<std::unique_ptr<NbdDisk>> connect(int fd, const std::string& export_name);
  ~NbdDisk();  // disconnects; requests that are under way are given up
  NbdDisk(const NbdDisk&) = delete;
  NbdDisk& operator=(const NbdDisk&) = delete;

  std::uint64_t size_bytes() const { return size_bytes_; }

  // A request that is under way until wait() has said how it ended. Its memory must stay until
  // then; after a failure nothing but the destructor may be called. At most 32 MiB.
  using Ticket = std::int64_t;
  Result<Ticket> begin_read(std::uint64_t offset_bytes, std::span<std::byte> out);
  Result<Ticket> begin_write(std::uint64_t offset_bytes, std::span<const std::byte> data);
  // kCancelled when a signal asks the program to end (stop_signals.h).
  Status wait(Ticket ticket);

  Status flush();
  // The allocation from `offset_bytes` on, up to `length_bytes` or less; never nothing.
  Result<std::vector<AllocationRun>> allocation(std::uint64_t offset_bytes,
                                                std::uint64_t length_bytes);

 private:
  explicit NbdDisk(nbd_handle* handle) : handle_(handle) {}
  Status open(int fd, const std::string& export_name);
  Status failure(const std::string& what) const;

  nbd_handle* const handle_;
  std::string name_;
  std::uint64_t size_bytes_ = 0;
};

}  // namespace voltree
