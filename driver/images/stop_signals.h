// StopSignals: while one lives, SIGINT, SIGTERM and SIGHUP do not end the program but are told by
// check(), so that what is half done can be undone. A reader that goes away is an error (EPIPE),
// too.
#pragma once

#include <signal.h>

#include <array>

#include "blockstore/base/status.h"

namespace voltree {

class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;
  // kCancelled once one of them has come.
  static Status check();

 private:
  static constexpr std::array<int, 4> kSignals{SIGINT, SIGTERM, SIGHUP, SIGPIPE};
  std::array<struct sigaction, 4> before_{};
};

}  // namespace voltree
