// UringRuntime: the host runtime whose executors are io_uring reactors.
#include <memory>
#include <utility>
#include <vector>

#include "blockstore/runtime/host_runtime.h"
#include "blockstore/runtime/uring_reactor.h"

namespace voltree {
namespace {

// Every executor of this runtime is one of its reactors.
UringReactor& reactor_of(Executor* home) {
  assert(home != nullptr);
  return *static_cast<UringReactor*>(home);
}

class UringRuntime final : public HostRuntime {
 public:
  explicit UringRuntime(std::vector<std::unique_ptr<UringReactor>> reactors)
      : reactors_(std::move(reactors)) {}

  ~UringRuntime() override {
    stop_blocking();
    for (const auto& reactor : reactors_) reactor->stop();
  }

  std::size_t executor_count() const override { return reactors_.size(); }
  Executor& executor(std::size_t index) override { return *reactors_.at(index); }

  void submit_timer(std::chrono::nanoseconds delay, Executor* home,
                    std::coroutine_handle<> handle) override {
    reactor_of(home).post_timer(handle, delay);
  }
  void submit_fd(FdRequest& request) override { reactor_of(request.home).submit_fd(request); }
  void cancel_fd(int fd) override {
    for (const auto& reactor : reactors_) reactor->cancel_fd(fd);
  }

 private:
  void submit(HostFile& file, IoRequest& request) override {
    reactor_of(request.home).submit_io(file, request);
  }

  std::vector<std::unique_ptr<UringReactor>> reactors_;
};

}  // namespace

Result<std::unique_ptr<Runtime>> make_uring_runtime(const RuntimeOptions& options) {
  std::vector<std::unique_ptr<UringReactor>> reactors;
  for (std::size_t i = 0; i < executors_wanted(options); ++i) {
    VT_ASSIGN_OR_RETURN(auto reactor,
                        UringReactor::make(fmt::format("vt-reactor-{}", i), options.ring_entries));
    reactors.push_back(std::move(reactor));
  }
  return std::unique_ptr<Runtime>(std::make_unique<UringRuntime>(std::move(reactors)));
}

}  // namespace voltree
