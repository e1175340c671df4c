#include "driver/images/stop_signals.h"

namespace voltree {
namespace {

volatile sig_atomic_t came = 0;
void note(int number) { came = number; }
thread_local const StopCondition* condition = nullptr;

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

StopCondition::StopCondition(std::function<Status()> ask)
    : ask_(std::move(ask)), before_(condition) {
  condition = this;
}

StopCondition::~StopCondition() { condition = before_; }

Status check_stop() {
  if (came != 0) return Status(Code::kCancelled, "interrupted by a signal");
  return condition == nullptr ? Status() : condition->ask_();
}

}  // namespace voltree
