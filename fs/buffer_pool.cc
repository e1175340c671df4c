#include "fs/buffer_pool.h"

#include <sys/mman.h>

#include <cassert>

namespace voltree {

BufferPool::~BufferPool() {
  assert(free_.size() == all_.size() && waiting_.empty());
  for (std::byte* memory : all_) munmap(memory, kBufferBytes);
}

std::byte* BufferPool::take_locked() {
  if (!free_.empty()) {
    std::byte* memory = free_.back();
    free_.pop_back();
    return memory;
  }
  if (all_.size() >= limit_) return nullptr;
  void* fresh =
      mmap(nullptr, kBufferBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (fresh == MAP_FAILED) return nullptr;
  all_.push_back(static_cast<std::byte*>(fresh));
  return all_.back();
}

std::byte* BufferPool::try_take() {
  std::lock_guard lock(mutex_);
  return waiting_.empty() ? take_locked() : nullptr;
}

bool BufferPool::enqueue(Slot& slot, std::coroutine_handle<> handle) {
  std::lock_guard lock(mutex_);
  if (waiting_.empty()) {
    slot.memory = take_locked();
    if (slot.memory != nullptr) return false;
  }
  slot.waiter = {handle, Executor::current()};
  waiting_.push_back(&slot);
  return true;
}

void BufferPool::give(std::byte* memory) {
  Waiter next;
  {
    std::lock_guard lock(mutex_);
    if (waiting_.empty()) {
      free_.push_back(memory);
      return;
    }
    waiting_.front()->memory = memory;
    next = waiting_.front()->waiter;
    waiting_.pop_front();
  }
  next.wake();
}

}  // namespace voltree
