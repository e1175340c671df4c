// The transmission phase of one connection: requests in, replies out ("Transmission" in proto.md).
//
// One coroutine reads requests; each request is a coroutine of its own, and replies leave in the
// order in which they are ready. All of them run on the connection's executor.
#pragma once

#include <atomic>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "blockstore/base/status.h"
#include "blockstore/runtime/task.h"
#include "driver/targets/nbd/budget.h"
#include "driver/targets/nbd/negotiation.h"
#include "driver/targets/nbd/replies.h"

namespace voltree::nbd {

// Told of every change before the client is told that it was made: for doors that cache (FUSE).
class ChangeObserver {
 public:
  virtual ~ChangeObserver() = default;
  virtual Task<void> changed(NodeId node, std::uint64_t offset_bytes,
                             std::uint64_t length_bytes) = 0;
};

class Transmission {
 public:
  Transmission(Store& store, Stream& stream, Session session, Share& share,
               ChangeObserver* observer, const std::atomic<bool>& stopping);
  Transmission(const Transmission&) = delete;
  Transmission& operator=(const Transmission&) = delete;

  // Until the client leaves, or `stopping` and the reading side is shut down; every request that
  // was read is answered. OK after DISC.
  Task<Status> run();

  // Of requests since the beginning. Thread-safe.
  std::uint64_t requests() const { return requests_.load(std::memory_order_relaxed); }

 private:
  // A WRITE that came in more than one piece.
  struct Assembly {
    Request request;
    std::size_t pieces_left = 0;
    bool one_piece = false;
    Status status;
  };

  Task<Status> read_request(Request& request);
  Task<Status> take_write(Request request, Status refused);
  Task<Status> take_status_payload(Request request);
  Task<Status> skip_payload(std::uint64_t length_bytes);
  Status check(const Request& request) const;
  Status check_range(const Request& request) const;

  void start(Task<void> handler);
  Task<void> counted(Task<void> handler);
  Task<void> wait_for_fewer(std::size_t requests);

  Task<void> serve(Request request);
  Task<void> refuse(Request request, Status why);
  Task<void> serve_read(Request request);
  Task<void> serve_write_piece(std::shared_ptr<Assembly> assembly, std::uint64_t offset_bytes,
                               Share::Buffer data);
  Task<void> serve_block_status(Request request, std::vector<std::uint32_t> ids);
  // Between the pieces of a long request: whether there is nobody left to finish it for. Then the
  // connection is ended without an answer, so that a client that comes back asks again.
  bool abandoned();
  Task<Status> trim(const Request& request);
  Task<Status> write_zeroes(const Request& request);
  Task<Status> write_real_zeroes(const Request& request);
  Task<void> tell(std::uint64_t offset_bytes, std::uint64_t length_bytes);
  Result<std::vector<ValueRun>> runs_of(const Context& context, ByteRange range,
                                        std::size_t max_runs) const;

  Store& store_;
  Stream& stream_;
  const Session session_;
  BlockDevice& device_;
  Share& share_;
  ChangeObserver* const observer_;
  const std::atomic<bool>& stopping_;
  Replies replies_;
  std::atomic<std::uint64_t> requests_{0};
  bool peer_left_ = false;
  std::size_t in_flight_ = 0;
  std::size_t wanted_in_flight_ = 0;      // the reader waits until there are fewer
  std::coroutine_handle<> reader_waits_;  // for that
};

}  // namespace voltree::nbd
