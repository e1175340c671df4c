// repair: the one command that works on a store that cannot be opened.
#include "blockstore/store_repair.h"
#include "tools/voltree/command.h"
#include "tools/voltree/output.h"

namespace voltree::cli {
namespace {

struct RepairCommandOptions {
  std::string directory;
  bool apply = false;
  bool force = false;
};

const char* word_of(RepairFinding::Kind kind) {
  switch (kind) {
    case RepairFinding::Kind::kLost:
      return "lost";
    case RepairFinding::Kind::kUncertain:
      return "uncertain";
    case RepairFinding::Kind::kNote:
      break;
  }
  return "note";
}

Json report_json(const RepairReport& report) {
  Json findings = Json::array();
  for (const RepairFinding& finding : report.findings) {
    findings.push_back(Json{{"kind", word_of(finding.kind)}, {"what", finding.what}});
  }
  return Json{{"catalog_sound", report.catalog_sound},
              {"applied", report.applied},
              {"findings", std::move(findings)},
              {"volumes", report.volumes},
              {"snapshots", report.snapshots},
              {"layers", report.layers},
              {"blocks", report.blocks},
              {"unreadable_blocks", report.unreadable_blocks},
              {"recovered", report.recovered},
              {"kept_as", report.kept_as}};
}

void print_report(const RepairReport& report) {
  for (const RepairFinding& finding : report.findings) {
    print_line(fmt::format("{}: {}", word_of(finding.kind), finding.what));
  }
  print_line(fmt::format("{} {} volumes, {} snapshots, {} layers and {} of data in blocks",
                         report.applied ? "the new catalog has" : "a new catalog would have",
                         report.volumes, report.snapshots, report.layers,
                         format_size(report.blocks * kBlockBytes)));
  if (report.unreadable_blocks != 0) {
    print_line(fmt::format("{} blocks are not what they were: reading them is an I/O error",
                           report.unreadable_blocks));
  }
  if (!report.recovered.empty()) {
    print_line(fmt::format("{} volumes are layers whose volume is not known: {}",
                           report.recovered.size(), fmt::join(report.recovered, ", ")));
  }
  if (!report.kept_as.empty()) print_line("the old catalog is " + report.kept_as);
}

Status run_repair(Cli& cli, const RepairCommandOptions& options) {
  const std::string directory =
      options.directory.empty() ? cli.store_directory : absolute_path(options.directory);
  VT_ASSIGN_OR_RETURN(const std::unique_ptr<Runtime> runtime, make_host_runtime({1}));
  RepairReport report;
  {
    ProgressMeter meter("reading layers:");
    const ProgressSink sink = meter.sink();
    RepairOptions repair;
    repair.apply = options.apply;
    repair.force = options.force;
    repair.progress = [&sink](std::uint64_t done, std::uint64_t total) { sink({done, total}); };
    VT_ASSIGN_OR_RETURN(report, repair_store(*runtime, directory, std::move(repair)));
  }
  const bool left_alone = report.catalog_sound && !options.force;
  if (cli.json) {
    print_json(report_json(report));
  } else if (left_alone) {
    print_line("the catalog is sound: there is nothing to repair");
    if (options.apply) print_line("nothing was changed; --force makes a new one all the same");
  } else {
    print_report(report);
  }
  if (left_alone || report.applied) return {};
  if (report.catalog_sound) {
    print_warning("nothing was changed: --apply does it");
    return {};
  }
  return error(Code::kDamaged, "the catalog is damaged; nothing was changed: --apply does it");
}

}  // namespace

void add_repair_commands(CLI::App& app, Cli& cli) {
  auto repair = std::make_shared<RepairCommandOptions>();
  CLI::App* command = cli.add(app, "repair",
                              "Rebuild a catalog that is lost or damaged, from the layers; says "
                              "what it would do unless --apply",
                              "  voltree repair /srv/volumes\n"
                              "  voltree repair /srv/volumes --apply\n"
                              "  voltree check --data",
                              repair, run_repair);
  command->add_option("DIR", repair->directory, "The store (default: --store)");
  command->add_flag("--apply", repair->apply, "Do it; the old catalog is kept aside");
  command->add_flag("--force", repair->force, "Though the catalog is sound");
}

}  // namespace voltree::cli
