// Lineage: the tree of nodes, who owns which layer, and what a delete frees (DESIGN section 2).
//
// A pure value: no I/O, no clock. Store changes a copy, commits the plan, and then keeps the copy.
// The algebra is on layer indexes, which the caller has loaded (see needed_for_remove); it reads no
// data and counts no references.
//
// Invariant: every present block of every layer is visible in at least one node, or is in a plan's
// garbage.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "blockstore/base/units.h"
#include "blockstore/catalog.h"
#include "blockstore/extent_map.h"

namespace voltree {

// What a change of the tree does, for the catalog and the eraser.
struct LineagePlan {
  std::vector<NodeId> removed_nodes;
  std::vector<NodeId> changed_nodes;               // kind or parent differ
  std::map<LayerId, NodeId> moved_layers;          // new owner
  std::map<LayerId, std::uint64_t> erased_layers;  // wholly invisible now: their blocks of data
  std::map<LayerId, ExtentMap>
      erased_ranges;  // value 1: data blocks of living layers that nobody sees
  std::map<LayerId, ExtentMap>
      new_indexes;  // of the layers in erased_ranges, and of those whose tombstones went
  std::uint64_t freed_blocks = 0;
};

class Lineage {
 public:
  struct Node {
    NodeRow row;
    std::vector<LayerId> owned;  // oldest (smallest id) first
    std::vector<NodeId> children;
  };

  const Node* find(NodeId id) const;
  const std::map<NodeId, Node>& nodes() const { return nodes_; }
  // Adds a node below row.parent, which must be there.
  void add(const NodeRow& row);
  void update(const NodeRow& row);  // name, kind, size; not the parent
  void set_parent(NodeId id, NodeId parent);
  void own(NodeId id, LayerId layer);
  void disown(NodeId id, LayerId layer);
  // From the node itself up to its root.
  std::vector<NodeId> ancestry(NodeId id) const;
  // How many ancestors it has; of all nodes, in one pass.
  std::uint32_t depth(NodeId id) const;
  std::map<NodeId, std::uint32_t> depths() const;

  // Indexes for the algebra: those of every layer in needed_for_remove must have been given before.
  void set_index(LayerId layer, ExtentMap index) { indexes_[layer] = std::move(index); }
  bool has_index(LayerId layer) const { return indexes_.contains(layer); }
  std::vector<LayerId> needed_for_remove(NodeId id) const;
  std::vector<LayerId> needed_for_trim(NodeId id) const;

  // Which nodes see which of `blocks` of a layer that `owner` owns: those at or below it, junctions
  // included, less what newer layers shadow. Indexes that were not given shadow nothing.
  std::map<NodeId, ExtentMap> seen_by(NodeId owner, LayerId layer, const ExtentMap& blocks) const;

  // Takes the node out of the tree. Its children stay what they were.
  void remove(NodeId id, LineagePlan& plan);
  // Detaches a head's layers, all of them garbage: the first half of a revert.
  void abandon_layers(NodeId id, LineagePlan& plan);
  // After a head has left `parent` for another place in the tree.
  void parent_lost_child(NodeId parent, LineagePlan& plan);
  // Garbage of a junction that every child shadows; and of a head, in older owned layers that newer
  // ones shadow.
  void trim(NodeId id, LineagePlan& plan);

 private:
  Node& at(NodeId id) { return nodes_.at(id); }
  const ExtentMap& index(LayerId layer) const;
  void collect_shadow_layers(const Node& node, std::vector<LayerId>& layers) const;
  ExtentMap shadow(const Node& node) const;
  void drop_garbage(LayerId layer, const ExtentMap& mask, LineagePlan& plan);
  void erase_layer(LayerId layer, std::uint64_t blocks, LineagePlan& plan);
  void erase_empty_layers(NodeId id, LineagePlan& plan);
  void unlink_from_parent(const Node& node);
  void merge_into_only_child(NodeId id, LineagePlan& plan);
  void trim_up(NodeId id, LineagePlan& plan);
  void remove_leaf(NodeId id, LineagePlan& plan);

  std::map<NodeId, Node> nodes_;
  std::map<LayerId, ExtentMap> indexes_;
};

// Blocks whose value in a layer index is kIndexData.
std::uint64_t data_blocks(const ExtentMap& index);

}  // namespace voltree
