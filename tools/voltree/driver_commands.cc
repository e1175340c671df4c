// manage, unmanage, driver stats: what OpenStack's managers ask of a back end, for people.
#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>

#include "driver/images/file_take.h"
#include "driver/images/image_import.h"
#include "driver/images/stop_signals.h"
#include "tools/voltree/command.h"
#include "tools/voltree/output.h"

namespace voltree::cli {
namespace {

constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;

// The driver's exceptions as the store's codes.
Status status_of(const std::string& exception, const std::string& message) {
  constexpr std::array<std::pair<std::string_view, Code>, 7> kCodes{{
      {"VolumeIsBusy", Code::kBusy},
      {"SnapshotIsBusy", Code::kBusy},
      {"VolumeNotFound", Code::kNotFound},
      {"SnapshotNotFound", Code::kNotFound},
      {"InvalidInput", Code::kInvalid},
      {"ManageExistingInvalidReference", Code::kInvalid},
      {"ManageExistingAlreadyManaged", Code::kExists},
  }};
  for (const auto& [name, code] : kCodes) {
    if (name == exception) return {code, message};
  }
  return {Code::kIoError, message};
}

Result<Json> call_verb(Cli& cli, std::string_view verb, Json arguments,
                       Json configuration = Json::object()) {
  VT_ASSIGN_OR_RETURN(Json result,
                      cli.call("driver.call", Json{{"call", verb},
                                                   {"arguments", std::move(arguments)},
                                                   {"configuration", std::move(configuration)}}));
  if (!result.contains("exception")) return std::move(result["answer"]);
  return status_of(text_of(result, "exception"), text_of(result, "message"));
}

Json volume_argument(const std::string& name) { return Json{{"name", name}, {"size", 0}}; }

Json snapshot_argument(const NodeName& name) {
  return Json{{"name", name.snapshot}, {"volume_name", name.volume}, {"volume_size", 0}};
}

// NEW for VOLUME@SNAPSHOT is VOLUME@NEW: a snapshot stays with its volume.
Result<NodeName> new_name(const NodeName& from, const std::string& text) {
  VT_ASSIGN_OR_RETURN(NodeName to, parse_node_name(text));
  if (from.is_snapshot() && !to.is_snapshot()) return NodeName{from.volume, text};
  if (from.is_snapshot() == to.is_snapshot() && (!to.is_snapshot() || to.volume == from.volume)) {
    return to;
  }
  return error(Code::kInvalid, "{} cannot become {}", from.str(), to.str());
}

struct ManageOptions {
  std::string reference;
  std::string name;
  bool list = false;
  bool snapshots = false;
  bool keep = false;
};

Status list_manageable(Cli& cli, const ManageOptions& options) {
  if (!options.reference.empty()) return error(Code::kInvalid, "--list takes no names");
  const char* verb = options.snapshots ? "get_manageable_snapshots" : "get_manageable_volumes";
  VT_ASSIGN_OR_RETURN(const Json entries, call_verb(cli, verb, Json{{"limit", INT32_MAX}}));
  if (cli.json) {
    print_json(Json{{"manageable", entries}});
    return {};
  }
  Table table({{"NAME"}, {"GIB", Table::Align::kRight}, {"STATE"}});
  for (const Json& entry : entries) {
    std::string name = text_of(entry.value("reference", Json()), "source-name");
    if (options.snapshots) {
      const Json volume = entry.value("source_reference", Json());
      name = fmt::format("{}@{}", text_of(volume, "source-name"), name);
    }
    const std::string reason = text_of(entry, "reason_not_safe");
    table.add({std::move(name), fmt::format("{}", number_of(entry, "size")),
               reason.empty() ? "free" : reason});
  }
  print(table.empty() ? "there is nothing to take in\n" : table.str());
  return {};
}

// The file itself becomes the volume where it can; elsewhere it is copied, and stays.
Status manage_file(Cli& cli, const ManageOptions& options) {
  std::error_code failure;
  const std::uint64_t file_bytes = std::filesystem::file_size(options.reference, failure);
  if (failure) return Status::from_errno(failure.value(), options.reference);
  ImportOptions import;
  import.file = options.reference;
  import.name = options.name;
  import.size_bytes = std::max<std::uint64_t>((file_bytes + kGiB - 1) / kGiB, 1) * kGiB;
  VT_RETURN_IF_ERROR(check_raw(options.reference));
  VT_ASSIGN_OR_RETURN(Client * client, cli.client());
  // A daemon gives the taking up when this process ends.
  std::optional<StopSignals> signals;
  if (!client->is_daemon()) signals.emplace();
  std::optional<ProgressMeter> meter("taking in " + options.reference + ":");
  TakeResult moved;
  if (!options.keep) {
    VT_ASSIGN_OR_RETURN(moved, take_file(*client, options.reference, options.name,
                                         *import.size_bytes, meter->sink()));
  }
  if (moved.taken) return {};
  if (!signals) signals.emplace();
  VT_RETURN_IF_ERROR(import_image(*client, import, meter->sink()).status());
  meter.reset();
  if (!options.keep) {
    print_warning(fmt::format("{} was copied, and stays: {}", options.reference, moved.why));
  }
  return {};
}

Status manage_node(Cli& cli, const NodeName& from, const NodeName& to) {
  VT_ASSIGN_OR_RETURN(const Json node, cli.call("volume.info", Json{{"name", from.str()}}));
  if (flag_of(node, "attached") || number_of(node, "connections") != 0) {
    return error(Code::kBusy, "{} is in use: detach it, and disconnect its NBD clients, first",
                 from.str());
  }
  if (from.str() == to.str()) return {};
  const Status taken = cli.call("volume.info", Json{{"name", to.str()}}).status();
  if (taken.ok()) return error(Code::kExists, "there is a {} already", to.str());
  if (from.is_snapshot()) {
    const Json arguments{{"snapshot", snapshot_argument(to)},
                         {"existing_ref", Json{{"source-name", from.snapshot}}}};
    return call_verb(cli, "manage_existing_snapshot", arguments).status();
  }
  const Json arguments{{"volume", volume_argument(to.volume)},
                       {"existing_ref", Json{{"source-name", from.volume}}}};
  return call_verb(cli, "manage_existing", arguments).status();
}

Status show_managed(Cli& cli, const std::string& name) {
  VT_ASSIGN_OR_RETURN(const Json node, cli.call("volume.info", Json{{"name", name}}));
  if (cli.json) {
    print_json(node);
  } else {
    print_line(fmt::format("{} is managed, {}", name, format_size(number_of(node, "size_bytes"))));
  }
  return {};
}

Status run_manage(Cli& cli, const ManageOptions& options) {
  if (options.list) return list_manageable(cli, options);
  if (options.snapshots) return error(Code::kInvalid, "--snapshots goes with --list");
  if (options.reference.empty() || options.name.empty()) {
    return error(Code::kInvalid, "say what to take in, and as what; --list shows what there is");
  }
  // No name of a volume has a slash.
  if (options.reference.find('/') != std::string::npos) {
    ManageOptions file = options;
    file.reference = absolute_path(options.reference);
    VT_RETURN_IF_ERROR(manage_file(cli, file));
    return show_managed(cli, options.name);
  }
  VT_ASSIGN_OR_RETURN(const NodeName from, parse_node_name(options.reference));
  VT_ASSIGN_OR_RETURN(const NodeName to, new_name(from, options.name));
  VT_RETURN_IF_ERROR(manage_node(cli, from, to));
  return show_managed(cli, to.str());
}

struct UnmanageOptions {
  std::string name;
  std::string as;
};

Status run_unmanage(Cli& cli, const UnmanageOptions& options) {
  VT_ASSIGN_OR_RETURN(const NodeName from, parse_node_name(options.name));
  NodeName to = from;
  if (!options.as.empty()) {
    VT_ASSIGN_OR_RETURN(to, new_name(from, options.as));
  }
  VT_ASSIGN_OR_RETURN(const Json before, cli.call("volume.info", Json{{"name", from.str()}}));
  if (flag_of(before, "attached")) {
    VT_RETURN_IF_ERROR(cli.call("device.detach", Json{{"name_or_device", from.str()}}).status());
  }
  const Json arguments = from.is_snapshot() ? Json{{"snapshot", snapshot_argument(from)}}
                                            : Json{{"volume", volume_argument(from.volume)}};
  const char* verb = from.is_snapshot() ? "unmanage_snapshot" : "unmanage";
  VT_RETURN_IF_ERROR(call_verb(cli, verb, arguments).status());
  if (to.str() != from.str()) {
    VT_RETURN_IF_ERROR(
        cli.call("volume.rename", Json{{"from", from.str()}, {"to", to.str()}}).status());
  }
  VT_ASSIGN_OR_RETURN(const Json node, cli.call("volume.info", Json{{"name", to.str()}}));
  if (cli.json) {
    print_json(node);
  } else {
    print_line(fmt::format("{} is nobody's but the store's", to.str()));
  }
  return {};
}

struct StatsOptions {
  std::string backend_name;
  std::string host_name;
  std::string free_min;
  std::string max_over_subscription_ratio;
  std::optional<std::uint64_t> reserved_percentage;
};

// Every scalar member, by Cinder's names for them.
void add_members(const Json& object, Facts& facts) {
  for (const auto& [key, value] : object.items()) {
    if (value.is_array() || value.is_object()) continue;
    if (value.is_null()) {
      facts.add(key, "none");
    } else {
      facts.add(key, value.is_string() ? value.get<std::string>() : value.dump());
    }
  }
}

Status run_driver_stats(Cli& cli, const StatsOptions& options) {
  Json configuration = Json::object();
  if (!options.backend_name.empty()) configuration["backend_name"] = options.backend_name;
  if (!options.host_name.empty()) configuration["host_name"] = options.host_name;
  if (!options.max_over_subscription_ratio.empty()) {
    configuration["max_over_subscription_ratio"] = options.max_over_subscription_ratio;
  }
  if (options.reserved_percentage) {
    configuration["reserved_percentage"] = *options.reserved_percentage;
  }
  if (!options.free_min.empty()) {
    VT_ASSIGN_OR_RETURN(configuration["free_min_bytes"], parse_size(options.free_min));
  }
  VT_ASSIGN_OR_RETURN(const Json stats, call_verb(cli, "get_volume_stats", Json{{"refresh", true}},
                                                  std::move(configuration)));
  if (cli.json) {
    print_json(stats);
    return {};
  }
  Facts facts;
  add_members(stats, facts);
  print(facts.str());
  for (const Json& pool : list_of(stats, "pools")) {
    Facts of_pool;
    add_members(pool, of_pool);
    print_line("");
    print(of_pool.str());
  }
  return {};
}

}  // namespace

void add_driver_commands(CLI::App& app, Cli& cli) {
  auto manage = std::make_shared<ManageOptions>();
  CLI::App* command =
      cli.add(app, "manage", "Take in what is there under a name that Cinder gives it",
              "  voltree manage --list\n"
              "  voltree manage disk volume-7d6f1b9e-3c0e-4d51-9d2c-0f6d6f4a9b11\n"
              "  voltree manage volume-7d6f1b9e-3c0e-4d51-9d2c-0f6d6f4a9b11@monday snapshot-1\n"
              "  voltree manage /srv/images/disk.raw volume-1",
              manage, run_manage);
  command->add_option("WHAT", manage->reference,
                      "VOLUME, VOLUME@SNAPSHOT or the path of a file (with a slash: ./FILE)");
  command->add_option("NAME", manage->name, "Its new name; a volume grows to whole GiB");
  command->add_flag("--keep", manage->keep, "Copy a file and leave it, also where it can be moved");
  command->add_flag("--list", manage->list, "What there is to take in");
  command->add_flag("--snapshots", manage->snapshots, "With --list: snapshots");

  auto unmanage = std::make_shared<UnmanageOptions>();
  command =
      cli.add(app, "unmanage", "Let go of what Cinder managed: its devices go, its data stays",
              "  voltree unmanage volume-1 --as disk", unmanage, run_unmanage);
  command->add_option("NAME", unmanage->name, "VOLUME or VOLUME@SNAPSHOT")->required();
  command->add_option("--as", unmanage->as, "A name for people")->type_name("NEW");

  CLI::App* driver = app.add_subcommand("driver", "What the driver for Cinder tells its scheduler");
  driver->require_subcommand(1);
  auto stats = std::make_shared<StatsOptions>();
  command = cli.add(*driver, "stats", "Show what the driver for Cinder tells its scheduler",
                    "  voltree driver stats --reserved-percentage 10\n"
                    "  voltree driver stats --json",
                    stats, run_driver_stats);
  command->add_option("--backend-name", stats->backend_name, "volume_backend_name")
      ->type_name("NAME");
  command->add_option("--host-name", stats->host_name, "Of cinder-volume")->type_name("NAME");
  command->add_option("--reserved-percentage", stats->reserved_percentage, "0 to 100");
  command
      ->add_option("--max-over-subscription-ratio", stats->max_over_subscription_ratio,
                   "20.0, or auto")
      ->type_name("RATIO");
  command->add_option("--free-min", stats->free_min, "Less free space than this: nothing new")
      ->type_name("SIZE");
}

}  // namespace voltree::cli
