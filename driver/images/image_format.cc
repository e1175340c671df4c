#include "driver/images/image_format.h"

#include <array>
#include <cstring>

#include "blockstore/base/units.h"
#include "driver/images/image_headers.h"

namespace voltree {
namespace {

constexpr std::array<std::pair<ImageFormat, std::string_view>, 5> kNames{
    {{ImageFormat::kRaw, "raw"},
     {ImageFormat::kQcow2, "qcow2"},
     {ImageFormat::kVmdk, "vmdk"},
     {ImageFormat::kVhdx, "vhdx"},
     {ImageFormat::kVdi, "vdi"}}};

struct Magic {
  std::size_t offset_bytes;
  std::string_view bytes;
  std::optional<ImageFormat> format;
  std::string_view what;
};

using std::string_view_literals::operator""sv;
constexpr std::array kMagics{
    Magic{0, "QFI\xfb\0\0\0\1"sv, std::nullopt, "a qcow image of version 1"},
    Magic{0, "QFI\xfb"sv, ImageFormat::kQcow2, "a qcow2 image"},
    Magic{0, "KDMV"sv, ImageFormat::kVmdk, "a VMDK image"},
    Magic{0, "COWD"sv, std::nullopt, "an ESX sparse image"},
    Magic{0, "# Disk DescriptorFile"sv, std::nullopt, "a VMDK descriptor that names other files"},
    Magic{0, "vhdxfile"sv, ImageFormat::kVhdx, "a VHDX image"},
    Magic{64, "\x7f\x10\xda\xbe"sv, ImageFormat::kVdi, "a VDI image"},
    Magic{0, "conectix"sv, std::nullopt, "a VHD image"},
    Magic{0, "QED\0"sv, std::nullopt, "a QED image"},
    Magic{0, "WithoutFreeSpace"sv, std::nullopt, "a Parallels image"},
    Magic{0, "WithouFreSpacExt"sv, std::nullopt, "a Parallels image"},
};

bool has(std::span<const std::byte> start, const Magic& magic) {
  return start.size() >= magic.offset_bytes + magic.bytes.size() &&
         std::memcmp(start.data() + magic.offset_bytes, magic.bytes.data(), magic.bytes.size()) ==
             0;
}

}  // namespace

std::string_view format_name(ImageFormat format) {
  for (const auto& [known, name] : kNames) {
    if (known == format) return name;
  }
  return "?";
}

Result<ImageFormat> parse_format(std::string_view text) {
  for (const auto& [format, name] : kNames) {
    if (name == text) return format;
  }
  return error(Code::kInvalid, "{} is no image format: raw, qcow2, vmdk, vhdx or vdi",
               quoted(text));
}

FormatGuess guess_format(std::span<const std::byte> start) {
  for (const Magic& magic : kMagics) {
    if (has(start, magic)) return {magic.format, magic.what};
  }
  return {ImageFormat::kRaw, "no image with a header known here"};
}

Result<ImageFormat> agree_on_format(std::optional<ImageFormat> declared, const FormatGuess& guess,
                                    std::string_view file) {
  if (declared == ImageFormat::kRaw) return ImageFormat::kRaw;
  if (declared && guess.format == declared) return *declared;
  if (declared) {
    return error(Code::kInvalid, "{} is {}, not {}", quoted(file), guess.what,
                 format_name(*declared));
  }
  if (guess.format == ImageFormat::kRaw) return ImageFormat::kRaw;
  if (guess.format) {
    return error(Code::kInvalid,
                 "{} looks like {}: say --format {}, or --format raw to take its bytes as they are",
                 quoted(file), guess.what, format_name(*guess.format));
  }
  return error(Code::kInvalid,
               "{} looks like {}, which cannot be imported; --format raw takes its bytes as they "
               "are",
               quoted(file), guess.what);
}

Result<std::uint64_t> inspect_image(const ImageBytes& bytes, ImageFormat format,
                                    std::uint64_t size_max_bytes) {
  Result<std::uint64_t> size_bytes = bytes.size_bytes();
  if (format == ImageFormat::kQcow2) size_bytes = inspect_qcow2(bytes);
  if (format == ImageFormat::kVmdk) size_bytes = inspect_vmdk(bytes);
  if (format == ImageFormat::kVhdx) size_bytes = inspect_vhdx(bytes);
  if (format == ImageFormat::kVdi) size_bytes = inspect_vdi(bytes);
  if (!size_bytes.ok()) {
    return size_bytes.status().with_context(fmt::format("the {} image", format_name(format)));
  }
  if (*size_bytes == 0) return error(Code::kInvalid, "the disk in the image has no size");
  if (*size_bytes > size_max_bytes) {
    return error(Code::kTooLarge, "the image says that its disk has {}; at most {} may be had here",
                 format_size(*size_bytes), format_size(size_max_bytes));
  }
  return *size_bytes;
}

}  // namespace voltree
