#include "blockstore/runtime/sim_runtime.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>

#include "blockstore/runtime/sim_files.h"

namespace voltree {
namespace {

// The finaliser of SplitMix64: every bit of the input changes half of the output.
std::uint64_t mix(std::uint64_t value) {
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EB;
  return value ^ (value >> 31);
}

}  // namespace

class SimRuntime::SimExecutor final : public Executor {
 public:
  SimExecutor(SimRuntime& runtime, std::size_t index) : runtime_(runtime), index_(index) {}
  void post(std::coroutine_handle<> handle) override {
    runtime_.add({Item::Kind::kResume, index_, handle, nullptr, nullptr, {}, nullptr});
  }
  std::size_t index() const { return index_; }

  // Makes `executor` the current one while it lives; nullptr stands for a thread that may block.
  class Scope {
   public:
    explicit Scope(Executor* executor) : before_(current()) { set_current(executor); }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;
    ~Scope() { set_current(before_); }

   private:
    Executor* before_;
  };

 private:
  SimRuntime& runtime_;
  std::size_t index_;
};

class SimRuntime::SimStrand final : public Runtime::Strand {
 public:
  explicit SimStrand(SimRuntime& runtime) : runtime_(runtime) {}
  ~SimStrand() override {
    while (!jobs_.empty()) run_one();
    runtime_.forget_strand(this);
  }
  // Each job adds a chance to run the strand, and each chance takes the oldest job.
  void post(std::function<void()> job) override {
    jobs_.push_back(std::move(job));
    runtime_.add({Item::Kind::kStrand, 0, {}, nullptr, nullptr, {}, this});
  }
  void run_one() {
    if (jobs_.empty()) return;
    const std::function<void()> job = std::move(jobs_.front());
    jobs_.pop_front();
    const SimExecutor::Scope scope(nullptr);
    job();
  }

 private:
  SimRuntime& runtime_;
  std::deque<std::function<void()>> jobs_;
};

class SimRuntime::SimFileSystem final : public FileSystem {
 public:
  bool on_host() const override { return false; }
  explicit SimFileSystem(SimRuntime& runtime) : runtime_(runtime) {}

  Result<std::unique_ptr<File>> open(const std::string& path, OpenMode mode) override {
    VT_ASSIGN_OR_RETURN(std::shared_ptr<SimInode> inode, open_inode(path, mode));
    return std::unique_ptr<File>(std::make_unique<SimFile>(runtime_, path, std::move(inode), mode));
  }

  Result<std::unique_ptr<MappedFile>> map(const std::string& path, std::uint64_t size_bytes,
                                          std::uint64_t reserve_bytes) override {
    const OpenMode mode{.create = true};
    VT_ASSIGN_OR_RETURN(const std::shared_ptr<SimInode> inode, open_inode(path, mode));
    const std::uint64_t reserve = std::max({reserve_bytes, size_bytes, inode->size_bytes()});
    VT_RETURN_IF_ERROR(inode->map(reserve).with_context(path));
    auto file = std::make_unique<SimMappedFile>(runtime_, path, inode, reserve);
    VT_RETURN_IF_ERROR(file->grow(size_bytes));
    return std::unique_ptr<MappedFile>(std::move(file));
  }

  Result<std::unique_ptr<MappedFile>> map_read_only(const std::string& path) override {
    VT_ASSIGN_OR_RETURN(const std::shared_ptr<SimInode> inode,
                        open_inode(path, {.writable = false}));
    const std::uint64_t size_bytes = inode->size_bytes();
    VT_RETURN_IF_ERROR(inode->map(size_bytes).with_context(path));
    auto file = std::make_unique<SimMappedFile>(runtime_, path, inode, size_bytes);
    VT_RETURN_IF_ERROR(file->grow(size_bytes));
    return std::unique_ptr<MappedFile>(std::move(file));
  }
  Result<bool> exists(const std::string& path) override {
    const std::string name = SimWorld::normal(path);
    VT_RETURN_IF_ERROR(world().check(SimAct::kAsk, name));
    return world().is_dir(name) || world().find(name).ok();
  }
  Status unlink(const std::string& path) override {
    return world().apply_name({SimNameMutation::Kind::kUnlink, SimWorld::normal(path), {}});
  }
  Status rename(const std::string& from, const std::string& to) override {
    return world().apply_name(
        {SimNameMutation::Kind::kRename, SimWorld::normal(from), SimWorld::normal(to)});
  }
  Status make_dir(const std::string& path) override {
    return world().apply_name({SimNameMutation::Kind::kMakeDir, SimWorld::normal(path), {}});
  }
  Result<std::vector<std::string>> list_dir(const std::string& path) override {
    VT_RETURN_IF_ERROR(world().check(SimAct::kAsk, SimWorld::normal(path)));
    return world().list(SimWorld::normal(path));
  }
  Status sync_dir(const std::string& path) override {
    return world().sync_dir(SimWorld::normal(path));
  }
  Result<FsSpace> space(const std::string& path) override {
    VT_ASSIGN_OR_RETURN(const FsInfo found, info(path));
    return FsSpace{found.total_bytes, found.free_bytes};
  }
  Result<FileIdentity> identity(const std::string& path) override {
    VT_ASSIGN_OR_RETURN(const auto inode, world().find(SimWorld::normal(path)));
    return FileIdentity{world().device(), inode->id(), 0};
  }
  Result<std::string> storage(const std::string& path) override {
    VT_RETURN_IF_ERROR(world().check(SimAct::kAsk, SimWorld::normal(path)));
    return world().storage_of(world().device());
  }
  Result<std::string> storage_of(std::uint64_t device) override {
    return world().storage_of(device);
  }
  Result<FsInfo> info(const std::string& path) override {
    VT_RETURN_IF_ERROR(world().check(SimAct::kAsk, SimWorld::normal(path)));
    if (!world().is_dir(SimWorld::normal(path))) {
      return error(Code::kNotFound, "{}: no such folder", path);
    }
    const std::uint64_t capacity = world().options().capacity_bytes;
    const std::uint64_t used = std::min(world().used_bytes(), capacity);
    return FsInfo{
        "sim", capacity, capacity - used,     world().options().file_size_max_bytes,
        true,  false,    world().read_only(), fmt::format("sim-mount-{}", world().mount_count())};
  }

 private:
  SimWorld& world() { return runtime_.world_; }

  Result<std::shared_ptr<SimInode>> open_inode(const std::string& path, OpenMode mode) {
    const std::string name = SimWorld::normal(path);
    if (world().is_dir(name)) return error(Code::kIoError, "{}: is a folder", path);
    Result<std::shared_ptr<SimInode>> found = world().find(name);
    if (found.ok()) {
      if (mode.create && mode.exclusive) return error(Code::kExists, "{}: exists", path);
      VT_RETURN_IF_ERROR(world().check(SimAct::kOpen, name));
      if (mode.writable && world().read_only()) return SimWorld::refused(path);
      return found;
    }
    if (!mode.create) return found;
    VT_RETURN_IF_ERROR(world().apply_name({SimNameMutation::Kind::kCreate, name, {}}));
    return world().find(name);
  }

  SimRuntime& runtime_;
};

SimRuntime::SimRuntime(SimWorld& world, SimOptions options)
    : world_(world),
      options_(options),
      fs_(std::make_unique<SimFileSystem>(*this)),
      random_state_(mix(options.seed)) {
  assert(options.executors > 0);
  for (std::size_t i = 0; i < options.executors; ++i) {
    executors_.push_back(std::make_unique<SimExecutor>(*this, i));
  }
}

SimRuntime::~SimRuntime() = default;

Executor& SimRuntime::executor(std::size_t index) { return *executors_.at(index); }

std::size_t SimRuntime::index_of(Executor* home) {
  assert(home != nullptr);
  return static_cast<SimExecutor*>(home)->index();
}

std::uint64_t SimRuntime::next_random() {
  random_state_ += 0x9E3779B97F4A7C15;
  return mix(random_state_);
}

void SimRuntime::trace(std::uint64_t value) { trace_hash_ = mix(trace_hash_ * 31 + value + 1); }

std::chrono::nanoseconds SimRuntime::wall_now() {
  constexpr std::chrono::seconds kStart{1'704'067'200};  // 2024-01-01T00:00:00Z
  return kStart + now_;
}

std::string SimRuntime::boot_id() { return fmt::format("sim-boot-{}", world_.boot_count()); }

void SimRuntime::submit_blocking(std::function<void()> work, Executor* home,
                                 std::coroutine_handle<> done_handle) {
  add({Item::Kind::kBlocking, index_of(home), done_handle, nullptr, nullptr, std::move(work),
       nullptr});
}

void SimRuntime::submit_timer(std::chrono::nanoseconds delay, Executor* home,
                              std::coroutine_handle<> handle) {
  timers_.emplace(now_ + std::max(delay, std::chrono::nanoseconds(0)),
                  Timer{index_of(home), handle});
}

void SimRuntime::submit_fd(FdRequest& request) {
  request.result = -ENOSYS;
  request.home->post(request.handle);
}

void SimRuntime::cancel_fd(int) {}

void SimRuntime::submit_io(SimFile& file, IoRequest& request) {
  add({Item::Kind::kStartIo, index_of(request.home), {}, &file, &request, {}, nullptr});
}

std::unique_ptr<Runtime::Strand> SimRuntime::make_strand(const std::string&) {
  return std::make_unique<SimStrand>(*this);
}

void SimRuntime::forget_strand(const SimStrand* strand) {
  std::erase_if(ready_, [&](const Item& item) { return item.strand == strand; });
}

void SimRuntime::fire_timers() {
  while (!timers_.empty() && timers_.begin()->first <= now_) {
    const Timer timer = timers_.begin()->second;
    timers_.erase(timers_.begin());
    add({Item::Kind::kResume, timer.executor, timer.handle, nullptr, nullptr, {}, nullptr});
  }
}

bool SimRuntime::step(bool may_jump) {
  now_ += options_.step;
  fire_timers();
  if (ready_.empty() && may_jump && !timers_.empty()) {
    now_ = timers_.begin()->first;
    if (now_ > options_.time_limit) give_up("only timers went on until the time limit");
    fire_timers();
  }
  if (ready_.empty()) return false;
  const std::size_t pick = static_cast<std::size_t>(next_random() % ready_.size());
  std::swap(ready_[pick], ready_.back());
  Item item = std::move(ready_.back());
  ready_.pop_back();
  ++step_count_;
  trace(pick);
  trace(static_cast<std::uint64_t>(item.kind) << 8 | item.executor);
  run_item(item);
  return true;
}

void SimRuntime::run_item(Item& item) {
  switch (item.kind) {
    case Item::Kind::kResume: {
      const SimExecutor::Scope scope(executors_[item.executor].get());
      item.handle.resume();
      return;
    }
    case Item::Kind::kStartIo: {
      const SimExecutor::Scope scope(nullptr);
      IoRequest& request = *item.request;
      trace(static_cast<std::uint64_t>(request.kind));
      trace(request.offset_bytes);
      trace(request.length_bytes);
      request.status = item.file->execute(request);
      trace(static_cast<std::uint64_t>(request.status.code()));
      add({Item::Kind::kFinishIo, item.executor, {}, nullptr, &request, {}, nullptr});
      return;
    }
    case Item::Kind::kFinishIo: {
      const SimExecutor::Scope scope(executors_[item.executor].get());
      item.request->on_done(*item.request);
      return;
    }
    case Item::Kind::kBlocking: {
      const SimExecutor::Scope scope(nullptr);
      item.work();
      item.work = nullptr;
      executors_[item.executor]->post(item.handle);
      return;
    }
    case Item::Kind::kStrand:
      item.strand->run_one();
      return;
  }
}

void SimRuntime::give_up(const char* reason) const {
  std::fprintf(stderr, "simulator: %s (seed %llu, step %llu, %zu timers)\n", reason,
               static_cast<unsigned long long>(options_.seed),
               static_cast<unsigned long long>(step_count_), timers_.size());
  std::abort();
}

void SimRuntime::run_until_done(Task<void> task) {
  assert(Executor::current() == nullptr);
  bool done = false;
  spawn(executor(0), [](Task<void> body, bool& flag) -> Task<void> {
    co_await std::move(body);
    flag = true;
  }(std::move(task), done));
  while (!done) {
    if (!step(true)) give_up("deadlock: the task has not ended and nothing can happen");
  }
}

void SimRuntime::run_until_idle() {
  while (step(false)) {
  }
}

}  // namespace voltree
