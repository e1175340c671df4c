// The nodes of an ExtentMap's tree: memory, reference counts, and what a parent knows of a child.
//
// Nothing here is for users of ExtentMap; see extent_map.h for the contract and
// extent_map_leaf.h for what a leaf's bytes mean.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace voltree {

// A run of blocks [first, first + count) that all have the same value; 0 is a hole.
struct Extent {
  std::uint64_t first = 0;
  std::uint64_t count = 0;
  std::uint32_t value = 0;
  std::uint64_t end() const { return first + count; }
  bool operator==(const Extent&) const = default;
};

namespace extent_tree {

inline constexpr std::size_t kFanOut = 64;

enum class NodeKind : std::uint8_t {
  kInner,     // Child[count]
  kRuns,      // ShortRun[count], relative to base
  kWideRuns,  // WideRun[count]: a leaf that spans 2^32 blocks or more
  kDense,     // palette, then one packed palette index a block, for blocks [base, base + count)
};

// The header of every node; its payload follows directly. A node whose reference count is above one
// never changes.
struct Node {
  std::atomic<std::uint32_t> references{1};
  NodeKind kind = NodeKind::kInner;
  std::uint8_t index_bits = 0;     // kDense: bits of one palette index
  std::uint16_t palette_size = 0;  // kDense
  std::uint32_t count = 0;         // children, runs, or blocks (kDense)
  std::uint32_t payload_bytes = 0;
  std::uint64_t base = 0;  // leaves: the first block

  std::byte* payload() { return reinterpret_cast<std::byte*>(this + 1); }
  const std::byte* payload() const { return reinterpret_cast<const std::byte*>(this + 1); }
};

// One counted reference to a Node.
class NodeRef {
 public:
  NodeRef() = default;
  explicit NodeRef(Node* adopted) : node_(adopted) {}
  NodeRef(const NodeRef& other) : node_(other.node_) {
    if (node_ != nullptr) node_->references.fetch_add(1, std::memory_order_relaxed);
  }
  NodeRef(NodeRef&& other) noexcept : node_(std::exchange(other.node_, nullptr)) {}
  NodeRef& operator=(NodeRef other) noexcept {
    std::swap(node_, other.node_);
    return *this;
  }
  ~NodeRef() {
    if (node_ != nullptr) release(node_);
  }

  Node* get() const { return node_; }
  Node* operator->() const { return node_; }
  explicit operator bool() const { return node_ != nullptr; }
  // Whether nobody else can reach the node, provided the path to this reference is exclusive too.
  // Acquire: what former holders read of the node happens before the change that follows.
  bool unique() const { return node_->references.load(std::memory_order_acquire) == 1; }

 private:
  static void release(Node* node);
  Node* node_ = nullptr;
};

// A subtree and its summary, kept in the parent so that counts, bounds and merge decisions need no
// visit to the node itself. Summaries combine: extents that touch across a boundary with equal
// values count once.
struct Child {
  std::uint64_t first = 0;    // the first mapped block
  std::uint64_t end = 0;      // past the last mapped block
  std::uint64_t mapped = 0;   // blocks that are not holes
  std::uint64_t extents = 0;  // maximal extents
  std::uint32_t first_value = 0;
  std::uint32_t last_value = 0;
  NodeRef node;
};

// A node with room for `payload_bytes`, uninitialised, one reference.
Node* allocate_node(NodeKind kind, std::size_t payload_bytes);

inline std::span<Child> children_of(Node* node) {
  return {reinterpret_cast<Child*>(node->payload()), node->count};
}
inline std::span<const Child> children_of(const Node* node) {
  return {reinterpret_cast<const Child*>(node->payload()), node->count};
}

// The summary of `children` (at least one), without a node.
Child summarise(std::span<const Child> children);
// An inner node over `children` (1..kFanOut), which are moved from.
Child make_inner(std::span<Child> children);
// Packs `children` into as few inner nodes as hold them, evenly filled; appended to `out`.
void make_inners(std::span<Child> children, std::vector<Child>& out);
// The position of the last child whose first block is <= `block`; 0 when there is none.
std::size_t child_for(std::span<const Child> children, std::uint64_t block);
// The bytes of one node as an allocator charges them: header word and 16-byte rounding included.
std::size_t charged_bytes(const Node& node);

}  // namespace extent_tree
}  // namespace voltree
