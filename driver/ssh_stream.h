// SshStream: a connection to a Unix socket of another host, carried by ssh(1).
//
// The host, its user and the keys are what ssh's configuration says (ssh_config(5)); nobody is
// asked for a password. What is behind the socket sees a peer of that host, the user that ssh has
// logged in as.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>

#include "blockstore/base/status.h"

namespace voltree {

class SshStream {
 public:
  // Blocks until ssh has logged in; whether somebody listens there shows in the first answer.
  // kInvalid for a host or path that ssh could take for something else; kNotSupported when there is
  // no ssh here; kCancelled by a signal (stop_signals.h). The thread must live as long as this: ssh
  // ends with it, so that it ends with a daemon that is killed.
  static Result<std::unique_ptr<SshStream>> open(const std::string& config_path,
                                                 const std::string& host,
                                                 const std::string& socket_path);
  // Ends ssh, and what still uses the stream with it.
  ~SshStream();
  SshStream(const SshStream&) = delete;
  SshStream& operator=(const SshStream&) = delete;

  // The stream, once: it is the caller's to close.
  int take_fd();
  // What ssh has said, in one line; empty: nothing.
  std::string complaint() const;

 private:
  SshStream(pid_t process, int complaints) : process_(process), complaints_(complaints) {}
  Status wait_until_there(int readiness);

  const pid_t process_;
  const int complaints_;  // a file in memory
  int fd_ = -1;
};

}  // namespace voltree
