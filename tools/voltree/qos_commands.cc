// qos: what a volume's I/O is held to.
#include "tools/voltree/command.h"
#include "tools/voltree/output.h"

namespace voltree::cli {
namespace {

struct QosOptions {
  std::string name;
  std::vector<std::string> limits;  // KEY=VALUE
  bool clear = false;
};

Status unknown_limit(std::string_view key) {
  std::string all;
  for (const std::string& known : qos_keys()) all += "\n  " + known;
  return error(Code::kInvalid, "there is no limit {}; the limits are{}", voltree::quoted(key), all);
}

// "total_bytes_sec=100M": bytes may have a unit, operations are plain numbers.
Status add_limit(const std::string& text, Json& params) {
  const std::size_t equals = text.find('=');
  const std::string key = text.substr(0, equals);
  if (!is_qos_key(key)) return unknown_limit(key);
  const std::string value = equals == std::string::npos ? std::string() : text.substr(equals + 1);
  if (value.empty()) {
    return error(Code::kInvalid, "{} wants a value: {}=500, or {}=0 for none", key, key, key);
  }
  if (!qos_key_is_bytes(key) && value.find_first_not_of("0123456789") != std::string::npos) {
    return error(Code::kInvalid, "{} counts operations: {} is no whole number", key,
                 voltree::quoted(value));
  }
  if (params.contains(key)) return error(Code::kInvalid, "{} is given twice", key);
  VT_ASSIGN_OR_RETURN(params[key], parse_size(value));
  return {};
}

void print_limits(const Json& answer) {
  const Json limits = answer.value("limits", Json::object());
  if (limits.empty()) {
    print_line(text_of(answer, "name") + " has no limits");
    return;
  }
  const Json effective = answer.value("effective", Json::object());
  Facts facts;
  // In the order of the keys, and with what a limit by size comes to.
  for (const std::string& key : qos_keys()) {
    if (limits.contains(key)) {
      facts.add(key, format_limit(key, number_of(limits, key)));
    } else if (effective.contains(key)) {
      facts.add(key, format_limit(key, number_of(effective, key)) + " by its size");
    }
  }
  facts.add("waiting now", fmt::format("{}", number_of(answer, "waiting")));
  facts.add("delayed so far", fmt::format("{}", number_of(answer, "delayed")));
  print(facts.str());
}

Status run_qos(Cli& cli, const QosOptions& options) {
  VT_RETURN_IF_ERROR(check_name(options.name));
  Json params{{"name", options.name}};
  if (options.clear) params["clear"] = true;
  for (const std::string& limit : options.limits) {
    VT_RETURN_IF_ERROR(add_limit(limit, params));
  }
  const bool changes = options.clear || !options.limits.empty();
  VT_ASSIGN_OR_RETURN(const Json answer,
                      cli.call(changes ? "qos.set" : "qos.get", std::move(params)));
  if (cli.json) {
    print_json(answer);
  } else {
    print_limits(answer);
  }
  return {};
}

}  // namespace

void add_qos_commands(CLI::App& app, Cli& cli) {
  auto qos = std::make_shared<QosOptions>();
  CLI::App* command =
      cli.add(app, "qos", "Show or change what a volume's reads and writes are held to",
              "  voltree qos disk\n"
              "  voltree qos disk read_iops_sec=500 total_bytes_sec=100M total_bytes_sec_max=300M\n"
              "  voltree qos disk total_iops_sec_per_gb=10 total_iops_sec_per_gb_min=100\n"
              "  voltree qos disk read_iops_sec=0\n"
              "  voltree qos disk --clear",
              qos, run_qos);
  command->add_option("NAME", qos->name, "The volume")->required();
  command->add_option("KEY=VALUE", qos->limits,
                      "A limit a second; 0 takes it away, what is not named stays");
  command->add_flag("--clear", qos->clear, "Take away all limits that are not named");
}

}  // namespace voltree::cli
