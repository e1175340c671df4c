#include "blockstore/runtime/sim_world.h"

#include <sys/mman.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstring>
#include <filesystem>

namespace voltree {
namespace {

constexpr std::uint64_t kPage = SimInode::kPageBytes;

std::uint64_t page_up(std::uint64_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

// Calls visit(page, offset inside it, position in the range, length) for each page that a range
// touches.
template <typename Visit>
void for_each_page(std::uint64_t offset_bytes, std::uint64_t length_bytes, Visit visit) {
  for (std::uint64_t done = 0; done < length_bytes;) {
    const std::uint64_t at = offset_bytes + done;
    const std::uint64_t length = std::min(kPage - at % kPage, length_bytes - done);
    visit(at / kPage, at % kPage, done, length);
    done += length;
  }
}

}  // namespace

std::uint64_t SimPageSet::count(std::uint64_t first, std::uint64_t end) const {
  std::uint64_t found = 0;
  auto at = ranges_.upper_bound(first);
  if (at != ranges_.begin()) --at;
  for (; at != ranges_.end() && at->first < end; ++at) {
    const std::uint64_t from = std::max(first, at->first);
    const std::uint64_t to = std::min(end, at->second);
    if (from < to) found += to - from;
  }
  return found;
}

std::uint64_t SimPageSet::remove(std::uint64_t first, std::uint64_t end) {
  const std::uint64_t found = count(first, end);
  if (found == 0) return 0;
  auto at = ranges_.upper_bound(first);
  if (at != ranges_.begin()) --at;
  while (at != ranges_.end() && at->first < end) {
    const auto [from, to] = *at;
    if (to <= first) {
      ++at;
      continue;
    }
    at = ranges_.erase(at);
    if (from < first) ranges_.emplace(from, first);
    if (to > end) ranges_.emplace(end, to);
  }
  size_ -= found;
  return found;
}

std::uint64_t SimPageSet::add(std::uint64_t first, std::uint64_t end) {
  if (first >= end) return 0;
  const std::uint64_t fresh = end - first - remove(first, end);
  ranges_.emplace(first, end);
  size_ += end - first;
  return fresh;
}

SimInode::~SimInode() {
  *used_pages_ -= pages_.size() + reserved_.size();
  if (region_ != nullptr) ::munmap(region_, region_bytes_);
}

std::byte* SimInode::bytes_of(std::uint64_t page) {
  if ((page + 1) * kPage <= region_bytes_) return region_ + page * kPage;
  const auto found = pages_.find(page);
  return found == pages_.end() || !found->second.own ? nullptr : found->second.own->data();
}

void SimInode::read(std::span<std::byte> out, std::uint64_t offset_bytes) const {
  std::fill(out.begin(), out.end(), std::byte{0});
  if (offset_bytes >= size_bytes_) return;
  const std::uint64_t length = std::min<std::uint64_t>(out.size(), size_bytes_ - offset_bytes);
  for_each_page(offset_bytes, length, [&](auto page, auto inside, auto done, auto count) {
    // A mapping may have stored to a page that was never reserved: the region is read as it is.
    if ((page + 1) * kPage <= region_bytes_) {
      std::memcpy(out.data() + done, region_ + page * kPage + inside, count);
    } else if (const auto found = pages_.find(page); found != pages_.end()) {
      if (found->second.own) {
        std::memcpy(out.data() + done, found->second.own->data() + inside, count);
      }
    }
  });
}

std::uint64_t SimInode::seek_data(std::uint64_t offset_bytes) const {
  for (auto at = pages_.lower_bound(offset_bytes / kPage); at != pages_.end(); ++at) {
    if (!at->second.written) continue;
    return std::min(std::max(offset_bytes, at->first * kPage), size_bytes_);
  }
  return size_bytes_;
}

std::uint64_t SimInode::seek_hole(std::uint64_t offset_bytes) const {
  std::uint64_t page = offset_bytes / kPage;
  for (auto at = pages_.lower_bound(page); at != pages_.end(); ++at, ++page) {
    if (at->first != page || !at->second.written) break;
  }
  return std::min(std::max(offset_bytes, page * kPage), size_bytes_);
}

Status SimInode::map(std::uint64_t reserve_bytes) {
  constexpr std::uint64_t kLeastBytes = std::uint64_t{1} << 20;
  const std::uint64_t wanted = page_up(std::max(reserve_bytes, kLeastBytes));
  if (wanted > region_bytes_) {
    if (mappings_ != 0) {
      return error(Code::kNotSupported, "simulator: mapped already, and with a smaller reserve");
    }
    void* const range = ::mmap(nullptr, wanted, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (range == MAP_FAILED) return Status::from_errno(errno, "simulator: mmap");
    auto* const region = static_cast<std::byte*>(range);
    for (auto& [number, page] : pages_) {
      if ((number + 1) * kPage > wanted) break;
      if (const std::byte* const bytes = bytes_of(number)) {
        std::memcpy(region + number * kPage, bytes, kPage);
      }
      page.own.reset();
    }
    if (region_ != nullptr) ::munmap(region_, region_bytes_);
    region_ = region;
    region_bytes_ = wanted;
  }
  ++mappings_;
  return {};
}

SimInode::Page& SimInode::make_page(std::uint64_t number) {
  const auto [at, fresh] = pages_.try_emplace(number);
  Page& page = at->second;
  if (fresh && reserved_.remove(number, number + 1) == 0) ++*used_pages_;
  return page;
}

std::byte* SimInode::make_bytes(std::uint64_t number) {
  Page& page = make_page(number);
  page.written = true;
  if ((number + 1) * kPage <= region_bytes_) return region_ + number * kPage;
  if (!page.own) page.own = std::make_unique<PageBytes>();
  return page.own->data();
}

std::uint64_t SimInode::missing_pages(std::uint64_t offset_bytes,
                                      std::uint64_t length_bytes) const {
  if (length_bytes == 0) return 0;
  const std::uint64_t first = offset_bytes / kPage;
  const std::uint64_t end = (offset_bytes + length_bytes - 1) / kPage + 1;
  const auto present = std::distance(pages_.lower_bound(first), pages_.lower_bound(end));
  return end - first - static_cast<std::uint64_t>(present) - reserved_.count(first, end);
}

void SimInode::write(std::span<const std::byte> data, std::uint64_t offset_bytes) {
  for_each_page(offset_bytes, data.size(), [&](auto number, auto inside, auto done, auto count) {
    std::memcpy(make_bytes(number) + inside, data.data() + done, count);
  });
  if (!data.empty()) size_bytes_ = std::max(size_bytes_, offset_bytes + data.size());
}

void SimInode::allocate(std::uint64_t offset_bytes, std::uint64_t length_bytes, bool as_written) {
  if (length_bytes == 0) return;
  if (as_written) {
    for_each_page(offset_bytes, length_bytes,
                  [&](auto number, auto, auto, auto) { make_page(number).written = true; });
    return;
  }
  std::uint64_t from = offset_bytes / kPage;
  const std::uint64_t end = page_up(offset_bytes + length_bytes) / kPage;
  for (auto at = pages_.lower_bound(from); at != pages_.end() && at->first < end; ++at) {
    *used_pages_ += reserved_.add(from, at->first);
    from = at->first + 1;
  }
  *used_pages_ += reserved_.add(from, end);
}

void SimInode::drop_page(std::uint64_t number) {
  if ((number + 1) * kPage <= region_bytes_) std::memset(region_ + number * kPage, 0, kPage);
  *used_pages_ -= pages_.erase(number);
  cached_.erase(number);
}

void SimInode::punch(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
  const std::uint64_t end = offset_bytes + length_bytes;
  // The edges are zeroed in place, where there is anything.
  const auto zero = [&](std::uint64_t from, std::uint64_t to) {
    for_each_page(from, to - from, [&](auto number, auto inside, auto, auto count) {
      if (std::byte* const bytes = bytes_of(number)) std::memset(bytes + inside, 0, count);
    });
  };
  const std::uint64_t first = page_up(offset_bytes);
  const std::uint64_t last = end >= size_bytes_ ? page_up(end) : end / kPage * kPage;
  if (first >= last) {
    zero(offset_bytes, end);
    return;
  }
  zero(offset_bytes, first);
  if (end > last) zero(last, end);
  // Only the pages that are there, or were touched through a mapping: a punch may span terabytes.
  std::vector<std::uint64_t> drop;
  for (auto at = pages_.lower_bound(first / kPage); at != pages_.end() && at->first < last / kPage;
       ++at) {
    drop.push_back(at->first);
  }
  for (auto at = cached_.lower_bound(first / kPage); at != cached_.end() && *at < last / kPage;
       ++at) {
    drop.push_back(*at);
  }
  for (const std::uint64_t number : drop) drop_page(number);
  *used_pages_ -= reserved_.remove(first / kPage, last / kPage);
}

void SimInode::truncate(std::uint64_t size_bytes) {
  if (size_bytes < size_bytes_) {
    const std::uint64_t old_end = page_up(size_bytes_);
    punch(size_bytes, old_end - size_bytes);
    for (auto at = pages_.lower_bound(old_end / kPage); at != pages_.end();) {
      const std::uint64_t number = (at++)->first;
      drop_page(number);
    }
    *used_pages_ -= reserved_.remove(old_end / kPage, std::numeric_limits<std::uint64_t>::max());
  }
  size_bytes_ = size_bytes;
}

void SimInode::restore_page(std::uint64_t page, const std::byte* bytes, bool written) {
  if (bytes != nullptr) std::memcpy(make_bytes(page), bytes, kPage);
  make_page(page).written = written;
}

void SimInode::revert_page(std::uint64_t page, const std::byte* bytes, bool written) {
  if (bytes == nullptr) {
    if (std::byte* const now = bytes_of(page)) std::memset(now, 0, kPage);
    make_page(page).written = written;
  } else {
    restore_page(page, bytes, written);
  }
  forget_stores(page * kPage, kPage);
}

std::vector<std::uint64_t> SimInode::page_numbers() const {
  std::vector<std::uint64_t> numbers;
  for (const auto& [number, page] : pages_) numbers.push_back(number);
  return numbers;
}

void SimInode::log_stores(SimLog& log) {
  for (const std::uint64_t page : cached_) {
    const std::byte* const now = region_ + page * kPage;
    std::unique_ptr<PageBytes>& seen = seen_[page];
    if (!seen) seen = std::make_unique<PageBytes>(PageBytes{});
    if (std::memcmp(seen->data(), now, kPage) == 0) continue;
    std::memcpy(seen->data(), now, kPage);
    log.push_back(
        {SimEvent::Kind::kMappedPage, id_, page * kPage, kPage, {now, now + kPage}, {}, {}});
  }
}

void SimInode::forget_stores(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
  for_each_page(offset_bytes, length_bytes, [&](auto page, auto, auto, auto) {
    if ((page + 1) * kPage > region_bytes_) return;
    std::unique_ptr<PageBytes>& seen = seen_[page];
    if (!seen) seen = std::make_unique<PageBytes>();
    std::memcpy(seen->data(), region_ + page * kPage, kPage);
  });
}

SimWorld::SimWorld(SimWorldOptions options) : options_(options), dirs_{"/", "."} {}

std::string SimWorld::normal(const std::string& path) {
  // Most are: asked for each call of a simulation.
  const bool is_normal = !path.empty() && path != "." && path.back() != '/' &&
                         path.find("//") == std::string::npos && path[0] != '.' &&
                         path.find("/.") == std::string::npos;
  if (is_normal) return path;
  std::string out = std::filesystem::path(path).lexically_normal().string();
  while (out.size() > 1 && out.back() == '/') out.pop_back();
  return out.empty() ? "." : out;
}

std::string SimWorld::parent_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

std::string SimWorld::path_of(const SimInode& inode) const {
  for (const auto& [path, there] : files_) {
    if (there.get() == &inode) return path;
  }
  return "(unlinked)";
}

std::uint64_t SimWorld::links(const SimInode& inode) const {
  return static_cast<std::uint64_t>(
      std::count_if(files_.begin(), files_.end(),
                    [&inode](const auto& entry) { return entry.second.get() == &inode; }));
}

SimFault SimWorld::fault_at(const SimCall& call) const {
  if (halted_) return {error(Code::kIoError, "simulator: the process is dead"), 0};
  const bool asks = call.act == SimAct::kRead || call.act == SimAct::kOpen ||
                    call.act == SimAct::kAsk || call.act == SimAct::kSync ||
                    call.act == SimAct::kSyncDir;
  if (read_only_ && !asks) return {refused(call.path), 0};
  return fault_ ? fault_(call) : SimFault();
}

Status SimWorld::refused(const std::string& path) {
  return error(Code::kReadOnly, "{}: read-only file system", path);
}

Status SimWorld::check(SimAct act, SimInode& inode) const {
  if (!halted_ && !fault_ && !read_only_) return {};  // the path is looked for
  return fault_at({act, path_of(inode), &inode}).status;
}

Status SimWorld::check(SimAct act, const std::string& path) const {
  return fault_at({act, path}).status;
}

void SimWorld::log_stores() {
  if (log_ == nullptr) return;
  for (const auto& [path, inode] : files_) {
    if (!inode->cached_.empty()) inode->log_stores(*log_);
  }
}

Status SimWorld::sync(SimInode& inode, std::uint64_t offset_bytes, std::uint64_t length_bytes) {
  if (halted_) return fault_at({}).status;
  log_stores();
  Status status = check(SimAct::kSync, inode);
  if (log_ != nullptr) {
    const auto kind = !status.ok()        ? SimEvent::Kind::kSyncFailed
                      : length_bytes == 0 ? SimEvent::Kind::kSyncFile
                                          : SimEvent::Kind::kSyncRange;
    log_->push_back({kind, inode.id(), offset_bytes, length_bytes, {}, {}, {}});
  }
  return status;
}

Status SimWorld::sync_dir(const std::string& path) {
  log_stores();
  VT_RETURN_IF_ERROR(check(SimAct::kSyncDir, path));
  if (!dirs_.contains(path)) return error(Code::kNotFound, "{}: no such folder", path);
  if (log_ != nullptr) log_->push_back({SimEvent::Kind::kSyncDir, 0, 0, 0, {}, path, {}});
  return {};
}

Status SimWorld::apply(SimInode& inode, const SimMutation& mutation) {
  if (!halted_ && !fault_ && !read_only_) return change(inode, mutation);
  constexpr SimAct kActs[] = {SimAct::kWrite, SimAct::kAllocate, SimAct::kAllocate, SimAct::kPunch,
                              SimAct::kTruncate};
  const SimFault fault = fault_at({kActs[static_cast<std::size_t>(mutation.kind)], path_of(inode),
                                   &inode, mutation.length_bytes});
  const std::uint64_t first = std::min(fault.first_bytes, mutation.length_bytes);
  if (mutation.kind != SimMutation::Kind::kWrite || first == 0) {
    return fault.status.ok() ? change(inode, mutation) : fault.status;
  }
  SimMutation part = mutation;
  part.length_bytes = first;
  VT_RETURN_IF_ERROR(change(inode, part));
  VT_RETURN_IF_ERROR(fault.status);
  part = mutation;
  part.offset_bytes += first;
  part.length_bytes -= first;
  part.data += first;
  return change(inode, part);
}

Status SimWorld::change(SimInode& inode, const SimMutation& mutation) {
  using Kind = SimMutation::Kind;
  const std::uint64_t offset = mutation.offset_bytes;
  const std::uint64_t length = mutation.length_bytes;
  if (offset > options_.file_size_max_bytes || length > options_.file_size_max_bytes - offset) {
    if (mutation.kind == Kind::kPunch) return {};
    return error(Code::kTooLarge, "simulator: {} + {} is beyond the largest file", offset, length);
  }
  const bool takes_space = mutation.kind == Kind::kWrite || mutation.kind == Kind::kAllocate ||
                           mutation.kind == Kind::kPopulate;
  if (takes_space) {
    const std::uint64_t wanted = inode.missing_pages(offset, length);
    const std::uint64_t capacity = options_.capacity_bytes / kPage;
    if (wanted != 0 && (*used_pages_ > capacity || wanted > capacity - *used_pages_)) {
      return error(Code::kNoSpace, "simulator: {} pages do not fit", wanted);
    }
  }
  log_stores();
  if (log_ != nullptr) {
    SimEvent event{
        static_cast<SimEvent::Kind>(mutation.kind), inode.id(), offset, length, {}, {}, {}};
    if (mutation.data != nullptr) event.data.assign(mutation.data, mutation.data + length);
    log_->push_back(std::move(event));
  }
  switch (mutation.kind) {
    case Kind::kWrite:
      inode.write({mutation.data, length}, offset);
      break;
    case Kind::kAllocate:
    case Kind::kPopulate:
      inode.allocate(offset, length, mutation.kind == Kind::kPopulate);
      break;
    case Kind::kPunch:
      inode.punch(offset, length);
      break;
    case Kind::kTruncate:
      inode.truncate(offset);
      break;
  }
  if (log_ != nullptr && inode.region() != nullptr) {
    inode.forget_stores(offset, mutation.kind == Kind::kTruncate
                                    ? inode.region_bytes_ - std::min(offset, inode.region_bytes_)
                                    : length);
  }
  return {};
}

Status SimWorld::check_parent(const std::string& path) const {
  const std::string parent = parent_of(path);
  if (dirs_.contains(parent)) return {};
  return error(Code::kNotFound, "{}: no such folder", parent);
}

Status SimWorld::apply_name(const SimNameMutation& mutation) {
  constexpr SimAct kActs[] = {SimAct::kCreate, SimAct::kUnlink, SimAct::kRename, SimAct::kLink,
                              SimAct::kMakeDir};
  VT_RETURN_IF_ERROR(check(kActs[static_cast<std::size_t>(mutation.kind)], mutation.path));
  log_stores();
  VT_RETURN_IF_ERROR(change_name(mutation));
  if (log_ == nullptr) return {};
  using Kind = SimNameMutation::Kind;
  constexpr SimEvent::Kind kKinds[] = {SimEvent::Kind::kCreate, SimEvent::Kind::kUnlink,
                                       SimEvent::Kind::kRename, SimEvent::Kind::kLink,
                                       SimEvent::Kind::kMakeDir};
  SimEvent event{
      kKinds[static_cast<std::size_t>(mutation.kind)], 0, 0, 0, {}, mutation.path, mutation.to};
  const auto there = files_.find(mutation.kind == Kind::kRename ? mutation.to : mutation.path);
  if (there != files_.end()) event.inode = there->second->id();
  log_->push_back(std::move(event));
  return {};
}

std::shared_ptr<SimInode> SimWorld::restore_file(const std::string& path, std::uint32_t id) {
  auto inode = std::make_shared<SimInode>(used_pages_, id);
  next_inode_ = std::max(next_inode_, id + 1);
  files_[path] = inode;
  return inode;
}

Status SimWorld::change_name(const SimNameMutation& mutation) {
  using Kind = SimNameMutation::Kind;
  const std::string& path = mutation.path;
  switch (mutation.kind) {
    case Kind::kCreate:
      VT_RETURN_IF_ERROR(check_parent(path));
      assert(!files_.contains(path) && !dirs_.contains(path));
      files_.emplace(path, std::make_shared<SimInode>(used_pages_, next_inode_++));
      return {};
    case Kind::kUnlink:
      if (dirs_.contains(path)) return error(Code::kIoError, "{}: is a folder", path);
      if (files_.erase(path) == 0) return error(Code::kNotFound, "{}: no such file", path);
      return {};
    case Kind::kRename: {
      VT_RETURN_IF_ERROR(check_parent(mutation.to));
      const auto from = files_.find(path);
      if (from == files_.end()) return error(Code::kNotFound, "{}: no such file", path);
      if (dirs_.contains(mutation.to)) return error(Code::kExists, "{}: is a folder", mutation.to);
      std::shared_ptr<SimInode> inode = from->second;
      files_.erase(from);
      files_[mutation.to] = std::move(inode);
      return {};
    }
    case Kind::kLink:
      VT_RETURN_IF_ERROR(check_parent(path));
      if (files_.contains(path) || dirs_.contains(path)) {
        return error(Code::kExists, "{}: exists", path);
      }
      files_[path] = mutation.inode;
      return {};
    case Kind::kMakeDir:
      if (dirs_.contains(path)) return {};
      if (files_.contains(path)) return error(Code::kExists, "{}: is a file", path);
      VT_RETURN_IF_ERROR(check_parent(path));
      dirs_.insert(path);
      return {};
  }
  return {};
}

Result<std::shared_ptr<SimInode>> SimWorld::find(const std::string& path) const {
  const auto found = files_.find(path);
  if (found == files_.end()) return error(Code::kNotFound, "{}: no such file", path);
  return found->second;
}

bool SimWorld::is_dir(const std::string& path) const { return dirs_.contains(path); }

Result<std::vector<std::string>> SimWorld::list(const std::string& path) const {
  if (!dirs_.contains(path)) return error(Code::kNotFound, "{}: no such folder", path);
  std::vector<std::string> names;
  const auto add = [&](const std::string& candidate) {
    if (candidate == path || candidate == "." || candidate == "/") return;
    if (parent_of(candidate) == path) names.push_back(candidate.substr(candidate.rfind('/') + 1));
  };
  for (const auto& [name, inode] : files_) add(name);
  for (const std::string& name : dirs_) add(name);
  std::sort(names.begin(), names.end());
  return names;
}

void SimWorld::reboot() {
  ++boot_count_;
  for (const auto& [path, inode] : files_) inode->drop_cache();
}

}  // namespace voltree
