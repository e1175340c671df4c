// Operations on a store that crash tests are made of.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "blockstore/base/units.h"

namespace voltree::crash {

struct Op {
  enum class Kind : std::uint8_t {
    kCreate,         // a: name; blocks: size
    kWrite,          // a, block, blocks
    kWriteFua,       // the same
    kDiscard,        // the same
    kFlush,          // a
    kSnapshot,       // a: VOLUME@SNAPSHOT
    kSnapshotGroup,  // a, b: VOLUME@SNAPSHOT each
    kClone,          // a: source; b: new volume
    kRevert,         // a: VOLUME@SNAPSHOT
    kRemove,         // a
    kReplace,        // a takes over what b holds, which is gone then
    kResize,         // a; blocks
    kRename,         // a; b
    kPutFile,        // a: a file of the host's, below /in; blocks: size
    kTake,           // a: new volume; b: such a file, which is gone then; blocks: size, at least
    kGive,           // a: a volume of one layer that leaves the store
    kTakeGiven,      // a: one that left comes back, as to another store
    kErase,          // until the queue is empty
    kSettle,
    kSweep,
    kReopen,  // a clean close, and an open
    kKill,    // the daemon dies and is started again, in the same boot
  };
  Kind kind = Kind::kFlush;
  std::string a;
  std::string b;
  std::uint64_t block = 0;
  std::uint64_t blocks = 1;
  std::uint64_t unit_bytes = kBlockBytes;  // of `block` and `blocks`
  bool with_next = false;                  // at the same time as the next one

  std::uint64_t offset_bytes() const { return block * unit_bytes; }
  std::uint64_t length_bytes() const { return blocks * unit_bytes; }
  bool writes() const {
    return kind == Kind::kWrite || kind == Kind::kWriteFua || kind == Kind::kDiscard;
  }
  bool forks() const {
    return kind == Kind::kSnapshot || kind == Kind::kSnapshotGroup || kind == Kind::kClone;
  }
};

std::string to_text(const Op& op);
std::string to_text(const std::vector<Op>& ops);

// The operations from `at` on that are to be done at the same time; `at` becomes the next one's.
std::vector<Op> take_group(const std::vector<Op>& ops, std::size_t& at);

// What every sequence begins with: a volume with flushed blocks, a snapshot of it, and writes
// since.
std::vector<Op> prologue();
// Every kind of operation, on a few blocks: what faults are tried on.
std::vector<Op> standard_workload();
// The operations that sequences are made of, each of which can follow any other: one that has
// nothing to work on is refused by the store, and changes nothing.
const std::vector<Op>& alphabet();
// A random workload of `length` operations. With units of a sector no size and no offset need be
// of whole blocks.
std::vector<Op> random_workload(std::uint64_t seed, std::size_t length,
                                std::uint64_t unit_bytes = kBlockBytes);
// The same, with groups of writes, flushes, a fork, and upkeep at the same time.
std::vector<Op> random_concurrent_workload(std::uint64_t seed, std::size_t length,
                                           std::uint64_t unit_bytes = kBlockBytes);

}  // namespace voltree::crash
