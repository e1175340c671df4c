// group: snapshots of several volumes that were taken at one instant.
//
// The store keeps no list of groups. Snapshots that were taken together have one time of creation,
// to the nanosecond, and that is what a group is here: it outlives renames and the loss of members.
#include <algorithm>
#include <map>

#include "tools/voltree/command.h"
#include "tools/voltree/output.h"

namespace voltree::cli {
namespace {

struct GroupSnapshotOptions {
  std::string name;
  std::vector<std::string> volumes;
};

Status run_group_snapshot(Cli& cli, const GroupSnapshotOptions& options) {
  VT_RETURN_IF_ERROR(check_name(options.name));
  Json names = Json::array();
  for (const std::string& volume : options.volumes) {
    VT_RETURN_IF_ERROR(check_name(volume));
    names.push_back(volume + "@" + options.name);
  }
  VT_ASSIGN_OR_RETURN(const Json answer,
                      cli.call("volume.snapshot_group", Json{{"snapshots", names}}));
  if (cli.json) {
    print_json(answer);
    return {};
  }
  for (const Json& name : names) print_line("took " + name.get<std::string>());
  return {};
}

// Groups of two and more, the oldest first.
std::map<std::int64_t, std::vector<Json>> groups_of(const Json& nodes) {
  std::map<std::int64_t, std::vector<Json>> groups;
  for (const Json& node : nodes) {
    if (text_of(node, "kind") == "snapshot") groups[time_of(node, "created_ns")].push_back(node);
  }
  std::erase_if(groups, [](const auto& group) { return group.second.size() < 2; });
  return groups;
}

// The group that the snapshot `name` is a member of.
Result<std::vector<Json>> find_group(Cli& cli, const std::string& name) {
  VT_RETURN_IF_ERROR(parse_snapshot_name(name).status());
  VT_ASSIGN_OR_RETURN(const Json node, cli.call("volume.info", Json{{"name", name}}));
  VT_ASSIGN_OR_RETURN(const Json all, cli.call("volume.list", Json::object()));
  auto groups = groups_of(list_of(all, "nodes"));
  const auto found = groups.find(time_of(node, "created_ns"));
  if (found != groups.end()) return std::move(found->second);
  return error(Code::kNotFound,
               "{} is in no group: nothing else was snapshotted at its instant, or it is gone",
               voltree::quoted(name));
}

struct GroupListOptions {};

Status run_group_list(Cli& cli, const GroupListOptions& /*options*/) {
  VT_ASSIGN_OR_RETURN(const Json all, cli.call("volume.list", Json::object()));
  const auto groups = groups_of(list_of(all, "nodes"));
  Json list = Json::array();
  Table table({{"TAKEN"}, {"SNAPSHOTS"}});
  for (const auto& [created_ns, members] : groups) {
    Json names = Json::array();
    std::string words;
    for (const Json& member : members) {
      names.push_back(text_of(member, "name"));
      words += (words.empty() ? "" : " ") + text_of(member, "name");
    }
    list.push_back(Json{{"created_ns", created_ns}, {"snapshots", std::move(names)}});
    table.add({format_time(created_ns), std::move(words)});
  }
  if (cli.json) {
    print_json(Json{{"groups", std::move(list)}});
  } else {
    print(table.empty() ? "no groups yet: voltree group snapshot NAME VOLUME...\n" : table.str());
  }
  return {};
}

struct GroupCloneOptions {
  std::string name;
  std::string prefix;
  std::string suffix;
};

// All or none: what was made before one failed goes again.
Result<Json> clone_all(Cli& cli, const std::vector<std::pair<std::string, std::string>>& pairs) {
  Json made = Json::array();
  for (const auto& [source, name] : pairs) {
    Result<Json> one = cli.call("volume.clone", Json{{"source", source}, {"name", name}});
    if (one.ok()) {
      made.push_back(std::move(*one));
      continue;
    }
    for (const Json& clone : made) {
      const std::string left = text_of(clone, "name");
      const Status deleted = cli.call("volume.delete", Json{{"name", left}}).status();
      if (!deleted.ok()) return deleted.with_context(left + " stays behind");
    }
    return one.status();
  }
  return made;
}

Status run_group_clone(Cli& cli, const GroupCloneOptions& options) {
  if (options.prefix.empty() && options.suffix.empty()) {
    return error(Code::kInvalid, "say how the clones are called: --prefix or --suffix");
  }
  VT_ASSIGN_OR_RETURN(const std::vector<Json> members, find_group(cli, options.name));
  std::vector<std::pair<std::string, std::string>> pairs;
  for (const Json& member : members) {
    std::string name = options.prefix + text_of(member, "volume") + options.suffix;
    VT_RETURN_IF_ERROR(check_name(name));
    pairs.emplace_back(text_of(member, "name"), std::move(name));
  }
  VT_ASSIGN_OR_RETURN(Json made, clone_all(cli, pairs));
  if (cli.json) {
    print_json(Json{{"volumes", std::move(made)}});
    return {};
  }
  for (const auto& [source, name] : pairs) print_line(fmt::format("cloned {} to {}", source, name));
  return {};
}

struct GroupDeleteOptions {
  std::string name;
  bool wait = false;
};

Status run_group_delete(Cli& cli, const GroupDeleteOptions& options) {
  DeleteCommandOptions remove;
  remove.wait = options.wait;
  // Before the first call: a store that is opened here erases only when somebody waits for it.
  VT_RETURN_IF_ERROR(cli.client(options.wait).status());
  VT_ASSIGN_OR_RETURN(const std::vector<Json> members, find_group(cli, options.name));
  for (const Json& member : members) remove.names.push_back(text_of(member, "name"));
  return delete_nodes(cli, remove);
}

}  // namespace

void add_group_commands(CLI::App& app, Cli& cli) {
  CLI::App* group = app.add_subcommand("group", "Snapshots of several volumes at one instant");
  group->require_subcommand(1);

  auto snapshot = std::make_shared<GroupSnapshotOptions>();
  CLI::App* command =
      cli.add(*group, "snapshot", "Keep several volumes as they are at one instant, all or none",
              "  voltree group snapshot monday data log", snapshot, run_group_snapshot);
  command->add_option("NAME", snapshot->name, "What each volume's snapshot is called")->required();
  command->add_option("VOLUME", snapshot->volumes, "The volumes")->required();

  cli.add(*group, "list", "List the groups: snapshots that were taken together",
          "  voltree group list --json", std::make_shared<GroupListOptions>(), run_group_list);

  auto clone = std::make_shared<GroupCloneOptions>();
  command = cli.add(*group, "clone", "Make a volume of each snapshot of a group, all or none",
                    "  voltree group clone data@monday --suffix -copy\n"
                    "makes data-copy and log-copy of data@monday and log@monday.",
                    clone, run_group_clone);
  command->add_option("VOLUME@NAME", clone->name, "Any snapshot of the group")->required();
  command->add_option("--prefix", clone->prefix, "Before each volume's name")->type_name("TEXT");
  command->add_option("--suffix", clone->suffix, "After each volume's name")->type_name("TEXT");

  auto remove = std::make_shared<GroupDeleteOptions>();
  command = cli.add(*group, "delete", "Delete the snapshots of a group and erase their data",
                    "  voltree group delete data@monday --wait", remove, run_group_delete);
  command->add_option("VOLUME@NAME", remove->name, "Any snapshot of the group")->required();
  command->add_flag("--wait", remove->wait, "Return when the bytes are gone");
}

}  // namespace voltree::cli
