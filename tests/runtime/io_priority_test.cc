#include "blockstore/runtime/io_priority.h"

#include <gtest/gtest.h>

namespace voltree {
namespace {

TEST(IoPriority, IsWhatTheKernelTakes) {
  EXPECT_EQ(*parse_io_priority("idle"), 3 << 13);
  EXPECT_EQ(*parse_io_priority("best-effort:0"), 2 << 13);
  EXPECT_EQ(*parse_io_priority("best-effort:7"), (2 << 13) + 7);
  for (const char* text : {"idle", "best-effort:0", "best-effort:7"}) {
    EXPECT_EQ(io_priority_name(*parse_io_priority(text)), text);
  }
  EXPECT_EQ(io_priority_name(0), "");
}

TEST(IoPriority, NothingElseIsOne) {
  for (const char* text : {"", "Idle", "idle:0", "best-effort", "best-effort:", "best-effort:8",
                           "best-effort:-1", "best-effort:10", "realtime:0"}) {
    EXPECT_EQ(parse_io_priority(text).status().code(), Code::kInvalid) << text;
  }
  EXPECT_TRUE(is_io_priority(0));
  EXPECT_TRUE(is_io_priority((2 << 13) + 7));
  for (const std::uint64_t value : {1u << 13, (2u << 13) + 8, (3u << 13) + 1, 65535u, 1u << 20}) {
    EXPECT_FALSE(is_io_priority(value)) << value;
  }
}

}  // namespace
}  // namespace voltree
