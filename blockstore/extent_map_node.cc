#include "blockstore/extent_map_node.h"

#include <algorithm>
#include <cassert>
#include <memory>
#include <new>

namespace voltree::extent_tree {

void NodeRef::release(Node* node) {
  // A count of one needs no atomic subtraction: nobody else holds the node.
  if (node->references.load(std::memory_order_acquire) != 1 &&
      node->references.fetch_sub(1, std::memory_order_acq_rel) != 1) {
    return;
  }
  if (node->kind == NodeKind::kInner) {
    std::span<Child> children = children_of(node);
    std::destroy(children.begin(), children.end());
  }
  node->~Node();
  ::operator delete(node);
}

Node* allocate_node(NodeKind kind, std::size_t payload_bytes) {
  void* memory = ::operator new(sizeof(Node) + payload_bytes);
  Node* node = new (memory) Node;
  node->kind = kind;
  node->payload_bytes = static_cast<std::uint32_t>(payload_bytes);
  return node;
}

Child summarise(std::span<const Child> children) {
  assert(!children.empty());
  Child sum;
  sum.first = children.front().first;
  sum.first_value = children.front().first_value;
  sum.end = children.back().end;
  sum.last_value = children.back().last_value;
  std::uint64_t previous_end = 0;
  std::uint32_t previous_value = 0;  // no child begins with 0, so the first never joins
  for (const Child& child : children) {
    const bool joins = child.first == previous_end && child.first_value == previous_value;
    sum.mapped += child.mapped;
    sum.extents += child.extents - (joins ? 1 : 0);
    previous_end = child.end;
    previous_value = child.last_value;
  }
  return sum;
}

Child make_inner(std::span<Child> children) {
  assert(!children.empty() && children.size() <= kFanOut);
  Child result = summarise(children);
  Node* node = allocate_node(NodeKind::kInner, children.size() * sizeof(Child));
  node->count = static_cast<std::uint32_t>(children.size());
  std::uninitialized_move(children.begin(), children.end(),
                          reinterpret_cast<Child*>(node->payload()));
  result.node = NodeRef(node);
  return result;
}

void make_inners(std::span<Child> children, std::vector<Child>& out) {
  if (children.empty()) return;
  const std::size_t nodes = (children.size() + kFanOut - 1) / kFanOut;
  std::size_t begin = 0;
  for (std::size_t i = 0; i < nodes; ++i) {
    const std::size_t end = children.size() * (i + 1) / nodes;
    out.push_back(make_inner(children.subspan(begin, end - begin)));
    begin = end;
  }
}

std::size_t child_for(std::span<const Child> children, std::uint64_t block) {
  const auto after = std::upper_bound(
      children.begin(), children.end(), block,
      [](std::uint64_t wanted, const Child& child) { return wanted < child.first; });
  return after == children.begin() ? 0 : static_cast<std::size_t>(after - children.begin()) - 1;
}

std::size_t charged_bytes(const Node& node) {
  constexpr std::size_t kWord = sizeof(void*);
  constexpr std::size_t kRounding = 2 * kWord;
  return (sizeof(Node) + node.payload_bytes + kWord + kRounding - 1) / kRounding * kRounding;
}

}  // namespace voltree::extent_tree
