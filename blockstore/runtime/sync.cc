#include "blockstore/runtime/sync.h"

#include <cassert>

namespace voltree {
namespace {

Waiter waiter_here(std::coroutine_handle<> handle) {
  Executor* home = Executor::current();
  assert(home != nullptr && "only a coroutine on an executor may wait");
  return Waiter{handle, home};
}

// An empty range overlaps nothing, wherever it is.
bool overlap(BlockRange a, BlockRange b) {
  return a.count != 0 && b.count != 0 && a.first < b.end() && b.first < a.end();
}

}  // namespace

// In every class below the object may be destroyed by whoever is woken. So waiters are copied out
// under the mutex, and after it is released nothing of the object is touched any more.

bool AsyncMutex::enqueue(std::coroutine_handle<> handle) {
  const std::lock_guard guard(mutex_);
  if (!held_) {
    held_ = true;
    return false;
  }
  waiters_.push_back(waiter_here(handle));
  return true;
}

void AsyncMutex::unlock() {
  Waiter next;
  {
    const std::lock_guard guard(mutex_);
    assert(held_);
    if (waiters_.empty()) {
      held_ = false;
      return;
    }
    // The lock is passed on and never free in between: nobody can overtake the waiter.
    next = waiters_.front();
    waiters_.pop_front();
  }
  next.wake();
}

void Event::set() {
  std::vector<Waiter> wake;
  {
    const std::lock_guard guard(mutex_);
    set_ = true;
    wake.swap(waiters_);
  }
  for (const Waiter& waiter : wake) waiter.wake();
}

bool Event::is_set() const {
  const std::lock_guard guard(mutex_);
  return set_;
}

bool Event::enqueue(std::coroutine_handle<> handle) {
  const std::lock_guard guard(mutex_);
  if (set_) return false;
  waiters_.push_back(waiter_here(handle));
  return true;
}

bool RangeLock::enqueue(BlockRange range, std::coroutine_handle<> handle, std::uint64_t& ticket) {
  const std::lock_guard guard(mutex_);
  ticket = next_ticket_++;
  Entry entry{range, {}, 0};
  for (const auto& [number, other] : entries_) {
    if (overlap(range, other.range)) ++entry.blockers;
  }
  const bool must_wait = entry.blockers != 0;
  if (must_wait) entry.waiter = waiter_here(handle);
  entries_.emplace_hint(entries_.end(), ticket, entry);
  return must_wait;
}

void RangeLock::unlock(std::uint64_t ticket) {
  std::vector<Waiter> wake;
  {
    const std::lock_guard guard(mutex_);
    const auto mine = entries_.find(ticket);
    assert(mine != entries_.end());
    const BlockRange range = mine->second.range;
    for (auto later = entries_.erase(mine); later != entries_.end(); ++later) {
      Entry& entry = later->second;
      if (!overlap(range, entry.range)) continue;
      assert(entry.blockers > 0);
      if (--entry.blockers == 0) wake.push_back(std::exchange(entry.waiter, Waiter{}));
    }
  }
  for (const Waiter& waiter : wake) waiter.wake();
}

Gate::Token Gate::enter() {
  const std::lock_guard guard(mutex_);
  ++epochs_.back().inside;
  return Token(this, epochs_.back().number);
}

void Gate::leave(std::uint64_t epoch) {
  std::vector<Waiter> wake;
  {
    const std::lock_guard guard(mutex_);
    // Numbers are consecutive, and an epoch stays until its last token has been left.
    Epoch& mine = epochs_.at(epoch - epochs_.front().number);
    assert(mine.number == epoch && mine.inside > 0);
    --mine.inside;
    pop_finished(wake);
  }
  for (const Waiter& waiter : wake) waiter.wake();
}

bool Gate::enqueue(std::coroutine_handle<> handle) {
  const std::lock_guard guard(mutex_);
  Epoch& current = epochs_.back();
  if (current.inside == 0) {
    if (epochs_.size() == 1) return false;
    // Nothing began since the last drain: both wait for the same tokens.
    epochs_[epochs_.size() - 2].waiters.push_back(waiter_here(handle));
    return true;
  }
  current.waiters.push_back(waiter_here(handle));
  const std::uint64_t next = current.number + 1;
  epochs_.push_back(Epoch{next, 0, {}});
  return true;
}

void Gate::pop_finished(std::vector<Waiter>& wake) {
  while (epochs_.size() > 1 && epochs_.front().inside == 0) {
    std::vector<Waiter>& waiters = epochs_.front().waiters;
    wake.insert(wake.end(), waiters.begin(), waiters.end());
    epochs_.pop_front();
  }
}

}  // namespace voltree
