#include "blockstore/store_scrub.h"

#include <algorithm>
#include <sstream>

namespace voltree {
namespace {

constexpr std::size_t kFindingsMax = 1000;
// A position this old is made durable again: a scrub that is cut off repeats no more than this.
constexpr std::chrono::seconds kSaveAfter{30};
constexpr std::chrono::nanoseconds kPaceSlice = std::chrono::milliseconds(100);
constexpr int kVersion = 1;

// docs/FORMAT.md, setting `scrub`.
std::string encode(const ScrubInfo& info, LayerId layer, std::uint64_t block) {
  std::string text = fmt::format("{} {} {} {} {} {} {} {} {} {}", kVersion, info.running ? 1 : 0,
                                 info.started_ns, info.finished_ns, info.rate_bytes, layer, block,
                                 info.done_bytes, info.total_bytes, info.bad_blocks);
  for (const ScrubFinding& found : info.findings) {
    text += fmt::format("\n{} {} {}", found.layer, found.blocks.first, found.blocks.count);
    for (const std::string& name : found.seen_by) text += fmt::format("\t{}", name);
  }
  return text;
}

bool decode(const std::string& text, ScrubInfo& info, LayerId& layer, std::uint64_t& block) {
  std::istringstream lines(text);
  int version = 0;
  int running = 0;
  lines >> version >> running >> info.started_ns >> info.finished_ns >> info.rate_bytes >> layer >>
      block >> info.done_bytes >> info.total_bytes >> info.bad_blocks;
  if (!lines || version != kVersion) return false;
  info.running = running == 1;
  std::string line;
  std::getline(lines, line);
  while (std::getline(lines, line) && info.findings.size() < kFindingsMax) {
    std::istringstream fields(line);
    ScrubFinding found;
    fields >> found.layer >> found.blocks.first >> found.blocks.count;
    if (!fields) return false;
    std::string name;
    fields.get();
    while (std::getline(fields, name, '\t')) found.seen_by.push_back(name);
    info.findings.push_back(std::move(found));
  }
  return true;
}

}  // namespace

void Scrubber::load(const std::string& saved) {
  const std::lock_guard lock(mutex_);
  ScrubInfo info;
  LayerId layer = kNoLayer;
  std::uint64_t block = 0;
  if (!decode(saved, info, layer, block)) return;
  interrupted_ = info.running;
  info.running = false;
  info_ = std::move(info);
  layer_ = layer;
  block_ = block;
}

ScrubInfo Scrubber::info() const {
  const std::lock_guard lock(mutex_);
  return info_;
}

bool Scrubber::interrupted() const {
  const std::lock_guard lock(mutex_);
  return interrupted_;
}

Task<Status> Scrubber::start(std::uint64_t rate_bytes, bool restart) {
  VT_CO_RETURN_IF_ERROR(core_.engine.check_writable());
  const auto ended = std::make_shared<Event>();
  {
    const std::lock_guard lock(mutex_);
    if (info_.running) co_return error(Code::kBusy, "the store is being scrubbed already");
    if (restart || info_.started_ns == 0 || info_.finished_ns != 0) {
      info_ = ScrubInfo();
      info_.started_ns = core_.engine.runtime().wall_now().count();
      layer_ = kNoLayer;
      block_ = 0;
    }
    info_.running = true;
    info_.failure.clear();
    info_.rate_bytes = rate_bytes;
    interrupted_ = false;
    ended_ = ended;
  }
  stopping_.store(false, std::memory_order_release);
  const Status saved = co_await save();
  if (!saved.ok()) {
    const std::lock_guard lock(mutex_);
    info_.running = false;
    ended->set();
    co_return saved;
  }
  spawn(core_.engine.runtime().executor(0), run(ended));
  co_return Status();
}

Task<void> Scrubber::run(std::shared_ptr<Event> ended) {
  const Status scrubbed = co_await scrub_layers();
  {
    const std::lock_guard lock(mutex_);
    // The store that is closed under a scrub goes on with it when it is opened again.
    const bool cut_off = stopping_.load(std::memory_order_acquire) && core_.stopping.load();
    interrupted_ = cut_off && scrubbed.ok();
    if (!scrubbed.ok()) info_.failure = std::string(scrubbed.message());
    if (scrubbed.ok() && !stopping_.load(std::memory_order_acquire)) {
      info_.finished_ns = core_.engine.runtime().wall_now().count();
    }
    info_.running = interrupted_;
  }
  // One that cannot be kept is repeated from the last position that could.
  (void)co_await save();
  {
    const std::lock_guard lock(mutex_);
    info_.running = false;
  }
  ended->set();
}

Task<void> Scrubber::stop() {
  stopping_.store(true, std::memory_order_release);
  (void)co_await wait();
}

Task<Status> Scrubber::wait() {
  std::shared_ptr<Event> ended;
  {
    const std::lock_guard lock(mutex_);
    ended = ended_;
  }
  if (ended != nullptr) co_await ended->wait();
  const std::lock_guard lock(mutex_);
  if (!info_.failure.empty()) co_return Status(Code::kIoError, info_.failure);
  co_return Status();
}

std::shared_ptr<Layer> Scrubber::next_layer(LayerId from) const {
  std::shared_ptr<Layer> next;
  for (const std::shared_ptr<Layer>& layer : core_.engine.layers().all()) {
    if (layer->id() >= from && (next == nullptr || layer->id() < next->id())) next = layer;
  }
  return next;
}

Task<Status> Scrubber::count_total() {
  std::uint64_t left_bytes = 0;
  LayerId from = kNoLayer;
  {
    const std::lock_guard lock(mutex_);
    from = layer_;
  }
  for (const std::shared_ptr<Layer>& layer : core_.engine.layers().all()) {
    if (layer->id() < from) continue;
    VT_CO_RETURN_IF_ERROR(co_await layer->ensure_index(core_.engine.catalog()));
    const std::lock_guard lock(layer->mutex);
    left_bytes += data_blocks(layer->state.index) * kBlockBytes;
  }
  const std::lock_guard lock(mutex_);
  info_.total_bytes = std::max(info_.total_bytes, left_bytes);
  co_return Status();
}

Task<Status> Scrubber::scrub_layers() {
  VT_CO_RETURN_IF_ERROR(co_await count_total());
  while (!stopping_.load(std::memory_order_acquire)) {
    LayerId from = kNoLayer;
    {
      const std::lock_guard lock(mutex_);
      from = layer_;
    }
    const std::shared_ptr<Layer> layer = next_layer(from);
    if (layer == nullptr) break;
    {
      const std::lock_guard lock(mutex_);
      if (layer->id() != layer_) block_ = 0;
      layer_ = layer->id();
    }
    VT_CO_RETURN_IF_ERROR(co_await scrub_layer(layer));
    if (stopping_.load(std::memory_order_acquire)) break;
    if (layer->id() == UINT32_MAX) break;
    const std::lock_guard lock(mutex_);
    layer_ = layer->id() + 1;
    block_ = 0;
  }
  co_return Status();
}

Task<Status> Scrubber::scrub_layer(std::shared_ptr<Layer> layer) {
  std::uint64_t from_block = 0;
  {
    const std::lock_guard lock(mutex_);
    from_block = block_;
  }
  current_ = layer;
  BlockCheck check;
  check.damaged = [this](std::uint64_t block, std::string_view) { bad_.assign(block, 1, 1); };
  check.step = [this](std::uint64_t bytes, std::uint64_t next_block) {
    return after_step(bytes, next_block);
  };
  const Status checked = co_await check_blocks(core_, layer, from_block, check);
  if (checked.code() == Code::kDamaged) {  // its files are missing or short: none can be read
    const std::lock_guard lock(layer->mutex);
    layer->state.index.for_each_extent([this](const Extent& extent) {
      if (extent.value == kIndexData) bad_.assign(extent.first, extent.count, 1);
    });
  } else {
    VT_CO_RETURN_IF_ERROR(checked);
  }
  co_await keep_findings();
  co_return Status();
}

Task<bool> Scrubber::after_step(std::uint64_t bytes, std::uint64_t next_block) {
  co_await keep_findings();  // before the position is: what was found is not passed over
  std::uint64_t rate_bytes = 0;
  bool save_due = false;
  {
    const std::lock_guard lock(mutex_);
    info_.done_bytes += bytes;
    block_ = next_block;
    rate_bytes = info_.rate_bytes;
    save_due = core_.engine.runtime().monotonic_now() - saved_at_ > kSaveAfter;
  }
  if (save_due) (void)co_await save();
  if (rate_bytes != 0) {
    // In slices, so that a slow scrub, too, stops at once.
    std::chrono::nanoseconds left(bytes * 1'000'000'000ULL / rate_bytes);
    while (left.count() > 0 && !stopping_.load(std::memory_order_acquire)) {
      const std::chrono::nanoseconds slice = std::min(left, kPaceSlice);
      co_await core_.engine.runtime().sleep_for(slice);
      left -= slice;
    }
  }
  co_return !stopping_.load(std::memory_order_acquire);
}

Task<void> Scrubber::keep_findings() {
  if (bad_.empty()) co_return;
  const ExtentMap bad = std::move(bad_);
  std::vector<SeenRun> runs = co_await seen_runs(core_, current_, bad, kFindingsMax);
  const LayerId layer = current_->id();
  const std::lock_guard lock(mutex_);
  info_.bad_blocks += bad.mapped_blocks();
  for (SeenRun& run : runs) {
    ScrubFinding* last = info_.findings.empty() ? nullptr : &info_.findings.back();
    if (last != nullptr && last->layer == layer && last->blocks.end() == run.blocks.first &&
        last->seen_by == run.names) {
      last->blocks.count += run.blocks.count;
    } else if (info_.findings.size() < kFindingsMax) {
      info_.findings.push_back({layer, run.blocks, std::move(run.names)});
    }
  }
}

Task<Status> Scrubber::save() {
  std::string text;
  {
    const std::lock_guard lock(mutex_);
    text = encode(info_, layer_, block_);
    saved_at_ = core_.engine.runtime().monotonic_now();
  }
  if (core_.engine.read_only()) co_return core_.engine.check_writable();
  co_return co_await core_.engine.commit_freeing(
      [&text](CatalogDb& db) { return db.put_setting("scrub", text); });
}

}  // namespace voltree
