#include "tools/voltree/command.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>

namespace voltree::cli {

CLI::App* Cli::add_bare(CLI::App& app, const std::string& name, const std::string& description,
                        const std::string& example) {
  CLI::App* command = app.add_subcommand(name, description);
  command->add_option("--store", store_directory, "The store's directory")->type_name("DIR");
  command->add_flag("--json", json, "Print JSON for programs");
  command->footer("Example:\n" + example);
  return command;
}

Result<Client*> Cli::client(bool background_work) {
  if (client_ == nullptr) {
    VT_ASSIGN_OR_RETURN(client_, open_client({store_directory, background_work}));
  }
  return client_.get();
}

Result<Json> Cli::call(std::string_view method, Json params, const ProgressSink& progress) {
  VT_ASSIGN_OR_RETURN(Client * reached, client());
  return reached->call(method, std::move(params), progress);
}

Status Cli::finish() { return client_ ? client_->close() : Status(); }

std::string default_store_directory() {
  if (::geteuid() == 0) return "/var/lib/voltree";
  const char* data = std::getenv("XDG_DATA_HOME");
  if (data != nullptr && data[0] == '/') return std::string(data) + "/voltree";
  const char* home = std::getenv("HOME");
  return std::string(home != nullptr ? home : "") + "/.local/share/voltree";
}

std::string absolute_path(const std::string& path) {
  std::error_code failure;
  std::string absolute = std::filesystem::absolute(path, failure).lexically_normal().string();
  if (failure) return path;
  while (absolute.size() > 1 && absolute.back() == '/') absolute.pop_back();
  return absolute;
}

Result<NodeName> parse_snapshot_name(const std::string& text) {
  VT_ASSIGN_OR_RETURN(NodeName name, parse_node_name(text));
  if (!name.is_snapshot()) {
    return error(Code::kInvalid, "{} names a volume; a snapshot is VOLUME@NAME",
                 voltree::quoted(text));
  }
  return name;
}

}  // namespace voltree::cli
