// create, resize, rename, delete.
#include <algorithm>
#include <set>

#include "tools/voltree/command.h"
#include "tools/voltree/output.h"

namespace voltree::cli {
namespace {

struct CreateOptions {
  std::string name;
  std::string size;
  std::string erase_policy;
};

Status run_create(Cli& cli, const CreateOptions& options) {
  VT_RETURN_IF_ERROR(check_name(options.name));
  VT_ASSIGN_OR_RETURN(const std::uint64_t size_bytes, parse_size(options.size));
  VT_RETURN_IF_ERROR(check_volume_size(size_bytes));
  Json params{{"name", options.name}, {"size_bytes", size_bytes}};
  if (!options.erase_policy.empty()) {
    VT_RETURN_IF_ERROR(parse_erase_policy(options.erase_policy).status());
    params["erase_policy"] = options.erase_policy;
  }
  VT_ASSIGN_OR_RETURN(const Json node, cli.call("volume.create", std::move(params)));
  if (cli.json) {
    print_json(node);
  } else {
    print_line(fmt::format("created {}, {}", options.name, format_size(size_bytes)));
  }
  return {};
}

struct ResizeOptions {
  std::string name;
  std::string size;
  bool shrink = false;
};

Status run_resize(Cli& cli, const ResizeOptions& options) {
  const bool relative = !options.size.empty() && options.size.front() == '+';
  VT_ASSIGN_OR_RETURN(const std::uint64_t bytes, parse_size(options.size.substr(relative ? 1 : 0)));
  Json params{{"name", options.name}, {"shrink", options.shrink}};
  params[relative ? "grow_bytes" : "size_bytes"] = bytes;
  VT_ASSIGN_OR_RETURN(const Json node, cli.call("volume.resize", std::move(params)));
  if (cli.json) {
    print_json(node);
  } else {
    print_line(
        fmt::format("{} is {} now", options.name, format_size(number_of(node, "size_bytes"))));
  }
  return {};
}

struct RenameOptions {
  std::string from;
  std::string to;
};

Status run_rename(Cli& cli, const RenameOptions& options) {
  VT_ASSIGN_OR_RETURN(const NodeName from, parse_node_name(options.from));
  std::string to = options.to;
  // "rename a@s t" means a@t: a snapshot stays with its volume.
  if (from.is_snapshot() && to.find('@') == std::string::npos) to = from.volume + "@" + to;
  VT_ASSIGN_OR_RETURN(const Json node,
                      cli.call("volume.rename", Json{{"from", options.from}, {"to", to}}));
  if (cli.json) {
    print_json(node);
  } else {
    print_line(fmt::format("{} is {} now", options.from, to));
  }
  return {};
}

// Before the first of several is deleted: a name that is wrong or in use must not leave half of the
// work done.
Status check_deletable(Cli& cli, const DeleteCommandOptions& options) {
  for (const std::string& name : options.names) {
    VT_RETURN_IF_ERROR(parse_node_name(name).status());
  }
  VT_ASSIGN_OR_RETURN(const Json all, cli.call("volume.list", Json::object()));
  for (const std::string& name : options.names) {
    bool found = false;
    for (const Json& node : list_of(all, "nodes")) {
      const bool same = text_of(node, "name") == name;
      const bool below = options.snapshots && text_of(node, "volume") == name;
      found = found || same || below;
      if ((same || below) && flag_of(node, "attached")) {
        return error(Code::kBusy, "{} is attached: voltree detach it first", text_of(node, "name"));
      }
      if ((same || below) && number_of(node, "connections") != 0 && !options.force) {
        return error(Code::kBusy, "{} is in use over NBD: disconnect its clients, or say --force",
                     text_of(node, "name"));
      }
    }
    if (!found) return error(Code::kNotFound, "there is no {}", voltree::quoted(name));
  }
  return {};
}

Status wait_for_erase(Cli& cli, const Json& deleted) {
  for (const Json& one : deleted) {
    const std::uint64_t request = number_of(one, "erase_request");
    if (request == 0) continue;
    ProgressMeter meter("erasing " + text_of(one, "name") + ":");
    VT_RETURN_IF_ERROR(cli.call("erase.wait", Json{{"request", request}}, meter.sink()).status());
  }
  return {};
}

}  // namespace

Status delete_nodes(Cli& cli, const DeleteCommandOptions& options) {
  if (!options.erase_policy.empty()) {
    VT_RETURN_IF_ERROR(parse_erase_policy(options.erase_policy).status());
  }
  Json how = Json::object();
  if (!options.erase_policy.empty()) how["erase_policy"] = options.erase_policy;
  if (!options.erase_first.empty()) {
    VT_ASSIGN_OR_RETURN(const std::uint64_t bytes, parse_size(options.erase_first));
    how["erase_first_bytes"] = bytes;
  }
  if (!options.erase_priority.empty()) {
    VT_RETURN_IF_ERROR(parse_io_priority(options.erase_priority).status());
    how["erase_io_priority"] = options.erase_priority;
  }
  VT_ASSIGN_OR_RETURN(Client * client, cli.client(options.wait));
  VT_RETURN_IF_ERROR(check_deletable(cli, options));
  Json deleted = Json::array();
  std::set<std::string> seen;
  for (const std::string& name : options.names) {
    if (!seen.insert(name).second) continue;
    Json params{{"name", name}, {"snapshots", options.snapshots}};
    if (options.force) params["force"] = true;
    params.update(how);
    VT_ASSIGN_OR_RETURN(Json one, cli.call("volume.delete", std::move(params)));
    if (!cli.json) print_line("deleted " + name);
    deleted.push_back(std::move(one));
  }
  if (options.wait) VT_RETURN_IF_ERROR(wait_for_erase(cli, deleted));
  const bool queued = std::any_of(deleted.begin(), deleted.end(), [](const Json& one) {
    return number_of(one, "erase_request") != 0;
  });
  if (cli.json) {
    print_json(Json{{"deleted", deleted}, {"erased", options.wait}});
  } else if (queued && options.wait) {
    print_line("the data is erased; \"voltree erase --certificates\" shows what was done");
  } else if (queued) {
    print_line(
        client->is_daemon()
            ? "the daemon erases the data in the background; \"voltree erase\" shows how far it is"
            : "the data is queued to be erased: by a daemon when one runs, or by "
              "\"voltree erase --wait\"");
  }
  return {};
}

void add_volume_commands(CLI::App& app, Cli& cli) {
  auto create = std::make_shared<CreateOptions>();
  CLI::App* command = cli.add(
      app, "create", "Make a volume; it takes no space until it is written to",
      "  voltree create disk 10G\n  voltree create secret 1T --erase random", create, run_create);
  command->add_option("NAME", create->name, "The new volume")->required();
  command->add_option("SIZE", create->size, "Its size: 512k, 10G, 1.5T or bytes")->required();
  command
      ->add_option("--erase", create->erase_policy,
                   "How its data is erased: zero, random, discard or none (default: the store's)")
      ->type_name("POLICY");

  auto resize = std::make_shared<ResizeOptions>();
  command = cli.add(app, "resize", "Grow a volume, online; shrink it with --shrink",
                    "  voltree resize disk 20G\n"
                    "  voltree resize disk +5G\n"
                    "  voltree resize disk 8G --shrink",
                    resize, run_resize);
  command->add_option("NAME", resize->name, "The volume")->required();
  command->add_option("SIZE", resize->size, "The new size, or +SIZE to grow by that much")
      ->required();
  command->add_flag("--shrink", resize->shrink, "Allow a smaller size: what lies beyond is erased");

  auto rename = std::make_shared<RenameOptions>();
  command = cli.add(app, "rename", "Rename a volume or a snapshot",
                    "  voltree rename disk root\n  voltree rename root@monday before-upgrade",
                    rename, run_rename);
  command->add_option("FROM", rename->from, "VOLUME or VOLUME@SNAPSHOT")->required();
  command->add_option("TO", rename->to, "The new name")->required();

  auto remove = std::make_shared<DeleteCommandOptions>();
  command =
      cli.add(app, "delete", "Delete volumes and snapshots, in any order, and erase their data",
              "  voltree delete disk@monday\n"
              "  voltree delete disk copy --snapshots --wait",
              remove, delete_nodes);
  command->add_option("NAME", remove->names, "VOLUME or VOLUME@SNAPSHOT")->required();
  command->add_flag("--wait", remove->wait, "Return when the bytes are gone");
  command->add_flag("--snapshots", remove->snapshots, "The volumes' snapshots, too");
  command->add_flag("--force", remove->force, "Though NBD clients use it: they are disconnected");
  command
      ->add_option("--erase", remove->erase_policy,
                   "How: zero, random, discard or none (default: the volume's)")
      ->type_name("POLICY");
  command
      ->add_option("--erase-first", remove->erase_first,
                   "Overwrite only so much from the volume's start; give the rest back without")
      ->type_name("SIZE");
  command
      ->add_option("--erase-priority", remove->erase_priority,
                   "The eraser's I/O priority: idle, or best-effort:0 to best-effort:7")
      ->type_name("PRIORITY");
}

}  // namespace voltree::cli
