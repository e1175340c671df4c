// The table of in-place writes under way: run/inflight, mapped, so that it outlives the daemon
// (I5).
//
// An in-place write changes data first and its sums after. A daemon that dies between the two
// leaves a block whose sum is old. The block was not acknowledged, so either contents are right,
// but it must not read as damaged for ever: recovery of the same boot re-stamps the blocks of the
// slots in use, and no others. The sums that the write was about to store are in its slot: where
// the page cache is doubted, they prove that what is there is what was written. After a power loss
// the table is not looked at (dirty regions take its place).
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "blockstore/base/status.h"
#include "blockstore/base/units.h"
#include "blockstore/runtime/io.h"
#include "blockstore/runtime/sync.h"

namespace voltree {

class InflightTable {
 public:
  // Short writes have slots of their own: a sum takes 8 bytes, and all of the table is in memory.
  struct SlotKind {
    std::size_t slots;
    std::size_t blocks_max;
  };
  static constexpr std::array<SlotKind, 2> kKinds{{{1024, 8}, {32, 256}}};
  static constexpr std::uint64_t kBlocksMax = kKinds.back().blocks_max;  // of one write

  struct Entry {
    NodeId node = kNoNode;
    BlockRange range;
    std::vector<std::uint64_t> sums;  // a block each; empty: its slot was not stored as a whole
  };
  // A slot in use; given back when destroyed.
  class [[nodiscard]] Slot {
   public:
    Slot() = default;
    Slot(InflightTable* table, std::size_t index) : table_(table), index_(index) {}
    Slot(Slot&& other) noexcept
        : table_(std::exchange(other.table_, nullptr)), index_(other.index_) {}
    Slot& operator=(Slot&& other) noexcept {
      if (this != &other) {
        release();
        table_ = std::exchange(other.table_, nullptr);
        index_ = other.index_;
      }
      return *this;
    }
    ~Slot() { release(); }
    void release() {
      if (table_) std::exchange(table_, nullptr)->release(index_);
    }

   private:
    InflightTable* table_ = nullptr;
    std::size_t index_ = 0;
  };

  // Opens the table and takes out what the last owner left in it. Blocking.
  static Result<std::unique_ptr<InflightTable>> open(FileSystem& fs, const std::string& path);
  // What was under way when the last owner stopped.
  const std::vector<Entry>& left_behind() const { return left_behind_; }
  // A sync or a commit failed in this boot, and the store has not been checked since: what the page
  // cache shows is no proof of what was written. So it is, too, when the table is one that this
  // version cannot read.
  bool failed() const;
  void set_failed(bool failed);
  // What is mapped, for Engine::check_stored.
  const MappedFile& map() const { return *map_; }
  // Forgets what was left behind: recovery is done with it.
  void clear();

  // Awaits a free slot and fills it: `sums` are those of `range`, of kBlocksMax blocks at most, and
  // stay until the wait is over. A write takes one slot at most, so that waiting here can not
  // deadlock.
  auto acquire(NodeId node, BlockRange range, std::span<const std::uint64_t> sums) {
    struct Awaiter {
      InflightTable& table;
      NodeId node;
      BlockRange range;
      std::span<const std::uint64_t> sums;
      std::size_t index = 0;
      bool await_ready() const noexcept { return false; }
      bool await_suspend(std::coroutine_handle<> handle) {
        return !table.try_take(sums.size(), index, handle, &index);
      }
      Slot await_resume() {
        table.fill(index, node, range, sums);
        return Slot(&table, index);
      }
    };
    return Awaiter{*this, node, range, sums};
  }

 private:
  struct Wanting {
    Waiter waiter;
    std::size_t* index;
  };
  struct Pool {  // of the slots of a kind
    std::vector<std::size_t> free;
    std::deque<Wanting> waiters;
  };
  explicit InflightTable(std::unique_ptr<MappedFile> map);
  void read_left_behind();
  bool try_take(std::size_t blocks, std::size_t& index, std::coroutine_handle<> handle,
                std::size_t* where);
  void fill(std::size_t index, NodeId node, BlockRange range, std::span<const std::uint64_t> sums);
  void release(std::size_t index);

  std::unique_ptr<MappedFile> map_;
  std::vector<Entry> left_behind_;
  std::mutex mutex_;
  std::array<Pool, kKinds.size()> pools_;
};

}  // namespace voltree
