#include "tests/crash/fault_host.h"

#include <fmt/core.h>

#include <cerrno>

#include "tests/crash/crash_model.h"

namespace voltree::crash {
namespace {

bool is_sync(SimAct act) { return act == SimAct::kSync || act == SimAct::kSyncDir; }

bool takes_space(SimAct act) {
  return act == SimAct::kWrite || act == SimAct::kAllocate || act == SimAct::kPunch ||
         act == SimAct::kTruncate || act == SimAct::kCreate || act == SimAct::kRename ||
         act == SimAct::kLink || act == SimAct::kMakeDir;
}

bool is_possible(FaultKind kind, const SimCall& call) {
  switch (kind) {
    case FaultKind::kNoSpaceOnce:
      return takes_space(call.act) || call.act == SimAct::kSync;
    case FaultKind::kNoSpaceOn:
    case FaultKind::kHostFull:
      return takes_space(call.act);
    case FaultKind::kTorn:
    case FaultKind::kShort:
      return call.act == SimAct::kWrite && call.length_bytes >= 2 * kSectorBytes;
    case FaultKind::kInterrupted:
      return is_sync(call.act) || call.act == SimAct::kUnlink || call.act == SimAct::kRename;
    case FaultKind::kLostSync:
      return call.act == SimAct::kSync;
    default:
      return true;
  }
}

}  // namespace

const char* fault_name(FaultKind kind) {
  static constexpr const char* kNames[kFaultKinds] = {
      "EIO once",  "EIO from then on", "ENOSPC once", "ENOSPC from then on",
      "full host", "torn write",       "short write", "EINTR",
      "lost sync"};
  return kNames[static_cast<std::size_t>(kind)];
}

void FaultyHost::lift() {
  lifted_ = true;
  world_.set_capacity(SimWorldOptions().capacity_bytes);
}

SimFault FaultyHost::fault(const SimCall& one) {
  if (paused_) return {};
  ++calls_;
  if (calls_ < call_) {
    if (!is_possible(kind_, one)) return {};
    possible_.push_back(calls_);
    if (together_) possible_together_.push_back(calls_);
    return {};
  }
  if (lifted_) return {};
  if (calls_ == call_) {
    happened_ = is_possible(kind_, one);
    where_ = fmt::format("call {} ({}, {})", calls_, static_cast<int>(one.act), one.path);
  }
  if (!happened_ || (calls_ != call_ && (!lasts() || !is_possible(kind_, one)))) return {};
  return fail(one);
}

SimFault FaultyHost::fail(const SimCall& one) {
  SimFault fault{Status::from_errno(EIO, "injected"), 0};
  switch (kind_) {
    case FaultKind::kNoSpaceOnce:
    case FaultKind::kNoSpaceOn:
      fault.status = Status::from_errno(ENOSPC, "injected");
      break;
    case FaultKind::kHostFull:
      world_.set_capacity(world_.used_bytes());
      return {};
    case FaultKind::kShort:
      return {{}, one.length_bytes / kSectorBytes / 2 * kSectorBytes};
    case FaultKind::kTorn:
      fault.first_bytes = one.length_bytes / kSectorBytes / 2 * kSectorBytes;
      tore_a_layer_ = one.path.starts_with("/store/layers/");
      break;
    case FaultKind::kInterrupted:
      fault.status = Status::from_errno(EINTR, "injected");
      break;
    case FaultKind::kLostSync: {
      SimDisk disk(log_);
      disk.advance(log_.size());
      disk.durable().revert(*one.inode);
      lost_pages_ = true;
      lost_sums_ = one.path.ends_with(".sum");
      break;
    }
    default:
      break;
  }
  // The lineage's copy is written behind what it copies, and its failure is heeded by the next
  // commit (StoreRepairTest.I10_AFailedSyncOfTheCopyMakesTheStoreReadOnly).
  lost_map_ |= one.act == SimAct::kTouch;
  const bool of_copy = one.path.find("/lineage") != std::string::npos;
  // A file that is to be taken in is its owner's still.
  const bool of_file = one.path.starts_with("/in/");
  sync_failed_ |= is_sync(one.act) && !of_copy && !of_file;
  copy_sync_failed_ |= is_sync(one.act) && of_copy;
  return fault;
}

}  // namespace voltree::crash
