// list, show, tree.
#include "tools/voltree/command.h"
#include "tools/voltree/output.h"

namespace voltree::cli {
namespace {

using Align = Table::Align;

std::string state_of(const Json& node) {
  std::string state = flag_of(node, "open") ? "open" : "";
  if (flag_of(node, "attached")) state = "attached";
  if (list_of(node, "failed_layers").empty()) return state;
  return state.empty() ? "damaged" : state + ", damaged";
}

// "00000003, 00000007".
std::string failed_layers_of(const Json& node) {
  std::string all;
  for (const Json& layer : list_of(node, "failed_layers")) {
    all += fmt::format("{}{:08x}", all.empty() ? "" : ", ", layer.get<std::uint64_t>());
  }
  return all;
}

std::string usage_of(const Json& node, std::string_view member) {
  return format_size(number_of(node.value("usage", Json::object()), member));
}

struct ListOptions {
  std::vector<std::string> volumes;
  bool usage = false;
  bool attachments = false;
};

Status list_nodes(Cli& cli, const ListOptions& options) {
  VT_ASSIGN_OR_RETURN(const Json all, cli.call("volume.list", Json{{"usage", options.usage}}));
  Json chosen = Json::array();
  for (const std::string& volume : options.volumes) {
    bool found = false;
    for (const Json& node : list_of(all, "nodes")) found |= text_of(node, "volume") == volume;
    if (!found) return error(Code::kNotFound, "there is no volume {}", voltree::quoted(volume));
  }
  for (const Json& node : list_of(all, "nodes")) {
    const auto& wanted = options.volumes;
    if (wanted.empty() ||
        std::find(wanted.begin(), wanted.end(), text_of(node, "volume")) != wanted.end()) {
      chosen.push_back(node);
    }
  }
  if (cli.json) {
    print_json(Json{{"nodes", std::move(chosen)}});
    return {};
  }
  std::vector<Table::Column> columns{{"NAME"}, {"SIZE", Align::kRight}};
  if (options.usage) {
    columns.push_back({"REFERENCED", Align::kRight});
    columns.push_back({"EXCLUSIVE", Align::kRight});
  }
  columns.insert(columns.end(), {{"CREATED"}, {"ORIGIN"}, {"STATE"}});
  Table table(columns);
  for (const Json& node : chosen) {
    std::vector<std::string> row{text_of(node, "name"), format_size(number_of(node, "size_bytes"))};
    if (options.usage) {
      row.push_back(usage_of(node, "referenced_bytes"));
      row.push_back(usage_of(node, "exclusive_bytes"));
    }
    row.push_back(format_time(time_of(node, "created_ns")));
    row.push_back(text_of(node, "origin"));
    row.push_back(state_of(node));
    table.add(std::move(row));
  }
  print(table.empty() ? "no volumes yet: voltree create NAME SIZE\n" : table.str());
  return {};
}

Status list_attachments(Cli& cli) {
  VT_ASSIGN_OR_RETURN(const Json answer, cli.call("device.list", Json::object()));
  if (cli.json) {
    print_json(answer);
    return {};
  }
  Table table({{"NAME"}, {"DEVICE"}, {"ACCESS"}, {"SECTOR", Align::kRight}, {"SINCE"}, {"STATE"}});
  for (const Json& one : list_of(answer, "attachments")) {
    table.add({text_of(one, "name"), text_of(one, "device"),
               flag_of(one, "read_only") ? "read-only" : "read-write",
               fmt::format("{}", number_of(one, "sector_size_bytes")),
               format_time(time_of(one, "created_ns")), text_of(one, "state")});
  }
  print(table.empty() ? "nothing is attached\n" : table.str());
  return {};
}

Status run_list(Cli& cli, const ListOptions& options) {
  return options.attachments ? list_attachments(cli) : list_nodes(cli, options);
}

// "read_iops_sec=500, total_bytes_sec=104857600 (100.0 MiB)".
std::string limits_of(const Json& node) {
  const Json limits = node.value("limits", Json::object());
  std::string all;
  for (const std::string& key : qos_keys()) {
    if (!limits.contains(key)) continue;
    all += (all.empty() ? "" : ", ") + key + "=" + format_limit(key, number_of(limits, key));
  }
  return all.empty() ? "none" : all;
}

struct ShowOptions {
  std::string name;
};

Status run_show(Cli& cli, const ShowOptions& options) {
  VT_ASSIGN_OR_RETURN(const Json node,
                      cli.call("volume.info", Json{{"name", options.name}, {"usage", true}}));
  if (cli.json) {
    print_json(node);
    return {};
  }
  std::string children;
  for (const Json& child : list_of(node, "children")) {
    children += (children.empty() ? "" : ", ") + child.get<std::string>();
  }
  const std::uint64_t size_bytes = number_of(node, "size_bytes");
  Facts facts;
  facts.add("name", text_of(node, "name"));
  facts.add("kind", text_of(node, "kind"));
  facts.add("size", fmt::format("{} ({} bytes)", format_size(size_bytes), size_bytes));
  facts.add("referenced", usage_of(node, "referenced_bytes"));
  facts.add("exclusive", usage_of(node, "exclusive_bytes") + " (freed if it is deleted)");
  facts.add("created", format_time(time_of(node, "created_ns")));
  facts.add("origin", text_of(node, "origin").empty() ? "none" : text_of(node, "origin"));
  facts.add("children", children.empty() ? "none" : children);
  facts.add("ancestors", fmt::format("{}", number_of(node, "depth")));
  if (text_of(node, "kind") == "volume") facts.add("limits", limits_of(node));
  facts.add("state", state_of(node).empty() ? "idle" : state_of(node));
  if (const std::string failed = failed_layers_of(node); !failed.empty()) {
    facts.add("layers missing", failed);
  }
  print(facts.str());
  return {};
}

struct TreeOptions {
  bool usage = false;
};

Status run_tree(Cli& cli, const TreeOptions& options) {
  VT_ASSIGN_OR_RETURN(const Json answer,
                      cli.call("volume.list", Json{{"junctions", true}, {"usage", options.usage}}));
  if (cli.json) {
    print_json(answer);
    return {};
  }
  std::vector<Table::Column> columns{{"NAME"}, {"SIZE", Align::kRight}};
  if (options.usage) {
    columns.push_back({"REFERENCED", Align::kRight});
    columns.push_back({"EXCLUSIVE", Align::kRight});
  }
  columns.push_back({"STATE"});
  Table table(columns);
  for (const TreeLine& line : draw_tree(list_of(answer, "nodes"), locale_is_utf8())) {
    const bool junction = text_of(*line.node, "kind") == "junction";
    std::vector<std::string> row{line.drawing,
                                 junction ? "" : format_size(number_of(*line.node, "size_bytes"))};
    if (options.usage) {
      row.push_back(junction ? "" : usage_of(*line.node, "referenced_bytes"));
      row.push_back(junction ? "" : usage_of(*line.node, "exclusive_bytes"));
    }
    row.push_back(state_of(*line.node));
    table.add(std::move(row));
  }
  print(table.empty() ? "no volumes yet: voltree create NAME SIZE\n" : table.str());
  return {};
}

}  // namespace

void add_list_commands(CLI::App& app, Cli& cli) {
  auto list = std::make_shared<ListOptions>();
  CLI::App* command = cli.add(app, "list", "List volumes and snapshots, or attachments",
                              "  voltree list --usage\n  voltree list disk --json", list, run_list);
  command->add_option("VOLUME", list->volumes, "Only these volumes and their snapshots");
  command->add_flag("--usage", list->usage, "What each one holds, and frees when deleted");
  command->add_flag("--attachments", list->attachments, "The devices instead");

  auto show = std::make_shared<ShowOptions>();
  command = cli.add(app, "show", "Show everything about one volume or snapshot",
                    "  voltree show disk\n  voltree show disk@monday --json", show, run_show);
  command->alias("info");
  command->add_option("NAME", show->name, "VOLUME or VOLUME@SNAPSHOT")->required();

  auto tree = std::make_shared<TreeOptions>();
  command = cli.add(app, "tree", "Draw who descends from whom",
                    "  voltree tree\n  voltree tree --usage", tree, run_tree);
  command->add_flag("--usage", tree->usage, "What each one holds, and frees when deleted");
}

}  // namespace voltree::cli
