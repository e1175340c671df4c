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

// In pieces; how much of it was shared, from its start.
Result<std::uint64_t> share_range(Client& client, const std::string& volume,
                                  const std::string& file, ByteRange range,
                                  const std::function<void(std::uint64_t)>& done_bytes) {
  std::uint64_t done = 0;
  while (done < range.length_bytes) {
    VT_RETURN_IF_ERROR(check_stop());
    done_bytes(range.offset_bytes + done);
    const std::uint64_t piece_bytes = std::min(kPieceBytes, range.length_bytes - done);
    const Status shared =
        client
            .call("volume.share_file", Json{{"name", volume},
                                            {"file", file},
                                            {"offset_bytes", range.offset_bytes + done},
                                            {"length_bytes", piece_bytes}})
            .status();
    // A piece that was begun is copied over from its start.
    if (cannot(shared)) return done;
    VT_RETURN_IF_ERROR(shared);
    done += piece_bytes;
  }
  return done;
}

// One answer's extents, and where the next page begins.
struct AnsweredPage {
  std::vector<std::pair<ByteRange, std::string>> extents;
  std::optional<std::uint64_t> next_from_bytes;
};

Result<AnsweredPage> extent_page(Client& client, const std::string& name,
                                 std::uint64_t from_bytes) {
  VT_ASSIGN_OR_RETURN(
      const Json answer,
      client.call("volume.extents", Json{{"name", name}, {"from_bytes", from_bytes}}));
  AnsweredPage page;
  try {
    for (const Json& extent : answer.at("extents")) {
      page.extents.push_back({{extent.at("offset_bytes").get<std::uint64_t>(),
                               extent.at("length_bytes").get<std::uint64_t>()},
                              answer.at("files").at(extent.at("file").get<std::size_t>())});
    }
    const Json& next = answer.at("next_from_bytes");
    if (!next.is_null()) page.next_from_bytes = next.get<std::uint64_t>();
  } catch (const Json::exception& wrong) {
    return error(Code::kIoError, "the daemon's answer on extents: {}", wrong.what());
  }
  return page;
}

}  // namespace

Result<bool> share_volume(Client& from, const std::string& source, Client& to,
                          const std::string& volume, std::uint64_t size_bytes,
                          const std::function<void(std::uint64_t)>& done_bytes) {
  const std::uint64_t whole_bytes = size_bytes / kBlockBytes * kBlockBytes;
  const bool all = whole_bytes == size_bytes;
  for (std::optional<std::uint64_t> at = 0; at;) {
    const Result<AnsweredPage> page = extent_page(from, source, *at);
    if (!page.ok() && page.status().code() == Code::kNotSupported) return false;  // older than this
    if (!page.ok()) return page.status();
    for (const auto& [range, file] : page->extents) {
      if (range.offset_bytes >= whole_bytes) break;
      const std::uint64_t length_bytes =
          std::min(range.length_bytes, whole_bytes - range.offset_bytes);
      VT_ASSIGN_OR_RETURN(
          const std::uint64_t shared_bytes,
          share_range(to, volume, file, {range.offset_bytes, length_bytes}, done_bytes));
      if (shared_bytes < length_bytes) return false;
    }
    at = page->next_from_bytes;
  }
  return all;
}

Result<std::uint64_t> share_file(Client& client, const std::string& volume, const SourceFile& file,
                                 const std::function<void(std::uint64_t)>& done_bytes) {
  struct stat info {};
  if (::fstat(file.fd(), &info) != 0 || !S_ISREG(info.st_mode)) return 0;
  // By its descriptor: what a path leads to may change.
  const std::string path = fmt::format("/proc/{}/fd/{}", ::getpid(), file.fd());
  const std::uint64_t whole_bytes = file.size_bytes() / kBlockBytes * kBlockBytes;
  return share_range(client, volume, path, {0, whole_bytes}, done_bytes);
}

}  // namespace voltree
