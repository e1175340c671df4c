// Methods on volumes and snapshots.
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/statfs.h>

#include <atomic>
#include <cerrno>

#include "driver/control/service.h"
#include "driver/control/service_handover.h"
#include "driver/images/stop_signals.h"
#include "driver/targets/attachments.h"
#include "driver/targets/nbd/server.h"

namespace voltree {
namespace {

constexpr std::uint64_t kListPageMax = 65536;

std::string_view kind_name(NodeKind kind) {
  switch (kind) {
    case NodeKind::kHead:
      return "volume";
    case NodeKind::kSnapshot:
      return "snapshot";
    case NodeKind::kJunction:
      return "junction";
  }
  return "unknown";
}

Json usage_json(const NodeUsage& usage) {
  return Json{{"virtual_bytes", usage.virtual_bytes},
              {"referenced_bytes", usage.referenced_bytes},
              {"exclusive_bytes", usage.exclusive_bytes}};
}

Result<Json> node_answer(Call& call, const std::string& name) {
  VT_ASSIGN_OR_RETURN(const NodeInfo info, call.wait(call.store().info(name)));
  return node_json(info);
}

// The name of a volume, not of a snapshot: "a@s" gets a message that says so.
Status check_volume_name(std::string_view parameter, const std::string& name) {
  return check_name(name).with_context(parameter);
}

Result<Json> volume_create(Call& call) {
  Params params(call.params());
  const std::string name = params.text("name");
  const std::uint64_t size_bytes = params.number("size_bytes");
  const auto policy = params.optional_erase_policy("erase_policy");
  VT_RETURN_IF_ERROR(call.accept(params));
  VT_RETURN_IF_ERROR(check_volume_name("name", name));
  VT_RETURN_IF_ERROR(check_volume_size(size_bytes));
  VT_RETURN_IF_ERROR(call.wait(call.store().create_volume(name, size_bytes, policy)));
  call.invalidate(name);
  return node_answer(call, name);
}

Result<Json> volume_list(Call& call) {
  Params params(call.params());
  const bool junctions = params.flag("junctions");
  const bool usage = params.flag("usage");
  VT_RETURN_IF_ERROR(call.accept(params));
  const std::vector<NodeInfo> nodes = call.wait(call.store().list(junctions));
  Json list = Json::array();
  for (const NodeInfo& node : nodes) {
    Json item = node_json(node);
    if (usage && node.kind != NodeKind::kJunction) {
      Result<NodeUsage> cost = call.wait(call.store().usage(node.name.str()));
      if (!cost.ok() && cost.status().code() == Code::kNotFound) continue;  // deleted meanwhile
      if (!cost.ok()) return cost.status();
      item["usage"] = usage_json(*cost);
    }
    list.push_back(std::move(item));
  }
  return Json{{"nodes", std::move(list)}};
}

Result<Json> volume_info(Call& call) {
  Params params(call.params());
  const std::string name = params.text("name");
  const bool with_usage = params.flag("usage");
  VT_RETURN_IF_ERROR(call.accept(params));
  VT_ASSIGN_OR_RETURN(Json answer, node_answer(call, name));
  if (with_usage) {
    VT_ASSIGN_OR_RETURN(const NodeUsage usage, call.wait(call.store().usage(name)));
    answer["usage"] = usage_json(usage);
  }
  return answer;
}

Result<Json> volume_usage(Call& call) {
  Params params(call.params());
  const std::vector<std::string> names = params.texts("names");
  VT_RETURN_IF_ERROR(call.accept(params));
  Json nodes = Json::array();
  for (const std::string& name : names) {
    VT_ASSIGN_OR_RETURN(const NodeUsage usage, call.wait(call.store().usage(name)));
    Json item{{"name", name}};
    item.update(usage_json(usage));
    nodes.push_back(std::move(item));
  }
  VT_ASSIGN_OR_RETURN(const std::uint64_t together, call.wait(call.store().exclusive_of(names)));
  return Json{{"nodes", std::move(nodes)}, {"freed_together_bytes", together}};
}

Result<Json> volume_snapshot(Call& call) {
  Params params(call.params());
  const std::string volume = params.text("volume");
  const std::string snapshot = params.text("snapshot");
  VT_RETURN_IF_ERROR(call.accept(params));
  VT_RETURN_IF_ERROR(check_volume_name("volume", volume));
  VT_RETURN_IF_ERROR(check_name(snapshot).with_context("snapshot"));
  VT_RETURN_IF_ERROR(call.wait(call.store().snapshot(volume, snapshot)));
  call.invalidate(volume + "@" + snapshot);
  return node_answer(call, volume + "@" + snapshot);
}

Result<Json> volume_snapshot_group(Call& call) {
  Params params(call.params());
  const std::vector<std::string> snapshots = params.texts("snapshots");
  VT_RETURN_IF_ERROR(call.accept(params));
  VT_RETURN_IF_ERROR(call.wait(call.store().snapshot_group(snapshots)));
  Json nodes = Json::array();
  for (const std::string& name : snapshots) {
    call.invalidate(name);
    VT_ASSIGN_OR_RETURN(Json node, node_answer(call, name));
    nodes.push_back(std::move(node));
  }
  return Json{{"snapshots", std::move(nodes)}};
}

Result<Json> volume_clone(Call& call) {
  Params params(call.params());
  const std::string source = params.text("source");
  const std::string name = params.text("name");
  const std::optional<std::uint64_t> size_bytes = params.optional_number("size_bytes");
  VT_RETURN_IF_ERROR(call.accept(params));
  VT_RETURN_IF_ERROR(parse_node_name(source).status());
  VT_RETURN_IF_ERROR(check_volume_name("name", name));
  if (size_bytes) VT_RETURN_IF_ERROR(check_volume_size(*size_bytes));
  VT_RETURN_IF_ERROR(call.wait(call.store().clone(source, name, size_bytes.value_or(0))));
  call.invalidate(name);
  return node_answer(call, name);
}

Result<Json> volume_revert(Call& call) {
  Params params(call.params());
  const std::string volume = params.text("volume");
  const std::string snapshot = params.text("snapshot");
  RevertOptions options;
  options.keep_as = params.text_or("keep_as", "");
  VT_RETURN_IF_ERROR(call.accept(params));
  VT_RETURN_IF_ERROR(check_volume_name("volume", volume));
  // A snapshot of another volume is named whole; the store says what is wrong with it.
  if (params.has("keep_as"))
    VT_RETURN_IF_ERROR(check_name(options.keep_as).with_context("keep_as"));
  VT_RETURN_IF_ERROR(call.wait(call.store().revert(volume, snapshot, options)));
  call.invalidate(volume);
  return node_answer(call, volume);
}

Result<Json> volume_replace(Call& call) {
  Params params(call.params());
  const std::string volume = params.text("volume");
  const std::string source = params.text("source");
  const auto erase_policy = params.optional_erase_policy("erase_policy");
  VT_RETURN_IF_ERROR(call.accept(params));
  VT_RETURN_IF_ERROR(check_volume_name("volume", volume));
  VT_RETURN_IF_ERROR(check_volume_name("source", source));
  VT_RETURN_IF_ERROR(call.wait(call.store().replace(volume, source, erase_policy)));
  call.invalidate(volume);
  call.invalidate(source);
  return node_answer(call, volume);
}

Result<Json> volume_set_notes(Call& call) {
  Params params(call.params());
  const std::string name = params.text("name");
  VolumeNotes notes = params.notes_or_empty("notes");
  VT_RETURN_IF_ERROR(call.accept(params));
  VT_RETURN_IF_ERROR(check_volume_name("name", name));
  VT_RETURN_IF_ERROR(call.wait(call.store().set_notes(name, std::move(notes))));
  return node_answer(call, name);
}

Result<Json> volume_resize(Call& call) {
  Params params(call.params());
  const std::string name = params.text("name");
  const std::optional<std::uint64_t> size_bytes = params.optional_number("size_bytes");
  const std::optional<std::uint64_t> grow_bytes = params.optional_number("grow_bytes");
  const bool shrink = params.flag("shrink");
  VT_RETURN_IF_ERROR(call.accept(params));
  if (size_bytes.has_value() == grow_bytes.has_value()) {
    return call.refuse("give one of the parameters \"size_bytes\" and \"grow_bytes\"");
  }
  VT_ASSIGN_OR_RETURN(const NodeInfo info, call.wait(call.store().info(name)));
  const std::uint64_t wanted = size_bytes ? *size_bytes : info.size_bytes + *grow_bytes;
  VT_RETURN_IF_ERROR(check_volume_size(wanted));
  VT_RETURN_IF_ERROR(call.wait(call.store().resize(name, wanted, shrink)));
  call.invalidate(name);
  call.attachments().capacity_changed(name, wanted);
  return node_answer(call, name);
}

Result<Json> volume_rename(Call& call) {
  Params params(call.params());
  const std::string from = params.text("from");
  const std::string to = params.text("to");
  VT_RETURN_IF_ERROR(call.accept(params));
  VT_RETURN_IF_ERROR(call.wait(call.store().rename(from, to)));
  call.invalidate(from);
  call.invalidate(to);
  return node_answer(call, to);
}

Result<Json> volume_delete(Call& call) {
  Params params(call.params());
  const std::string name = params.text("name");
  DeleteOptions options;
  options.erase_policy = params.optional_erase_policy("erase_policy");
  options.erase_first_bytes = params.number_or("erase_first_bytes", 0);
  options.erase_io_priority = params.io_priority_or_none("erase_io_priority");
  options.snapshots = params.flag("snapshots");
  options.unless_snapshots = params.flag("unless_snapshots");
  options.force = params.flag("force");
  VT_RETURN_IF_ERROR(call.accept(params));
  if (options.snapshots && options.unless_snapshots) {
    return call.refuse("give one of the parameters \"snapshots\" and \"unless_snapshots\"");
  }
  std::vector<NodeId> nodes;
  if (options.force && call.nbd() != nullptr) {
    VT_ASSIGN_OR_RETURN(const NodeName parsed, parse_node_name(name));
    for (const NodeInfo& node : call.wait(call.store().list())) {
      const bool below = options.snapshots && node.name.volume == parsed.str();
      if (node.name.str() == name || below) nodes.push_back(node.id);
    }
  }
  VT_ASSIGN_OR_RETURN(const std::uint64_t request, call.wait(call.store().remove(name, options)));
  // Their devices are dead already; now the clients learn of it.
  for (const NodeId node : nodes) call.nbd()->disconnect(node);
  call.invalidate(name);
  return Json{{"name", name}, {"erase_request", request}};
}

}  // namespace

Status check_shareable(const std::string& file) {
  struct stat info {};
  struct statfs host {};
  if (::stat(file.c_str(), &info) != 0 || ::statfs(file.c_str(), &host) != 0) {
    return Status::from_errno(errno, file);
  }
  if (!S_ISREG(info.st_mode)) return error(Code::kInvalid, "{} is no regular file", file);
  if (host.f_type == FUSE_SUPER_MAGIC) {
    return error(Code::kNotSupported, "{}: a FUSE file system shares no blocks", file);
  }
  return {};
}

namespace {

Result<Json> volume_share_file(Call& call) {
  Params params(call.params());
  const std::string name = params.text("name");
  const std::string file = params.text("file");
  const std::uint64_t offset_bytes = params.number("offset_bytes");
  const std::uint64_t length_bytes = params.number("length_bytes");
  VT_RETURN_IF_ERROR(call.accept(params));
  VT_RETURN_IF_ERROR(check_volume_name("name", name));
  VT_RETURN_IF_ERROR(check_shareable(file));
  VT_RETURN_IF_ERROR(call.wait(call.store().share_file(name, file, {offset_bytes, length_bytes})));
  call.invalidate(name);
  return Json{{"name", name}, {"shared_bytes", length_bytes}};
}

// Until it is done, or there is a reason to give it up: the file is then what it was.
Result<Json> volume_take_file(Call& call) {
  Params params(call.params());
  const std::string name = params.text("name");
  const std::string file = params.text("file");
  // The callback runs where it must not wait for a client.
  struct Numbers {
    std::atomic<std::uint64_t> done{0};
    std::atomic<std::uint64_t> total{0};
    std::atomic<bool> stop{false};
  };
  const auto numbers = std::make_shared<Numbers>();
  TakeOptions options;
  options.size_bytes = params.number_or("size_bytes", 0);
  options.erase_policy = params.optional_erase_policy("erase_policy");
  VT_RETURN_IF_ERROR(call.accept(params));
  VT_RETURN_IF_ERROR(check_volume_name("name", name));
  VT_RETURN_IF_ERROR(check_shareable(file));
  options.progress = [numbers](std::uint64_t done_bytes, std::uint64_t total_bytes) -> Status {
    numbers->done.store(done_bytes, std::memory_order_relaxed);
    numbers->total.store(total_bytes, std::memory_order_relaxed);
    return numbers->stop.load() ? Status(Code::kCancelled, "the file was not taken in") : Status();
  };
  const auto taken = call.wait_reporting(
      call.store().take_file(name, file, std::move(options)),
      [&] {
        const bool gone = call.caller().gone && call.caller().gone();
        if (gone || call.stopping() || !check_stop().ok()) numbers->stop.store(true);
        return Progress{numbers->done.load(), numbers->total.load()};
      },
      /*may_leave=*/false);
  VT_RETURN_IF_ERROR(*taken);
  call.invalidate(name);
  return node_answer(call, name);
}

// A store can hold millions of ranges, a message cannot.
ListPart part_of(Params& params) {
  ListPart part;
  part.from_bytes = params.number_or("from_bytes", 0);
  part.limit = params.number_or("limit", kListPageMax, kListPageMax);
  return part;
}

Json next_of(const std::optional<std::uint64_t>& next_from_bytes) {
  return next_from_bytes ? Json(*next_from_bytes) : Json();
}

Result<Json> volume_extents(Call& call) {
  Params params(call.params());
  const std::string name = params.text("name");
  const ListPart part = part_of(params);
  VT_RETURN_IF_ERROR(call.accept(params));
  if (part.limit == 0) return call.refuse("parameter \"limit\" must be at least 1");
  VT_ASSIGN_OR_RETURN(const ExtentPage page, call.wait(call.store().extents(name, part)));
  Json list = Json::array();
  for (const ExtentPage::Entry& extent : page.extents) {
    list.push_back(Json{{"offset_bytes", extent.range.offset_bytes},
                        {"length_bytes", extent.range.length_bytes},
                        {"file", extent.file}});
  }
  return Json{{"name", name},
              {"extents", std::move(list)},
              {"files", page.files},
              {"next_from_bytes", next_of(page.next_from_bytes)}};
}

Result<Json> volume_diff(Call& call) {
  Params params(call.params());
  const std::string a = params.text("a");
  const std::string b = params.text("b");
  const ListPart part = part_of(params);
  VT_RETURN_IF_ERROR(call.accept(params));
  if (part.limit == 0) return call.refuse("parameter \"limit\" must be at least 1");
  VT_ASSIGN_OR_RETURN(const DiffPage page, call.wait(call.store().diff(a, b, part)));
  Json list = Json::array();
  for (const ByteRange& range : page.ranges) {
    list.push_back(
        Json{{"offset_bytes", range.offset_bytes}, {"length_bytes", range.length_bytes}});
  }
  return Json{{"a", a},
              {"b", b},
              {"ranges", std::move(list)},
              {"changed_bytes", page.changed_bytes},
              {"range_count", page.range_count},
              {"next_from_bytes", next_of(page.next_from_bytes)}};
}

}  // namespace

Json settings_json(const VolumeSettings& settings) {
  const QosLimits::Entries limits = settings.limits.entries();
  return Json{{"erase_policy",
               settings.erase_policy ? Json(erase_policy_name(*settings.erase_policy)) : Json()},
              {"limits", limits.empty() ? Json::object() : limits_json(limits)},
              {"notes", settings.notes},
              {"reserve_bytes", settings.reserve_bytes}};
}

Json node_json(const NodeInfo& info) {
  Json node{{"name", info.name.volume.empty() ? "" : info.name.str()},
            {"kind", kind_name(info.kind)},
            {"volume", info.name.volume},
            {"snapshot", info.name.snapshot},
            {"size_bytes", info.size_bytes},
            {"created_ns", info.created_ns},
            {"origin", info.origin},
            {"depth", info.depth},
            {"open", info.open},
            {"attached", info.attached},
            {"connections", info.connections},
            {"children", info.children},
            {"failed_layers", info.failed_layers},
            {"id", info.id},
            {"parent", info.parent}};
  node.update(settings_json(info.settings));
  return node;
}

const std::vector<Method>& volume_methods() {
  static const std::vector<Method> methods{
      {"volume.create", volume_create},       {"volume.list", volume_list},
      {"volume.info", volume_info},           {"volume.usage", volume_usage},
      {"volume.snapshot", volume_snapshot},   {"volume.snapshot_group", volume_snapshot_group},
      {"volume.clone", volume_clone},         {"volume.revert", volume_revert},
      {"volume.replace", volume_replace},     {"volume.resize", volume_resize},
      {"volume.rename", volume_rename},       {"volume.delete", volume_delete},
      {"volume.diff", volume_diff},           {"volume.extents", volume_extents},
      {"volume.set_notes", volume_set_notes}, {"volume.share_file", volume_share_file},
      {"volume.take_file", volume_take_file}, {"volume.give", volume_give},
      {"volume.given", volume_given},         {"volume.take_given", volume_take_given},
  };
  return methods;
}

}  // namespace voltree
