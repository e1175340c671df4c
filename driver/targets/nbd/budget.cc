#include "driver/targets/nbd/budget.h"

#include <vector>

#include "blockstore/base/units.h"

namespace voltree::nbd {
namespace {
constexpr std::size_t kSpareBlocks = 64;
constexpr std::size_t kSparePieces = 16;
}  // namespace

Budget::~Budget() {
  for (std::byte* memory : spare_) std::free(memory);
}

std::byte* Budget::allocate(std::size_t bytes) {
  if (bytes == kPieceBytes) {
    const std::lock_guard lock(spare_mutex_);
    if (!spare_.empty()) {
      std::byte* memory = spare_.back();
      spare_.pop_back();
      return memory;
    }
  }
  const std::size_t room = (bytes + kBlockBytes - 1) / kBlockBytes * kBlockBytes;
  auto* memory = static_cast<std::byte*>(std::aligned_alloc(kBlockBytes, room));
  if (memory == nullptr) std::abort();  // as everywhere: out of memory ends the process
  return memory;
}

void Budget::release(std::byte* memory, std::size_t bytes) {
  if (bytes == kPieceBytes) {
    const std::lock_guard lock(spare_mutex_);
    if (spare_.size() < kSparePieces) {
      spare_.push_back(memory);
      return;
    }
  }
  std::free(memory);
}

bool Budget::enqueue(std::size_t bytes, std::coroutine_handle<> handle) {
  const std::lock_guard lock(mutex_);
  if (waiting_.empty() && bytes <= left_bytes_) {
    left_bytes_ -= bytes;
    return false;
  }
  waiting_.push_back({bytes, {handle, Executor::current()}});
  waiting_count_.store(waiting_.size(), std::memory_order_relaxed);
  return true;
}

void Budget::give(std::size_t bytes) {
  std::vector<Waiter> wake;
  {
    const std::lock_guard lock(mutex_);
    left_bytes_ += bytes;
    while (!waiting_.empty() && waiting_.front().bytes <= left_bytes_) {
      left_bytes_ -= waiting_.front().bytes;
      wake.push_back(waiting_.front().waiter);
      waiting_.pop_front();
    }
    waiting_count_.store(waiting_.size(), std::memory_order_relaxed);
  }
  for (const Waiter& waiter : wake) waiter.wake();
}

Share::Buffer::Buffer(Share* share, std::size_t bytes, std::size_t common)
    : share_(share), memory_(share->allocate(bytes)), bytes_(bytes), common_(common) {}

Share::~Share() {
  for (std::byte* memory : spare_) std::free(memory);
}

std::byte* Share::allocate(std::size_t bytes) {
  if (bytes <= kBlockBytes && !spare_.empty()) {
    std::byte* memory = spare_.back();
    spare_.pop_back();
    return memory;
  }
  return budget_.allocate(bytes);
}

void Share::release(std::byte* memory, std::size_t bytes) {
  if (bytes <= kBlockBytes && spare_.size() < kSpareBlocks) {
    spare_.push_back(memory);
  } else {
    budget_.release(memory, bytes);
  }
}

void Share::Buffer::give_back() {
  if (share_ == nullptr) return;
  share_->release(memory_, bytes_);
  std::exchange(share_, nullptr)->give(bytes_, common_);
}

Task<Share::Buffer> Share::take(std::size_t bytes) {
  struct Turn {
    Share& share;
    std::size_t bytes;
    bool await_ready() const noexcept {
      return share.waiting_.empty() &&
             (share.held_bytes_ == 0 || share.held_bytes_ + bytes <= share.limit_bytes_);
    }
    void await_suspend(std::coroutine_handle<> handle) {
      share.waiting_.emplace_back(bytes, Waiter{handle, Executor::current()});
    }
    void await_resume() const noexcept {}
  };
  Turn turn{*this, bytes};
  const bool at_once = turn.await_ready();
  if (at_once) {
    held_bytes_ += bytes;
  } else {
    co_await turn;  // who wakes us has counted us
  }
  std::size_t common = 0;
  if (held_bytes_ > floor_bytes_) {
    common = bytes;
    co_await budget_.take(common);
    common_bytes_.fetch_add(common, std::memory_order_relaxed);
  }
  co_return Buffer(this, bytes, common);
}

void Share::give(std::size_t bytes, std::size_t common) {
  held_bytes_ -= bytes;
  if (common != 0) {
    common_bytes_.fetch_sub(common, std::memory_order_relaxed);
    budget_.give(common);
  }
  while (!waiting_.empty()) {
    const auto [wanted, waiter] = waiting_.front();
    if (held_bytes_ != 0 && held_bytes_ + wanted > limit_bytes_) break;
    held_bytes_ += wanted;
    waiting_.pop_front();
    waiter.wake();
  }
}

}  // namespace voltree::nbd
