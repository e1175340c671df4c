#include "driver/images/stop_signals.h"

namespace voltree {
namespace {

volatile sig_atomic_t came = 0;
void note(int number) { came = number; }

}  // namespace

StopSignals::StopSignals() {
  came = 0;
  struct sigaction action {};
  for (std::size_t i = 0; i < kSignals.size(); ++i) {
    action.sa_handler = note;
    if (kSignals[i] == SIGPIPE) action.sa_handler = SIG_IGN;
    ::sigaction(kSignals[i], &action, &before_[i]);
  }
}

StopSignals::~StopSignals() {
  for (std::size_t i = 0; i < kSignals.size(); ++i) ::sigaction(kSignals[i], &before_[i], nullptr);
}

Status StopSignals::check() {
  return came == 0 ? Status() : Status(Code::kCancelled, "interrupted by a signal");
}

}  // namespace voltree
