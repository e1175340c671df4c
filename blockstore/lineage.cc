#include "blockstore/lineage.h"

#include <algorithm>
#include <cassert>

namespace voltree {
namespace {

void add_unique(std::vector<NodeId>& nodes, NodeId id) {
  if (std::find(nodes.begin(), nodes.end(), id) == nodes.end()) nodes.push_back(id);
}

ExtentMap only_data(const ExtentMap& index) {
  std::vector<Extent> extents;
  index.for_each_extent([&extents](const Extent& extent) {
    if (extent.value == kIndexData) extents.push_back(extent);
  });
  return ExtentMap::from_sorted(extents);
}

}  // namespace

std::uint64_t data_blocks(const ExtentMap& index) {
  std::uint64_t blocks = 0;
  index.for_each_extent([&blocks](const Extent& extent) {
    if (extent.value == kIndexData) blocks += extent.count;
  });
  return blocks;
}

const Lineage::Node* Lineage::find(NodeId id) const {
  const auto found = nodes_.find(id);
  return found == nodes_.end() ? nullptr : &found->second;
}

void Lineage::add(const NodeRow& row) {
  nodes_[row.id].row = row;
  if (row.parent != kNoNode) at(row.parent).children.push_back(row.id);
}

void Lineage::update(const NodeRow& row) {
  Node& node = at(row.id);
  assert(node.row.parent == row.parent);
  node.row = row;
}

void Lineage::unlink_from_parent(const Node& node) {
  if (node.row.parent != kNoNode) std::erase(at(node.row.parent).children, node.row.id);
}

void Lineage::set_parent(NodeId id, NodeId parent) {
  Node& node = at(id);
  unlink_from_parent(node);
  node.row.parent = parent;
  if (parent != kNoNode) at(parent).children.push_back(id);
}

void Lineage::own(NodeId id, LayerId layer) {
  std::vector<LayerId>& owned = at(id).owned;
  owned.insert(std::lower_bound(owned.begin(), owned.end(), layer), layer);
}

void Lineage::disown(NodeId id, LayerId layer) { std::erase(at(id).owned, layer); }

std::vector<NodeId> Lineage::ancestry(NodeId id) const {
  std::vector<NodeId> path;
  for (const Node* node = find(id); node != nullptr; node = find(node->row.parent)) {
    path.push_back(node->row.id);
  }
  return path;
}

std::uint32_t Lineage::depth(NodeId id) const {
  std::uint32_t count = 0;
  for (const Node* node = find(find(id)->row.parent); node != nullptr;
       node = find(node->row.parent)) {
    ++count;
  }
  return count;
}

std::map<NodeId, std::uint32_t> Lineage::depths() const {
  std::map<NodeId, std::uint32_t> all;
  std::vector<NodeId> left;
  for (const auto& [id, node] : nodes_) {
    if (node.row.parent == kNoNode) left.push_back(id);
  }
  while (!left.empty()) {
    const Node& node = *find(left.back());
    left.pop_back();
    const auto above = all.find(node.row.parent);
    all[node.row.id] = above == all.end() ? 0 : above->second + 1;
    left.insert(left.end(), node.children.begin(), node.children.end());
  }
  return all;
}

const ExtentMap& Lineage::index(LayerId layer) const {
  const auto found = indexes_.find(layer);
  assert(found != indexes_.end());
  return found->second;
}

void Lineage::collect_shadow_layers(const Node& node, std::vector<LayerId>& layers) const {
  layers.insert(layers.end(), node.owned.begin(), node.owned.end());
  if (node.row.kind != NodeKind::kJunction) return;
  for (const NodeId child : node.children) collect_shadow_layers(*find(child), layers);
}

std::vector<LayerId> Lineage::needed_for_trim(NodeId id) const {
  const Node& node = *find(id);
  std::vector<LayerId> layers(node.owned);
  for (const NodeId child : node.children) collect_shadow_layers(*find(child), layers);
  return layers;
}

std::vector<LayerId> Lineage::needed_for_remove(NodeId id) const {
  std::vector<LayerId> layers = needed_for_trim(id);
  for (const Node* up = find(find(id)->row.parent);
       up != nullptr && up->row.kind == NodeKind::kJunction; up = find(up->row.parent)) {
    const std::vector<LayerId> more = needed_for_trim(up->row.id);
    layers.insert(layers.end(), more.begin(), more.end());
  }
  std::sort(layers.begin(), layers.end());
  layers.erase(std::unique(layers.begin(), layers.end()), layers.end());
  return layers;
}

// What of its ancestors no one at or below `node` can see: the node's own blocks, and for a
// junction, which nobody reads itself, also what all of its children shadow.
ExtentMap Lineage::shadow(const Node& node) const {
  ExtentMap mask;
  for (const LayerId layer : node.owned) mask = overlay(mask, index(layer));
  if (node.row.kind != NodeKind::kJunction || node.children.empty()) return mask;
  ExtentMap common = shadow(*find(node.children.front()));
  for (std::size_t i = 1; i < node.children.size() && !common.empty(); ++i) {
    common = intersect(common, shadow(*find(node.children[i])));
  }
  return overlay(mask, common);
}

std::map<NodeId, ExtentMap> Lineage::seen_by(NodeId owner, LayerId layer,
                                             const ExtentMap& blocks) const {
  std::map<NodeId, ExtentMap> seen;
  std::vector<std::pair<NodeId, ExtentMap>> left;
  left.emplace_back(owner, blocks);
  while (!left.empty()) {
    auto [id, visible] = std::move(left.back());
    left.pop_back();
    const Node& node = *find(id);
    for (const LayerId newer : node.owned) {
      if (id == owner && newer <= layer) continue;
      const auto index = indexes_.find(newer);
      if (index != indexes_.end()) visible = subtract(visible, index->second);
    }
    if (visible.empty()) continue;
    for (const NodeId child : node.children) left.emplace_back(child, visible);
    seen.emplace(id, std::move(visible));
  }
  return seen;
}

void Lineage::drop_garbage(LayerId layer, const ExtentMap& mask, LineagePlan& plan) {
  ExtentMap& index = indexes_.at(layer);
  const ExtentMap gone = intersect(index, mask);
  if (gone.empty()) return;
  index = subtract(index, gone);
  plan.new_indexes[layer] = index;
  const ExtentMap garbage = only_data(gone);
  if (garbage.empty()) return;
  plan.freed_blocks += garbage.mapped_blocks();
  ExtentMap& ranges = plan.erased_ranges[layer];
  ranges = overlay(ranges, garbage);
}

// What was garbage in it before goes with it.
void Lineage::erase_layer(LayerId layer, std::uint64_t blocks, LineagePlan& plan) {
  if (const auto ranges = plan.erased_ranges.find(layer); ranges != plan.erased_ranges.end()) {
    blocks += ranges->second.mapped_blocks();
    plan.erased_ranges.erase(ranges);
  }
  plan.erased_layers[layer] = blocks;
  plan.new_indexes.erase(layer);
  plan.moved_layers.erase(layer);
  indexes_.erase(layer);
}

// A layer with nothing left in it goes as a whole: that erases its ranges, too.
void Lineage::erase_empty_layers(NodeId id, LineagePlan& plan) {
  Node& node = at(id);
  std::erase_if(node.owned, [this, &plan](LayerId layer) {
    if (!plan.new_indexes.contains(layer) || !index(layer).empty()) return false;
    erase_layer(layer, 0, plan);
    return true;
  });
}

void Lineage::trim(NodeId id, LineagePlan& plan) {
  const Node& node = at(id);
  if (node.row.kind == NodeKind::kJunction) {
    ExtentMap common;
    for (std::size_t i = 0; i < node.children.size(); ++i) {
      const ExtentMap mask = shadow(*find(node.children[i]));
      common = i == 0 ? mask : intersect(common, mask);
    }
    for (const LayerId layer : node.owned) drop_garbage(layer, common, plan);
  } else if (node.row.kind == NodeKind::kHead) {
    ExtentMap newer;
    for (std::size_t i = node.owned.size(); i-- > 0;) {
      const ExtentMap mine = index(node.owned[i]);
      drop_garbage(node.owned[i], newer, plan);
      newer = overlay(mine, newer);
    }
  }
  erase_empty_layers(id, plan);
}

void Lineage::trim_up(NodeId id, LineagePlan& plan) {
  for (const Node* node = find(id); node != nullptr && node->row.kind == NodeKind::kJunction;
       node = find(node->row.parent)) {
    trim(node->row.id, plan);
  }
}

void Lineage::merge_into_only_child(NodeId id, LineagePlan& plan) {
  const Node gone = at(id);
  Node& child = at(gone.children.front());
  const NodeId child_id = child.row.id;
  const ExtentMap mask = shadow(child);
  for (const LayerId layer : gone.owned) {
    drop_garbage(layer, mask, plan);
    own(child_id, layer);
    plan.moved_layers[layer] = child_id;
  }
  set_parent(child_id, gone.row.parent);
  add_unique(plan.changed_nodes, child_id);
  unlink_from_parent(gone);
  nodes_.erase(id);
  std::erase(plan.changed_nodes, id);
  plan.removed_nodes.push_back(id);
  erase_empty_layers(child_id, plan);
  trim_up(gone.row.parent, plan);
}

void Lineage::remove_leaf(NodeId id, LineagePlan& plan) {
  abandon_layers(id, plan);
  const NodeId parent = at(id).row.parent;
  unlink_from_parent(at(id));
  nodes_.erase(id);
  std::erase(plan.changed_nodes, id);
  plan.removed_nodes.push_back(id);
  parent_lost_child(parent, plan);
}

void Lineage::abandon_layers(NodeId id, LineagePlan& plan) {
  for (const LayerId layer : at(id).owned) {
    const std::uint64_t blocks = data_blocks(index(layer));
    plan.freed_blocks += blocks;
    erase_layer(layer, blocks, plan);
  }
  at(id).owned.clear();
}

void Lineage::parent_lost_child(NodeId parent, LineagePlan& plan) {
  const Node* node = find(parent);
  if (node == nullptr || node->row.kind != NodeKind::kJunction) return;
  if (node->children.empty()) {
    remove_leaf(parent, plan);
  } else if (node->children.size() == 1) {
    merge_into_only_child(parent, plan);
  } else {
    trim_up(parent, plan);
  }
}

void Lineage::remove(NodeId id, LineagePlan& plan) {
  Node& node = at(id);
  if (node.children.empty()) {
    remove_leaf(id, plan);
  } else if (node.children.size() == 1) {
    merge_into_only_child(id, plan);
  } else {
    node.row.kind = NodeKind::kJunction;
    node.row.snapshot.clear();
    add_unique(plan.changed_nodes, id);
    trim_up(id, plan);
  }
}

}  // namespace voltree
