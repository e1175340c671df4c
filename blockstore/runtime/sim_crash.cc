#include "blockstore/runtime/sim_crash.h"

#include <algorithm>
#include <cstring>

#include "blockstore/base/checksum.h"

namespace voltree {
namespace {

constexpr std::uint64_t kPage = SimInode::kPageBytes;

std::uint64_t combine(std::uint64_t digest, std::uint64_t value) {
  digest ^= value + 0x9E3779B97F4A7C15 + (digest << 6) + (digest >> 2);
  return digest * 0xBF58476D1CE4E5B9;
}

std::uint64_t digest_of(std::span<const std::byte> bytes) { return block_checksum(bytes); }

std::uint64_t digest_of(const std::string& text) {
  return block_checksum(std::as_bytes(std::span(text)));
}

}  // namespace

void SimImage::put(Inode& inode, std::uint64_t number, std::uint64_t inside,
                   std::span<const std::byte> bytes) {
  Page& page = inode.pages[number];
  inode.reserved.remove(number, number + 1);
  auto changed = page.bytes ? std::make_shared<PageBytes>(*page.bytes)
                            : std::make_shared<PageBytes>(PageBytes{});
  std::memcpy(changed->data() + inside, bytes.data(), bytes.size());
  page.digest = digest_of(*changed);
  page.bytes = std::move(changed);
  page.written = true;
}

void SimImage::write(Inode& inode, const SimEvent& event, std::uint64_t sectors) {
  const std::span<const std::byte> data(event.data);
  const std::uint64_t first = event.offset_bytes / kSectorBytes;
  for (std::uint64_t done = 0; done < data.size();) {
    const std::uint64_t at = event.offset_bytes + done;
    const bool torn = sectors != ~std::uint64_t{0};
    const std::uint64_t unit = torn ? kSectorBytes : kPage;
    const std::uint64_t length = std::min<std::uint64_t>(unit - at % unit, data.size() - done);
    if (!torn || (sectors >> ((at / kSectorBytes - first) % 64) & 1) != 0) {
      put(inode, at / kPage, at % kPage, data.subspan(done, length));
    }
    done += length;
  }
  if (!data.empty()) {
    inode.size_bytes = std::max(inode.size_bytes, event.offset_bytes + data.size());
  }
}

void SimImage::punch(Inode& inode, std::uint64_t offset_bytes, std::uint64_t length_bytes) {
  const std::uint64_t end = offset_bytes + length_bytes;
  const std::uint64_t last = end >= inode.size_bytes ? (end + kPage - 1) / kPage : end / kPage;
  const std::uint64_t first = (offset_bytes + kPage - 1) / kPage;
  if (first < last) inode.reserved.remove(first, last);
  const auto begin = inode.pages.lower_bound(offset_bytes / kPage);
  for (auto at = begin; at != inode.pages.end() && at->first * kPage < end;) {
    const std::uint64_t from = std::max(offset_bytes, at->first * kPage);
    const std::uint64_t to = std::min(end, (at->first + 1) * kPage);
    // Whatever is past the end of the file is gone with it.
    if (from == at->first * kPage && (to - from == kPage || to >= inode.size_bytes)) {
      at = inode.pages.erase(at);
      continue;
    }
    if (at->second.bytes) {
      const bool written = at->second.written;
      put(inode, at->first, from % kPage, std::vector<std::byte>(to - from));
      at->second.written = written;
    }
    ++at;
  }
}

void SimImage::apply(const SimEvent& event, std::uint64_t sectors) {
  using Kind = SimEvent::Kind;
  switch (event.kind) {
    case Kind::kWrite:
      write(change(event.inode), event, sectors);
      return;
    case Kind::kMappedPage: {  // a mapping does not move the end of the file
      Inode& inode = change(event.inode);
      const std::uint64_t size_bytes = inode.size_bytes;
      write(inode, event, sectors);
      inode.size_bytes = size_bytes;
      return;
    }
    case Kind::kAllocate:
    case Kind::kPopulate: {
      Inode& inode = change(event.inode);
      const std::uint64_t end = (event.offset_bytes + event.length_bytes + kPage - 1) / kPage;
      std::uint64_t from = event.offset_bytes / kPage;
      if (event.kind == Kind::kPopulate) {
        for (; from < end; ++from) {
          inode.reserved.remove(from, from + 1);
          inode.pages[from].written = true;
        }
        return;
      }
      for (auto at = inode.pages.lower_bound(from); at != inode.pages.end() && at->first < end;
           ++at) {
        inode.reserved.add(from, at->first);
        from = at->first + 1;
      }
      inode.reserved.add(from, end);
      return;
    }
    case Kind::kPunch:
      punch(change(event.inode), event.offset_bytes, event.length_bytes);
      return;
    case Kind::kTruncate: {
      Inode& inode = change(event.inode);
      if (event.offset_bytes < inode.size_bytes) {
        punch(inode, event.offset_bytes, inode.size_bytes - event.offset_bytes + kPage);
        inode.reserved.remove((event.offset_bytes + kPage - 1) / kPage, ~std::uint64_t{0});
      }
      inode.size_bytes = event.offset_bytes;
      return;
    }
    case Kind::kCreate:
    case Kind::kLink:
      names_[event.path] = event.inode;
      change(event.inode);
      return;
    case Kind::kUnlink:
      names_.erase(event.path);
      return;
    case Kind::kRename:
      names_.erase(event.path);
      names_[event.to] = event.inode;
      change(event.inode);
      return;
    case Kind::kMakeDir:
      dirs_.insert(event.path);
      return;
    default:
      return;
  }
}

std::unique_ptr<SimWorld> SimImage::to_world(SimWorldOptions options, std::uint64_t boot) const {
  auto world = std::make_unique<SimWorld>(options);
  for (const std::string& dir : dirs_) world->restore_dir(dir);
  std::map<std::uint32_t, std::shared_ptr<SimInode>> restored;
  for (const auto& [path, id] : names_) {
    if (!dirs_.contains(SimWorld::parent_of(path))) continue;  // the folder's own name was lost
    std::shared_ptr<SimInode>& inode = restored[id];
    if (inode != nullptr) {
      world->restore_link(path, inode);
      continue;
    }
    inode = world->restore_file(path, id);
    const Inode& image = *inodes_.at(id);
    for (const auto& [number, page] : image.pages) {
      inode->restore_page(number, page.bytes ? page.bytes->data() : nullptr, page.written);
    }
    for (const auto& [first, end] : image.reserved.ranges()) inode->restore_reserved(first, end);
    inode->restore_size(image.size_bytes);
  }
  if (!inodes_.empty()) world->take_inodes(inodes_.rbegin()->first + 1);
  world->set_boot_count(boot);
  return world;
}

void SimImage::revert(SimInode& inode) const {
  const auto found = inodes_.find(inode.id());
  for (const std::uint64_t number : inode.page_numbers()) {
    const Page* page = nullptr;
    if (found != inodes_.end()) {
      const auto there = found->second->pages.find(number);
      if (there != found->second->pages.end()) page = &there->second;
    }
    const bool has_bytes = page != nullptr && page->bytes;
    inode.revert_page(number, has_bytes ? page->bytes->data() : nullptr,
                      page != nullptr && page->written);
  }
}

void SimImage::for_each_page(const PageVisitor& visit) const {
  std::set<std::uint32_t> named;
  for (const auto& [path, id] : names_) named.insert(id);
  for (const auto& [id, inode] : inodes_) {
    for (const auto& [number, page] : inode->pages) {
      if (page.bytes) visit(named.contains(id), number, *page.bytes);
    }
  }
}

std::uint64_t SimImage::digest() const {
  std::uint64_t digest = 1;
  for (const std::string& dir : dirs_) digest = combine(digest, digest_of(dir));
  for (const auto& [path, id] : names_) {
    const Inode& inode = *inodes_.at(id);
    if (inode.digest == 0) {
      inode.digest = inode.size_bytes;
      for (const auto& [number, page] : inode.pages) {
        inode.digest =
            combine(combine(combine(inode.digest, number), page.digest), page.written ? 1 : 2);
      }
      for (const auto& [first, end] : inode.reserved.ranges()) {
        inode.digest = combine(combine(inode.digest, first), end);
      }
    }
    digest = combine(combine(digest, digest_of(path)), inode.digest);
  }
  return digest;
}

// Copied first when another image has it, too.
SimImage::Inode& SimImage::change(std::uint32_t id) {
  std::shared_ptr<const Inode>& there = inodes_[id];
  auto mine = there == nullptr        ? std::make_shared<Inode>()
              : there.use_count() > 1 ? std::make_shared<Inode>(*there)
                                      : std::const_pointer_cast<Inode>(there);
  mine->digest = 0;
  there = mine;
  return *mine;
}

bool SimDisk::covers(const SimEvent& sync, const SimEvent& change) const {
  using Kind = SimEvent::Kind;
  switch (sync.kind) {
    case Kind::kSyncFile:
    case Kind::kSyncFailed:
      return !is_name(change.kind) && change.inode == sync.inode;
    case Kind::kSyncRange: {
      if (is_name(change.kind) || change.inode != sync.inode) return false;
      // Sizes and holes go with any sync of the file; bytes only where it reached.
      if (change.kind != Kind::kMappedPage && change.kind != Kind::kWrite) return true;
      const std::uint64_t length = change.data.size();
      return change.offset_bytes < sync.offset_bytes + sync.length_bytes &&
             change.offset_bytes + length > sync.offset_bytes;
    }
    case Kind::kSyncDir:
      return is_name(change.kind) && SimWorld::parent_of(change.path) == sync.path;
    default:
      return false;
  }
}

void SimDisk::advance(std::size_t end) {
  for (; position_ < end; ++position_) {
    const SimEvent& event = log_[position_];
    if (!is_sync(event.kind)) {
      pending_.push_back(position_);
      continue;
    }
    std::erase_if(pending_, [&](std::size_t index) {
      if (!covers(event, log_[index])) return false;
      if (event.kind != SimEvent::Kind::kSyncFailed) durable_.apply(log_[index]);
      return true;
    });
  }
}

SimImage SimDisk::with(std::span<const Choice> chosen) const {
  SimImage image = durable_;
  for (const Choice& choice : chosen) image.apply(log_[choice.event], choice.sectors);
  return image;
}

}  // namespace voltree
