// init, check, stats, version.
#include <filesystem>

#include "tools/voltree/command.h"
#include "tools/voltree/output.h"

namespace voltree::cli {
namespace {

struct InitOptions {
  std::string directory;
  std::string erase_policy = "zero";
  std::string erase_rate = "0";
};

Status run_init(Cli& cli, const InitOptions& options) {
  StoreCreateOptions create;
  VT_ASSIGN_OR_RETURN(create.erase_policy, parse_erase_policy(options.erase_policy));
  if (options.erase_rate != "0") {
    VT_ASSIGN_OR_RETURN(create.erase_rate_bytes, parse_size(options.erase_rate));
  }
  const std::string directory =
      options.directory.empty() ? cli.store_directory : absolute_path(options.directory);
  if (directory == default_store_directory()) {
    // ~/.local/share need not be there yet. A parent of another place that is missing is a typing
    // error.
    const std::filesystem::path parent = std::filesystem::path(directory).parent_path();
    std::error_code failure;
    std::filesystem::create_directories(parent, failure);
    if (failure) return Status::from_errno(failure.value(), parent.string());
  }
  VT_ASSIGN_OR_RETURN(const std::unique_ptr<Runtime> runtime, make_host_runtime({1}));
  VT_RETURN_IF_ERROR(Store::create(*runtime, directory, create));

  cli.store_directory = directory;
  VT_ASSIGN_OR_RETURN(const Json pool, cli.call("pool.stats", Json::object()));
  if (const std::string warning = text_of(pool, "warning"); !warning.empty()) {
    print_warning(warning);
  }
  if (cli.json) {
    print_json(Json{{"directory", directory}, {"uuid", text_of(pool, "uuid")}});
    return {};
  }
  print_line(fmt::format("made a store in {}", directory));
  if (directory != default_store_directory()) {
    print_line(fmt::format("use it with --store {0}, or: export VOLTREE_STORE={0}", directory));
  }
  return {};
}

struct CheckCommandOptions {
  bool data = false;
};

Status run_check(Cli& cli, const CheckCommandOptions& options) {
  Json report;
  {
    ProgressMeter meter(options.data ? "checking data:" : "checking:");
    VT_ASSIGN_OR_RETURN(report,
                        cli.call("store.check", Json{{"data", options.data}}, meter.sink()));
  }
  std::size_t damages = 0;
  for (const Json& finding : list_of(report, "findings")) {
    if (flag_of(finding, "damage")) ++damages;
  }
  if (cli.json) {
    print_json(report);
  } else {
    for (const Json& finding : list_of(report, "findings")) {
      print_line(fmt::format("{}: {}", flag_of(finding, "damage") ? "DAMAGE" : "note",
                             text_of(finding, "what")));
    }
    print_line(fmt::format(
        "checked {} nodes, {} layers, {} of data in blocks{}", number_of(report, "nodes"),
        number_of(report, "layers"), format_size(number_of(report, "blocks") * kBlockBytes),
        options.data ? fmt::format(", {} read and verified",
                                   format_size(number_of(report, "verified_bytes")))
                     : std::string("; their checksums were not read (--data)")));
    if (flag_of(report, "sound")) print_line("the store is sound");
  }
  if (flag_of(report, "sound")) return {};
  return error(Code::kDamaged, "the store is damaged: {} finding{}", damages,
               damages == 1 ? "" : "s");
}

struct NoOptions {};

Status run_stats(Cli& cli, const NoOptions&) {
  VT_ASSIGN_OR_RETURN(const Json pool, cli.call("pool.stats", Json::object()));
  if (cli.json) {
    print_json(pool);
    return {};
  }
  const auto size = [](const Json& object, std::string_view member) {
    return format_size(number_of(object, member));
  };
  const Json host = pool.value("host", Json::object());
  const Json counters = pool.value("counters", Json::object());
  const std::uint64_t rate = number_of(pool, "erase_rate_bytes");
  Facts facts;
  facts.add("store", text_of(pool, "directory"));
  facts.add("uuid", text_of(pool, "uuid"));
  if (const std::string from = text_of(pool, "copied_from"); !from.empty()) {
    facts.add("copied from", from);
  }
  facts.add("host", fmt::format("{}, {} free of {}", text_of(host, "type"),
                                size(host, "free_bytes"), size(host, "total_bytes")));
  facts.add("volumes", fmt::format("{}, {} together", number_of(pool, "volumes"),
                                   size(pool, "virtual_bytes")));
  facts.add("snapshots", fmt::format("{}", number_of(pool, "snapshots")));
  facts.add("space taken", fmt::format("{} in {} layers", size(pool, "allocated_bytes"),
                                       number_of(pool, "layers")));
  facts.add("left to erase", size(pool, "erase_left_bytes"));
  facts.add("erase policy",
            fmt::format("{}, {}", text_of(pool, "erase_policy"),
                        rate == 0 ? std::string("no rate limit") : format_size(rate) + "/s"));
  facts.add("state", flag_of(pool, "read_only") ? "read-only" : "read-write");
  if (const std::string warning = text_of(pool, "warning"); !warning.empty()) {
    facts.add("warning", warning);
  }
  print(facts.str());
  Facts counts;
  for (const auto& [name, value] : counters.items()) {
    const bool bytes = name.size() > 6 && name.compare(name.size() - 6, 6, "_bytes") == 0;
    const std::uint64_t count = number_of(counters, name);
    counts.add("  " + name, bytes ? format_size(count) : fmt::format("{}", count));
  }
  print_line("since the store was opened:");
  print(counts.str());
  return {};
}

Status run_version(Cli& cli, const NoOptions&) {
  Json answer{{"version", VOLTREE_VERSION}, {"format_version", kFormatVersion}};
  const auto daemon = SocketClient::connect(cli.store_directory + "/run/control.sock");
  if (daemon.ok()) {
    VT_ASSIGN_OR_RETURN(const Json theirs, (*daemon)->call("version", Json::object(), {}));
    answer["daemon_version"] = text_of(theirs, "version");
  }
  if (cli.json) {
    print_json(answer);
    return {};
  }
  print_line(fmt::format("voltree {} (store format {})", VOLTREE_VERSION, kFormatVersion));
  if (daemon.ok()) print_line("daemon " + text_of(answer, "daemon_version"));
  return {};
}

}  // namespace

void add_store_commands(CLI::App& app, Cli& cli) {
  auto init = std::make_shared<InitOptions>();
  CLI::App* command = cli.add(app, "init", "Make a store in an empty directory",
                              "  voltree init /srv/volumes\n"
                              "  voltree init --erase random --erase-rate 100M",
                              init, run_init);
  command->add_option("DIR", init->directory, "The directory; made when absent (default: --store)");
  command
      ->add_option("--erase", init->erase_policy,
                   "How deleted data is erased: zero, random, discard or none")
      ->type_name("POLICY");
  command
      ->add_option("--erase-rate", init->erase_rate,
                   "Bytes a second that the eraser may write; 0 is no limit")
      ->type_name("SIZE");

  auto check = std::make_shared<CheckCommandOptions>();
  command = cli.add(app, "check", "Verify the store; exits 6 and names it when there is damage",
                    "  voltree check\n  voltree check --data", check, run_check);
  command->add_flag("--data", check->data, "Read every block and verify its checksum, too");

  auto none = std::make_shared<NoOptions>();
  cli.add(app, "stats", "Show the pool and what was done since the store was opened",
          "  voltree stats\n  voltree stats --json", none, run_stats);
  cli.add(app, "version", "Show the version of this program and of the daemon", "  voltree version",
          none, run_version);
}

}  // namespace voltree::cli
