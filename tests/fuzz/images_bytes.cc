// Headers of image files: an answer, bounded, and no read beyond the end of the file.
#include <algorithm>
#include <array>
#include <cstdlib>
#include <string>

#include "driver/images/image_format.h"
#include "tests/fuzz/patches.h"

namespace voltree::fuzz {
namespace {

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
constexpr std::uint64_t kUnitBytes = 64 * 1024;
constexpr std::uint64_t kSizeMaxBytes = std::uint64_t{1} << 50;
constexpr std::array kFormats{ImageFormat::kQcow2, ImageFormat::kVmdk, ImageFormat::kVhdx,
                              ImageFormat::kVdi};

// Zeros with patches.
class PatchedImage final : public ImageBytes {
 public:
  PatchedImage(std::uint64_t size_bytes, std::vector<Patch> patches)
      : size_bytes_(size_bytes), patches_(std::move(patches)) {}
  std::uint64_t size_bytes() const override { return size_bytes_; }
  Status read(std::uint64_t offset_bytes, std::span<std::byte> out) const override {
    if (offset_bytes > size_bytes_ || out.size() > size_bytes_ - offset_bytes) std::abort();
    std::fill(out.begin(), out.end(), std::byte{0});
    for (const Patch& patch : patches_) {
      const std::uint64_t from = std::max<std::uint64_t>(offset_bytes, patch.offset_bytes);
      const std::uint64_t to = std::min<std::uint64_t>(offset_bytes + out.size(),
                                                       patch.offset_bytes + patch.bytes.size());
      for (std::uint64_t at = from; at < to; ++at) {
        out[at - offset_bytes] = patch.bytes[at - patch.offset_bytes];
      }
    }
    return {};
  }

 private:
  const std::uint64_t size_bytes_;
  const std::vector<Patch> patches_;
};

// The first byte says which format it is read as, the second how long the file is.
void run_image(std::span<const std::byte> bytes) {
  if (bytes.size() < 2) return;
  const ImageFormat format = kFormats[std::to_integer<std::size_t>(bytes[0]) % kFormats.size()];
  const std::uint64_t size_bytes = std::to_integer<std::uint64_t>(bytes[1]) * kUnitBytes;
  const PatchedImage image(size_bytes, patches_of(bytes.subspan(2)));
  std::array<std::byte, kGuessBytes> start;
  const std::size_t length = std::min<std::uint64_t>(start.size(), size_bytes);
  (void)image.read(0, std::span(start).first(length));
  const FormatGuess guess = guess_format(std::span(start).first(length));
  (void)agree_on_format(format, guess, "image");
  const Result<std::uint64_t> size = inspect_image(image, format, kSizeMaxBytes);
  if (size.ok() && (*size == 0 || *size > kSizeMaxBytes)) std::abort();
}

// A header in the making.
class Header {
 public:
  Header(std::uint8_t format, std::uint64_t size_bytes)
      : bytes_{std::byte{format}, static_cast<std::byte>(size_bytes / kUnitBytes)} {}
  Header& text(std::uint32_t at, std::string_view value) {
    add_patch(bytes_, 0, at, value);
    return *this;
  }
  Header& big(std::uint32_t at, std::uint64_t value, std::size_t width) {
    std::string number;
    for (std::size_t i = width; i-- > 0;) number += static_cast<char>(value >> (8 * i));
    return text(at, number);
  }
  Header& little(std::uint32_t at, std::uint64_t value, std::size_t width) {
    std::string number;
    for (std::size_t i = 0; i < width; ++i) number += static_cast<char>(value >> (8 * i));
    return text(at, number);
  }
  const Bytes& bytes() const { return bytes_; }

 private:
  Bytes bytes_;
};

Bytes qcow2_seed() {
  Header header(0, 4 * 65536);
  header.text(0, "QFI\xfb").big(4, 3, 4).big(20, 16, 4).big(24, 64 * kMiB, 8).big(36, 1, 4);
  header.big(40, 3 * 65536, 8).big(48, 65536, 8).big(56, 1, 4).big(96, 4, 4).big(100, 112, 4);
  return header.bytes();
}

Bytes vmdk_seed() {
  Header header(1, kMiB);
  header.text(0, "KDMV").little(4, 1, 4).little(12, 131072, 8).little(20, 128, 8).little(28, 1, 8);
  header.little(36, 20, 8).little(44, 512, 4).little(56, 30, 8);
  header.text(512,
              "# Disk DescriptorFile\nversion=1\nCID=01234567\nparentCID=ffffffff\n"
              "createType=\"monolithicSparse\"\n\n# Extent description\n"
              "RW 131072 SPARSE \"disk.vmdk\"\n");
  return header.bytes();
}

Bytes vhdx_seed() {
  constexpr std::uint32_t kRegions = 3 * 65536;
  constexpr std::uint32_t kMetadata = kMiB;
  Header header(2, 2 * kMiB);
  header.text(0, "vhdxfile").text(kRegions, "regi").little(kRegions + 8, 1, 4);
  header.text(kRegions + 16, "\x06\xa2\x7c\x8b\x90\x47\x9a\x4b\xb8\xfe\x57\x5f\x05\x0f\x88\x6e");
  header.little(kRegions + 32, kMetadata, 8).little(kRegions + 40, kMiB, 4);
  header.little(kRegions + 44, 1, 4).text(kMetadata, "metadata").little(kMetadata + 10, 2, 2);
  header.text(kMetadata + 32, "\x37\x67\xa1\xca\x36\xfa\x43\x4d\xb3\xb6\x33\xf0\xaa\x44\xe7\x6b");
  header.little(kMetadata + 48, 65536, 4);
  header.text(kMetadata + 64, "\x24\x42\xa5\x2f\x1b\xcd\x76\x48\xb2\x11\x5d\xbe\xd8\x3b\xf4\xb8");
  header.little(kMetadata + 80, 65544, 4).little(kMetadata + 65544, 64 * kMiB, 8);
  return header.bytes();
}

Bytes vdi_seed() {
  Header header(3, 2 * kMiB);
  header.little(64, 0xbeda107f, 4).little(68, 0x00010001, 4).little(76, 1, 4).little(340, 512, 4);
  header.little(344, kMiB, 4).little(360, 512, 4).little(368, 64 * kMiB, 8).little(376, kMiB, 4);
  header.little(384, 64, 4).little(388, 1, 4);
  return header.bytes();
}

// Those that are what they should be: a seed that is refused leads nowhere.
std::vector<Bytes> image_seeds() {
  std::vector<Bytes> seeds{qcow2_seed(), vmdk_seed(), vhdx_seed(), vdi_seed()};
  for (const Bytes& seed : seeds) {
    const PatchedImage image(std::to_integer<std::uint64_t>(seed[1]) * kUnitBytes,
                             patches_of(std::span(seed).subspan(2)));
    const auto format = kFormats[std::to_integer<std::size_t>(seed[0])];
    const auto size = inspect_image(image, format, kSizeMaxBytes);
    if (!size.ok() || *size != 64 * kMiB) std::abort();
  }
  return seeds;
}

}  // namespace

const Target kImages{run_image, image_seeds};

}  // namespace voltree::fuzz
