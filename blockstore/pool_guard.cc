#include "blockstore/pool_guard.h"

#include <algorithm>

namespace voltree {

void PoolGuard::set(const GuardSettings& settings, std::uint64_t free_bytes,
                    std::uint64_t promised_bytes) {
  const std::uint64_t room_bytes = free_bytes - std::min(free_bytes, settings.stop_free_bytes);
  left_.store(static_cast<std::int64_t>(std::min(room_bytes, promised_bytes + kStrideBytes)),
              std::memory_order_relaxed);
  promised_.store(static_cast<std::int64_t>(promised_bytes), std::memory_order_relaxed);
  on_.store(settings.stop_free_bytes != 0 || promised_bytes != 0, std::memory_order_release);
}

}  // namespace voltree
