// The pool guard's settings, the space that is promised to volumes, and looking at the host for
// both.
#include <charconv>

#include "blockstore/store_core.h"

namespace voltree {
namespace {

struct GuardSetting {
  const char* key;
  std::uint64_t GuardSettings::*value;
};
constexpr GuardSetting kSettings[] = {
    {"guard_warn_free_bytes", &GuardSettings::warn_free_bytes},
    {"guard_stop_free_bytes", &GuardSettings::stop_free_bytes},
    {"guard_overprovision_percent", &GuardSettings::overprovision_percent},
};

}  // namespace

Result<GuardSettings> read_guard_settings(CatalogDb& db) {
  GuardSettings settings;
  for (const GuardSetting& setting : kSettings) {
    VT_ASSIGN_OR_RETURN(const auto text, db.setting(setting.key));
    if (!text) continue;
    std::uint64_t& value = settings.*setting.value;
    const auto [end, bad] = std::from_chars(text->data(), text->data() + text->size(), value);
    if (bad != std::errc() || end != text->data() + text->size()) {
      return error(Code::kDamaged, "the catalog's setting {} is {}, no number", setting.key,
                   quoted(*text));
    }
  }
  return settings;
}

// What the volume has allocated for itself counts as part of what it was promised.
std::uint64_t StoreCore::promise_left(VolumeId volume) {
  const auto promised = reserves.find(volume);
  const auto row = volumes.find(volume);
  if (promised == reserves.end() || row == volumes.end()) return 0;
  const Lineage::Node* head = lineage.find(row->second.head);
  if (head == nullptr) return 0;
  std::uint64_t used_bytes = 0;
  for (const LayerId id : head->owned) {
    const std::shared_ptr<Layer> layer = engine.layers().find(id);
    if (layer == nullptr) continue;
    const std::lock_guard layer_lock(layer->mutex);
    used_bytes += layer->state.index.mapped_blocks() * kBlockBytes;
  }
  return promised->second - std::min(promised->second, used_bytes);
}

Task<Status> StoreCore::look_at_host() {
  std::vector<std::shared_ptr<Layer>> layers;  // those whose indexes tell what is used
  {
    const std::lock_guard guard(state_mutex);
    for (const auto& entry : reserves) {
      const auto row = volumes.find(entry.first);
      const Lineage::Node* head = row == volumes.end() ? nullptr : lineage.find(row->second.head);
      if (head == nullptr) continue;
      for (const LayerId id : head->owned) layers.push_back(engine.layers().find(id));
    }
  }
  for (const std::shared_ptr<Layer>& layer : layers) {
    if (layer != nullptr) VT_CO_RETURN_IF_ERROR(co_await layer->ensure_index(engine.catalog()));
  }
  Result<FsSpace> found = FsSpace{};
  VT_CO_RETURN_IF_ERROR(co_await engine.runtime().run_blocking([&]() -> Status {
    found = engine.runtime().fs().space(engine.directory());
    return found.status();
  }));
  const std::lock_guard guard(state_mutex);
  std::uint64_t promised_bytes = 0;
  for (const auto& entry : reserves) {
    const std::uint64_t left_bytes = promise_left(entry.first);
    promised_bytes += left_bytes;
    const std::shared_ptr<Volume> open = open_volume_locked(volumes.at(entry.first).head);
    if (open != nullptr) open->set_promise_left(left_bytes);
  }
  host_total_bytes = found->total_bytes;
  host_free_bytes = found->free_bytes;
  host_promised_bytes = promised_bytes;
  engine.guard().set(guard_settings, found->free_bytes, promised_bytes);
  co_return Status();
}

// Under state_mutex, after a look.
GuardState StoreCore::guard_state() const {
  if (guard_settings.stop_free_bytes != 0 && host_free_bytes < guard_settings.stop_free_bytes) {
    return GuardState::kStop;
  }
  if (host_free_bytes < PoolGuard::kFullBytes) return GuardState::kFull;
  return host_free_bytes < guard_settings.warn_free_bytes ? GuardState::kWarn : GuardState::kRoom;
}

// Whether volumes may be larger by `more_bytes` together.
Task<Status> StoreCore::check_provision(std::uint64_t more_bytes) {
  VT_CO_RETURN_IF_ERROR(co_await engine.check_reserve());
  {
    const std::lock_guard guard(state_mutex);
    if (guard_settings.stop_free_bytes == 0 && guard_settings.overprovision_percent == 0)
      co_return Status();
  }
  VT_CO_RETURN_IF_ERROR(co_await look_at_host());
  const std::lock_guard guard(state_mutex);
  if (guard_state() == GuardState::kStop) {
    co_return error(Code::kNoSpace,
                    "the host has {} free, the pool guard stops below {}: delete something, or "
                    "change it with \"voltree guard --stop\"",
                    format_size(host_free_bytes), format_size(guard_settings.stop_free_bytes));
  }
  if (guard_settings.overprovision_percent == 0) co_return Status();
  // In 100ths, so that it cannot overflow for any host.
  const std::uint64_t bound_bytes = host_total_bytes / 100 * guard_settings.overprovision_percent;
  std::uint64_t all_bytes = more_bytes;
  for (const auto& entry : lineage.nodes()) {
    if (entry.second.row.kind == NodeKind::kHead) all_bytes += entry.second.row.size_bytes;
  }
  if (all_bytes <= bound_bytes) co_return Status();
  co_return error(Code::kNoSpace,
                  "all volumes together would have {}, and may have {}: {} % of the host's {} "
                  "(\"voltree guard --overprovision\")",
                  format_size(all_bytes), format_size(bound_bytes),
                  guard_settings.overprovision_percent, format_size(host_total_bytes));
}

Task<Status> Store::set_guard(GuardSettings settings) {
  StoreCore& core = *core_;
  const AsyncMutex::Guard guard = co_await core.ops_mutex.lock();
  VT_CO_RETURN_IF_ERROR(core.engine.check_writable());
  constexpr std::uint64_t kPercentMax = 1'000'000;
  if (settings.overprovision_percent > kPercentMax) {
    co_return error(Code::kInvalid, "over-provisioning is in percent, at most {}", kPercentMax);
  }
  if (settings.warn_free_bytes > INT64_MAX || settings.stop_free_bytes > INT64_MAX) {
    co_return error(Code::kInvalid, "a level is at most {}", format_size(INT64_MAX));
  }
  VT_CO_RETURN_IF_ERROR(co_await core.engine.commit([&settings](CatalogDb& db) -> Status {
    for (const GuardSetting& setting : kSettings) {
      const std::string value = std::to_string(settings.*setting.value);
      VT_RETURN_IF_ERROR(db.put_setting(setting.key, value));
    }
    return {};
  }));
  {
    const std::lock_guard lock(core.state_mutex);
    core.guard_settings = settings;
  }
  co_return co_await core.look_at_host();
}

Task<Status> Store::set_reserve(std::string volume, std::uint64_t reserve_bytes) {
  StoreCore& core = *core_;
  const AsyncMutex::Guard guard = co_await core.ops_mutex.lock();
  VT_CO_RETURN_IF_ERROR(core.engine.check_writable());
  VolumeId id = 0;
  std::uint64_t before_bytes = 0;
  {
    const std::lock_guard lock(core.state_mutex);
    VT_CO_ASSIGN_OR_RETURN(const NodeRow head, core.find_head(volume));
    if (reserve_bytes > head.size_bytes) {
      co_return error(Code::kInvalid, "{} has {}: it can not use a reserve of {}", quoted(volume),
                      format_size(head.size_bytes), format_size(reserve_bytes));
    }
    id = head.volume;
    if (const auto found = core.reserves.find(id); found != core.reserves.end()) {
      before_bytes = found->second;
    }
    core.put_reserve(id, reserve_bytes);
  }
  Status done = co_await core.look_at_host();
  if (done.ok()) {
    const std::lock_guard lock(core.state_mutex);
    const std::uint64_t stop_bytes = core.guard_settings.stop_free_bytes;
    if (reserve_bytes > before_bytes &&
        core.host_promised_bytes + stop_bytes > core.host_free_bytes) {
      done = error(Code::kNoSpace, "the host has {} free, and {} of it would be promised",
                   format_size(core.host_free_bytes), format_size(core.host_promised_bytes));
    }
  }
  if (done.ok()) {
    done = co_await core.engine.commit(
        [&](CatalogDb& db) { return db.put_volume_reserve(id, reserve_bytes); });
  }
  if (done.ok()) co_return done;
  {
    const std::lock_guard lock(core.state_mutex);
    core.put_reserve(id, before_bytes);
  }
  (void)co_await core.look_at_host();
  co_return done;
}

// Under state_mutex. An open volume hears of what it has left from the next look.
void StoreCore::put_reserve(VolumeId volume, std::uint64_t reserve_bytes) {
  if (reserve_bytes != 0) {
    reserves[volume] = reserve_bytes;
    return;
  }
  reserves.erase(volume);
  const auto row = volumes.find(volume);
  if (row == volumes.end()) return;
  if (const std::shared_ptr<Volume> open = open_volume_locked(row->second.head))
    open->set_promise_left(0);
}

}  // namespace voltree
