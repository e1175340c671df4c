#include "fs/tree.h"

#include <chrono>
#include <functional>
#include <utility>

namespace voltree {

namespace {

// Nodes come after the fixed inode numbers; folders of snapshots have a range of their own.
constexpr std::uint64_t kFirstNodeIno = 16;
constexpr std::uint64_t kFolderInoBit = std::uint64_t{1} << 62;
constexpr std::int64_t kReferencedFreshNs = 1'000'000'000;

std::int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

timespec time_of(std::int64_t ns) {
  return {static_cast<time_t>(ns / 1'000'000'000), static_cast<long>(ns % 1'000'000'000)};
}

// A folder can be entered and searched by whoever may read the files in it.
mode_t folder_mode(mode_t file_mode) { return file_mode | ((file_mode & 0444U) >> 2); }

std::shared_ptr<Listing> index_nodes(std::vector<NodeInfo> nodes, std::uint64_t generation) {
  auto listing = std::make_shared<Listing>();
  listing->generation = generation;
  listing->nodes = std::move(nodes);
  for (std::size_t i = 0; i < listing->nodes.size(); ++i) {
    const NodeInfo& node = listing->nodes[i];
    listing->by_name.emplace(node.name.str(), i);
    listing->by_id.emplace(node.id, i);
    auto& snapshots = listing->folders[node.name.volume];
    if (node.name.is_snapshot()) snapshots.push_back(i);
  }
  return listing;
}

}  // namespace

Task<std::shared_ptr<const Listing>> Tree::listing() {
  {
    std::lock_guard lock(mutex_);
    if (listing_ && listing_->generation == store_.generation()) co_return listing_;
  }
  AsyncMutex::Guard guard = co_await refresh_.lock();
  {
    std::lock_guard lock(mutex_);
    if (listing_ && listing_->generation == store_.generation()) co_return listing_;
  }
  // Read before the list is: a change in between makes the listing look old, never new.
  const std::uint64_t generation = store_.generation();
  std::shared_ptr<const Listing> fresh = index_nodes(co_await store_.list(), generation);
  std::lock_guard lock(mutex_);
  listing_ = fresh;
  forget_gone(*fresh);
  co_return fresh;
}

void Tree::forget_gone(const Listing& listing) {
  std::erase_if(repointed_, [&](const auto& entry) {
    if (listing.find(entry.second) != nullptr) return false;
    repointed_from_.erase(entry.second);
    return true;
  });
  std::erase_if(overrides_, [&](const auto& entry) {
    if (entry.first < kFirstNodeIno || (entry.first & kFolderInoBit) != 0) return false;
    return !repointed_.contains(entry.first) &&
           listing.find(NodeId{entry.first - kFirstNodeIno}) == nullptr;
  });
  std::erase_if(referenced_,
                [&](const auto& entry) { return listing.find(entry.first) == nullptr; });
}

std::uint64_t Tree::ino_of(NodeId id) {
  std::lock_guard lock(mutex_);
  const auto at = repointed_from_.find(id);
  return at == repointed_from_.end() ? id + kFirstNodeIno : at->second;
}

void Tree::repoint(std::uint64_t ino, NodeId id) {
  std::lock_guard lock(mutex_);
  if (const auto at = repointed_.find(ino); at != repointed_.end()) {
    repointed_from_.erase(at->second);
  }
  repointed_[ino] = id;
  repointed_from_[id] = ino;
}

std::uint64_t Tree::folder_ino(const std::string& volume) {
  const std::uint64_t ino =
      kFolderInoBit | (std::hash<std::string>{}(volume) & (kFolderInoBit - 1));
  std::lock_guard lock(mutex_);
  folders_.emplace(ino, volume);
  return ino;
}

Place Tree::place_of(const NodeInfo& node) {
  Place place;
  place.kind = node.name.is_snapshot() ? PlaceKind::kSnapshot : PlaceKind::kVolume;
  place.ino = ino_of(node.id);
  place.node = node;
  return place;
}

Task<Result<Place>> Tree::find(std::uint64_t ino) {
  if (ino == kRootIno) co_return Place{PlaceKind::kRoot, ino, {}, {}};
  if (ino == kVolumesIno) co_return Place{PlaceKind::kVolumes, ino, {}, {}};
  if (ino == kSnapshotsIno) co_return Place{PlaceKind::kSnapshots, ino, {}, {}};
  const std::shared_ptr<const Listing> all = co_await listing();
  if ((ino & kFolderInoBit) != 0) {
    std::string volume;
    {
      std::lock_guard lock(mutex_);
      if (const auto at = folders_.find(ino); at != folders_.end()) volume = at->second;
    }
    if (!all->folders.contains(volume)) {
      co_return error(Code::kGone, "the volume of this folder was deleted");
    }
    co_return Place{PlaceKind::kFolder, ino, volume, {}};
  }
  NodeId id = ino - kFirstNodeIno;
  {
    std::lock_guard lock(mutex_);
    if (const auto at = repointed_.find(ino); at != repointed_.end()) id = at->second;
  }
  const NodeInfo* node = all->find(id);
  if (node == nullptr) co_return error(Code::kGone, "the volume or snapshot was deleted");
  co_return place_of(*node);
}

Task<Result<Place>> Tree::find_child(std::uint64_t parent, std::string name) {
  if (parent == kRootIno) {
    if (name == "volumes") co_return Place{PlaceKind::kVolumes, kVolumesIno, {}, {}};
    if (name == "snapshots") co_return Place{PlaceKind::kSnapshots, kSnapshotsIno, {}, {}};
    co_return error(Code::kNotFound, "no {} here", voltree::quoted(name));
  }
  const std::shared_ptr<const Listing> all = co_await listing();
  const NodeInfo* node = nullptr;
  if (parent == kVolumesIno) {
    // A name with '@' in it would find a snapshot; no volume has one.
    if (name.find('@') == std::string::npos) node = all->find(name);
  } else if (parent == kSnapshotsIno) {
    if (all->folders.contains(name))
      co_return Place{PlaceKind::kFolder, folder_ino(name), name, {}};
  } else {
    VT_CO_ASSIGN_OR_RETURN(const Place folder, co_await find(parent));
    if (folder.kind == PlaceKind::kFolder) node = all->find(folder.folder + "@" + name);
  }
  if (node == nullptr) co_return error(Code::kNotFound, "no {} here", voltree::quoted(name));
  co_return place_of(*node);
}

Task<Result<std::vector<Tree::Entry>>> Tree::entries(std::uint64_t folder) {
  VT_CO_ASSIGN_OR_RETURN(const Place place, co_await find(folder));
  const std::uint64_t above = place.kind == PlaceKind::kFolder ? kSnapshotsIno : kRootIno;
  std::vector<Entry> found{{".", folder, S_IFDIR}, {"..", above, S_IFDIR}};
  if (place.kind == PlaceKind::kRoot) {
    found.push_back({"volumes", kVolumesIno, S_IFDIR});
    found.push_back({"snapshots", kSnapshotsIno, S_IFDIR});
    co_return found;
  }
  const std::shared_ptr<const Listing> all = co_await listing();
  if (place.kind == PlaceKind::kSnapshots) {
    for (const auto& [volume, snapshots] : all->folders) {
      found.push_back({volume, folder_ino(volume), S_IFDIR});
    }
  } else if (place.kind == PlaceKind::kVolumes) {
    for (const NodeInfo& node : all->nodes) {
      if (!node.name.is_snapshot()) found.push_back({node.name.volume, ino_of(node.id), S_IFREG});
    }
  } else if (const auto at = all->folders.find(place.folder); at != all->folders.end()) {
    for (const std::size_t i : at->second) {
      found.push_back({all->nodes[i].name.snapshot, ino_of(all->nodes[i].id), S_IFREG});
    }
  }
  co_return found;
}

Task<struct stat> Tree::attributes(Place place) {
  struct stat out {};
  out.st_ino = place.ino;
  out.st_uid = owner_.uid;
  out.st_gid = owner_.gid;
  out.st_blksize = static_cast<blksize_t>(kBlockBytes);
  if (!place.is_file()) {
    // Nothing can be made in the root and in /snapshots.
    const bool fixed = place.kind == PlaceKind::kRoot || place.kind == PlaceKind::kSnapshots;
    out.st_mode = S_IFDIR | (folder_mode(owner_.file_mode) & (fixed ? 0555U : 0777U));
    out.st_nlink = 2;
    if (place.kind == PlaceKind::kRoot) out.st_nlink = 4;
    if (place.kind == PlaceKind::kSnapshots) {
      out.st_nlink += static_cast<nlink_t>((co_await listing())->folders.size());
    }
    co_return out;
  }
  const bool snapshot = place.kind == PlaceKind::kSnapshot;
  out.st_mode = S_IFREG | (snapshot ? owner_.file_mode & 0444U : owner_.file_mode);
  out.st_nlink = 1;
  out.st_mtim = out.st_atim = out.st_ctim = time_of(place.node.created_ns);
  std::lock_guard lock(mutex_);
  if (const auto at = overrides_.find(place.ino); at != overrides_.end()) {
    const AttributeOverrides& set = at->second;
    if (set.mode) out.st_mode = S_IFREG | *set.mode;
    if (set.uid) out.st_uid = *set.uid;
    if (set.gid) out.st_gid = *set.gid;
    if (set.atime) out.st_atim = *set.atime;
    if (set.mtime) out.st_mtim = *set.mtime;
  }
  co_return out;
}

Task<std::uint64_t> Tree::referenced_bytes(NodeInfo node) {
  const std::uint64_t generation = store_.generation();
  const std::int64_t now = now_ns();
  {
    std::lock_guard lock(mutex_);
    const auto at = referenced_.find(node.id);
    // A snapshot never changes (I4).
    if (at != referenced_.end() &&
        (node.kind == NodeKind::kSnapshot ||
         (at->second.generation == generation && now - at->second.at_ns < kReferencedFreshNs))) {
      co_return at->second.bytes;
    }
  }
  Result<NodeUsage> usage = co_await store_.usage(node.name.str());
  const std::uint64_t bytes = usage.ok() ? usage->referenced_bytes : 0;
  std::lock_guard lock(mutex_);
  if (usage.ok()) referenced_[node.id] = {generation, now, bytes};
  co_return bytes;
}

void Tree::forget_referenced(NodeId id) {
  std::lock_guard lock(mutex_);
  referenced_.erase(id);
}

void Tree::set_overrides(std::uint64_t ino, const AttributeOverrides& set) {
  std::lock_guard lock(mutex_);
  AttributeOverrides& kept = overrides_[ino];
  if (set.mode) kept.mode = set.mode;
  if (set.uid) kept.uid = set.uid;
  if (set.gid) kept.gid = set.gid;
  if (set.atime) kept.atime = set.atime;
  if (set.mtime) kept.mtime = set.mtime;
}

}  // namespace voltree
