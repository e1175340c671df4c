// scrub: reads all data, at its leisure.
#include "tools/voltree/command.h"
#include "tools/voltree/output.h"

namespace voltree::cli {
namespace {

struct ScrubOptions {
  std::string rate;
  bool restart = false;
  bool stop = false;
  bool status = false;
  bool background = false;
};

std::string state_of(const Json& scrub) {
  if (time_of(scrub, "started_ns") == 0) return "never";
  if (flag_of(scrub, "running")) return "under way";
  if (time_of(scrub, "finished_ns") != 0) {
    return "done at " + format_time(time_of(scrub, "finished_ns"));
  }
  const std::string failure = text_of(scrub, "failure");
  return failure.empty() ? std::string("stopped") : "ended: " + failure;
}

void print_scrub(const Json& scrub) {
  Facts facts;
  facts.add("state", state_of(scrub));
  if (const std::int64_t started_ns = time_of(scrub, "started_ns"); started_ns != 0) {
    const std::uint64_t rate_bytes = number_of(scrub, "rate_bytes");
    facts.add("started", format_time(started_ns));
    facts.add("read", fmt::format("{} of {}", format_size(number_of(scrub, "done_bytes")),
                                  format_size(number_of(scrub, "total_bytes"))));
    facts.add("rate", rate_bytes == 0 ? "no limit" : "at most " + format_size(rate_bytes) + "/s");
    facts.add("bad blocks", fmt::format("{}", number_of(scrub, "bad_blocks")));
  }
  print(facts.str());
  for (const Json& found : list_of(scrub, "findings")) {
    std::string names;
    for (const Json& name : list_of(found, "seen_by")) {
      names += (names.empty() ? "" : ", ") + name.get<std::string>();
    }
    print_line(
        fmt::format("DAMAGE: layer {:08x}: {} at {} can not be read, or do not match their "
                    "checksums; seen by {}",
                    number_of(found, "layer"), format_size(number_of(found, "length_bytes")),
                    number_of(found, "offset_bytes"), names.empty() ? "no volume" : names));
  }
}

// What the last scrub has found is a failure of the store, not of the command that tells of it.
Status tell(const Cli& cli, const Json& scrub, bool judge) {
  if (cli.json) {
    print_json(scrub);
  } else {
    print_scrub(scrub);
  }
  const std::uint64_t bad_blocks = number_of(scrub, "bad_blocks");
  if (!judge || bad_blocks == 0) return {};
  return error(Code::kDamaged, "{} block{} damaged", bad_blocks, bad_blocks == 1 ? " is" : "s are");
}

Status run_scrub(Cli& cli, const ScrubOptions& options) {
  if (options.status || options.stop) {
    VT_ASSIGN_OR_RETURN(const Json scrub,
                        cli.call(options.stop ? "scrub.stop" : "scrub.status", Json::object()));
    return tell(cli, scrub, false);
  }
  Json params{{"restart", options.restart}};
  if (!options.rate.empty() && options.rate != "0") {
    VT_ASSIGN_OR_RETURN(params["rate_bytes"], parse_size(options.rate));
  }
  VT_ASSIGN_OR_RETURN(Json scrub, cli.call("scrub.start", std::move(params)));
  if (!options.background) {
    ProgressMeter meter("scrubbing:");
    VT_ASSIGN_OR_RETURN(scrub, cli.call("scrub.wait", Json::object(), meter.sink()));
  }
  return tell(cli, scrub, !options.background);
}

}  // namespace

void add_scrub_commands(CLI::App& app, Cli& cli) {
  auto scrub = std::make_shared<ScrubOptions>();
  CLI::App* command = cli.add(app, "scrub",
                              "Read all data and verify its checksums, beside everything else; "
                              "goes on where it was stopped, exits 6 when there is damage",
                              "  voltree scrub --rate 50M\n"
                              "  voltree scrub --background\n"
                              "  voltree scrub --status",
                              scrub, run_scrub);
  command->add_option("--rate", scrub->rate, "Bytes a second that it may read; 0 is no limit")
      ->type_name("SIZE");
  command->add_flag("--restart", scrub->restart, "From the beginning");
  command->add_flag("--background", scrub->background, "Do not wait for it: a daemon does it");
  auto* stop = command->add_flag("--stop", scrub->stop, "Stop it, keeping its position");
  command->add_flag("--status", scrub->status, "Show how far it is, and what the last one found")
      ->excludes(stop);
}

}  // namespace voltree::cli
