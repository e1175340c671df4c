#include "driver/images/image_convert.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "driver/control/json.h"
#include "driver/control/socket.h"
#include "driver/images/confined_process.h"
#include "driver/images/raw_copy.h"

namespace voltree {
namespace {

// Time for an image of any size, and for each 8 MiB of its disk.
constexpr std::uint64_t kCpuSeconds = 300;
constexpr std::uint64_t kBytesInACpuSecond = std::uint64_t{8} << 20;
// What metadata may add to an exported disk.
constexpr std::uint64_t kMetadataBytes = std::uint64_t{1} << 30;
constexpr std::size_t kSaidMaxBytes = 300;
// qemu-img check: leaked space does not matter to a reader; a format may have no check.
constexpr int kLeaks = 3, kNoCheck = 63;

std::string fd_path(int fd) { return fmt::format("/dev/fd/{}", fd); }

std::string source_of(int fd, ImageFormat format) {
  Json image{{"driver", format_name(format)},
             {"file", {{"driver", "file"}, {"filename", fd_path(fd)}, {"locking", "off"}}}};
  if (format == ImageFormat::kQcow2 || format == ImageFormat::kVmdk) image["backing"] = nullptr;
  return "json:" + dump_json(image);
}

std::string nbd_of(int fd, const std::string& node) {
  const Json disk{{"driver", "nbd"},
                  {"server", {{"type", "fd"}, {"str", std::to_string(fd)}}},
                  {"export", node}};
  return "json:" + dump_json(Json{{"driver", "raw"}, {"file", disk}});
}

std::uint64_t cpu_seconds_for(std::uint64_t size_bytes) {
  return kCpuSeconds + size_bytes / kBytesInACpuSecond;
}

// The first line of what QEMU said, fit to print.
Status qemu_said(const ConfinedOutcome& outcome, const std::string& name) {
  const std::string_view all = outcome.errors.empty() ? outcome.output : outcome.errors;
  return error(Code::kInvalid, "{}: QEMU says {}", name,
               quoted(all.substr(0, std::min(all.find('\n'), kSaidMaxBytes))));
}

Status check_specifics(const Json& data) {
  if (!data.is_object()) return {};
  if (data.contains("data-file")) {
    return error(Code::kNotSupported, "QEMU finds its data in another file");
  }
  if (data.contains("encrypt")) return error(Code::kNotSupported, "QEMU finds it encrypted");
  if (data.value("corrupt", Json(false)) != Json(false)) {
    return error(Code::kInvalid, "QEMU finds it marked as corrupt");
  }
  const Json type = data.value("create-type", Json("monolithicSparse"));
  if (type != Json("monolithicSparse") && type != Json("streamOptimized")) {
    return error(Code::kNotSupported, "QEMU finds a VMDK of type {}", dump_json(type));
  }
  const Json extents = data.value("extents", Json::array({nullptr}));
  if (extents.size() != 1) return error(Code::kNotSupported, "QEMU finds several extents");
  return {};
}

Status check_info(const std::string& text, ImageFormat format, std::uint64_t size_bytes) {
  VT_ASSIGN_OR_RETURN(const Json info, parse_json(text));
  if (!info.is_object() || info.value("format", Json()) != Json(format_name(format))) {
    return error(Code::kInvalid, "QEMU finds another format in it");
  }
  if (info.value("virtual-size", Json()) != Json(size_bytes)) {
    return error(Code::kInvalid, "QEMU finds a disk of another size in it: {} bytes, not {}",
                 dump_json(info.value("virtual-size", Json())), size_bytes);
  }
  for (const char* other : {"backing-filename", "full-backing-filename"}) {
    if (info.contains(other)) return error(Code::kNotSupported, "QEMU finds a backing file");
  }
  if (info.value("encrypted", Json(false)) != Json(false)) {
    return error(Code::kNotSupported, "QEMU finds it encrypted");
  }
  const Json specific = info.value("format-specific", Json::object());
  return specific.is_object() ? check_specifics(specific.value("data", Json::object())) : Status();
}

// "(12.34/100%)" from qemu-img -p.
class Percent {
 public:
  Percent(const ProgressSink& sink, std::uint64_t total) : paced_(sink), total_(total) {}
  void hear(std::string_view text) {
    const std::size_t open = text.rfind('(');
    if (open == std::string_view::npos) return;
    const double percent = std::strtod(std::string(text.substr(open + 1, 6)).c_str(), nullptr);
    if (!(percent >= 0 && percent <= 100)) return;
    paced_.tell(static_cast<std::uint64_t>(percent / 100 * static_cast<double>(total_)), total_);
  }

 private:
  PacedProgress paced_;
  const std::uint64_t total_;
};

// A connection that the program gets; ours ends with this.
struct Connection {
  int fd = -1;
  explicit Connection(int socket) : fd(socket) {}
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;
  ~Connection() { ::close(fd); }
};

}  // namespace

Status vet_image(const SourceFile& file, const std::string& name, ImageFormat format,
                 std::uint64_t size_bytes) {
  ConfinedCommand command;
  command.program = "qemu-img";
  command.arguments = {"info", "--output=json", source_of(file.fd(), format)};
  command.files = {{file.fd(), false}};
  command.cpu_seconds = kCpuSeconds;
  VT_ASSIGN_OR_RETURN(const ConfinedOutcome info, run_confined(command));
  if (info.exit_code != 0) return qemu_said(info, name);
  if (Status status = check_info(info.output, format, size_bytes); !status.ok()) {
    return status.with_context(name);
  }
  // Data that a header promises beyond the end of the file would be read as zeros.
  command.arguments = {"check", "--output=json", source_of(file.fd(), format)};
  VT_ASSIGN_OR_RETURN(const ConfinedOutcome checked, run_confined(command));
  const int code = checked.exit_code;
  return code == 0 || code == kLeaks || code == kNoCheck ? Status() : qemu_said(checked, name);
}

Status convert_to_volume(const SourceFile& file, const std::string& name, ImageFormat format,
                         const std::string& nbd_socket, const std::string& volume,
                         std::uint64_t size_bytes, const ProgressSink& progress) {
  VT_ASSIGN_OR_RETURN(const int fd, connect_unix(nbd_socket));
  const Connection connection(fd);
  Percent percent(progress, size_bytes);
  ConfinedCommand command;
  command.program = "qemu-img";
  command.arguments = {
      "convert",         "-p", "-n", "--target-is-zero", "-O", "raw", source_of(file.fd(), format),
      nbd_of(fd, volume)};
  command.files = {{file.fd(), false}, {fd, false}};
  command.cpu_seconds = cpu_seconds_for(size_bytes);
  command.on_output = [&percent](std::string_view text) { percent.hear(text); };
  VT_ASSIGN_OR_RETURN(const ConfinedOutcome outcome, run_confined(command));
  return outcome.exit_code == 0 ? Status() : qemu_said(outcome, name);
}

Status convert_from_volume(const std::string& nbd_socket, const std::string& node,
                           std::uint64_t size_bytes, ImageFormat format, bool compress,
                           int target_fd, const ProgressSink& progress) {
  VT_ASSIGN_OR_RETURN(const int fd, connect_unix(nbd_socket));
  const Connection connection(fd);
  Percent percent(progress, size_bytes);
  ConfinedCommand command;
  command.program = "qemu-img";
  command.arguments = {"convert", "-p", "-O", std::string(format_name(format))};
  if (compress) command.arguments.emplace_back("-c");
  // The one type of VMDK that is one file and meant to travel.
  if (format == ImageFormat::kVmdk) {
    command.arguments.insert(command.arguments.end(), {"-o", "subformat=streamOptimized"});
  }
  command.arguments.insert(command.arguments.end(), {nbd_of(fd, node), fd_path(target_fd)});
  command.files = {{fd, false}, {target_fd, true}};
  command.cpu_seconds = cpu_seconds_for(size_bytes);
  command.file_size_bytes = size_bytes + size_bytes / 4 + kMetadataBytes;
  command.on_output = [&percent](std::string_view text) { percent.hear(text); };
  VT_ASSIGN_OR_RETURN(const ConfinedOutcome outcome, run_confined(command));
  if (outcome.exit_code == 0) return {};
  const bool full = outcome.errors.find("No space left") != std::string::npos;
  return Status(full ? Code::kNoSpace : Code::kIoError,
                std::string(qemu_said(outcome, node).message()));
}

}  // namespace voltree
