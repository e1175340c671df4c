#include "fs/frontend.h"

#include <algorithm>

namespace voltree {

Task<struct stat> Frontend::attributes(Place place) {
  struct stat out = co_await tree.attributes(place);
  if (!place.is_file()) co_return out;
  std::uint64_t size = place.node.size_bytes;
  std::uint64_t referenced = 0;
  if (const std::shared_ptr<OpenNode> node = open_files.find(place.ino)) {
    size = node->size_bytes();
    referenced = node->device()->referenced_bytes();
    // A growing file may lie on a volume that holds more than the file does.
    if (node->growth() != nullptr) {
      referenced = std::min(referenced, blocks_of_bytes(size) * kBlockBytes);
    }
  } else {
    referenced = co_await tree.referenced_bytes(place.node);
  }
  out.st_size = static_cast<off_t>(size);
  out.st_blocks = static_cast<blkcnt_t>(referenced / 512);
  co_return out;
}

Task<Result<struct stat>> Frontend::attributes(std::uint64_t ino) {
  VT_CO_ASSIGN_OR_RETURN(const Place place, co_await tree.find(ino));
  co_return co_await attributes(place);
}

Task<Result<std::shared_ptr<OpenNode>>> Frontend::open_node(Place place) {
  if (std::shared_ptr<OpenNode> node = open_files.find(place.ino)) co_return node;
  VT_CO_ASSIGN_OR_RETURN(std::shared_ptr<BlockDevice> device,
                         co_await store.open_device(place.node.name.str()));
  co_return open_files.add_node(
      std::make_shared<OpenNode>(place.ino, place.node.id, std::move(device)));
}

}  // namespace voltree
