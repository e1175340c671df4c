#include "blockstore/inflight.h"

#include <atomic>
#include <cassert>
#include <cstring>

#include "blockstore/base/checksum.h"

namespace voltree {
namespace {

struct Header {
  std::uint64_t layout;  // 0: a new file
  std::uint64_t failed;  // InflightTable::failed
};

// The beginning of a slot; the sums follow. A node of 0 is a free slot.
struct SlotHead {
  std::uint64_t node;
  std::uint64_t first;
  std::uint64_t count;
  std::uint64_t check;  // of node, first, count and the sums
};

constexpr std::uint64_t kLayout = 0x32'4c46'4e49'5456;  // "VTINFL2"
constexpr std::size_t kHeaderBytes = 64;
constexpr auto& kKinds = InflightTable::kKinds;

constexpr std::size_t slot_bytes(const InflightTable::SlotKind& kind) {
  return sizeof(SlotHead) + kind.blocks_max * sizeof(std::uint64_t);
}

constexpr std::size_t all_slots() {
  std::size_t slots = 0;
  for (const auto& kind : kKinds) slots += kind.slots;
  return slots;
}

constexpr std::uint64_t table_bytes() {
  std::uint64_t bytes = kHeaderBytes;
  for (const auto& kind : kKinds) bytes += kind.slots * slot_bytes(kind);
  return bytes;
}

struct Place {
  std::size_t kind;
  std::size_t offset_bytes;
};

Place place_of(std::size_t index) {
  std::size_t offset_bytes = kHeaderBytes;
  std::size_t kind = 0;
  for (; index >= kKinds[kind].slots; ++kind) {
    index -= kKinds[kind].slots;
    offset_bytes += kKinds[kind].slots * slot_bytes(kKinds[kind]);
  }
  return {kind, offset_bytes + index * slot_bytes(kKinds[kind])};
}

Header& header_of(MappedFile& map) { return *reinterpret_cast<Header*>(map.data()); }
SlotHead& head_at(MappedFile& map, const Place& place) {
  return *reinterpret_cast<SlotHead*>(map.data() + place.offset_bytes);
}
std::byte* sums_of(SlotHead& head) { return reinterpret_cast<std::byte*>(&head + 1); }

void store(std::uint64_t& field, std::uint64_t value) {
  std::atomic_ref<std::uint64_t>(field).store(value, std::memory_order_release);
}

std::uint64_t check_of(NodeId node, BlockRange range, std::span<const std::uint64_t> sums) {
  const std::uint64_t parts[] = {node, range.first, range.count,
                                 block_checksum(std::as_bytes(sums))};
  return block_checksum(std::as_bytes(std::span(parts)));
}

}  // namespace

InflightTable::InflightTable(std::unique_ptr<MappedFile> map) : map_(std::move(map)) {
  for (std::size_t i = all_slots(); i-- > 0;) pools_[place_of(i).kind].free.push_back(i);
}

Result<std::unique_ptr<InflightTable>> InflightTable::open(FileSystem& fs,
                                                           const std::string& path) {
  VT_ASSIGN_OR_RETURN(auto map, fs.map(path, table_bytes(), table_bytes()));
  VT_RETURN_IF_ERROR(map->populate_sync(0, table_bytes(), true));
  std::unique_ptr<InflightTable> table(new InflightTable(std::move(map)));
  table->read_left_behind();
  VT_RETURN_IF_ERROR(table->map_->failure());
  return table;
}

void InflightTable::read_left_behind() {
  Header& header = header_of(*map_);
  if (header.layout != kLayout) {
    // What was under way there nobody knows.
    const bool unknown = header.layout != 0;
    std::memset(map_->data(), 0, table_bytes());
    store(header.failed, unknown ? 1 : 0);
    store(header.layout, kLayout);
  }
  for (std::size_t i = 0; i < all_slots(); ++i) {
    const Place place = place_of(i);
    SlotHead& head = head_at(*map_, place);
    // After a power loss a slot may have any of what was stored in it: one without blocks, too.
    if (head.node == kNoNode || head.count == 0) continue;
    Entry entry{head.node, {head.first, head.count}, {}};
    if (head.count <= kKinds[place.kind].blocks_max) {
      entry.sums.resize(head.count);
      std::memcpy(entry.sums.data(), sums_of(head), head.count * sizeof(std::uint64_t));
      if (check_of(entry.node, entry.range, entry.sums) != head.check) entry.sums.clear();
    }
    left_behind_.push_back(std::move(entry));
  }
}

void InflightTable::clear() {
  // Free slots stay untouched: no page becomes dirty for nothing.
  for (std::size_t i = 0; i < all_slots(); ++i) {
    SlotHead& head = head_at(*map_, place_of(i));
    if (head.node != kNoNode) store(head.node, kNoNode);
  }
  left_behind_.clear();
}

bool InflightTable::failed() const { return header_of(*map_).failed != 0; }

void InflightTable::set_failed(bool failed) { store(header_of(*map_).failed, failed ? 1 : 0); }

bool InflightTable::try_take(std::size_t blocks, std::size_t& index, std::coroutine_handle<> handle,
                             std::size_t* where) {
  assert(blocks <= kBlocksMax);
  std::size_t kind = 0;
  while (kKinds[kind].blocks_max < blocks) ++kind;
  const std::lock_guard lock(mutex_);
  Pool& pool = pools_[kind];
  if (pool.free.empty()) {
    pool.waiters.push_back({{handle, Executor::current()}, where});
    return false;
  }
  index = pool.free.back();
  pool.free.pop_back();
  return true;
}

void InflightTable::fill(std::size_t index, NodeId node, BlockRange range,
                         std::span<const std::uint64_t> sums) {
  SlotHead& head = head_at(*map_, place_of(index));
  std::memcpy(sums_of(head), sums.data(), sums.size_bytes());
  store(head.first, range.first);
  store(head.count, range.count);
  store(head.check, check_of(node, range, sums));
  store(head.node, node);  // last: a slot with a node is whole
}

void InflightTable::release(std::size_t index) {
  const Place place = place_of(index);
  store(head_at(*map_, place).node, kNoNode);
  Waiter next;
  {
    const std::lock_guard lock(mutex_);
    Pool& pool = pools_[place.kind];
    if (pool.waiters.empty()) {
      pool.free.push_back(index);
      return;
    }
    *pool.waiters.front().index = index;
    next = pool.waiters.front().waiter;
    pool.waiters.pop_front();
  }
  next.wake();
}

}  // namespace voltree
