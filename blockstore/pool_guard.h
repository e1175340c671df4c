// The pool guard: keeps a part of the host free, and what was promised to volumes for them.
//
// It gives out space by an estimate that each look at the host corrects; a look is due whenever the
// estimate is used up, which is every kStrideBytes at the latest. So the host may get fuller than
// the levels say by what others take meanwhile.
#pragma once

#include <atomic>
#include <cstdint>

namespace voltree {

struct GuardSettings {
  std::uint64_t warn_free_bytes = 0;  // with less free the pool warns; 0: never
  std::uint64_t stop_free_bytes = 0;  // with less free nothing new is allocated; 0: the host's end
  std::uint64_t overprovision_percent = 0;  // all volumes' sizes, of the host's size; 0: no bound
};

// kFull: the host has less than kFullBytes, and no stop level above that: what needs new space
// fails.
enum class GuardState : std::uint8_t { kRoom, kWarn, kFull, kStop };

// Thread-safe.
class PoolGuard {
 public:
  static constexpr std::uint64_t kStrideBytes = std::uint64_t{256} << 20;
  // File systems refuse to allocate their last blocks.
  static constexpr std::uint64_t kFullBytes = std::uint64_t{1} << 20;

  // Whether `bytes` more may be allocated by a volume that has `own_bytes` of the promised space
  // left; they are then taken. False: look at the host and ask again.
  bool take(std::uint64_t bytes, std::uint64_t own_bytes) {
    if (!on_.load(std::memory_order_acquire)) return true;
    const auto wanted = static_cast<std::int64_t>(bytes);
    const std::int64_t left = left_.fetch_sub(wanted, std::memory_order_relaxed) - wanted;
    const std::int64_t others =
        promised_.load(std::memory_order_relaxed) - static_cast<std::int64_t>(own_bytes);
    if (left >= others) return true;
    left_.fetch_add(wanted, std::memory_order_relaxed);
    return false;
  }

  // What a look at the host found: `promised_bytes` are those that volumes have not used yet.
  void set(const GuardSettings& settings, std::uint64_t free_bytes, std::uint64_t promised_bytes);

 private:
  std::atomic<bool> on_{false};  // there is a stop level, or a promise
  std::atomic<std::int64_t> left_{0};
  std::atomic<std::int64_t> promised_{0};
};

}  // namespace voltree
