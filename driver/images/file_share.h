// A file whose blocks a volume may share, when both are on one file system that can do it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "driver/control/client.h"
#include "driver/images/image_file.h"

namespace voltree {

// Byte x of the file is byte x of the volume, which reads as zeros so far. Answers how many bytes,
// from the start, are there now; the rest is to be copied. 0 where nothing can be shared, which is
// no error. The volume's owner may be a daemon: it opens the file through this process.
Result<std::uint64_t> share_file(Client& client, const std::string& volume, const SourceFile& file,
                                 const std::function<void(std::uint64_t)>& done_bytes);

}  // namespace voltree
