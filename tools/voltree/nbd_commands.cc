// nbd: where clients find a volume, and which are there.
#include "tools/voltree/command.h"
#include "tools/voltree/output.h"

namespace voltree::cli {
namespace {

struct NbdOptions {
  std::string name;
  bool disconnect = false;
};

Status show_connections(Cli& cli) {
  VT_ASSIGN_OR_RETURN(const Json answer, cli.call("nbd.connections", Json::object()));
  if (cli.json) {
    print_json(answer);
    return {};
  }
  using Align = Table::Align;
  Table table(
      {{"NAME"}, {"CLIENT"}, {"ACCESS"}, {"REQUESTS", Align::kRight}, {"AGE", Align::kRight}});
  for (const Json& one : list_of(answer, "connections")) {
    const std::string name = text_of(one, "name");
    table.add({name.empty() ? "(handshake)" : name, text_of(one, "peer"),
               flag_of(one, "read_only") ? "ro" : "rw",
               fmt::format("{}", number_of(one, "requests")),
               fmt::format("{} s", number_of(one, "age_s"))});
  }
  print(table.empty() ? "no client is connected\n" : table.str());
  return {};
}

Status run_nbd(Cli& cli, const NbdOptions& options) {
  if (options.name.empty()) {
    if (options.disconnect) return error(Code::kInvalid, "--disconnect wants a NAME");
    return show_connections(cli);
  }
  VT_RETURN_IF_ERROR(parse_node_name(options.name).status());
  const Json params{{"name", options.name}};
  if (options.disconnect) {
    VT_ASSIGN_OR_RETURN(const Json answer, cli.call("nbd.disconnect", params));
    if (cli.json) {
      print_json(answer);
    } else {
      print_line(fmt::format("{} disconnected", number_of(answer, "disconnected")));
    }
    return {};
  }
  VT_ASSIGN_OR_RETURN(const Json answer, cli.call("nbd.uris", params));
  if (cli.json) {
    print_json(answer);
    return {};
  }
  for (const Json& uri : list_of(answer, "uris")) print_line(uri.get<std::string>());
  return {};
}

}  // namespace

void add_nbd_commands(CLI::App& app, Cli& cli) {
  auto nbd = std::make_shared<NbdOptions>();
  CLI::App* command =
      cli.add(app, "nbd", "Print where NBD clients find a volume, or list who is connected",
              "  voltree nbd disk\n"
              "  qemu-img info $(voltree nbd disk@monday | head -n1)\n"
              "  voltree nbd                       the connections\n"
              "  voltree nbd disk --disconnect",
              nbd, run_nbd);
  command->add_option("NAME", nbd->name, "VOLUME or VOLUME@SNAPSHOT");
  command->add_flag("--disconnect", nbd->disconnect, "Close the connections to it");
}

}  // namespace voltree::cli
