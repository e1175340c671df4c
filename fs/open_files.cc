#include "fs/open_files.h"

namespace voltree {

std::shared_ptr<OpenNode> OpenFiles::find(std::uint64_t ino) {
  std::lock_guard lock(mutex_);
  const auto at = nodes_.find(ino);
  return at == nodes_.end() ? nullptr : at->second.lock();
}

std::shared_ptr<OpenNode> OpenFiles::add_node(std::shared_ptr<OpenNode> node) {
  std::lock_guard lock(mutex_);
  std::weak_ptr<OpenNode>& known = nodes_[node->ino()];
  if (std::shared_ptr<OpenNode> other = known.lock()) return other;
  known = node;
  return node;
}

std::uint64_t OpenFiles::add_handle(std::shared_ptr<Handle> handle) {
  const auto fh = reinterpret_cast<std::uint64_t>(handle.get());
  std::lock_guard lock(mutex_);
  handle->order = ++opened_;
  handles_.emplace(fh, std::move(handle));
  return fh;
}

std::shared_ptr<OpenNode> OpenFiles::last_read_by(std::int32_t opener) {
  std::lock_guard lock(mutex_);
  const Handle* last = nullptr;
  for (const auto& [fh, handle] : handles_) {
    if (handle->opener != opener || handle->writable) continue;
    if (last == nullptr || handle->order > last->order) last = handle.get();
  }
  return last == nullptr ? nullptr : last->node;
}

std::shared_ptr<Handle> OpenFiles::remove_handle(std::uint64_t fh) {
  std::lock_guard lock(mutex_);
  const auto at = handles_.find(fh);
  if (at == handles_.end()) return nullptr;
  std::shared_ptr<Handle> handle = std::move(at->second);
  handles_.erase(at);
  std::erase_if(nodes_, [](const auto& entry) { return entry.second.expired(); });
  return handle;
}

std::vector<std::shared_ptr<Handle>> OpenFiles::take_all() {
  std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<Handle>> all;
  all.reserve(handles_.size());
  for (auto& [fh, handle] : handles_) all.push_back(std::move(handle));
  handles_.clear();
  return all;
}

}  // namespace voltree
