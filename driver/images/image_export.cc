#include "driver/images/image_export.h"

#include <unistd.h>

#include "driver/images/image_convert.h"
#include "driver/images/image_file.h"
#include "driver/images/raw_copy.h"
#include "driver/images/store_volume.h"

namespace voltree {
namespace {

Status check_options(const ExportOptions& options) {
  VT_RETURN_IF_ERROR(parse_node_name(options.name).status());
  if (options.compress && options.format != ImageFormat::kQcow2) {
    return error(Code::kInvalid, "--compress is for qcow2; a VMDK is compressed anyway");
  }
  if (options.file != "-") return {};
  if (options.format != ImageFormat::kRaw) {
    return error(Code::kInvalid, "{} cannot be written to a stream: give a file",
                 format_name(options.format));
  }
  if (::isatty(STDOUT_FILENO) != 0) {
    return error(Code::kInvalid, "standard output is a terminal: redirect it, or give a file");
  }
  return {};
}

// One export on its way.
class Export {
 public:
  Export(Client& client, const ExportOptions& options, const ProgressSink& progress)
      : client_(client), options_(options), progress_(progress) {}

  Result<ImageReport> run() {
    VT_RETURN_IF_ERROR(check_options(options_));
    VT_RETURN_IF_ERROR(client_.call("volume.info", Json{{"name", options_.name}}).status());
    VT_ASSIGN_OR_RETURN(socket_, private_nbd(client_));
    if (options_.file != "-") {
      VT_ASSIGN_OR_RETURN(target_, TargetFile::create(options_.file, options_.force));
    }
    VT_ASSIGN_OR_RETURN(disk_, NbdDisk::connect(socket_, options_.name));
    report_.format = options_.format;
    report_.size_bytes = disk_->size_bytes();
    VT_RETURN_IF_ERROR(options_.format == ImageFormat::kRaw ? copy() : convert());
    disk_.reset();
    VT_RETURN_IF_ERROR(wait_until_free(client_, options_.name));
    if (target_ != nullptr) VT_RETURN_IF_ERROR(target_->commit());
    return report_;
  }

 private:
  Status copy() {
    const std::unique_ptr<RawSink> sink = target_ != nullptr
                                              ? make_file_sink(target_->fd(), options_.file)
                                              : make_stream_sink(STDOUT_FILENO, "standard output");
    Sha256 hash;
    VT_RETURN_IF_ERROR(
        read_raw(*disk_, *sink, options_.sha256 ? &hash : nullptr, report_.data_bytes, progress_));
    if (options_.sha256) report_.sha256 = hash.finish();
    return {};
  }

  Status convert() {
    VT_RETURN_IF_ERROR(convert_from_volume(socket_, options_.name, report_.size_bytes,
                                           options_.format, options_.compress, target_->fd(),
                                           progress_));
    if (options_.sha256) {
      VT_ASSIGN_OR_RETURN(report_.sha256, sha256_of_file(target_->fd(), options_.file));
    }
    VT_ASSIGN_OR_RETURN(report_.data_bytes, referenced_bytes(client_, options_.name));
    return {};
  }

  Client& client_;
  const ExportOptions& options_;
  const ProgressSink& progress_;
  std::string socket_;
  std::unique_ptr<TargetFile> target_;
  std::unique_ptr<NbdDisk> disk_;
  ImageReport report_;
};

}  // namespace

Result<ImageReport> export_image(Client& client, const ExportOptions& options,
                                 const ProgressSink& progress) {
  return Export(client, options, progress).run();
}

}  // namespace voltree
