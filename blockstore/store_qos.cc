// Settings of volumes: limits, kept in the catalog and held to by the open volume's throttle; and
// notes.
#include "blockstore/store_core.h"

namespace voltree {

QosLimits StoreCore::limits_of(const NodeRow& node) const {
  if (node.kind != NodeKind::kHead) return {};
  const auto found = limits.find(node.volume);
  return found == limits.end() ? QosLimits() : found->second;
}

VolumeSettings StoreCore::settings_of(const NodeRow& head) const {
  VolumeSettings settings;
  settings.erase_policy = volumes.at(head.volume).erase_policy;
  settings.limits = limits_of(head);
  if (const auto noted = notes.find(head.volume); noted != notes.end()) {
    settings.notes = noted->second;
  }
  if (const auto reserve = reserves.find(head.volume); reserve != reserves.end()) {
    settings.reserve_bytes = reserve->second;
  }
  return settings;
}

// (The erase policy is in the volume's row.)
void StoreCore::put_settings(VolumeId volume, const VolumeSettings& settings) {
  if (!settings.limits.empty()) limits[volume] = settings.limits;
  if (!settings.notes.empty()) notes[volume] = settings.notes;
  put_reserve(volume, settings.reserve_bytes);
}

Status StoreCore::load_limits(const std::vector<VolumeLimitRow>& rows) {
  for (const VolumeLimitRow& row : rows) {
    // A key that is not known here is one of a later version's: the feature is compatible.
    if (!is_qos_key(row.key)) continue;
    const Status set = limits[row.volume].set(row.key, row.value);
    if (!set.ok()) {
      return error(Code::kDamaged, "catalog: table volume_limit, volume {}: {}", row.volume,
                   set.message());
    }
  }
  return {};
}

Result<NodeRow> StoreCore::find_head(const std::string& volume) const {
  VT_RETURN_IF_ERROR(check_name(volume));
  VT_ASSIGN_OR_RETURN(const NodeId id, resolve(NodeName{volume, ""}));
  return lineage.find(id)->row;
}

Task<Status> Store::set_qos(std::string volume, QosLimits limits) {
  StoreCore& core = *core_;
  const AsyncMutex::Guard guard = co_await core.ops_mutex.lock();
  VT_CO_RETURN_IF_ERROR(core.engine.check_writable());
  VT_CO_RETURN_IF_ERROR(limits.check());
  NodeRow head;
  {
    const std::lock_guard lock(core.state_mutex);
    VT_CO_ASSIGN_OR_RETURN(head, core.find_head(volume));
  }
  std::vector<VolumeLimitRow> rows;
  for (const auto& [key, value] : limits.entries()) rows.push_back({head.volume, key, value});
  const Status committed = co_await core.engine.commit(
      [&](CatalogDb& db) { return db.put_volume_limits(head.volume, rows); });
  if (!committed.ok()) {
    co_return committed;
  }
  std::shared_ptr<Volume> open;
  {
    const std::lock_guard lock(core.state_mutex);
    if (limits.empty()) {
      core.limits.erase(head.volume);
    } else {
      core.limits[head.volume] = limits;
    }
    const auto found = core.devices.find(head.id);
    if (found != core.devices.end() && !core.limits_lifted) open = found->second;
  }
  if (open != nullptr) open->set_qos(limits);
  co_return Status();
}

Task<Result<QosInfo>> Store::qos(std::string volume) {
  const StoreCore& core = *core_;
  QosInfo info;
  const std::lock_guard lock(core.state_mutex);
  VT_CO_ASSIGN_OR_RETURN(const NodeRow head, core.find_head(volume));
  info.limits = core.limits_of(head);
  info.effective = resolve_qos(info.limits, head.size_bytes);
  if (const auto open = core.devices.find(head.id); open != core.devices.end()) {
    info.waiting = open->second->throttle().waiting();
    info.delayed = open->second->throttle().delayed();
  }
  co_return info;
}

Task<Status> Store::set_notes(std::string volume, VolumeNotes notes) {
  StoreCore& core = *core_;
  const AsyncMutex::Guard guard = co_await core.ops_mutex.lock();
  VT_CO_RETURN_IF_ERROR(core.engine.check_writable());
  NodeRow head;
  {
    const std::lock_guard lock(core.state_mutex);
    VT_CO_ASSIGN_OR_RETURN(head, core.find_head(volume));
  }
  VT_CO_RETURN_IF_ERROR(check_notes(notes));
  std::vector<VolumeNoteRow> rows;
  for (const auto& [key, text] : notes) rows.push_back({head.volume, key, text});
  const Status committed = co_await core.engine.commit(
      [&](CatalogDb& db) { return db.put_volume_notes(head.volume, rows); });
  if (!committed.ok()) {
    co_return committed;
  }
  const std::lock_guard lock(core.state_mutex);
  if (notes.empty()) {
    core.notes.erase(head.volume);
  } else {
    core.notes[head.volume] = std::move(notes);
  }
  co_return Status();
}

Task<void> Store::lift_limits() {
  StoreCore& core = *core_;
  // After a change of limits that is under way.
  const AsyncMutex::Guard guard = co_await core.ops_mutex.lock();
  std::vector<std::shared_ptr<Volume>> open;
  {
    const std::lock_guard lock(core.state_mutex);
    core.limits_lifted = true;
    for (const auto& entry : core.devices) open.push_back(entry.second);
  }
  for (const std::shared_ptr<Volume>& volume : open) volume->set_qos({});
}

}  // namespace voltree
