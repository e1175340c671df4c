// guard and reserve: what of the host's space is kept free, and what for whom.
#include "tools/voltree/command.h"
#include "tools/voltree/output.h"

namespace voltree::cli {
namespace {

struct GuardOptions {
  std::string warn;
  std::string stop;
  std::string overprovision;
};

Result<std::uint64_t> parse_level(const std::string& text) {
  return text == "0" ? Result<std::uint64_t>(0) : parse_size(text);
}

Result<std::uint64_t> parse_percent(std::string text) {
  if (text.ends_with('%')) text.pop_back();
  if (text.empty() || text.size() > 7 ||
      text.find_first_not_of("0123456789") != std::string::npos) {
    return error(Code::kInvalid, "--overprovision is in percent: 150%, or 0 for no bound");
  }
  return std::stoull(text);
}

void print_guard(const Json& guard) {
  const auto level = [&guard](const char* key) {
    const std::uint64_t bytes = number_of(guard, key);
    return bytes == 0 ? std::string("none") : format_size(bytes) + " free";
  };
  Facts facts;
  facts.add("state", text_of(guard, "state"));
  facts.add("host", fmt::format("{} of {} free", format_size(number_of(guard, "host_free_bytes")),
                                format_size(number_of(guard, "host_total_bytes"))));
  facts.add("warns below", level("warn_free_bytes"));
  facts.add("stops below", level("stop_free_bytes"));
  const std::uint64_t percent = number_of(guard, "overprovision_percent");
  facts.add("volumes' sizes",
            fmt::format("{}, {}", format_size(number_of(guard, "virtual_bytes")),
                        percent == 0 ? std::string("without a bound")
                                     : fmt::format("at most {} % of the host", percent)));
  facts.add("kept for volumes", format_size(number_of(guard, "promised_bytes")));
  print(facts.str());
}

Status run_guard(Cli& cli, const GuardOptions& options) {
  Json params = Json::object();
  if (!options.warn.empty()) {
    VT_ASSIGN_OR_RETURN(params["warn_free_bytes"], parse_level(options.warn));
  }
  if (!options.stop.empty()) {
    VT_ASSIGN_OR_RETURN(params["stop_free_bytes"], parse_level(options.stop));
  }
  if (!options.overprovision.empty()) {
    VT_ASSIGN_OR_RETURN(params["overprovision_percent"], parse_percent(options.overprovision));
  }
  VT_ASSIGN_OR_RETURN(const Json guard, cli.call("pool.guard", std::move(params)));
  if (cli.json) {
    print_json(guard);
  } else {
    print_guard(guard);
  }
  return {};
}

struct ReserveOptions {
  std::string name;
  std::string size;
};

Status run_reserve(Cli& cli, const ReserveOptions& options) {
  VT_RETURN_IF_ERROR(check_name(options.name));
  VT_ASSIGN_OR_RETURN(const std::uint64_t bytes, parse_level(options.size));
  VT_ASSIGN_OR_RETURN(const Json answer,
                      cli.call("volume.reserve", Json{{"name", options.name}, {"bytes", bytes}}));
  if (cli.json) {
    print_json(answer);
  } else {
    print_line(bytes == 0 ? "nothing is kept for " + options.name
                          : fmt::format("{} are kept for {}", format_size(bytes), options.name));
  }
  return {};
}

}  // namespace

void add_guard_commands(CLI::App& app, Cli& cli) {
  auto guard = std::make_shared<GuardOptions>();
  CLI::App* command = cli.add(app, "guard", "Show or set what of the host's space is kept free",
                              "  voltree guard\n"
                              "  voltree guard --warn 20G --stop 5G --overprovision 300%",
                              guard, run_guard);
  command->add_option("--warn", guard->warn, "Warn with less free space than this; 0: never")
      ->type_name("SIZE");
  command
      ->add_option("--stop", guard->stop,
                   "With less free space nothing new is allocated; 0: until the host is full")
      ->type_name("SIZE");
  command
      ->add_option("--overprovision", guard->overprovision,
                   "All volumes' sizes together, of the host's size; 0: no bound")
      ->type_name("PERCENT");

  auto reserve = std::make_shared<ReserveOptions>();
  command = cli.add(app, "reserve", "Keep space of the host for a volume",
                    "  voltree reserve db 20G\n"
                    "  voltree reserve db 0",
                    reserve, run_reserve);
  command->add_option("NAME", reserve->name, "The volume")->required();
  command
      ->add_option("SIZE", reserve->size,
                   "How much; what it holds itself counts. At most its size; 0: nothing")
      ->required();
}

}  // namespace voltree::cli
