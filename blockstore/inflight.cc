#include "blockstore/inflight.h"

#include <atomic>

namespace voltree {
namespace {

// The bytes of a slot: a node of 0 is a free slot.
struct SlotBytes {
  std::uint64_t node;
  std::uint64_t first;
  std::uint64_t count;
  std::uint64_t failed;  // of the first slot: InflightTable::failed
};
static_assert(sizeof(SlotBytes) == 32);

constexpr std::uint64_t kTableBytes = InflightTable::kSlots * sizeof(SlotBytes);

SlotBytes* slots_of(MappedFile& map) { return reinterpret_cast<SlotBytes*>(map.data()); }

void store(std::uint64_t& field, std::uint64_t value) {
  std::atomic_ref<std::uint64_t>(field).store(value, std::memory_order_release);
}

}  // namespace

InflightTable::InflightTable(std::unique_ptr<MappedFile> map) : map_(std::move(map)) {
  SlotBytes* slots = slots_of(*map_);
  for (std::size_t i = 0; i < kSlots; ++i) {
    if (slots[i].node != kNoNode) {
      left_behind_.push_back({slots[i].node, {slots[i].first, slots[i].count}});
    }
    free_.push_back(kSlots - 1 - i);
  }
}

Result<std::unique_ptr<InflightTable>> InflightTable::open(FileSystem& fs,
                                                           const std::string& path) {
  VT_ASSIGN_OR_RETURN(auto map, fs.map(path, kTableBytes, kTableBytes));
  VT_RETURN_IF_ERROR(map->populate_sync(0, kTableBytes, true));
  std::unique_ptr<InflightTable> table(new InflightTable(std::move(map)));
  VT_RETURN_IF_ERROR(table->map_->failure());
  return table;
}

void InflightTable::clear() {
  SlotBytes* slots = slots_of(*map_);
  // Free slots stay untouched: no page becomes dirty for nothing.
  for (std::size_t i = 0; i < kSlots; ++i) {
    if (slots[i].node != kNoNode) store(slots[i].node, kNoNode);
  }
  left_behind_.clear();
}

bool InflightTable::failed() const { return slots_of(*map_)[0].failed != 0; }

void InflightTable::set_failed(bool failed) { store(slots_of(*map_)[0].failed, failed ? 1 : 0); }

bool InflightTable::try_take(std::size_t& index, std::coroutine_handle<> handle,
                             std::size_t* where) {
  const std::lock_guard lock(mutex_);
  if (free_.empty()) {
    waiters_.push_back({{handle, Executor::current()}, where});
    return false;
  }
  index = free_.back();
  free_.pop_back();
  return true;
}

void InflightTable::fill(std::size_t index, const Entry& entry) {
  SlotBytes& slot = slots_of(*map_)[index];
  store(slot.first, entry.range.first);
  store(slot.count, entry.range.count);
  store(slot.node, entry.node);  // last: a slot with a node is whole
}

void InflightTable::release(std::size_t index) {
  store(slots_of(*map_)[index].node, kNoNode);
  Waiter next;
  {
    const std::lock_guard lock(mutex_);
    if (waiters_.empty()) {
      free_.push_back(index);
      return;
    }
    *waiters_.front().index = index;
    next = waiters_.front().waiter;
    waiters_.pop_front();
  }
  next.wake();
}

}  // namespace voltree
