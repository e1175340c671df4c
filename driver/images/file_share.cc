#include "driver/images/file_share.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "blockstore/base/units.h"
#include "driver/images/stop_signals.h"

namespace voltree {
namespace {

// One call's: between two of them one can be stopped.
constexpr std::uint64_t kPieceBytes = std::uint64_t{256} << 20;

// What a host, a daemon that may not open the file, or one that is older, says.
bool cannot(const Status& status) {
  const Code code = status.code();
  return code == Code::kNotSupported || code == Code::kPermission || code == Code::kNotFound;
}

}  // namespace

Result<std::uint64_t> share_file(Client& client, const std::string& volume, const SourceFile& file,
                                 const std::function<void(std::uint64_t)>& done_bytes) {
  struct stat info {};
  if (::fstat(file.fd(), &info) != 0 || !S_ISREG(info.st_mode)) return 0;
  // By its descriptor: what a path leads to may change.
  const std::string path = fmt::format("/proc/{}/fd/{}", ::getpid(), file.fd());
  const std::uint64_t whole_bytes = file.size_bytes() / kBlockBytes * kBlockBytes;
  std::uint64_t at = 0;
  while (at < whole_bytes) {
    VT_RETURN_IF_ERROR(check_stop());
    done_bytes(at);
    const std::uint64_t piece_bytes = std::min(kPieceBytes, whole_bytes - at);
    const Status shared = client
                              .call("volume.share_file", Json{{"name", volume},
                                                              {"file", path},
                                                              {"offset_bytes", at},
                                                              {"length_bytes", piece_bytes}})
                              .status();
    // A piece that was begun is copied over from its start.
    if (cannot(shared)) return at;
    VT_RETURN_IF_ERROR(shared);
    at += piece_bytes;
  }
  return at;
}

}  // namespace voltree
