// Export: a volume or a snapshot becomes an image file or a stream.
//
// A file gets its name when everything is in it and durable; until then it lies beside it under
// another name (.voltree-export-XXXXXX), which is removed when anything fails and which a process
// that is killed leaves behind. A snapshot does not change meanwhile; a volume in use may.
#pragma once

#include <string>

#include "driver/control/client.h"
#include "driver/images/image_import.h"

namespace voltree {

struct ExportOptions {
  std::string name;  // VOLUME or VOLUME@SNAPSHOT
  std::string file;  // "-": standard output, raw
  ImageFormat format = ImageFormat::kRaw;
  bool compress = false;  // qcow2; a VMDK always is
  bool sha256 = false;    // of the file, in the report
  bool force = false;     // a file that is there is replaced
};

// Blocks. `progress` is called on this thread, several times a second at most.
Result<ImageReport> export_image(Client& client, const ExportOptions& options,
                                 const ProgressSink& progress);

}  // namespace voltree
