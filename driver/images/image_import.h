// Import: an image file or a stream becomes a volume.
//
// The bytes go to a volume NAME.import-XXXXXXXX over the store's private NBD socket, be it a
// daemon's or that of a store which this process has opened. It gets its name when everything is
// there, durable and verified; when anything fails it is deleted. So NAME is never half an image. A
// process that is killed leaves the other volume behind (store_volume.h, remove_leftovers).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "driver/control/client.h"
#include "driver/images/image_format.h"

namespace voltree {

struct ImportOptions {
  std::string file;                             // "-": standard input, raw
  std::string name;                             // the new volume, or the one whose contents go
  std::optional<ImageFormat> format;            // image_format.h, agree_on_format
  std::optional<std::uint64_t> size_bytes;      // the volume's; default: the image's
  std::optional<std::uint64_t> size_max_bytes;  // default: what the store's host can hold
  std::string sha256;                           // of the file or stream; empty: not asked for
  // The volume is there already: it holds the image in the end, or what it held. It keeps its
  // limits and snapshots; kBusy while it is attached. `erase_policy`: of what it held; empty: its
  // own.
  bool replace = false;
  std::string erase_policy;
};

struct ImageReport {
  ImageFormat format = ImageFormat::kRaw;
  std::uint64_t size_bytes = 0;       // of the volume
  std::uint64_t data_bytes = 0;       // of it that holds data
  std::uint64_t shared_bytes = 0;     // from its start, that share the file's space (holes, too)
  std::string sha256;                 // of the file or stream; empty: not asked for
  std::vector<std::string> warnings;  // protection that this host does not have
};

// A raw file on the store's own file system is not copied where its blocks can be shared: the file
// and the volume then have one copy of what neither writes to. Either way the file stays as it is.
//
// Blocks. `progress` is called on this thread, several times a second at most; a total of 0 is
// unknown.
Result<ImageReport> import_image(Client& client, const ImportOptions& options,
                                 const ProgressSink& progress);

}  // namespace voltree
