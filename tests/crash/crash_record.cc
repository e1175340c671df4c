// record(): runs the operations and writes down what was promised when.
#include <fmt/core.h>

#include "tests/crash/crash_run.h"
#include "tests/crash/machine.h"

namespace voltree::crash {
namespace {

class Recorder {
 public:
  Recorder(std::uint64_t seed, Recording& out) : out_(out), machine_(world_, seed) {
    world_.record(&out_.log);
  }

  std::optional<Failure> run(const std::vector<Op>& ops, const StoreCreateOptions& store) {
    Status status = machine_.create(store);
    if (status.ok()) status = machine_.start();
    if (!status.ok()) return Failure{fmt::format("making the store: {}", status.message())};
    promise({{model_}}, "idle");
    for (std::size_t at = 0; at < ops.size();) {
      std::vector<Op> together = take_group(ops, at);
      std::erase_if(together, [this](const Op& op) { return !possible(model_, op); });
      if (together.empty()) continue;
      status = together.size() == 1 ? run(together.front()) : run_together(together);
      if (!status.ok()) return Failure{fmt::format("{}: {}", to_text(together), status.message())};
    }
    world_.log_stores();
    return std::nullopt;
  }

 private:
  void promise(Expectation expectation, std::string doing) {
    world_.log_stores();
    out_.promises.push_back(
        {out_.log.size(), std::move(expectation), std::move(doing), world_.boot_count()});
  }

  Status run(const Op& op) {
    ++tag_;
    out_.begins.push_back(out_.log.size());
    promise(during(model_, op, tag_), to_text(op));
    VT_RETURN_IF_ERROR(machine_.perform(op, tag_));
    model_ = after(model_, op, tag_);
    promise({{model_}}, "after " + to_text(op));
    return {};
  }

  Status run_together(const std::vector<Op>& ops) {
    Together together(model_, ops, tag_ + 1);
    out_.begins.push_back(out_.log.size());
    const std::string text = to_text(ops);
    promise(together.expectation(), text);
    Machine::Watch watch;
    watch.began = [&](std::size_t index) {
      together.began(index);
      if (ops[index].forks()) promise(together.expectation(), text);
    };
    watch.ended = [&](std::size_t index, const Status& status) {
      if (!status.ok()) return;
      together.done(index);
      promise(together.expectation(), fmt::format("{} (done: {})", text, to_text(ops[index])));
    };
    VT_RETURN_IF_ERROR(machine_.perform_together(ops, tag_ + 1, watch));
    tag_ += ops.size();
    model_ = together.result();
    promise({{model_}}, "after " + text);
    return {};
  }

  Recording& out_;
  Tag tag_ = 0;
  SimWorld world_;
  Machine machine_;
  StoreModel model_;
};

}  // namespace

std::optional<Failure> record(const std::vector<Op>& ops, std::uint64_t seed, Recording& out,
                              const StoreCreateOptions& store) {
  return Recorder(seed, out).run(ops, store);
}

}  // namespace voltree::crash
