// What the groups of commands share: the options every command has, and the way to the store.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "driver/control/client.h"

namespace voltree::cli {

// One run of the program. The parser fills it in; `action` is the chosen command.
class Cli {
 public:
  std::string store_directory;  // --store, VOLTREE_STORE or the default
  bool json = false;
  std::function<Status(Cli&)> action;

  // The daemon, or the store opened here; made at the first call. `background_work` matters to the
  // latter.
  Result<Client*> client(bool background_work = false);
  // client() and one call on it.
  Result<Json> call(std::string_view method, Json params, const ProgressSink& progress = {});
  // Closes what client() opened.
  Status finish();

  // Adds a command with --store and --json, its example at the end of its help. The state that its
  // options fill is `Options`; `run` gets it.
  template <typename Options>
  CLI::App* add(CLI::App& app, const std::string& name, const std::string& description,
                const std::string& example, std::shared_ptr<Options> options,
                Status (*run)(Cli&, const Options&)) {
    CLI::App* command = add_bare(app, name, description, example);
    command->callback(
        [this, options, run] { action = [options, run](Cli& cli) { return run(cli, *options); }; });
    return command;
  }

 private:
  CLI::App* add_bare(CLI::App& app, const std::string& name, const std::string& description,
                     const std::string& example);
  std::unique_ptr<Client> client_;
};

// /var/lib/voltree for root, the XDG data folder otherwise.
std::string default_store_directory();
// `path`, led by the current folder when it is relative.
std::string absolute_path(const std::string& path);

// VOLUME@SNAPSHOT, or kInvalid saying what was expected.
Result<NodeName> parse_snapshot_name(const std::string& text);

struct DeleteCommandOptions {
  std::vector<std::string> names;
  std::string erase_policy;  // empty: the volume's, then the store's
  std::string erase_first;   // a size; empty: all of it
  std::string erase_priority;
  bool wait = false;
  bool snapshots = false;
  bool force = false;
};
// Deletes them all, after looking whether all of them can be, and says so.
Status delete_nodes(Cli& cli, const DeleteCommandOptions& options);

// The groups; each adds its commands.
void add_store_commands(CLI::App& app, Cli& cli);     // init check stats version
void add_repair_commands(CLI::App& app, Cli& cli);    // repair
void add_volume_commands(CLI::App& app, Cli& cli);    // create resize rename delete
void add_list_commands(CLI::App& app, Cli& cli);      // list show tree
void add_snapshot_commands(CLI::App& app, Cli& cli);  // snapshot clone revert diff
void add_group_commands(CLI::App& app, Cli& cli);     // group
void add_qos_commands(CLI::App& app, Cli& cli);       // qos
void add_guard_commands(CLI::App& app, Cli& cli);     // guard reserve
void add_device_commands(CLI::App& app, Cli& cli);    // attach detach
void add_nbd_commands(CLI::App& app, Cli& cli);       // nbd
void add_image_commands(CLI::App& app, Cli& cli);     // import export
void add_driver_commands(CLI::App& app, Cli& cli);    // manage unmanage driver
void add_erase_commands(CLI::App& app, Cli& cli);     // erase
void add_scrub_commands(CLI::App& app, Cli& cli);     // scrub
void add_serve_command(CLI::App& app, Cli& cli);      // serve

}  // namespace voltree::cli
