#include "blockstore/runtime/io.h"

#include <cassert>

namespace voltree {

std::string parent_folder(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

Status File::clone_range_sync(File& /*source*/, std::uint64_t /*source_offset_bytes*/,
                              std::uint64_t /*length_bytes*/, std::uint64_t /*offset_bytes*/) {
  return error(Code::kNotSupported, "files of this kind share no space");
}

namespace {
Status no_names() { return error(Code::kNotSupported, "files of this kind cannot change hands"); }
}  // namespace

Result<std::uint64_t> File::links() { return no_names(); }
Result<std::string> File::path_now() { return no_names(); }
Status File::take_lease() { return no_names(); }
Status File::check_lease() { return no_names(); }
Status File::link(const std::string& /*path*/) { return no_names(); }
Status File::unlink_name(const std::string& /*path*/) { return no_names(); }
Status File::make_ours() { return no_names(); }

void IoAwaiter::await_suspend(std::coroutine_handle<> handle) {
  handle_ = handle;
  request_.home = Executor::current();
  assert(request_.home != nullptr && "data operations are submitted from an executor");
  request_.context = this;
  request_.on_done = [](IoRequest& request) {
    static_cast<IoAwaiter*>(request.context)->handle_.resume();
  };
  request_.file->submit(request_);
}

bool IoBatch::await_suspend(std::coroutine_handle<> handle) {
  handle_ = handle;
  // The submitter counts as one, so that no completion can end the wait while requests are still
  // being submitted. Whoever brings the count to zero goes on.
  left_.store(requests_.size() + 1, std::memory_order_relaxed);
  for (IoRequest& request : requests_) {
    request.home = Executor::current();
    assert(request.home != nullptr && "data operations are submitted from an executor");
    request.context = this;
    request.on_done = [](IoRequest& done) {
      auto* batch = static_cast<IoBatch*>(done.context);
      if (batch->left_.fetch_sub(1, std::memory_order_acq_rel) == 1) batch->handle_.resume();
    };
    request.file->submit(request);
  }
  return left_.fetch_sub(1, std::memory_order_acq_rel) != 1;
}

Status IoBatch::await_resume() {
  for (const IoRequest& request : requests_) {
    if (!request.status.ok()) return request.status;
  }
  return {};
}

Task<void> Runtime::sleep_for(std::chrono::nanoseconds delay) {
  struct Awaiter {
    Runtime& runtime;
    std::chrono::nanoseconds delay;
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> handle) {
      assert(Executor::current() != nullptr);
      runtime.submit_timer(delay, Executor::current(), handle);
    }
    void await_resume() const noexcept {}
  };
  Awaiter awaiter{*this, delay};
  co_await awaiter;
}

}  // namespace voltree
