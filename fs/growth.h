// A file that is being created (see Growth in open_files.h): how it grows, and how `cp` becomes a
// fork.
//
// The handle that creates a file may write beyond its end and set its size freely, as with any
// file. The volume below is grown ahead of the writes and cut to the exact size (rounded up to 512
// bytes) when a descriptor closes. A file that closes with nothing written keeps the smallest size
// a volume can have.
//
// Copying to the same offsets of an empty new file from a volume or a snapshot replaces the volume
// below by a clone, and further copies from that source only raise the exact size. What was not
// copied is zeroed before it can be seen.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "blockstore/store.h"
#include "fs/open_files.h"
#include "fs/tree.h"

namespace voltree {

class Grower {
 public:
  Grower(Store& store, Tree& tree) : store_(store), tree_(tree) {}

  // `node` must be growing when these begin; once it no longer is, write and truncate answer kBusy
  // (try again as an ordinary volume), the rest do nothing.
  Task<Status> write(std::shared_ptr<OpenNode> node, std::uint64_t offset_bytes,
                     std::span<const std::byte> data, WriteOptions options);
  Task<Status> truncate(std::shared_ptr<OpenNode> node, std::uint64_t size_bytes);
  // Cuts the volume to the exact size. `finish`: it is a volume from now on.
  Task<Status> fit(std::shared_ptr<OpenNode> node, bool finish);
  // Copies by reference. nullopt: this copy must move bytes.
  Task<Result<std::optional<std::uint64_t>>> copy(std::shared_ptr<OpenNode> source,
                                                  std::shared_ptr<OpenNode> node,
                                                  std::uint64_t offset_bytes,
                                                  std::uint64_t length_bytes);

  // Zeroes what holds data in [from, to).
  static Task<Status> zero_data(std::shared_ptr<BlockDevice> device, std::uint64_t from_bytes,
                                std::uint64_t to_bytes);

 private:
  Task<Status> ensure_size(OpenNode& node, std::uint64_t size_bytes, bool ahead);
  Task<Result<bool>> write_shared(OpenNode& node, Growth& growth, std::uint64_t offset_bytes,
                                  std::span<const std::byte> data);
  Task<Status> leave_source(OpenNode& node, Growth& growth);
  Task<Status> fork(std::shared_ptr<OpenNode> source, OpenNode& node, Growth& growth);
  Task<Result<std::string>> name_of(NodeId id);

  Store& store_;
  Tree& tree_;
};

// The size of the volume that holds a file of `exact_bytes`.
std::uint64_t volume_size_for(std::uint64_t exact_bytes);

}  // namespace voltree
