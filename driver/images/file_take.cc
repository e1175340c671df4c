#include "driver/images/file_take.h"

#include <fcntl.h>
#include <unistd.h>

#include "blockstore/runtime/host_fs.h"
#include "driver/images/image_file.h"
#include "driver/images/image_format.h"

namespace voltree {
namespace {

// What a host, a daemon that may not have the file, or one that is older, says.
bool may_be_copied(const Status& status) {
  const Code code = status.code();
  return code == Code::kNotSupported || code == Code::kPermission || code == Code::kNotFound ||
         code == Code::kBusy;
}

}  // namespace

Status check_raw(const std::string& file) {
  VT_ASSIGN_OR_RETURN(const std::unique_ptr<SourceFile> source, SourceFile::open(file));
  if (!source->seekable()) return error(Code::kNotSupported, "{} is no regular file", file);
  VT_ASSIGN_OR_RETURN(const FormatGuess guess, source->guess());
  if (guess.format == ImageFormat::kRaw) return {};
  return error(Code::kInvalid,
               "{} looks like {}, and a volume would be its bytes as they are; what the image "
               "holds is taken with voltree import",
               file, guess.what);
}

std::string named(std::string message, const std::string& opened, const std::string& path) {
  for (std::size_t at = message.find(opened); at != std::string::npos;
       at = message.find(opened, at + path.size())) {
    message.replace(at, opened.size(), path);
  }
  return message;
}

Result<TakeResult> take_file(Client& client, const std::string& file, const std::string& volume,
                             std::uint64_t size_bytes, const ProgressSink& progress) {
  // By a descriptor, for what a path leads to may change; one that opens nothing, for a file that
  // is open is not taken.
  const UniqueFd fd(::open(file.c_str(), O_PATH | O_CLOEXEC));
  if (!fd.valid()) return Status::from_errno(errno, file);
  const std::string path = fmt::format("/proc/{}/fd/{}", ::getpid(), fd.get());
  const Status taken =
      client
          .call("volume.take_file",
                Json{{"name", volume}, {"file", path}, {"size_bytes", size_bytes}}, progress)
          .status();
  if (taken.ok()) return TakeResult{true, {}};
  std::string why = named(std::string(taken.message()), path, file);
  if (may_be_copied(taken)) return TakeResult{false, std::move(why)};
  return Status(taken.code(), std::move(why));
}

}  // namespace voltree
