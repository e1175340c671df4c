// voltree: one program for everything that is done to a store.
#include <sys/resource.h>

#include <algorithm>
#include <clocale>
#include <cstdio>
#include <numeric>

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

// How many letters must be inserted, left out or changed to make one of the other.
std::size_t letters_between(std::string_view one, std::string_view other) {
  std::vector<std::size_t> row(other.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < one.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i + 1);
    for (std::size_t j = 0; j < other.size(); ++j) {
      const std::size_t changed = diagonal + (one[i] == other[j] ? 0 : 1);
      diagonal = std::exchange(row[j + 1], std::min({changed, row[j] + 1, row[j + 1] + 1}));
    }
  }
  return row.back();
}

// When `failure` is that there is no such command: says so, and which one may have been meant.
bool told_unknown_command(const CLI::App& app, const CLI::ParseError& failure) {
  if (dynamic_cast<const CLI::RequiredError*>(&failure) == nullptr) return false;
  const CLI::App* last = &app;
  while (!last->get_subcommands().empty()) last = last->get_subcommands().back();
  const std::vector<std::string> left = last->remaining();
  const auto word = std::find_if(left.begin(), left.end(),
                                 [](const std::string& one) { return !one.starts_with('-'); });
  if (word == left.end() || last->get_subcommands({}).empty()) return false;
  constexpr std::size_t kLettersMax = 2;
  std::string nearest;
  std::size_t letters = std::min(kLettersMax, word->size() / 2) + 1;
  for (const CLI::App* known : last->get_subcommands({})) {
    const std::size_t between = letters_between(*word, known->get_name());
    if (between >= letters) continue;
    letters = between;
    nearest = known->get_name();
  }
  const std::string path = last == &app ? "voltree" : "voltree " + last->get_name();
  fmt::print(stderr, "voltree: there is no command {}{}: \"{} --help\" lists them\n",
             voltree::quoted(*word),
             nearest.empty() ? "" : fmt::format(" (did you mean \"{} {}\"?)", path, nearest), path);
  return true;
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
    if (told_unknown_command(app, failure)) return kUsageExit;
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
