// voltree: one program for everything that is done to a store.
#include <sys/resource.h>

#include <clocale>
#include <cstdio>

#include "tools/voltree/command.h"

namespace {

using voltree::Status;
using voltree::cli::Cli;

constexpr int kUsageExit = 2;

constexpr const char* kFooter =
    "A first tour:\n"
    "  voltree init                         make a store\n"
    "  voltree create disk 10G              a volume of 10 GiB that takes no space yet\n"
    "  voltree serve --mount /mnt/voltree   show volumes as files\n"
    "  voltree attach disk                  and as a loop device (as root)\n"
    "  voltree snapshot disk@monday\n"
    "  voltree clone disk@monday copy\n"
    "\n"
    "Names are VOLUME or VOLUME@SNAPSHOT. Sizes are 512k, 10G, 1.5T (powers of 1024) or bytes.\n"
    "Exit status: 0 done, 1 failed, 2 usage, 3 not found, 4 busy, 5 no space, 6 damaged.\n"
    "\"voltree COMMAND --help\" explains one command.";

void add_all(CLI::App& app, Cli& cli) {
  voltree::cli::add_store_commands(app, cli);
  voltree::cli::add_repair_commands(app, cli);
  voltree::cli::add_volume_commands(app, cli);
  voltree::cli::add_list_commands(app, cli);
  voltree::cli::add_snapshot_commands(app, cli);
  voltree::cli::add_group_commands(app, cli);
  voltree::cli::add_qos_commands(app, cli);
  voltree::cli::add_guard_commands(app, cli);
  voltree::cli::add_serve_command(app, cli);
  voltree::cli::add_device_commands(app, cli);
  voltree::cli::add_nbd_commands(app, cli);
  voltree::cli::add_image_commands(app, cli);
  voltree::cli::add_driver_commands(app, cli);
  voltree::cli::add_erase_commands(app, cli);
  voltree::cli::add_scrub_commands(app, cli);
}

int report(const Status& status) {
  if (status.ok()) return 0;
  fmt::print(stderr, "voltree: {}\n", status.message());
  return status.exit_code();
}

// A deep history has many layers, and each that is read holds descriptors: take what the host
// allows.
void raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  (void)::setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace

int main(int argc, char** argv) {
  std::setlocale(LC_ALL, "");
  raise_descriptor_limit();
  CLI::App app("Copy-on-write block volumes in a directory", "voltree");
  app.require_subcommand(1);
  app.footer(kFooter);
  Cli cli;
  cli.store_directory = voltree::cli::default_store_directory();
  app.add_option("--store", cli.store_directory, "The store's directory")
      ->type_name("DIR")
      ->envname("VOLTREE_STORE");
  app.add_flag("--json", cli.json, "Print JSON for programs");
  app.set_version_flag("--version", "voltree " VOLTREE_VERSION);
  add_all(app, cli);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& failure) {
    // CLI11 speaks in exceptions; they end here. Help is one of them, and no failure.
    return app.exit(failure) == 0 ? 0 : kUsageExit;
  }
  if (cli.store_directory.empty()) {
    return report(Status(voltree::Code::kInvalid, "--store is empty"));
  }
  cli.store_directory = voltree::cli::absolute_path(cli.store_directory);
  Status status = cli.action(cli);
  Status closed = cli.finish();
  if (std::fflush(stdout) != 0 && status.ok()) {
    status = Status::from_errno(errno, "writing the output");
  }
  return report(status.ok() ? closed : status);
}
