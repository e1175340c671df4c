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

  std::optional<Failure> run(const std::vector<Op>& ops) {
    Status status = machine_.create();
    if (status.ok()) status = machine_.start();
    if (!status.ok()) return Failure{fmt::format("making the store: {}", status.message())};
    promise({{model_}}, "idle");
    for (const Op& op : ops) {
      if (!possible(model_, op)) continue;
      status = run(op);
      if (!status.ok()) return Failure{fmt::format("{}: {}", to_text(op), status.message())};
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

  Recording& out_;
  Tag tag_ = 0;
  SimWorld world_;
  Machine machine_;
  StoreModel model_;
};

}  // namespace

std::optional<Failure> record(const std::vector<Op>& ops, std::uint64_t seed, Recording& out) {
  return Recorder(seed, out).run(ops);
}

}  // namespace voltree::crash
