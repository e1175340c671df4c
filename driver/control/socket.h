// A stream of lines over a Unix socket, for both ends of the control socket.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "blockstore/base/status.h"

namespace voltree {

// Owns the descriptor. Used by one thread at a time, except shut_down(), which wakes the others.
class LineSocket {
 public:
  explicit LineSocket(int fd) : fd_(fd) {}
  ~LineSocket();
  LineSocket(const LineSocket&) = delete;
  LineSocket& operator=(const LineSocket&) = delete;

  // The next line without its newline; nullopt at the end of the stream. kTooLarge for a longer
  // line: the stream is of no use after that.
  Result<std::optional<std::string>> read_line(std::size_t max_bytes);
  // Sends the line and its newline. kIoError when the peer is gone or does not take it in time.
  Status write_line(std::string_view line);

  // How long write_line waits for a peer that does not read.
  void set_write_timeout(std::chrono::seconds timeout);
  // Nobody is at the other end any more. A peer that only has nothing more to say is still there.
  bool peer_gone() const;
  void shut_down();          // both ways; thread-safe
  void shut_down_reading();  // thread-safe
  Result<uid_t> peer_uid() const;

 private:
  int fd_;
  std::string buffer_;        // received, not yet returned
  std::size_t searched_ = 0;  // of buffer_, without a newline
};

// A listening socket at `path`, mode 0600. An old socket file is replaced: the caller must own the
// store.
Result<int> listen_unix(const std::string& path);
// kNotFound when nobody listens there.
Result<int> connect_unix(const std::string& path);

}  // namespace voltree
