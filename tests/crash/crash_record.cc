// record(): runs the operations and writes down what was promised when.
#include <fmt/core.h>

#include "tests/crash/crash_run.h"

namespace voltree::crash {
namespace {

using Kind = Op::Kind;

class Recorder {
 public:
  Recorder(std::uint64_t seed, Recording& out) : seed_(seed), out_(out) {
    world_.record(&out_.log);
  }

  std::optional<Failure> run(const std::vector<Op>& ops) {
    boot();
    Status status = Store::create(*runtime_, "/store", {});
    if (status.ok()) status = open();
    if (!status.ok()) return Failure{fmt::format("making the store: {}", status.message())};
    promise({{model_}, {}, 0, 0}, "idle");
    for (const Op& op : ops) {
      if (!possible(op)) continue;
      status = run(op);
      if (!status.ok()) return Failure{fmt::format("{}: {}", to_text(op), status.message())};
    }
    world_.log_stores();
    runtime_->run_until_idle();
    store_.reset();
    runtime_.reset();
    return std::nullopt;
  }

 private:
  void boot() {
    store_.reset();
    runtime_ = std::make_unique<SimRuntime>(
        world_, SimOptions{.seed = seed_ * 7919 + ++boots_, .executors = 1});
  }
  Status open() {
    auto opened = runtime_->sync_wait(Store::open(*runtime_, "/store", {.background_work = false}));
    if (!opened.ok()) return opened.status();
    store_ = std::move(opened).value();
    return {};
  }
  void promise(Expectation expectation, std::string doing) {
    world_.log_stores();
    out_.promises.push_back(
        {out_.log.size(), std::move(expectation), std::move(doing), world_.boot_count()});
  }

  bool is_free(const std::string& volume) const {
    for (const auto& [name, node] : model_) {
      if (name == volume || name.starts_with(volume + "@")) return false;
    }
    return true;
  }
  bool has_snapshots(const std::string& volume) const {
    for (const auto& [name, node] : model_) {
      if (name.starts_with(volume + "@")) return true;
    }
    return false;
  }
  bool has(const std::string& name) const { return model_.contains(name); }
  static std::string volume_of(const std::string& name) { return name.substr(0, name.find('@')); }
  bool can_snapshot(const std::string& name) const { return has(volume_of(name)) && !has(name); }

  bool possible(const Op& op) const {
    switch (op.kind) {
      case Kind::kCreate:
        return is_free(op.a);
      case Kind::kWrite:
      case Kind::kWriteFua:
      case Kind::kDiscard:
        return has(op.a) && op.block + op.blocks <= model_.at(op.a).blocks.size();
      case Kind::kFlush:
        return has(op.a);
      case Kind::kSnapshot:
        return can_snapshot(op.a);
      case Kind::kSnapshotGroup:
        return can_snapshot(op.a) && can_snapshot(op.b);
      case Kind::kClone:
        return has(op.a) && is_free(op.b);
      case Kind::kRevert:
        return has(op.a) && has(volume_of(op.a));
      case Kind::kRemove:
        return has(op.a);
      case Kind::kReplace:
        return op.a != op.b && has(op.a) && has(op.b) && !has_snapshots(op.b);
      case Kind::kResize:
        return has(op.a) && op.blocks != model_.at(op.a).blocks.size();
      case Kind::kRename:
        return has(op.a) && is_free(op.b);
      default:
        return true;
    }
  }

  // What the model is when the operation is through.
  StoreModel after(const Op& op) {
    StoreModel next = model_;
    switch (op.kind) {
      case Kind::kCreate:
        next[op.a].blocks.resize(op.blocks);
        break;
      case Kind::kWrite:
      case Kind::kWriteFua:
      case Kind::kDiscard:
        for (std::uint64_t i = 0; i < op.blocks; ++i) {
          next[op.a].set(op.block + i, op.kind == Kind::kDiscard ? 0 : tag_);
        }
        if (op.kind == Kind::kWriteFua) next[op.a].flush();
        break;
      case Kind::kFlush:
        next[op.a].flush();
        break;
      case Kind::kSnapshot:
      case Kind::kSnapshotGroup:
        for (const std::string& name : {op.a, op.b}) {
          if (name.empty()) continue;
          next[volume_of(name)].flush();
          next[name] = next[volume_of(name)];
        }
        break;
      case Kind::kClone:
        next[op.a].flush();
        next[op.b] = next[op.a];
        break;
      case Kind::kRevert:
        next[volume_of(op.a)] = next[op.a];
        break;
      case Kind::kRemove:
        next.erase(op.a);
        break;
      case Kind::kReplace:
        next[op.a] = next[op.b];
        next[op.a].flush();
        next.erase(op.b);
        break;
      case Kind::kResize:
        next[op.a].blocks.resize(op.blocks);
        break;
      case Kind::kRename:
        for (const auto& [name, node] : model_) {
          if (name != op.a && !name.starts_with(op.a + "@")) continue;
          next.erase(name);
          next[op.b + name.substr(op.a.size())] = node;
        }
        break;
      case Kind::kReopen:
        for (auto& [name, node] : next) node.flush();
        break;
      default:
        break;
    }
    return next;
  }

  Status run(const Op& op) {
    const bool writes =
        op.kind == Kind::kWrite || op.kind == Kind::kWriteFua || op.kind == Kind::kDiscard;
    ++tag_;
    out_.begins.push_back(out_.log.size());
    StoreModel next = after(op);
    if (writes) {
      // Any block of it may be old or new, whatever else is not flushed.
      StoreModel during = model_;
      for (std::uint64_t i = 0; i < op.blocks; ++i) {
        during[op.a].set(op.block + i, op.kind == Kind::kDiscard ? 0 : tag_);
      }
      promise({{std::move(during)}, op.a, op.block, op.blocks}, to_text(op));
    } else {
      promise({{model_, next}, {}, 0, 0}, to_text(op));
    }
    VT_RETURN_IF_ERROR(perform(op));
    model_ = std::move(next);
    promise({{model_}, {}, 0, 0}, "after " + to_text(op));
    return {};
  }

  Result<std::shared_ptr<BlockDevice>> device(const std::string& name) {
    return runtime_->sync_wait(store_->open_device(name));
  }

  Status perform(const Op& op) {
    const auto wait = [&](Task<Status> task) { return runtime_->sync_wait(std::move(task)); };
    switch (op.kind) {
      case Kind::kCreate:
        return wait(store_->create_volume(op.a, op.blocks * kBlockBytes, std::nullopt));
      case Kind::kWrite:
      case Kind::kWriteFua: {
        std::vector<std::byte> data(op.blocks * kBlockBytes);
        for (std::uint64_t i = 0; i < op.blocks; ++i) {
          fill_block(std::span(data).subspan(i * kBlockBytes, kBlockBytes), tag_, op.block + i);
        }
        VT_ASSIGN_OR_RETURN(const auto volume, device(op.a));
        return wait(
            volume->write(op.block * kBlockBytes, data, {.fua = op.kind == Kind::kWriteFua}));
      }
      case Kind::kDiscard: {
        VT_ASSIGN_OR_RETURN(const auto volume, device(op.a));
        return wait(volume->write_zeroes(op.block * kBlockBytes, op.blocks * kBlockBytes, {}));
      }
      case Kind::kFlush: {
        VT_ASSIGN_OR_RETURN(const auto volume, device(op.a));
        return wait(volume->flush());
      }
      case Kind::kSnapshot:
        return wait(store_->snapshot(volume_of(op.a), op.a.substr(op.a.find('@') + 1)));
      case Kind::kSnapshotGroup:
        return wait(store_->snapshot_group({op.a, op.b}));
      case Kind::kClone:
        return wait(store_->clone(op.a, op.b, 0));
      case Kind::kRevert:
        return wait(store_->revert(volume_of(op.a), op.a.substr(op.a.find('@') + 1), {}));
      case Kind::kRemove:
        return runtime_->sync_wait(store_->remove(op.a, {})).status();
      case Kind::kReplace:
        return wait(store_->replace(op.a, op.b, std::nullopt));
      case Kind::kResize:
        return wait(store_->resize(op.a, op.blocks * kBlockBytes, true));
      case Kind::kRename:
        return wait(store_->rename(op.a, op.b));
      case Kind::kErase:
        return wait(store_->wait_erased(0));
      case Kind::kSettle:
        return wait(store_->settle());
      case Kind::kSweep:
        return wait(store_->sweep());
      case Kind::kReopen:
        VT_RETURN_IF_ERROR(wait(store_->close()));
        boot();
        return open();
      case Kind::kKill:
        boot();
        return open();
    }
    return {};
  }

  const std::uint64_t seed_;
  Recording& out_;
  std::uint64_t boots_ = 0;
  Tag tag_ = 0;
  SimWorld world_;
  std::unique_ptr<SimRuntime> runtime_;
  std::unique_ptr<Store> store_;
  StoreModel model_;
};

}  // namespace

std::optional<Failure> record(const std::vector<Op>& ops, std::uint64_t seed, Recording& out) {
  return Recorder(seed, out).run(ops);
}

}  // namespace voltree::crash
