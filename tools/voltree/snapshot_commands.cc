// snapshot, clone, revert, diff.
#include "tools/voltree/command.h"
#include "tools/voltree/output.h"

namespace voltree::cli {
namespace {

struct SnapshotOptions {
  std::vector<std::string> names;
};

Status run_snapshot(Cli& cli, const SnapshotOptions& options) {
  for (const std::string& name : options.names) {
    VT_RETURN_IF_ERROR(parse_snapshot_name(name).status());
  }
  Json answer;
  if (options.names.size() == 1) {
    VT_ASSIGN_OR_RETURN(const NodeName name, parse_snapshot_name(options.names.front()));
    VT_ASSIGN_OR_RETURN(answer, cli.call("volume.snapshot", Json{{"volume", name.volume},
                                                                 {"snapshot", name.snapshot}}));
  } else {
    VT_ASSIGN_OR_RETURN(answer,
                        cli.call("volume.snapshot_group", Json{{"snapshots", options.names}}));
  }
  if (cli.json) {
    print_json(answer);
    return {};
  }
  for (const std::string& name : options.names) print_line("took " + name);
  return {};
}

struct CloneOptions {
  std::string source;
  std::string name;
  std::string size;
};

Status run_clone(Cli& cli, const CloneOptions& options) {
  VT_RETURN_IF_ERROR(parse_node_name(options.source).status());
  VT_RETURN_IF_ERROR(check_name(options.name));
  Json params{{"source", options.source}, {"name", options.name}};
  if (!options.size.empty()) {
    VT_ASSIGN_OR_RETURN(const std::uint64_t size_bytes, parse_size(options.size));
    params["size_bytes"] = size_bytes;
  }
  VT_ASSIGN_OR_RETURN(const Json node, cli.call("volume.clone", std::move(params)));
  if (cli.json) {
    print_json(node);
  } else {
    print_line(fmt::format("cloned {} to {}, {}", options.source, options.name,
                           format_size(number_of(node, "size_bytes"))));
  }
  return {};
}

struct RevertCommandOptions {
  std::string name;
  std::string keep_as;
};

Status run_revert(Cli& cli, const RevertCommandOptions& options) {
  VT_ASSIGN_OR_RETURN(const NodeName name, parse_snapshot_name(options.name));
  Json params{{"volume", name.volume}, {"snapshot", name.snapshot}};
  if (!options.keep_as.empty()) {
    VT_RETURN_IF_ERROR(check_name(options.keep_as).with_context("--keep-as"));
    params["keep_as"] = options.keep_as;
  }
  VT_ASSIGN_OR_RETURN(const Json node, cli.call("volume.revert", std::move(params)));
  if (cli.json) {
    print_json(node);
    return {};
  }
  print_line(fmt::format("{} is what it was at {}", name.volume, name.snapshot));
  if (!options.keep_as.empty()) {
    print_line(fmt::format("what it was before is {}@{}", name.volume, options.keep_as));
  }
  return {};
}

struct DiffOptions {
  std::string a;
  std::string b;
};

Status run_diff(Cli& cli, const DiffOptions& options) {
  Json ranges = Json::array();
  Json page;
  Json from = 0U;
  while (!from.is_null()) {
    VT_ASSIGN_OR_RETURN(
        page,
        cli.call("volume.diff", Json{{"a", options.a}, {"b", options.b}, {"from_bytes", from}}));
    for (const Json& range : list_of(page, "ranges")) ranges.push_back(range);
    const Json next = page.value("next_from_bytes", Json());
    // A page that does not advance would be asked for again without end.
    if (next.is_number_unsigned() && next.get<std::uint64_t>() <= from.get<std::uint64_t>()) break;
    from = next;
  }
  const std::uint64_t changed_bytes = number_of(page, "changed_bytes");
  if (cli.json) {
    print_json(Json{{"a", options.a},
                    {"b", options.b},
                    {"changed_bytes", changed_bytes},
                    {"ranges", std::move(ranges)}});
    return {};
  }
  Table table({{"OFFSET", Table::Align::kRight}, {"LENGTH", Table::Align::kRight}});
  for (const Json& range : ranges) {
    table.add({fmt::format("{}", number_of(range, "offset_bytes")),
               fmt::format("{}", number_of(range, "length_bytes"))});
  }
  if (!table.empty()) print(table.str());
  print_line(fmt::format("{} in {} range{} may differ", format_size(changed_bytes), ranges.size(),
                         ranges.size() == 1 ? "" : "s"));
  return {};
}

}  // namespace

void add_snapshot_commands(CLI::App& app, Cli& cli) {
  auto snapshot = std::make_shared<SnapshotOptions>();
  CLI::App* command = cli.add(
      app, "snapshot", "Keep volumes as they are now, several at one instant; moves no data",
      "  voltree snapshot disk@monday\n  voltree snapshot data@monday log@monday", snapshot,
      run_snapshot);
  command->add_option("VOLUME@NAME", snapshot->names, "The volume and the new snapshot")
      ->required();

  auto clone = std::make_shared<CloneOptions>();
  command = cli.add(app, "clone", "Make a volume of a snapshot, or of a volume as it is now",
                    "  voltree clone disk@monday copy\n  voltree clone disk bigger --size 20G",
                    clone, run_clone);
  command->add_option("SOURCE", clone->source, "VOLUME or VOLUME@SNAPSHOT")->required();
  command->add_option("NAME", clone->name, "The new volume")->required();
  command->add_option("--size", clone->size, "A larger size than the source's");

  auto revert = std::make_shared<RevertCommandOptions>();
  command = cli.add(app, "revert", "Take a volume back to one of its snapshots",
                    "  voltree revert disk@monday\n"
                    "  voltree revert disk@monday --keep-as before-revert",
                    revert, run_revert);
  command->add_option("VOLUME@SNAPSHOT", revert->name, "The volume and the snapshot")->required();
  command->add_option("--keep-as", revert->keep_as, "Keep the present state as this snapshot")
      ->type_name("NAME");

  auto diff = std::make_shared<DiffOptions>();
  command =
      cli.add(app, "diff", "List the byte ranges in which two volumes or snapshots may differ",
              "  voltree diff disk@monday disk\n  voltree diff disk@monday disk@tuesday --json",
              diff, run_diff);
  command->add_option("A", diff->a, "VOLUME or VOLUME@SNAPSHOT")->required();
  command->add_option("B", diff->b, "VOLUME or VOLUME@SNAPSHOT")->required();
}

}  // namespace voltree::cli
