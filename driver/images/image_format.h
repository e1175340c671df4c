// Image files of other programs: which kind one is, and whether it is what it must be to be read.
//
// The parser is ours, bounded, and looks at headers alone: what an image says of itself decides
// what QEMU is asked to open, and everything that could lead to another file is refused here first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "blockstore/base/status.h"

namespace voltree {

enum class ImageFormat : std::uint8_t { kRaw, kQcow2, kVmdk, kVhdx, kVdi };

// "raw", "qcow2", ...: as on the command line, and as QEMU calls it.
std::string_view format_name(ImageFormat format);
Result<ImageFormat> parse_format(std::string_view text);

// The bytes of an image file.
class ImageBytes {
 public:
  virtual ~ImageBytes() = default;
  virtual std::uint64_t size_bytes() const = 0;
  // Exactly out.size() bytes; never called beyond the end.
  virtual Status read(std::uint64_t offset_bytes, std::span<std::byte> out) const = 0;
};

// What the first bytes of a file look like.
struct FormatGuess {
  std::optional<ImageFormat> format;  // kRaw: no header that is known here
  std::string_view what;              // for people: "a qcow2 image", "a VHD image"
};
// Enough of a file for guess_format.
inline constexpr std::size_t kGuessBytes = 512;
FormatGuess guess_format(std::span<const std::byte> start);

// The format to read a file as: the declared one when it agrees with the guess. kInvalid otherwise,
// and when nothing is declared for what looks like an image: raw bytes that only look so are read
// as raw when that is said.
Result<ImageFormat> agree_on_format(std::optional<ImageFormat> declared, const FormatGuess& guess,
                                    std::string_view file);

// The size of the disk in the image, after every check of the headers. kInvalid or kNotSupported
// says what is wrong: it leads to another file, is encrypted, truncated, of an unknown version, or
// lies about its tables. kTooLarge: beyond `size_max_bytes`.
Result<std::uint64_t> inspect_image(const ImageBytes& bytes, ImageFormat format,
                                    std::uint64_t size_max_bytes);

}  // namespace voltree
