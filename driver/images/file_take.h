// A raw file that becomes a volume itself, where it lies on the store's own file system: nothing is
// copied, and the file is nowhere else afterwards.
#pragma once

#include <cstdint>
#include <string>

#include "driver/control/client.h"

namespace voltree {

struct TakeResult {
  bool taken = false;
  std::string why;  // not: the file is what it was, and may be copied
};

// kInvalid for what looks like an image of another format, of which its own bytes would become the
// volume. For take_file() and before what is copied instead. Blocks.
Status check_raw(const std::string& file);

// `file` may be a link, or a descriptor's path in /proc; `size_bytes`, the volume's, is at least
// the file's. Blocks; check_stop() gives it up where the store is this process's, and the end of
// this process where it is a daemon's.
Result<TakeResult> take_file(Client& client, const std::string& file, const std::string& volume,
                             std::uint64_t size_bytes, const ProgressSink& progress);

// `message` with `path`, which was given, in the place of `opened`, by which it was opened.
std::string named(std::string message, const std::string& opened, const std::string& path);

}  // namespace voltree
