// attach, detach.
#include "driver/control/protocol.h"
#include "tools/voltree/command.h"
#include "tools/voltree/output.h"

namespace voltree::cli {
namespace {

struct AttachCommandOptions {
  std::string name;
  bool read_only = false;
  bool nbd = false;
  unsigned sector_size = 512;
};

Status run_attach(Cli& cli, const AttachCommandOptions& options) {
  VT_RETURN_IF_ERROR(parse_node_name(options.name).status());
  VT_ASSIGN_OR_RETURN(Client * client, cli.client());
  if (!client->is_daemon()) {
    // A name that is wrong is the nearer mistake.
    VT_RETURN_IF_ERROR(cli.call("volume.info", Json{{"name", options.name}}).status());
    return error(Code::kNotSupported, "attaching needs a running daemon{}",
                 options.nbd ? ": voltree serve" : " with a mount: voltree serve --mount DIR");
  }
  VT_ASSIGN_OR_RETURN(const Json made,
                      cli.call("device.attach", Json{{"name", options.name},
                                                     {"target", options.nbd ? "nbd" : "loop"},
                                                     {"read_only", options.read_only},
                                                     {"sector_size_bytes", options.sector_size}}));
  if (cli.json) {
    print_json(made);
  } else {
    print_line(text_of(made, "device"));
  }
  return {};
}

struct DetachOptions {
  std::string which;
};

Status run_detach(Cli& cli, const DetachOptions& options) {
  VT_ASSIGN_OR_RETURN(const Json gone,
                      cli.call("device.detach", Json{{"name_or_device", options.which}}));
  if (cli.json) {
    print_json(gone);
    return {};
  }
  for (const Json& one : list_of(gone, "detached")) {
    print_line(fmt::format("detached {} from {}", text_of(one, "name"),
                           text_of(one, "device").empty() ? "no device" : text_of(one, "device")));
  }
  return {};
}

}  // namespace

void add_device_commands(CLI::App& app, Cli& cli) {
  auto attach = std::make_shared<AttachCommandOptions>();
  CLI::App* command = cli.add(app, "attach", "Make a block device of a volume and print its path",
                              "  mkfs.ext4 $(voltree attach disk)\n"
                              "  voltree attach --nbd disk         /dev/nbdN: needs no mount, and\n"
                              "                                    outlives a daemon's restart\n"
                              "  voltree attach disk@monday        a snapshot, read-only",
                              attach, run_attach);
  command->add_option("NAME", attach->name, "VOLUME or VOLUME@SNAPSHOT")->required();
  command->add_flag("--nbd", attach->nbd,
                    "A device of the kernel's NBD client instead of a loop device");
  command->add_flag("--read-only", attach->read_only, "Nothing can be written to it");
  command->add_option("--sector-size", attach->sector_size, "512 or 4096 bytes")
      ->check(CLI::IsMember({512, 4096}))
      ->type_name("BYTES");

  auto detach = std::make_shared<DetachOptions>();
  command = cli.add(app, "detach", "Undo attach; busy while it is mounted",
                    "  voltree detach disk\n  voltree detach /dev/loop3", detach, run_detach);
  command->add_option("NAME", detach->which, "VOLUME, VOLUME@SNAPSHOT or the device")->required();
}

}  // namespace voltree::cli
