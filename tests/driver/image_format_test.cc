#include "driver/images/image_format.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include "blockstore/base/units.h"
#include "driver/images/raw_copy.h"

namespace voltree {
namespace {

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
constexpr std::uint64_t kNoLimit = std::uint64_t{1} << 50;

class FakeImage : public ImageBytes {
 public:
  explicit FakeImage(std::size_t size_bytes) : bytes_(size_bytes) {}
  std::uint64_t size_bytes() const override { return bytes_.size(); }
  Status read(std::uint64_t offset_bytes, std::span<std::byte> out) const override {
    // The parser must never ask beyond the end, whatever the headers say.
    EXPECT_LE(offset_bytes, bytes_.size());
    EXPECT_LE(out.size(), bytes_.size() - offset_bytes);
    std::copy_n(bytes_.begin() + static_cast<std::ptrdiff_t>(offset_bytes), out.size(),
                out.begin());
    return {};
  }
  void big(std::size_t at, std::uint64_t value, std::size_t width) {
    for (std::size_t i = 0; i < width; ++i) {
      bytes_.at(at + i) = static_cast<std::byte>(value >> (8 * (width - 1 - i)));
    }
  }
  void little(std::size_t at, std::uint64_t value, std::size_t width) {
    for (std::size_t i = 0; i < width; ++i) {
      bytes_.at(at + i) = static_cast<std::byte>(value >> (8 * i));
    }
  }
  void text(std::size_t at, std::string_view value) {
    for (const char c : value) bytes_.at(at++) = static_cast<std::byte>(c);
  }
  void cut(std::size_t size_bytes) { bytes_.resize(size_bytes); }
  std::vector<std::byte> bytes_;
};

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

// --- Images as they should be: 64 MiB of nothing.

FakeImage good_qcow2() {
  FakeImage image(4 * 65536);
  image.text(0, "QFI\xfb");
  image.big(4, 3, 4);
  image.big(20, 16, 4);
  image.big(24, 64 * kMiB, 8);
  image.big(36, 1, 4);          // L1 entries
  image.big(40, 3 * 65536, 8);  // and where they are
  image.big(48, 1 * 65536, 8);  // the refcount table
  image.big(56, 1, 4);          // and its clusters
  image.big(96, 4, 4);
  image.big(100, 112, 4);
  return image;
}

FakeImage good_vdi() {
  FakeImage image(2 * kMiB);
  image.little(64, 0xbeda107f, 4);
  image.little(68, 0x00010001, 4);
  image.little(76, 1, 4);
  image.little(340, 512, 4);
  image.little(344, kMiB, 4);
  image.little(360, 512, 4);
  image.little(368, 64 * kMiB, 8);
  image.little(376, kMiB, 4);
  image.little(384, 64, 4);
  image.little(388, 1, 4);
  return image;
}

constexpr std::string_view kDescriptor =
    "# Disk DescriptorFile\nversion=1\nCID=01234567\nparentCID=ffffffff\n"
    "createType=\"monolithicSparse\"\n\n# Extent description\nRW 131072 SPARSE \"disk.vmdk\"\n";

FakeImage good_vmdk(std::string_view descriptor = kDescriptor) {
  FakeImage image(kMiB);
  image.text(0, "KDMV");
  image.little(4, 1, 4);
  image.little(12, 131072, 8);
  image.little(20, 128, 8);
  image.little(28, 1, 8);
  image.little(36, 20, 8);
  image.little(44, 512, 4);
  image.little(56, 30, 8);
  image.text(512, descriptor);
  return image;
}

constexpr std::size_t kRegions = 3 * 65536;
constexpr std::size_t kMetadata = kMiB;

FakeImage good_vhdx() {
  FakeImage image(2 * kMiB);
  image.text(0, "vhdxfile");
  image.text(kRegions, "regi");
  image.little(kRegions + 8, 1, 4);
  image.text(kRegions + 16, "\x06\xa2\x7c\x8b\x90\x47\x9a\x4b\xb8\xfe\x57\x5f\x05\x0f\x88\x6e");
  image.little(kRegions + 32, kMetadata, 8);
  image.little(kRegions + 40, kMiB, 4);
  image.little(kRegions + 44, 1, 4);
  image.text(kMetadata, "metadata");
  image.little(kMetadata + 10, 2, 2);
  image.text(kMetadata + 32, "\x37\x67\xa1\xca\x36\xfa\x43\x4d\xb3\xb6\x33\xf0\xaa\x44\xe7\x6b");
  image.little(kMetadata + 48, 65536, 4);
  image.text(kMetadata + 64, "\x24\x42\xa5\x2f\x1b\xcd\x76\x48\xb2\x11\x5d\xbe\xd8\x3b\xf4\xb8");
  image.little(kMetadata + 80, 65544, 4);
  image.little(kMetadata + 65544, 64 * kMiB, 8);
  return image;
}

Code code_of(const FakeImage& image, ImageFormat format) {
  return inspect_image(image, format, kNoLimit).status().code();
}

struct Lie {
  const char* what;
  void (*tell)(FakeImage&);
  Code code;
};

template <typename Make>
void expect_refused(Make make, ImageFormat format, const std::vector<Lie>& lies) {
  const FakeImage good = make();
  const Result<std::uint64_t> size = inspect_image(good, format, kNoLimit);
  ASSERT_TRUE(size.ok()) << size.status().message();
  EXPECT_EQ(*size, 64 * kMiB);
  EXPECT_EQ(inspect_image(good, format, 63 * kMiB).status().code(), Code::kTooLarge);
  for (const Lie& lie : lies) {
    FakeImage image = make();
    lie.tell(image);
    EXPECT_EQ(code_of(image, format), lie.code) << lie.what;
  }
  // Cut off anywhere in its headers it is refused, and nothing is read beyond its end.
  for (std::size_t length = 0; length < 512; ++length) {
    FakeImage image = make();
    image.cut(length);
    EXPECT_NE(code_of(image, format), Code::kOk) << length;
  }
  // Whatever single bytes say: an answer, and no read beyond the end.
  std::mt19937 random(11);
  for (int i = 0; i < 5000; ++i) {
    FakeImage image = make();
    const std::size_t at = random() % 2 == 0 ? random() % 1024 : random() % image.bytes_.size();
    image.bytes_[at] = static_cast<std::byte>(random());
    (void)inspect_image(image, format, kNoLimit);
    if (image.bytes_.size() >= kMiB) i += 50;  // a large copy each time
  }
}

TEST(ImageFormat, GuessesFromTheHeaderAlone) {
  EXPECT_EQ(guess_format(bytes_of("QFI\xfb with some more")).format, ImageFormat::kQcow2);
  EXPECT_EQ(guess_format(bytes_of(std::string_view("QFI\xfb\0\0\0\1", 8))).format, std::nullopt);
  EXPECT_EQ(guess_format(bytes_of("KDMV....")).format, ImageFormat::kVmdk);
  EXPECT_EQ(guess_format(bytes_of("vhdxfile")).format, ImageFormat::kVhdx);
  EXPECT_EQ(guess_format(good_vdi().bytes_).format, ImageFormat::kVdi);
  EXPECT_EQ(guess_format(bytes_of("# Disk DescriptorFile\n")).format, std::nullopt);
  EXPECT_EQ(guess_format(bytes_of("conectix")).format, std::nullopt);
  for (const char* raw : {"", "Q", "vhdxfil", "LUKS\xba\xbe", "some bytes"}) {
    EXPECT_EQ(guess_format(bytes_of(raw)).format, ImageFormat::kRaw) << raw;
  }
}

TEST(ImageFormat, WhatIsDeclaredMustBeWhatIsThere) {
  const FormatGuess qcow2 = guess_format(bytes_of("QFI\xfb...."));
  const FormatGuess raw = guess_format(bytes_of("bytes"));
  const FormatGuess foreign = guess_format(bytes_of("conectix"));
  EXPECT_EQ(*agree_on_format(std::nullopt, raw, "f"), ImageFormat::kRaw);
  EXPECT_EQ(*agree_on_format(ImageFormat::kRaw, qcow2, "f"), ImageFormat::kRaw);
  EXPECT_EQ(*agree_on_format(ImageFormat::kRaw, foreign, "f"), ImageFormat::kRaw);
  EXPECT_EQ(*agree_on_format(ImageFormat::kQcow2, qcow2, "f"), ImageFormat::kQcow2);
  EXPECT_FALSE(agree_on_format(std::nullopt, qcow2, "f").ok());
  EXPECT_FALSE(agree_on_format(std::nullopt, foreign, "f").ok());
  EXPECT_FALSE(agree_on_format(ImageFormat::kQcow2, raw, "f").ok());
  EXPECT_FALSE(agree_on_format(ImageFormat::kVdi, qcow2, "f").ok());
  const std::string message(agree_on_format(std::nullopt, qcow2, "f").status().message());
  EXPECT_NE(message.find("--format qcow2"), std::string::npos) << message;
  EXPECT_NE(message.find("--format raw"), std::string::npos) << message;
}

TEST(ImageFormat, Qcow2) {
  expect_refused(
      good_qcow2, ImageFormat::kQcow2,
      {{"version 1", [](FakeImage& i) { i.big(4, 1, 4); }, Code::kNotSupported},
       {"version 4", [](FakeImage& i) { i.big(4, 4, 4); }, Code::kNotSupported},
       {"a backing file", [](FakeImage& i) { i.big(8, 1024, 8); }, Code::kNotSupported},
       {"clusters of 256", [](FakeImage& i) { i.big(20, 8, 4); }, Code::kInvalid},
       {"clusters of 2^63", [](FakeImage& i) { i.big(20, 63, 4); }, Code::kInvalid},
       {"no size", [](FakeImage& i) { i.big(24, 0, 8); }, Code::kInvalid},
       {"8 EiB", [](FakeImage& i) { i.big(24, std::uint64_t{1} << 63, 8); }, Code::kTooLarge},
       {"encrypted", [](FakeImage& i) { i.big(32, 2, 4); }, Code::kNotSupported},
       {"a small L1", [](FakeImage& i) { i.big(36, 0, 4); }, Code::kInvalid},
       {"a huge L1", [](FakeImage& i) { i.big(36, 0xffffffff, 4); }, Code::kInvalid},
       {"an L1 beyond", [](FakeImage& i) { i.big(36, 65536, 4); }, Code::kInvalid},
       {"an L1 that wraps", [](FakeImage& i) { i.big(40, ~std::uint64_t{65535}, 8); },
        Code::kInvalid},
       {"an L1 off its cluster", [](FakeImage& i) { i.big(40, 65544, 8); }, Code::kInvalid},
       {"refcounts beyond", [](FakeImage& i) { i.big(48, 65536 * 9, 8); }, Code::kInvalid},
       {"huge refcounts", [](FakeImage& i) { i.big(56, 0xffffffff, 4); }, Code::kInvalid},
       {"snapshots", [](FakeImage& i) { i.big(60, 0xffffffff, 4); }, Code::kInvalid},
       {"snapshots beyond", [](FakeImage& i) { i.big(60, 65536, 4); }, Code::kInvalid},
       {"a data file", [](FakeImage& i) { i.big(72, 4, 8); }, Code::kNotSupported},
       {"corrupt", [](FakeImage& i) { i.big(72, 2, 8); }, Code::kInvalid},
       {"unknown features", [](FakeImage& i) { i.big(72, 1 << 5, 8); }, Code::kNotSupported},
       {"the last feature", [](FakeImage& i) { i.big(72, std::uint64_t{1} << 63, 8); },
        Code::kNotSupported},
       {"refcount order", [](FakeImage& i) { i.big(96, 7, 4); }, Code::kInvalid},
       {"a short header", [](FakeImage& i) { i.big(100, 96, 4); }, Code::kInvalid},
       {"a long header", [](FakeImage& i) { i.big(100, 0xfffffff8, 4); }, Code::kInvalid},
       {"compression 2", [](FakeImage& i) { i.big(72, 8, 8), i.big(104, 2, 1); },
        Code::kNotSupported},
       {"compression without its bit", [](FakeImage& i) { i.big(104, 1, 1); }, Code::kNotSupported},
       {"a backing format", [](FakeImage& i) { i.big(112, 0xe2792aca, 4); }, Code::kNotSupported},
       {"a data file's name", [](FakeImage& i) { i.big(112, 0x44415441, 4); }, Code::kNotSupported},
       {"a crypto header", [](FakeImage& i) { i.big(112, 0x0537be77, 4); }, Code::kNotSupported},
       {"a long extension", [](FakeImage& i) { i.big(112, 1, 4), i.big(116, 0xffffffff, 4); },
        Code::kInvalid},
       {"an extension behind another",
        [](FakeImage& i) { i.big(112, 1, 4), i.big(116, 3, 4), i.big(128, 0x44415441, 4); },
        Code::kNotSupported}});
}

TEST(ImageFormat, Vdi) {
  expect_refused(
      good_vdi, ImageFormat::kVdi,
      {{"version", [](FakeImage& i) { i.little(68, 2, 4); }, Code::kNotSupported},
       {"a difference", [](FakeImage& i) { i.little(76, 4, 4); }, Code::kNotSupported},
       {"a parent", [](FakeImage& i) { i.little(440, 1, 1); }, Code::kNotSupported},
       {"a link", [](FakeImage& i) { i.little(439, 1, 1); }, Code::kNotSupported},
       {"8 EiB", [](FakeImage& i) { i.little(368, std::uint64_t{1} << 63, 8); }, Code::kInvalid},
       {"blocks of 2 MiB", [](FakeImage& i) { i.little(376, 2 * kMiB, 4); }, Code::kNotSupported},
       {"too few blocks", [](FakeImage& i) { i.little(384, 63, 4); }, Code::kInvalid},
       {"a map beyond", [](FakeImage& i) { i.little(384, 0xffffffff, 4); }, Code::kInvalid},
       {"a map far away", [](FakeImage& i) { i.little(340, 0xffffffff, 4); }, Code::kInvalid},
       {"blocks beyond", [](FakeImage& i) { i.little(388, 2, 4); }, Code::kInvalid},
       {"more than all", [](FakeImage& i) { i.little(388, 65, 4); }, Code::kInvalid},
       {"data far away", [](FakeImage& i) { i.little(344, 0xffffffff, 4); }, Code::kInvalid}});
}

TEST(ImageFormat, Vmdk) {
  expect_refused(
      [] { return good_vmdk(); }, ImageFormat::kVmdk,
      {{"version", [](FakeImage& i) { i.little(4, 4, 4); }, Code::kNotSupported},
       {"no capacity", [](FakeImage& i) { i.little(12, 0, 8); }, Code::kNotSupported},
       {"8 EiB", [](FakeImage& i) { i.little(12, std::uint64_t{1} << 54, 8); }, Code::kTooLarge},
       {"grains of 3", [](FakeImage& i) { i.little(20, 3, 8); }, Code::kInvalid},
       {"huge grains", [](FakeImage& i) { i.little(20, std::uint64_t{1} << 40, 8); },
        Code::kInvalid},
       {"no descriptor", [](FakeImage& i) { i.little(28, 0, 8); }, Code::kInvalid},
       {"a descriptor beyond", [](FakeImage& i) { i.little(28, 1 << 20, 8); }, Code::kInvalid},
       {"a long descriptor", [](FakeImage& i) { i.little(36, 1 << 20, 8); }, Code::kInvalid},
       {"tables", [](FakeImage& i) { i.little(44, 1 << 30, 4); }, Code::kInvalid},
       {"a directory beyond", [](FakeImage& i) { i.little(56, 1 << 20, 8); }, Code::kInvalid},
       {"no footer", [](FakeImage& i) { i.little(56, ~std::uint64_t{0}, 8); }, Code::kInvalid},
       {"compression", [](FakeImage& i) { i.little(77, 2, 2); }, Code::kNotSupported}});
}

TEST(ImageFormat, VmdkDescriptorsThatNameOtherFiles) {
  const auto changed = [](std::string_view from, std::string_view to) {
    std::string text(kDescriptor);
    text.replace(text.find(from), from.size(), to);
    return code_of(good_vmdk(text), ImageFormat::kVmdk);
  };
  EXPECT_EQ(changed("disk.vmdk", "other.vmdk"), Code::kOk);  // the file itself, renamed
  EXPECT_EQ(changed("monolithicSparse", "streamOptimized"), Code::kOk);
  EXPECT_EQ(changed("monolithicSparse", "monolithicFlat"), Code::kNotSupported);
  EXPECT_EQ(changed("monolithicSparse", "twoGbMaxExtentSparse"), Code::kNotSupported);
  EXPECT_EQ(changed("createType", "someType"), Code::kInvalid);
  EXPECT_EQ(changed("SPARSE", "FLAT"), Code::kNotSupported);
  EXPECT_EQ(changed("RW 131072 SPARSE", "RW 131072 VMFS"), Code::kNotSupported);
  EXPECT_EQ(changed("RW 131072 SPARSE", "RW\t131072\tFLAT"), Code::kNotSupported);
  EXPECT_EQ(changed("RW ", "RW 1 SPARSE \"a\"\nRW "), Code::kNotSupported);
  EXPECT_EQ(changed("RW ", "XX "), Code::kNotSupported);
  EXPECT_EQ(changed("ffffffff", "01234567"), Code::kNotSupported);
  EXPECT_EQ(changed("CID=0", "parentFileNameHint=\"/etc/passwd\"\nCID=0"), Code::kNotSupported);
  EXPECT_EQ(changed("CID=0", "PARENTFILENAMEHINT=\"/etc/passwd\"\nCID=0"), Code::kNotSupported);
}

TEST(ImageFormat, Vhdx) {
  expect_refused(
      good_vhdx, ImageFormat::kVhdx,
      {{"no regions", [](FakeImage& i) { i.little(kRegions, 0, 4); }, Code::kInvalid},
       {"many regions", [](FakeImage& i) { i.little(kRegions + 8, 0xffffffff, 4); },
        Code::kInvalid},
       {"no metadata", [](FakeImage& i) { i.little(kRegions + 8, 0, 4); }, Code::kInvalid},
       {"an unknown region", [](FakeImage& i) { i.little(kRegions + 16, 0, 4); },
        Code::kNotSupported},
       {"metadata beyond", [](FakeImage& i) { i.little(kRegions + 32, 5 * kMiB, 8); },
        Code::kInvalid},
       {"metadata that wraps", [](FakeImage& i) { i.little(kRegions + 32, ~std::uint64_t{0}, 8); },
        Code::kInvalid},
       {"short metadata", [](FakeImage& i) { i.little(kRegions + 40, 100, 4); }, Code::kInvalid},
       {"many items", [](FakeImage& i) { i.little(kMetadata + 10, 0xffff, 2); }, Code::kInvalid},
       {"an item beyond", [](FakeImage& i) { i.little(kMetadata + 80, 0xffffffff, 4); },
        Code::kInvalid},
       {"no size", [](FakeImage& i) { i.little(kMetadata + 10, 1, 2); }, Code::kInvalid},
       {"8 EiB", [](FakeImage& i) { i.little(kMetadata + 65544, std::uint64_t{1} << 63, 8); },
        Code::kTooLarge},
       {"a parent", [](FakeImage& i) { i.little(kMetadata + 65540, 2, 4); }, Code::kNotSupported},
       {"a parent locator",
        [](FakeImage& i) {
          i.text(kMetadata + 64,
                 "\x2d\x5f\xd3\xa8\x0b\xb3\x4d\x45\xab\xf7\xd3\xd8\x48\x34\xab\x0c");
        },
        Code::kNotSupported}});
}

TEST(ZeroRuns, AreWholeBlocks) {
  std::vector<std::byte> data(3 * kBlockBytes + 100);
  EXPECT_EQ(zero_runs(data).size(), 1U);
  data[kBlockBytes] = std::byte{1};
  const std::vector<ZeroRun> runs = zero_runs(data);
  ASSERT_EQ(runs.size(), 3U);
  EXPECT_TRUE(runs[0].zero);
  EXPECT_FALSE(runs[1].zero);
  EXPECT_EQ(runs[1].offset_bytes, kBlockBytes);
  EXPECT_EQ(runs[1].length_bytes, kBlockBytes);
  EXPECT_EQ(runs[2].length_bytes, kBlockBytes + 100);
  EXPECT_TRUE(zero_runs({}).empty());
}

TEST(Sha256, HashesDataAndHoles) {
  Sha256 hash;
  hash.update(bytes_of("abc"));
  EXPECT_EQ(hash.finish(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  hash.zeros(100000);
  const std::string holes = hash.finish();
  hash.update(std::vector<std::byte>(100000));
  EXPECT_EQ(hash.finish(), holes);
  EXPECT_EQ(*parse_sha256(std::string(64, 'A')), std::string(64, 'a'));
  EXPECT_FALSE(parse_sha256(std::string(63, 'a')).ok());
  EXPECT_FALSE(parse_sha256(std::string(64, 'g')).ok());
}

}  // namespace
}  // namespace voltree
