#include "driver/images/image_export.h"

#include <unistd.h>

#include "driver/images/image_file.h"
#include "driver/images/raw_copy.h"
#include "driver/images/stop_signals.h"
#include "driver/images/store_volume.h"

namespace voltree {
namespace {

Status check_options(const ExportOptions& options) {
  VT_RETURN_IF_ERROR(parse_node_name(options.name).status());
  if (options.format != ImageFormat::kRaw) {
    return error(Code::kNotSupported, "{} images cannot be written", format_name(options.format));
  }
  if (options.file != "-") return {};
  if (::isatty(STDOUT_FILENO) != 0) {
    return error(Code::kInvalid, "standard output is a terminal: redirect it, or give a file");
  }
  return {};
}

}  // namespace

Result<ImageReport> export_image(Client& client, const ExportOptions& options,
                                 const ProgressSink& progress) {
  const StopSignals signals;
  VT_RETURN_IF_ERROR(check_options(options));
  VT_ASSIGN_OR_RETURN(const Json node, client.call("volume.info", Json{{"name", options.name}}));
  VT_ASSIGN_OR_RETURN(const std::string socket, private_nbd(client));
  std::unique_ptr<TargetFile> target;
  if (options.file != "-") {
    VT_ASSIGN_OR_RETURN(target, TargetFile::create(options.file, options.force));
  }
  VT_ASSIGN_OR_RETURN(std::unique_ptr<NbdDisk> disk, NbdDisk::connect(socket, options.name));
  ImageReport report;
  report.format = options.format;
  report.size_bytes = disk->size_bytes();
  Sha256 hash;
  const std::unique_ptr<RawSink> sink = target != nullptr
                                            ? make_file_sink(target->fd(), options.file)
                                            : make_stream_sink(STDOUT_FILENO, "standard output");
  VT_RETURN_IF_ERROR(
      read_raw(*disk, *sink, options.sha256 ? &hash : nullptr, report.data_bytes, progress));
  if (options.sha256) report.sha256 = hash.finish();
  disk.reset();
  VT_RETURN_IF_ERROR(wait_until_free(client, options.name));
  if (target != nullptr) VT_RETURN_IF_ERROR(target->commit());
  return report;
}

}  // namespace voltree
