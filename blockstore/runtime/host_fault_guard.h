// What becomes of a mapped page that the host cannot give, or cannot make writable: its medium is
// damaged, its file was cut, its file system stopped. The kernel says so with SIGBUS, which ends
// the process unless it is handled (mmap(2), "SIGBUS").
//
// A page of a guarded range that meets it becomes memory of its own, zeros: the access goes on, and
// the range has failed. What was stored to the page before is in the page cache, what is stored to
// it from then on is lost. Everybody who has touched the range asks failed() before he relies on
// it. Other addresses go to the handler that was there before the first guard.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace voltree {

class FaultGuard {
 public:
  // The range is one mapping, and whole pages; it stays until the guard is gone. Thread-safe.
  FaultGuard(const std::byte* begin, std::uint64_t size_bytes);
  ~FaultGuard();
  FaultGuard(const FaultGuard&) = delete;
  FaultGuard& operator=(const FaultGuard&) = delete;

  // An access that this thread made before met it, or one of another thread. Never false again.
  // What other threads' accesses have made of a page is told to who has read it with acquire.
  bool failed() const;

  struct Slot {
    std::atomic<std::uintptr_t> begin{0};
    std::atomic<std::uintptr_t> end{0};
    std::atomic<bool> failed{false};
  };

 private:
  Slot& slot_;
};

}  // namespace voltree
