// Tree: the names in the mounted tree, their inode numbers and their attributes.
//
// Inode numbers are derived, not handed out, so that they are the same after a remount and nothing
// has to be remembered for the kernel: a volume's or a snapshot's from its NodeId, a folder's of
// snapshots from the volume's name. Names come from one listing of the store, which is read again
// when Store::generation() has moved.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "blockstore/runtime/sync.h"
#include "blockstore/store.h"

namespace voltree {

inline constexpr std::uint64_t kRootIno = 1;  // FUSE_ROOT_ID
inline constexpr std::uint64_t kVolumesIno = 2;
inline constexpr std::uint64_t kSnapshotsIno = 3;

// Every volume and snapshot, as of one generation.
struct Listing {
  std::uint64_t generation = 0;
  std::vector<NodeInfo> nodes;
  std::unordered_map<std::string, std::size_t> by_name;  // NodeName::str()
  std::unordered_map<NodeId, std::size_t> by_id;
  // Every volume that has a head or snapshots: where its snapshots are.
  std::map<std::string, std::vector<std::size_t>, std::less<>> folders;

  const NodeInfo* find(const std::string& name) const {
    const auto at = by_name.find(name);
    return at == by_name.end() ? nullptr : &nodes[at->second];
  }
  const NodeInfo* find(NodeId id) const {
    const auto at = by_id.find(id);
    return at == by_id.end() ? nullptr : &nodes[at->second];
  }
};

enum class PlaceKind : std::uint8_t { kRoot, kVolumes, kSnapshots, kFolder, kVolume, kSnapshot };

// What an inode number stands for now.
struct Place {
  PlaceKind kind = PlaceKind::kRoot;
  std::uint64_t ino = kRootIno;
  std::string folder;  // kFolder: the volume's name
  NodeInfo node;       // kVolume, kSnapshot
  bool is_file() const { return kind == PlaceKind::kVolume || kind == PlaceKind::kSnapshot; }
};

// What chmod, chown and utimens set. Kept in memory until the node goes or the tree is mounted
// again.
struct AttributeOverrides {
  std::optional<mode_t> mode;
  std::optional<uid_t> uid;
  std::optional<gid_t> gid;
  std::optional<timespec> atime;
  std::optional<timespec> mtime;
};

struct TreeOwner {
  uid_t uid = 0;
  gid_t gid = 0;
  mode_t file_mode = 0600;
};

class Tree {
 public:
  Tree(Store& store, TreeOwner owner) : store_(store), owner_(owner) {}

  Task<std::shared_ptr<const Listing>> listing();
  // kGone when what it stood for was deleted.
  Task<Result<Place>> find(std::uint64_t ino);
  // kNotFound when there is no such entry (or `parent` is not a folder).
  Task<Result<Place>> find_child(std::uint64_t parent, std::string name);

  std::uint64_t ino_of(NodeId id);
  // The inode `ino` goes on as the node `id`: its number, overrides and open files stay (a fork by
  // copying).
  void repoint(std::uint64_t ino, NodeId id);

  // Names and inode numbers of what is in a folder, "." and ".." first.
  struct Entry {
    std::string name;
    std::uint64_t ino = 0;
    mode_t type = 0;
  };
  Task<Result<std::vector<Entry>>> entries(std::uint64_t folder);

  // The attributes of `place`, except for st_size and st_blocks of a file.
  Task<struct stat> attributes(Place place);
  // Bytes a closed node refers to; remembered for a second, because finding out means merging its
  // indexes.
  Task<std::uint64_t> referenced_bytes(NodeInfo node);
  // The node was written to.
  void forget_referenced(NodeId id);

  void set_overrides(std::uint64_t ino, const AttributeOverrides& set);

 private:
  std::uint64_t folder_ino(const std::string& volume);
  Place place_of(const NodeInfo& node);
  void forget_gone(const Listing& listing);

  Store& store_;
  const TreeOwner owner_;
  AsyncMutex refresh_;
  std::mutex mutex_;  // guards what follows
  std::shared_ptr<const Listing> listing_;
  std::unordered_map<std::uint64_t, std::string> folders_;           // by inode number
  std::unordered_map<std::uint64_t, NodeId> repointed_;              // inode number -> node
  std::unordered_map<NodeId, std::uint64_t> repointed_from_;         // and back
  std::unordered_map<std::uint64_t, AttributeOverrides> overrides_;  // by inode number
  struct Referenced {
    std::uint64_t generation;
    std::int64_t at_ns;
    std::uint64_t bytes;
  };
  std::unordered_map<NodeId, Referenced> referenced_;
};

}  // namespace voltree
