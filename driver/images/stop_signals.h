// When work on an image is to be given up: check_stop() says so, so that what is half done can be
// undone.
#pragma once

#include <signal.h>

#include <array>
#include <functional>

#include "blockstore/base/status.h"

namespace voltree {

// kCancelled once a signal has come that a StopSignals holds back, or when the StopCondition of
// this thread says so.
Status check_stop();

// For a program of its own: while one lives, SIGINT, SIGTERM and SIGHUP do not end the program. A
// reader that goes away is an error (EPIPE), too.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

 private:
  static constexpr std::array<int, 4> kSignals{SIGINT, SIGTERM, SIGHUP, SIGPIPE};
  std::array<struct sigaction, 4> before_{};
};

// For a thread that works for somebody else: while one lives, check_stop() on this thread asks it.
class StopCondition {
 public:
  explicit StopCondition(std::function<Status()> ask);
  ~StopCondition();
  StopCondition(const StopCondition&) = delete;
  StopCondition& operator=(const StopCondition&) = delete;

 private:
  friend Status check_stop();
  const std::function<Status()> ask_;
  const StopCondition* const before_;
};

}  // namespace voltree
