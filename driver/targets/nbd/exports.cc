#include "driver/targets/nbd/exports.h"

#include <algorithm>

namespace voltree::nbd {
namespace {

constexpr std::string_view kChangesPrefix = "qemu:dirty-bitmap:";

Status no_export(const std::string& name) {
  if (name.empty()) return error(Code::kNotFound, "name an export: VOLUME or VOLUME@SNAPSHOT");
  return error(Code::kNotFound, "there is no export {}", quoted(name));
}

// Does `query` ask for `context`? Listing, a query may end in a colon, for all that begin with it.
bool asks_for(std::string_view query, std::string_view context, bool listing) {
  if (query == context) return true;
  return listing && query.ends_with(':') && context.starts_with(query);
}

}  // namespace

Task<std::vector<std::string>> Exports::list(std::string peer) {
  std::vector<std::string> names;
  const std::vector<NodeName> nodes = co_await store_.names();
  for (const NodeName& node : nodes) {
    std::string name = node.str();
    if (rules_.of(peer, name) != Access::kNone) names.push_back(std::move(name));
  }
  co_return names;
}

Task<Result<ExportInfo>> Exports::info(std::string name, std::string peer) {
  const Access access = rules_.of(peer, name);
  if (access == Access::kNone) co_return no_export(name);
  Result<NodeInfo> node = co_await store_.info(name);
  if (!node.ok()) co_return no_export(name);
  ExportInfo info;
  info.read_only = access == Access::kReadOnly || node->name.is_snapshot();
  info.node = std::move(*node);
  co_return info;
}

Task<Result<Export>> Exports::open(std::string name, std::string peer) {
  VT_CO_ASSIGN_OR_RETURN(const ExportInfo allowed, co_await info(name, std::move(peer)));
  Result<ClaimedDevice> claimed = co_await store_.claim_device(name);
  if (!claimed.ok()) {
    if (claimed.status().code() == Code::kNotFound) co_return no_export(name);
    co_return claimed.status();
  }
  Export opened;
  opened.read_only = allowed.read_only || claimed->device->read_only();
  opened.size_bytes = claimed->device->size_bytes();
  opened.device = std::move(claimed->device);
  opened.node = std::move(claimed->node);
  co_return opened;
}

Task<Result<std::vector<Context>>> Exports::contexts(std::string name, std::string peer,
                                                     std::vector<std::string> queries,
                                                     bool listing) {
  VT_CO_ASSIGN_OR_RETURN(const ExportInfo exported, co_await info(name, peer));
  for (const std::string& query : queries) {
    if (query.find(':') == std::string::npos) {
      co_return error(Code::kInvalid, "the query {} has no namespace", quoted(query));
    }
  }
  std::vector<Context> all;
  all.push_back({Context::Kind::kAllocation, "base:allocation", 0, nullptr});
  all.push_back({Context::Kind::kLayers, "voltree:layers", 0, nullptr});
  all.push_back({Context::Kind::kLayers, "qemu:allocation-depth", 0, nullptr});
  const std::vector<NodeName> snapshots = co_await store_.snapshots_of(exported.node.name.volume);
  for (const NodeName& snapshot : snapshots) {
    all.push_back(
        {Context::Kind::kChanges, std::string(kChangesPrefix) + snapshot.snapshot, 0, nullptr});
  }
  std::vector<Context> chosen;
  for (Context& context : all) {
    const bool wanted = (listing && queries.empty()) ||
                        std::any_of(queries.begin(), queries.end(), [&](const std::string& query) {
                          return asks_for(query, context.name, listing);
                        });
    if (!wanted) continue;
    if (!listing && context.kind == Context::Kind::kChanges) {
      // A snapshot that was deleted since is one that nobody can ask about.
      std::string base =
          exported.node.name.volume + "@" + context.name.substr(kChangesPrefix.size());
      Result<std::shared_ptr<BlockDevice>> opened = co_await store_.open_device(std::move(base));
      if (!opened.ok()) continue;
      context.base = std::move(*opened);
    }
    context.id = static_cast<std::uint32_t>(chosen.size() + 1);
    chosen.push_back(std::move(context));
  }
  co_return chosen;
}

}  // namespace voltree::nbd
