// SimDisk: what a simulated machine's disk holds, and may hold, at a moment of a SimLog.
//
// Durable is what a successful sync has covered, and a name when its folder was synced. Everything
// else may have got to the disk or not, in any subset: each write whole, not at all, or torn at 512
// bytes; each change of a size, a hole or a name; each page of a mapping as it was at any moment.
// (POSIX fsync(2) and msync(2) promise no more. Two writes to one place that are both there leave
// the later one: the page cache holds only that.)
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "blockstore/runtime/sim_log.h"
#include "blockstore/runtime/sim_world.h"

namespace voltree {

// Files and names. Copies share what they have in common.
class SimImage {
 public:
  static constexpr std::uint64_t kSectorBytes = 512;

  SimImage() : dirs_{"/", "."} {}
  // `sectors`: of a write, which of the sectors that it touches got there (bit n % 64 for the nth);
  // the size grows as if all had.
  void apply(const SimEvent& event, std::uint64_t sectors = ~std::uint64_t{0});
  // The machine that starts from this disk. `boot` tells it from the one before. Its files have the
  // inode numbers that they have here, so that this image can be the base of its own log.
  std::unique_ptr<SimWorld> to_world(SimWorldOptions options, std::uint64_t boot) const;
  // What a sync of a running machine's file could not write is gone from its page cache, too: its
  // bytes are those of this disk again. Its size stays.
  void revert(SimInode& inode) const;
  // Every page that was written, of files whether or not a name leads to them still.
  using PageVisitor = std::function<void(bool named, std::uint64_t page,
                                         std::span<const std::byte, SimInode::kPageBytes> bytes)>;
  void for_each_page(const PageVisitor& visit) const;
  // Equal for equal contents and names.
  std::uint64_t digest() const;

 private:
  using PageBytes = std::array<std::byte, SimInode::kPageBytes>;
  struct Page {
    std::shared_ptr<const PageBytes> bytes;  // null: zeros
    bool written = false;
    std::uint64_t digest = 0;
  };
  struct Inode {
    std::uint64_t size_bytes = 0;
    std::map<std::uint64_t, Page> pages;
    SimPageSet reserved;               // allocated and never written
    mutable std::uint64_t digest = 0;  // of all of it; 0: not known
  };

  void write(Inode& inode, const SimEvent& event, std::uint64_t sectors);
  static void punch(Inode& inode, std::uint64_t offset_bytes, std::uint64_t length_bytes);
  static void put(Inode& inode, std::uint64_t page, std::uint64_t inside,
                  std::span<const std::byte> bytes);

  Inode& change(std::uint32_t id);

  std::map<std::uint32_t, std::shared_ptr<const Inode>> inodes_;
  std::map<std::string, std::uint32_t> names_;
  std::set<std::string> dirs_;
};

class SimDisk {
 public:
  // `base`: what was there before the log began.
  explicit SimDisk(const SimLog& log, SimImage base = {}) : log_(log), durable_(std::move(base)) {}

  // Takes in the events before `end`; never back.
  void advance(std::size_t end);
  std::size_t position() const { return position_; }
  const SimImage& durable() const { return durable_; }
  // Indexes of events that may or may not have got there, in order.
  const std::vector<std::size_t>& pending() const { return pending_; }

  struct Choice {
    std::size_t event = 0;
    std::uint64_t sectors = ~std::uint64_t{0};
  };
  // The durable part and these of the pending events, in order.
  SimImage with(std::span<const Choice> chosen) const;

 private:
  bool covers(const SimEvent& sync, const SimEvent& change) const;

  const SimLog& log_;
  std::size_t position_ = 0;
  SimImage durable_;
  std::vector<std::size_t> pending_;
};

}  // namespace voltree
