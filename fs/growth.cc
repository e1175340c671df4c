#include "fs/growth.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

namespace voltree {

namespace {

// A resize is a durable commit: grow by doubling, from a size that a small file never passes.
constexpr std::uint64_t kFirstGrowthBytes = std::uint64_t{16} << 20;
constexpr std::uint64_t kGrowthMaxBytes = std::uint64_t{64} << 30;
constexpr std::uint64_t kGrowthUnitBytes = std::uint64_t{1} << 20;
// Below this, copying bytes is cheaper than the commits of a fork.
constexpr std::uint64_t kForkMinBytes = std::uint64_t{1} << 20;
constexpr std::size_t kRunsAtOnce = 64;

Task<Result<bool>> holds(std::shared_ptr<BlockDevice> device, std::uint64_t offset_bytes,
                         std::span<const std::byte> data, std::vector<std::byte>& buffer) {
  if (offset_bytes + data.size() > device->size_bytes()) co_return false;
  buffer.resize(std::max(buffer.size(), data.size()));
  const std::span<std::byte> found(buffer.data(), data.size());
  VT_CO_RETURN_IF_ERROR(co_await device->read(offset_bytes, found));
  co_return std::memcmp(found.data(), data.data(), data.size()) == 0;
}

Status no_longer_growing() { return error(Code::kBusy, "the file has become a volume"); }

}  // namespace

std::uint64_t volume_size_for(std::uint64_t exact_bytes) {
  if (exact_bytes == 0) return kSectorBytes;
  return (exact_bytes + kSectorBytes - 1) / kSectorBytes * kSectorBytes;
}

Task<Result<std::string>> Grower::name_of(NodeId id) {
  const std::shared_ptr<const Listing> all = co_await tree_.listing();
  const NodeInfo* node = all->find(id);
  if (node == nullptr) co_return error(Code::kGone, "the volume was deleted");
  co_return node->name.str();
}

Task<Status> Grower::zero_data(std::shared_ptr<BlockDevice> device, std::uint64_t from_bytes,
                               std::uint64_t to_bytes) {
  to_bytes = std::min(to_bytes, device->size_bytes());
  while (from_bytes < to_bytes) {
    const std::vector<AllocationRun> runs =
        device->allocation(from_bytes, to_bytes - from_bytes, kRunsAtOnce);
    if (runs.empty()) break;
    for (const AllocationRun& run : runs) {
      const std::uint64_t end = std::min(run.offset_bytes + run.length_bytes, to_bytes);
      if (run.data && end > from_bytes) {
        const std::uint64_t start = std::max(run.offset_bytes, from_bytes);
        VT_CO_RETURN_IF_ERROR(co_await device->write_zeroes(start, end - start, {}));
      }
      from_bytes = std::max(from_bytes, end);
    }
  }
  co_return Status();
}

Task<Status> Grower::ensure_size(OpenNode& node, std::uint64_t size_bytes, bool ahead) {
  const std::uint64_t now = node.device()->size_bytes();
  const std::uint64_t needed = volume_size_for(size_bytes);
  if (now >= needed) co_return Status();
  VT_CO_ASSIGN_OR_RETURN(const std::string name, co_await name_of(node.id()));
  if (ahead) {
    const std::uint64_t doubled =
        std::min(std::max(now * 2, kFirstGrowthBytes), now + kGrowthMaxBytes);
    const std::uint64_t roomy =
        (std::max(doubled, needed) + kGrowthUnitBytes - 1) / kGrowthUnitBytes * kGrowthUnitBytes;
    const Status grown = co_await store_.resize(name, roomy, false);
    if (grown.ok() || needed == roomy) co_return grown;
  }
  co_return co_await store_.resize(name, needed, false);
}

// From exact_bytes on, the volume holds zeros afterwards.
Task<Status> Grower::leave_source(OpenNode& node, Growth& growth) {
  if (growth.source == nullptr) co_return Status();
  const std::shared_ptr<BlockDevice> device = node.device();
  VT_CO_RETURN_IF_ERROR(
      co_await zero_data(device, growth.exact_bytes.load(), device->size_bytes()));
  growth.source.reset();
  co_return Status();
}

// Whether `data` came to be the file's without being written: because the file is a clone that
// holds it there already.
Task<Result<bool>> Grower::write_shared(OpenNode& node, Growth& growth, std::uint64_t offset_bytes,
                                        std::span<const std::byte> data) {
  const std::shared_ptr<OpenNode> candidate = growth.candidate;
  if (candidate == nullptr) co_return false;
  // Set again when it proves right: one wrong guess is the last.
  growth.candidate.reset();
  const std::uint64_t exact = growth.exact_bytes.load();
  if (growth.source == nullptr) {
    if (data.size() < kBlockBytes || exact != 0 || node.device()->referenced_bytes() != 0 ||
        candidate->growth() != nullptr || candidate->device()->referenced_bytes() < kForkMinBytes) {
      co_return false;
    }
    const Result<bool> same =
        co_await holds(candidate->device(), offset_bytes, data, growth.compare_buffer);
    if (!same.ok() || !*same) co_return false;
    VT_CO_RETURN_IF_ERROR(co_await fork(candidate, node, growth));
  }
  if (offset_bytes < exact) co_return false;
  // The clone is asked, not the candidate, which may have changed since.
  const Result<bool> same =
      co_await holds(node.device(), offset_bytes, data, growth.compare_buffer);
  if (!same.ok() || !*same) co_return false;
  VT_CO_RETURN_IF_ERROR(co_await zero_data(node.device(), exact, offset_bytes));
  growth.exact_bytes.store(offset_bytes + data.size());
  growth.candidate = candidate;
  co_return true;
}

Task<Status> Grower::write(std::shared_ptr<OpenNode> node, std::uint64_t offset_bytes,
                           std::span<const std::byte> data, WriteOptions options) {
  Growth* growth = node->growth();
  if (growth == nullptr) co_return no_longer_growing();
  AsyncMutex::Guard guard = co_await growth->mutex.lock();
  if (node->growth() == nullptr) co_return no_longer_growing();
  const std::uint64_t exact = growth->exact_bytes.load();
  const std::uint64_t end = offset_bytes + data.size();
  VT_CO_ASSIGN_OR_RETURN(const bool shared,
                         co_await write_shared(*node, *growth, offset_bytes, data));
  if (shared) {
    if (options.fua) co_return co_await node->device()->flush();
    co_return Status();
  }
  VT_CO_RETURN_IF_ERROR(co_await ensure_size(*node, end, true));
  if (growth->source != nullptr && offset_bytes > exact) {
    VT_CO_RETURN_IF_ERROR(co_await zero_data(node->device(), exact, offset_bytes));
  }
  VT_CO_RETURN_IF_ERROR(co_await node->device()->write(offset_bytes, data, options));
  growth->exact_bytes.store(std::max(exact, end));
  co_return Status();
}

Task<Status> Grower::truncate(std::shared_ptr<OpenNode> node, std::uint64_t size_bytes) {
  Growth* growth = node->growth();
  if (growth == nullptr) co_return no_longer_growing();
  AsyncMutex::Guard guard = co_await growth->mutex.lock();
  if (node->growth() == nullptr) co_return no_longer_growing();
  const std::uint64_t exact = growth->exact_bytes.load();
  if (size_bytes < exact) {
    growth->exact_bytes.store(size_bytes);
    const std::shared_ptr<BlockDevice> device = node->device();
    VT_CO_RETURN_IF_ERROR(co_await zero_data(device, size_bytes, device->size_bytes()));
    growth->source.reset();
    co_return Status();
  }
  if (growth->source != nullptr) {
    VT_CO_RETURN_IF_ERROR(co_await zero_data(node->device(), exact, size_bytes));
  }
  VT_CO_RETURN_IF_ERROR(co_await ensure_size(*node, size_bytes, false));
  growth->exact_bytes.store(size_bytes);
  co_return Status();
}

Task<Status> Grower::fit(std::shared_ptr<OpenNode> node, bool finish) {
  Growth* growth = node->growth();
  if (growth == nullptr) co_return Status();
  AsyncMutex::Guard guard = co_await growth->mutex.lock();
  if (node->growth() == nullptr) co_return Status();
  const std::uint64_t exact = growth->exact_bytes.load();
  const std::uint64_t target = volume_size_for(exact);
  Status status;
  const std::shared_ptr<BlockDevice> device = node->device();
  // The last sector's rest is part of the volume.
  if (growth->source != nullptr) status = co_await zero_data(device, exact, target);
  if (status.ok() && device->size_bytes() != target) {
    const Result<std::string> name = co_await name_of(node->id());
    status = name.status();
    if (status.ok()) {
      const bool shrink = device->size_bytes() > target;
      status = co_await store_.resize(*name, target, shrink);
    }
    if (status.ok()) growth->source.reset();
  }
  if (finish) {
    growth->source.reset();
    growth->candidate.reset();
    growth->compare_buffer = {};
    growth->active.store(false, std::memory_order_release);
  }
  co_return status;
}

// The new volume, which holds nothing yet, becomes a clone of `source` under the same name and
// inode number.
Task<Status> Grower::fork(std::shared_ptr<OpenNode> source, OpenNode& node, Growth& growth) {
  VT_CO_ASSIGN_OR_RETURN(const std::string from, co_await name_of(source->id()));
  VT_CO_ASSIGN_OR_RETURN(const std::string name, co_await name_of(node.id()));
  // Under a name of its own first: if the process dies on the way, the worst that is left is an
  // extra clone.
  const std::string working_name = fmt::format(".copying-{}", node.id());
  const std::uint64_t changes = source->changes();
  VT_CO_RETURN_IF_ERROR(co_await store_.clone(from, working_name, 0));
  Result<std::shared_ptr<BlockDevice>> device = co_await store_.open_device(working_name);
  Result<NodeInfo> info = co_await store_.info(working_name);
  Status status = device.ok() ? (info.ok() ? Status() : info.status()) : device.status();
  if (status.ok()) status = (co_await store_.remove(name, {})).status();
  if (!status.ok()) {
    (void)(co_await store_.remove(working_name, {})).ok();
    co_return status;
  }
  tree_.repoint(node.ino(), info->id);
  node.repoint(info->id, std::move(*device));
  growth.source = source;
  growth.source_changes = changes;
  co_return co_await store_.rename(working_name, name);
}

Task<Result<std::optional<std::uint64_t>>> Grower::copy(std::shared_ptr<OpenNode> source,
                                                        std::shared_ptr<OpenNode> node,
                                                        std::uint64_t offset_bytes,
                                                        std::uint64_t length_bytes) {
  constexpr std::optional<std::uint64_t> kMoveBytes;
  Growth* growth = node->growth();
  if (growth == nullptr || source == node || source->growth() != nullptr) co_return kMoveBytes;
  AsyncMutex::Guard guard = co_await growth->mutex.lock();
  if (node->growth() == nullptr) co_return kMoveBytes;
  const std::uint64_t exact = growth->exact_bytes.load();
  if (growth->source == nullptr) {
    const bool empty = exact == 0 && node->device()->referenced_bytes() == 0;
    const bool enough = length_bytes >= kForkMinBytes || length_bytes == source->size_bytes();
    if (!empty || !enough) co_return kMoveBytes;
    VT_CO_RETURN_IF_ERROR(co_await fork(source, *node, *growth));
  }
  const bool usable = growth->source == source && growth->source_changes == source->changes() &&
                      offset_bytes >= exact &&
                      offset_bytes + length_bytes <= node->device()->size_bytes();
  if (!usable) {
    VT_CO_RETURN_IF_ERROR(co_await leave_source(*node, *growth));
    co_return kMoveBytes;
  }
  VT_CO_RETURN_IF_ERROR(co_await zero_data(node->device(), exact, offset_bytes));
  growth->exact_bytes.store(offset_bytes + length_bytes);
  co_return std::optional<std::uint64_t>(length_bytes);
}

}  // namespace voltree
