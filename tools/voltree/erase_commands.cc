// erase: the queue, its certificates, its settings.
#include "tools/voltree/command.h"
#include "tools/voltree/output.h"

namespace voltree::cli {
namespace {

constexpr std::uint64_t kCertificatePage = 500;

struct EraseOptions {
  bool certificates = false;
  bool wait = false;
  std::string policy;
  std::string rate;
};

std::string certificate_table(const Json& certificates) {
  Table table({{"CERTIFICATE", Table::Align::kRight},
               {"WHAT"},
               {"POLICY"},
               {"FINISHED"},
               {"ERASED", Table::Align::kRight},
               {"VERIFIED", Table::Align::kRight},
               {"HOW"}});
  for (const Json& one : certificates) {
    table.add({fmt::format("{}", number_of(one, "certificate")), text_of(one, "what"),
               text_of(one, "policy"), format_time(time_of(one, "finished_ns")),
               format_size(number_of(one, "erased_bytes")),
               format_size(number_of(one, "verified_bytes")), text_of(one, "verification")});
  }
  return table.str();
}

Status show_certificates(Cli& cli) {
  Json all = Json::array();
  std::uint64_t after_id = 0;
  while (true) {
    VT_ASSIGN_OR_RETURN(
        const Json page,
        cli.call("erase.certificates", Json{{"after_id", after_id}, {"limit", kCertificatePage}}));
    const Json& list = list_of(page, "certificates");
    for (const Json& certificate : list) all.push_back(certificate);
    const std::uint64_t last_id = list.empty() ? 0 : number_of(list.back(), "certificate");
    if (list.size() < kCertificatePage || last_id <= after_id) break;
    after_id = last_id;
  }
  if (cli.json) {
    print_json(Json{{"certificates", std::move(all)}});
  } else if (all.empty()) {
    print_line("nothing was erased yet");
  } else {
    print(certificate_table(all));
  }
  return {};
}

Status wait_for_queue(Cli& cli) {
  VT_RETURN_IF_ERROR(cli.client(/*background_work=*/true).status());
  Json answer;
  {
    ProgressMeter meter("erasing:");
    VT_ASSIGN_OR_RETURN(answer, cli.call("erase.wait", Json::object(), meter.sink()));
  }
  if (cli.json) {
    print_json(answer);
  } else {
    const std::uint64_t erased_bytes = number_of(answer, "erased_bytes");
    print_line(erased_bytes == 0
                   ? std::string("the erase queue is empty")
                   : fmt::format("the erase queue is empty, {} erased", format_size(erased_bytes)));
  }
  return {};
}

Status change_settings(Cli& cli, const EraseOptions& options) {
  Json params = Json::object();
  if (!options.policy.empty()) {
    VT_RETURN_IF_ERROR(parse_erase_policy(options.policy).status());
    params["policy"] = options.policy;
  }
  if (!options.rate.empty()) {
    std::uint64_t rate_bytes = 0;
    if (options.rate != "0") {
      VT_ASSIGN_OR_RETURN(rate_bytes, parse_size(options.rate));
    }
    params["rate_bytes"] = rate_bytes;
  }
  VT_ASSIGN_OR_RETURN(const Json now, cli.call("erase.set", std::move(params)));
  if (cli.json) {
    print_json(now);
    return {};
  }
  const std::uint64_t rate_bytes = number_of(now, "rate_bytes");
  print_line(fmt::format("erase policy {}, {}", text_of(now, "policy"),
                         rate_bytes == 0 ? std::string("no rate limit")
                                         : "at most " + format_size(rate_bytes) + "/s"));
  return {};
}

Status show_queue(Cli& cli) {
  VT_ASSIGN_OR_RETURN(const Json queue, cli.call("erase.queue", Json::object()));
  if (cli.json) {
    print_json(queue);
    return {};
  }
  Table table({{"REQUEST", Table::Align::kRight},
               {"WHAT"},
               {"POLICY"},
               {"SINCE"},
               {"ERASED", Table::Align::kRight},
               {"LEFT", Table::Align::kRight}});
  for (const Json& one : list_of(queue, "requests")) {
    table.add({fmt::format("{}", number_of(one, "request")), text_of(one, "what"),
               text_of(one, "policy"), format_time(time_of(one, "requested_ns")),
               format_size(number_of(one, "erased_bytes")),
               format_size(number_of(one, "left_bytes"))});
  }
  print(table.empty() ? "the erase queue is empty\n" : table.str());
  return {};
}

Status run_erase(Cli& cli, const EraseOptions& options) {
  const bool settings = !options.policy.empty() || !options.rate.empty();
  if (options.wait) VT_RETURN_IF_ERROR(cli.client(/*background_work=*/true).status());
  if (settings) VT_RETURN_IF_ERROR(change_settings(cli, options));
  if (options.wait) VT_RETURN_IF_ERROR(wait_for_queue(cli));
  if (options.certificates) return show_certificates(cli);
  return settings || options.wait ? Status() : show_queue(cli);
}

}  // namespace

void add_erase_commands(CLI::App& app, Cli& cli) {
  auto erase = std::make_shared<EraseOptions>();
  CLI::App* command = cli.add(app, "erase", "Show what is left to erase; wait for it; prove it",
                              "  voltree erase\n"
                              "  voltree erase --wait\n"
                              "  voltree erase --certificates --json\n"
                              "  voltree erase --set-policy random --rate 200M",
                              erase, run_erase);
  command->add_flag("--wait", erase->wait, "Return when everything queued now is gone");
  command->add_flag("--certificates", erase->certificates,
                    "One certificate for each finished erase");
  command->add_option("--set-policy", erase->policy, "The store's: zero, random, discard or none")
      ->type_name("POLICY");
  command->add_option("--rate", erase->rate, "Bytes a second the eraser may write; 0 is no limit")
      ->type_name("SIZE");
}

}  // namespace voltree::cli
