// Extended attributes user.voltree.*: what a volume or a snapshot is and costs. Read-only.
#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <string_view>

#include "fs/frontend.h"

namespace voltree {

namespace {

constexpr std::string_view kPrefix = "user.voltree.";
constexpr std::array<std::string_view, 9> kNames{
    "id", "kind", "size", "referenced", "exclusive", "parent", "origin", "created", "attached"};

Task<Result<std::string>> value_of(Frontend& fs, Place place, std::string name) {
  const NodeInfo& node = place.node;
  if (name == "id") co_return fmt::format("{}", node.id);
  if (name == "kind") co_return std::string(node.name.is_snapshot() ? "snapshot" : "volume");
  if (name == "size") {
    const std::shared_ptr<OpenNode> open = fs.open_files.find(place.ino);
    co_return fmt::format("{}", open != nullptr ? open->size_bytes() : node.size_bytes);
  }
  if (name == "parent") co_return fmt::format("{}", node.parent);
  if (name == "created") co_return fmt::format("{}", node.created_ns);
  if (name == "referenced" || name == "exclusive") {
    VT_CO_ASSIGN_OR_RETURN(const NodeUsage usage, co_await fs.store.usage(node.name.str()));
    co_return fmt::format("{}",
                          name == "referenced" ? usage.referenced_bytes : usage.exclusive_bytes);
  }
  // The listing need not know of every attachment that came and went: ask.
  VT_CO_ASSIGN_OR_RETURN(const NodeInfo now, co_await fs.store.info(node.name.str()));
  co_return name == "origin" ? now.origin : std::string(now.attached ? "yes" : "no");
}

void reply_sized(fuse_req_t request, std::string_view value, std::size_t room) {
  if (room == 0) {
    fuse_reply_xattr(request, value.size());
  } else if (room < value.size()) {
    fuse_reply_err(request, ERANGE);
  } else {
    fuse_reply_buf(request, value.data(), value.size());
  }
}

Task<void> getxattr(Frontend& fs, fuse_req_t request, fuse_ino_t ino, std::string name,
                    std::size_t room) {
  Result<Place> place = co_await fs.tree.find(ino);
  if (!place.ok()) {
    fuse_reply_err(request, place.status().to_errno());
    co_return;
  }
  if (!place->is_file()) {
    fuse_reply_err(request, ENODATA);
    co_return;
  }
  const Result<std::string> value = co_await value_of(fs, std::move(*place), std::move(name));
  if (value.ok()) {
    reply_sized(request, *value, room);
  } else {
    fuse_reply_err(request, value.status().to_errno());
  }
}

Task<void> listxattr(Frontend& fs, fuse_req_t request, fuse_ino_t ino, std::size_t room) {
  const Result<Place> place = co_await fs.tree.find(ino);
  if (!place.ok()) {
    fuse_reply_err(request, place.status().to_errno());
    co_return;
  }
  std::string names;
  if (place->is_file()) {
    for (const std::string_view name : kNames) names.append(kPrefix).append(name).push_back('\0');
  }
  reply_sized(request, names, room);
}

void on_getxattr(fuse_req_t request, fuse_ino_t ino, const char* name, size_t room) {
  std::string_view asked(name);
  // The kernel asks for security.* and system.* on its own account, and often: answered here and
  // now.
  if (!asked.starts_with(kPrefix)) {
    fuse_reply_err(request, ENODATA);
    return;
  }
  asked.remove_prefix(kPrefix.size());
  if (std::find(kNames.begin(), kNames.end(), asked) == kNames.end()) {
    fuse_reply_err(request, ENODATA);
    return;
  }
  Frontend& fs = frontend_of(request);
  fs.start(getxattr(fs, request, ino, std::string(asked), room));
}

void on_listxattr(fuse_req_t request, fuse_ino_t ino, size_t room) {
  Frontend& fs = frontend_of(request);
  fs.start(listxattr(fs, request, ino, room));
}

// ENOTSUP is what `cp -a` passes over in silence.
void on_setxattr(fuse_req_t request, fuse_ino_t, const char*, const char*, size_t, int) {
  fuse_reply_err(request, ENOTSUP);
}
void on_removexattr(fuse_req_t request, fuse_ino_t, const char*) {
  fuse_reply_err(request, ENOTSUP);
}

}  // namespace

void set_xattr_ops(fuse_lowlevel_ops& ops) {
  ops.getxattr = on_getxattr;
  ops.listxattr = on_listxattr;
  ops.setxattr = on_setxattr;
  ops.removexattr = on_removexattr;
}

}  // namespace voltree
