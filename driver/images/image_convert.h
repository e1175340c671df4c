// QEMU's qemu-img at work on images: confined (confined_process.h), on descriptors that it is
// given, with the format and every layer of it said, so that it neither probes nor follows
// anything.
#pragma once

#include <cstdint>
#include <string>

#include "driver/control/service.h"
#include "driver/images/image_file.h"
#include "driver/images/image_format.h"

namespace voltree {

// QEMU's own view of an image that inspect_image has passed: the same size, no other file, not
// encrypted, and sound. kInvalid or kNotSupported otherwise.
Status vet_image(const SourceFile& file, const std::string& name, ImageFormat format,
                 std::uint64_t size_bytes);
// Into a volume that reads as zeros.
Status convert_to_volume(const SourceFile& file, const std::string& name, ImageFormat format,
                         const std::string& nbd_socket, const std::string& volume,
                         std::uint64_t size_bytes, const ProgressSink& progress);
// Into an empty file.
Status convert_from_volume(const std::string& nbd_socket, const std::string& node,
                           std::uint64_t size_bytes, ImageFormat format, bool compress,
                           int target_fd, const ProgressSink& progress);

}  // namespace voltree
