// import, export.
#include "driver/images/image_export.h"
#include "driver/images/image_import.h"
#include "driver/images/stop_signals.h"
#include "tools/voltree/command.h"
#include "tools/voltree/output.h"

namespace voltree::cli {
namespace {

Json report_json(const std::string& name, const ImageReport& report) {
  Json json{{"name", name},
            {"format", format_name(report.format)},
            {"bytes", report.size_bytes},
            {"data_bytes", report.data_bytes},
            {"sha256", nullptr}};
  if (!report.sha256.empty()) json["sha256"] = report.sha256;
  return json;
}

struct ImportCommandOptions {
  std::string file;
  std::string name;
  std::string format;
  std::string size;
  std::string size_max;
  std::string sha256;
  bool quiet = false;
};

Status run_import(Cli& cli, const ImportCommandOptions& options) {
  ImportOptions import;
  import.file = options.file;
  import.name = options.name;
  import.sha256 = options.sha256;
  if (!options.format.empty()) {
    VT_ASSIGN_OR_RETURN(import.format, parse_format(options.format));
  }
  if (!options.size.empty()) {
    VT_ASSIGN_OR_RETURN(import.size_bytes, parse_size(options.size));
  }
  if (!options.size_max.empty()) {
    VT_ASSIGN_OR_RETURN(import.size_max_bytes, parse_size(options.size_max));
  }
  VT_ASSIGN_OR_RETURN(Client * client, cli.client());
  std::optional<ProgressMeter> meter;
  if (!options.quiet) meter.emplace("importing " + options.name + ":");
  const ProgressSink sink = meter ? meter->sink() : ProgressSink();
  const StopSignals signals;
  VT_ASSIGN_OR_RETURN(const ImageReport report, import_image(*client, import, sink));
  meter.reset();
  for (const std::string& warning : report.warnings) print_warning(warning);
  if (cli.json) {
    Json json = report_json(options.name, report);
    json["shared_bytes"] = report.shared_bytes;
    print_json(json);
  } else if (!options.quiet) {
    print_line(fmt::format("imported {}, {}, {} of data{}", options.name,
                           format_size(report.size_bytes), format_size(report.data_bytes),
                           report.shared_bytes == 0 ? "" : ", shared with the file"));
  }
  return {};
}

struct ExportCommandOptions {
  std::string name;
  std::string file;
  std::string format = "raw";
  bool sha256 = false;
  bool force = false;
  bool compress = false;
  bool quiet = false;
};

Status run_export(Cli& cli, const ExportCommandOptions& options) {
  ExportOptions wanted;
  wanted.name = options.name;
  wanted.file = options.file;
  wanted.sha256 = options.sha256;
  wanted.force = options.force;
  wanted.compress = options.compress;
  VT_ASSIGN_OR_RETURN(wanted.format, parse_format(options.format));
  VT_ASSIGN_OR_RETURN(Client * client, cli.client());
  std::optional<ProgressMeter> meter;
  if (!options.quiet) meter.emplace("exporting " + options.name + ":");
  const ProgressSink sink = meter ? meter->sink() : ProgressSink();
  const StopSignals signals;
  VT_ASSIGN_OR_RETURN(const ImageReport report, export_image(*client, wanted, sink));
  meter.reset();
  for (const std::string& warning : report.warnings) print_warning(warning);
  std::string said;
  if (cli.json) {
    said = dump_json_pretty(report_json(options.name, report));
  } else if (options.sha256) {
    said = fmt::format("{}  {}", report.sha256, options.file);  // as sha256sum -c wants it
  } else if (!options.quiet) {
    said = fmt::format("exported {}, {}, {} of data", options.name, format_size(report.size_bytes),
                       format_size(report.data_bytes));
  }
  // The image itself is on standard output then.
  if (!said.empty()) fmt::print(options.file == "-" ? stderr : stdout, "{}\n", said);
  return {};
}

}  // namespace

void add_image_commands(CLI::App& app, Cli& cli) {
  auto import = std::make_shared<ImportCommandOptions>();
  CLI::App* command = cli.add(app, "import", "Make a volume of an image file",
                              "  voltree import disk.img disk\n"
                              "  voltree import --format qcow2 debian-12.qcow2 debian\n"
                              "  xzcat disk.img.xz | voltree import - disk --sha256 9f86d0...",
                              import, run_import);
  command->add_option("FILE", import->file, "The image, or - for standard input")->required();
  command->add_option("NAME", import->name, "The new volume")->required();
  command
      ->add_option("--format", import->format,
                   "raw, qcow2, vmdk, vhdx or vdi; must be said unless it is raw")
      ->type_name("FORMAT");
  command->add_option("--size", import->size, "The volume's size (default: the image's)")
      ->type_name("SIZE");
  command->add_option("--max-size", import->size_max, "Refuse larger images")->type_name("SIZE");
  command->add_option("--sha256", import->sha256, "What the file or stream must have")
      ->type_name("HEX");
  command->add_flag("--quiet", import->quiet, "No progress, no words when all is well");

  auto exported = std::make_shared<ExportCommandOptions>();
  command = cli.add(app, "export", "Write a volume or a snapshot to an image file",
                    "  voltree export disk@monday monday.img --sha256\n"
                    "  voltree export disk@monday - | zstd >monday.img.zst",
                    exported, run_export);
  command->add_option("NAME", exported->name, "VOLUME or VOLUME@SNAPSHOT")->required();
  command->add_option("FILE", exported->file, "The image, or - for standard output")->required();
  command->add_option("--format", exported->format, "raw (default), qcow2, vmdk, vhdx or vdi")
      ->type_name("FORMAT");
  command->add_flag("--compress", exported->compress, "Compress a qcow2");
  command->add_flag("--sha256", exported->sha256, "Print the file's SHA-256");
  command->add_flag("--force", exported->force, "Replace FILE when it is there");
  command->add_flag("--quiet", exported->quiet, "No progress, no words when all is well");
}

}  // namespace voltree::cli
