// A simulated machine with a store on it: does the operations of workloads, and holds what is there
// to a model.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "blockstore/runtime/sim_runtime.h"
#include "blockstore/store.h"
#include "blockstore/store_repair.h"
#include "tests/crash/crash_model.h"

namespace voltree::crash {

class Machine {
 public:
  Machine(SimWorld& world, std::uint64_t seed) : world_(world), seed_(seed) { boot(); }
  Machine(std::unique_ptr<SimWorld> world, std::uint64_t seed)
      : owned_(std::move(world)), world_(*owned_), seed_(seed) {
    boot();
  }
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;
  ~Machine() { end(); }

  SimWorld& world() { return world_; }
  FileSystem& fs() { return runtime_->fs(); }
  Store* store() { return store_.get(); }  // nullptr: none is open
  template <typename T>
  T wait(Task<T> task) {
    return runtime_->sync_wait(std::move(task));
  }

  Status create(const StoreCreateOptions& options = {});
  Status start();
  Result<RepairReport> repair();  // of a store that is not open
  // The daemon is gone, and what it had begun to write down by itself is there. A start begins
  // another one.
  void kill();
  Status perform(const Op& op, Tag tag);
  // Called as each of several operations begins and ends, with its index.
  struct Watch {
    std::function<void(std::size_t)> began;
    std::function<void(std::size_t, const Status&)> ended;
  };
  // All of them at the same time; `tag` is the first one's. The first failure.
  Status perform_together(const std::vector<Op>& ops, Tag tag, const Watch& watch);

  // What is wrong, if anything is. The store is checked, and each sector of each node read.
  std::optional<std::string> look(const Expectation& expectation, bool power_loss);
  // Without the check.
  std::optional<std::string> compare(const Expectation& expectation, bool power_loss);
  // A block of a node, or with kWholeNode a node.
  struct Place {
    static constexpr std::uint64_t kWholeNode = ~std::uint64_t{0};
    std::string node;
    std::uint64_t first_sector = 0;
  };
  // What could not be read, and was allowed to be damaged, since forget_damaged().
  const std::vector<Place>& damaged() const { return damaged_; }
  void forget_damaged() { damaged_.clear(); }
  // Compares a single block, as compare() does all.
  std::optional<std::string> compare_place(const Place& place, const StoreModel& model,
                                           bool power_loss);
  // Of every node; what cannot be read is empty.
  std::map<std::string, std::vector<std::byte>> contents();
  // It is a store like any other: it takes writes, keeps them when its daemon dies, flushed or not,
  // and can be emptied.
  std::optional<std::string> use();

 private:
  std::optional<std::string> use_store();
  std::optional<std::string> fill_volumes(std::byte value, bool fua);
  void boot();
  void end();
  Task<Status> act(Op op, Tag tag);
  Task<Status> act_on_volume(Op op, Tag tag);
  // The paths of files that may be taken, by the model's names of them.
  std::map<std::string, std::string> files() const;
  Task<Status> take_given(std::string name);
  Status put_file(const Op& op, Tag tag);
  Task<Status> take_file(Op op);
  std::optional<std::string> compare_file(const std::string& path, const NodeModel& model);
  std::optional<std::string> compare_model(const StoreModel& model, bool power_loss);
  std::optional<std::string> compare_node(const std::string& name, const NodeModel& model,
                                          bool power_loss);
  std::optional<std::string> compare_blocks(BlockDevice& device, const std::string& name,
                                            const NodeModel& model, bool power_loss);
  std::optional<std::string> compare_block(BlockDevice& device, const Place& place,
                                           const NodeModel& model, bool power_loss);

  std::unique_ptr<SimWorld> owned_;
  SimWorld& world_;
  const std::uint64_t seed_;
  std::uint64_t boots_ = 0;
  std::vector<Place> damaged_;
  std::unique_ptr<SimRuntime> runtime_;
  std::unique_ptr<Store> store_;
};

}  // namespace voltree::crash
