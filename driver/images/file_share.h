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

// The same of all that `source`, a snapshot or a clone that nobody writes to, holds in the store
// `from`: its layers' blocks become those of `volume` in the store `to`, of the same size. False:
// some of it is to be copied.
Result<bool> share_volume(Client& from, const std::string& source, Client& to,
                          const std::string& volume, std::uint64_t size_bytes,
                          const std::function<void(std::uint64_t)>& done_bytes);

}  // namespace voltree
