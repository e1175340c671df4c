#include "blockstore/base/units.h"

#include <gtest/gtest.h>

#include <limits>

namespace voltree {
namespace {

constexpr std::uint64_t kKi = 1024, kMi = kKi * 1024, kGi = kMi * 1024, kTi = kGi * 1024;

TEST(ParseSize, TakesBinaryUnitsWithAndWithoutTheI) {
  const std::pair<const char*, std::uint64_t> cases[] = {
      {"0", 0},
      {"4096", 4096},
      {"512k", 512 * kKi},
      {"512K", 512 * kKi},
      {"10G", 10 * kGi},
      {"10GiB", 10 * kGi},
      {"10Gi", 10 * kGi},
      {"10GB", 10 * kGi},
      {"7B", 7},
      {"1.5TiB", kTi * 3 / 2},
      {"0.5k", 512},
      {"1.50000000000000000000K", 1536},
      {"4.0 GiB", 4 * kGi},
      {"7E", std::uint64_t{7} << 60},
      {"9223372036854775807", std::numeric_limits<std::int64_t>::max()},
  };
  for (const auto& [text, bytes] : cases) {
    const Result<std::uint64_t> size = parse_size(text);
    ASSERT_TRUE(size.ok()) << text;
    EXPECT_EQ(*size, bytes) << text;
  }
}

TEST(ParseSize, RefusesTheRest) {
  for (const char* text : {"",
                           " ",
                           "G",
                           "-1",
                           "+1",
                           "1.5",
                           "1.",
                           ".5G",
                           "1..5G",
                           "10X",
                           "10GG",
                           "10GiBs",
                           "10 ",
                           " 10",
                           "1e3",
                           "0x10",
                           "9223372036854775808",
                           "8E",
                           "1.0001K",
                           "0.0000000000001G",
                           "99999999999999999999999999",
                           "16777216T"}) {
    EXPECT_EQ(parse_size(text).status().code(), Code::kInvalid) << text;
  }
}

TEST(FormatSize, IsShort) {
  EXPECT_EQ(format_size(0), "0 B");
  EXPECT_EQ(format_size(1023), "1023 B");
  EXPECT_EQ(format_size(1024), "1.0 KiB");
  EXPECT_EQ(format_size(4 * kGi), "4.0 GiB");
  EXPECT_EQ(format_size(kMi - 1), "1.0 MiB");
  EXPECT_EQ(format_size(std::numeric_limits<std::uint64_t>::max()), "16.0 EiB");
}

TEST(VolumeSize, IsWholeSectorsAndNotZero) {
  EXPECT_TRUE(check_volume_size(512).ok());
  EXPECT_TRUE(check_volume_size(512 * 3).ok());
  EXPECT_EQ(check_volume_size(0).code(), Code::kInvalid);
  EXPECT_EQ(check_volume_size(4095).code(), Code::kInvalid);
}

TEST(Names, OfOrdinaryVolumesAreFine) {
  for (const std::string& name :
       {std::string("a"), std::string("vm-1.disk_0"), std::string("mit leer zeichen"),
        std::string("..."), std::string("\xc3\xa4\xe6\xbc\xa2\xf0\x9f\x98\x80"),
        std::string(255, 'x')}) {
    EXPECT_TRUE(check_name(name).ok()) << name;
  }
}

TEST(Names, ThatWouldConfuseAreRefused) {
  using namespace std::string_literals;
  for (const std::string& name :
       {""s, "."s, ".."s, "-a"s, "a/b"s, "a@b"s, "a\nb"s, "a\0b"s, "\x7f"s, "\xc2\x85"s /* C1 */,
        "\xff"s, "\xc0\xaf"s /* overlong */, "\xed\xa0\x80"s /* surrogate */, "\xe6\xbc"s /* cut */,
        "\xf4\x90\x80\x80"s /* too large */, std::string(256, 'x')}) {
    EXPECT_EQ(check_name(name).code(), Code::kInvalid) << quoted(name);
  }
}

TEST(Names, AreQuotedSafely) {
  EXPECT_EQ(quoted("plain"), "\"plain\"");
  EXPECT_EQ(quoted("a\nb\x1b[0m"), "\"a\\x0ab\\x1b[0m\"");
  EXPECT_EQ(quoted("\xff\"\\"), "\"\\xff\\\"\\\\\"");
  EXPECT_EQ(quoted("\xc2\x85"), "\"\\xc2\\x85\"");
  EXPECT_EQ(quoted("\xc3\xa4"), "\"\xc3\xa4\"");
}

TEST(NodeNames, AreAVolumeOrASnapshotOfIt) {
  Result<NodeName> head = parse_node_name("vol");
  ASSERT_TRUE(head.ok());
  EXPECT_FALSE(head->is_snapshot());
  EXPECT_EQ(head->str(), "vol");
  Result<NodeName> snapshot = parse_node_name("vol@monday");
  ASSERT_TRUE(snapshot.ok());
  EXPECT_EQ(snapshot->volume, "vol");
  EXPECT_EQ(snapshot->snapshot, "monday");
  EXPECT_EQ(snapshot->str(), "vol@monday");
  for (const char* text : {"", "@", "vol@", "@snap", "a@b@c", "a/b@c", "vol@-x"}) {
    EXPECT_EQ(parse_node_name(text).status().code(), Code::kInvalid) << text;
  }
}

TEST(Blocks, RoundUp) {
  EXPECT_EQ(blocks_of_bytes(0), 0u);
  EXPECT_EQ(blocks_of_bytes(1), 1u);
  EXPECT_EQ(blocks_of_bytes(4096), 1u);
  EXPECT_EQ(blocks_of_bytes(std::numeric_limits<std::uint64_t>::max()), std::uint64_t{1} << 52);
}

}  // namespace
}  // namespace voltree
