// The bytes of the lineage copy: what is whole is read back, what is not is noticed.
#include "blockstore/lineage_copy.h"

#include <gtest/gtest.h>

namespace voltree {
namespace {

constexpr std::uint64_t kGeneration = 0x1122334455667788;

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

CatalogImage some_rows() {
  CatalogImage image;
  image.settings = {{"uuid", "u"}, {"clean", ""}};
  image.last_ids = {{"node", 77}, {"layer", UINT32_MAX}};
  image.volumes = {{1, "a", 12, ErasePolicy::kRandom, 100}, {2, "gone", kNoNode, std::nullopt, -7}};
  image.nodes = {{10, NodeKind::kJunction, kNoNode, 9, "", 4096, 1},
                 {11, NodeKind::kSnapshot, 10, 1, "s", 8192, 2},
                 {12, NodeKind::kHead, 11, 1, "", 512, 3}};
  image.layers = {{UINT32_MAX, 12, std::uint64_t{1} << 44, false, 4}};
  image.erase_requests = {{1, "volume b", ErasePolicy::kNone, 6, 7, 8, 9}};
  image.erase_items = {{1, 1, 7, true, "", 10}, {2, 1, 7, false, std::string("\0r", 2), 11}};
  image.attachments = {{1, 12, "loop", "/dev/loop3", true, 4096, "boot", 12}};
  image.volume_limits = {{1, "total_iops_sec", 5}, {1, "write_iops_sec", 6}};
  image.volume_notes = {{1, "owner", "ann"}, {1, "empty", ""}};
  image.erase_requests.front().first_bytes = 1 << 20;
  image.erase_requests.front().io_priority = *parse_io_priority("best-effort:7");
  image.volume_reserves = {{1, 4096}};
  image.certificates = {{1, "{}"}, {3, R"({"certificate":3})"}};
  return image;
}

CopyState state_of(const CatalogImage& image) {
  CopyState state;
  for (CopyRow& row : copy_rows(image)) apply_copy_row(std::move(row), state);
  return state;
}

TEST(LineageCopy, EveryRowIsReadBack) {
  const CopyState state = state_of(some_rows());
  const auto image = image_of_copy(state);
  ASSERT_TRUE(image.ok()) << image.status().message();
  EXPECT_EQ(state_of(*image), state);
  EXPECT_EQ(image->volumes[0].erase_policy, ErasePolicy::kRandom);
  EXPECT_EQ(image->volumes[1].created_ns, -7);
  EXPECT_EQ(image->nodes[1].snapshot, "s");
  EXPECT_EQ(image->erase_items[1].ranges, std::string("\0r", 2));
  EXPECT_EQ(image->volume_notes.size(), 2u);
  EXPECT_EQ(image->erase_requests[0].first_bytes, 1u << 20);
  EXPECT_EQ(io_priority_name(image->erase_requests[0].io_priority), "best-effort:7");
  ASSERT_EQ(image->volume_reserves.size(), 1u);
  EXPECT_EQ(image->volume_reserves[0].reserve_bytes, 4096u);
  ASSERT_EQ(image->certificates.size(), 2u);
  EXPECT_EQ(image->certificates[1].json, R"({"certificate":3})");
}

// One that did not know them has removed what they belong to, and left them.
TEST(LineageCopy, WhatBelongsToNothingIsLeftOut) {
  CopyState state = state_of(some_rows());
  std::erase_if(state, [](const auto& row) {
    return row.first == std::pair(CopyTable::kVolume, std::string("\x01")) ||
           row.first.first == CopyTable::kEraseRequest;
  });
  const auto image = image_of_copy(state);
  ASSERT_TRUE(image.ok()) << image.status().message();
  EXPECT_TRUE(image->volume_reserves.empty());
  EXPECT_TRUE(image->erase_requests.empty());
}

TEST(LineageCopy, ARecordIsWholeOrNothing) {
  const std::vector<CopyRow> rows = copy_rows(some_rows());
  const std::string record = encode_copy_record(rows, kGeneration, 3);
  const auto whole = decode_copy_record(bytes_of(record + "more"), kGeneration, 3);
  ASSERT_TRUE(whole);
  EXPECT_EQ(whole->rows.size(), rows.size());
  EXPECT_EQ(whole->length_bytes, record.size());
  for (std::size_t length = 0; length < record.size(); ++length) {
    EXPECT_FALSE(decode_copy_record(bytes_of(record.substr(0, length)), kGeneration, 3)) << length;
  }
  for (std::size_t at = 0; at < record.size(); ++at) {
    std::string rotten = record;
    rotten[at] = static_cast<char>(rotten[at] ^ 0x10);
    EXPECT_FALSE(decode_copy_record(bytes_of(rotten), kGeneration, 3)) << at;
  }
  EXPECT_FALSE(decode_copy_record(bytes_of(record), kGeneration, 4));      // another's place
  EXPECT_FALSE(decode_copy_record(bytes_of(record), kGeneration + 1, 3));  // another's record
}

TEST(LineageCopy, AHeaderIsItsOwn) {
  const std::string header = encode_copy_header(kGeneration);
  EXPECT_EQ(header.size(), kCopyHeaderBytes);
  EXPECT_EQ(*decode_copy_header(bytes_of(header)), kGeneration);
  for (std::size_t at = 0; at < header.size(); ++at) {
    std::string rotten = header;
    rotten[at] = static_cast<char>(rotten[at] ^ 0x10);
    EXPECT_FALSE(decode_copy_header(bytes_of(rotten)).ok()) << at;
  }
  EXPECT_FALSE(decode_copy_header(bytes_of(header.substr(1))).ok());
}

TEST(LineageCopy, AValueThatNobodyWroteIsDamaged) {
  const CopyState good = state_of(some_rows());
  for (const auto& [key, value] : good) {
    if (key.first == CopyTable::kSetting) continue;  // any text is one
    for (const std::string& wrong : {value + "x", std::string("\xff")}) {
      CopyState bad = good;
      bad[key] = wrong;
      EXPECT_EQ(image_of_copy(bad).status().code(), Code::kDamaged) << static_cast<int>(key.first);
    }
  }
  CopyState bad = good;
  bad[{CopyTable::kNode, std::string("\0", 1)}] = good.at({CopyTable::kNode, std::string("\x0a")});
  EXPECT_EQ(image_of_copy(bad).status().code(), Code::kDamaged);  // 0 is no id
}

}  // namespace
}  // namespace voltree
