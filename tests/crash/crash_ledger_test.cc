#include "tests/crash/crash_ledger.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace voltree::crash {
namespace {

TEST(CrashLedger, GoesOnAfterTheLastEntryThatIsWhole) {
  const std::string path = ::testing::TempDir() + "/crash_ledger";
  std::filesystem::remove(path);
  EXPECT_FALSE(last_entry(path));
  ASSERT_TRUE(append_entry(path, {.number = 7, .workloads = 1, .counts = {2, 3, 4, 5}}));
  ASSERT_TRUE(append_entry(path, {.number = 90, .workloads = 2, .counts = {20, 30, 40, 50}}));
  std::ofstream(path, std::ios::app) << "\n111 3 21 31 41 5";  // killed while it wrote
  auto last = last_entry(path);
  ASSERT_TRUE(last);
  EXPECT_EQ(last->number, 90u);
  EXPECT_EQ(last->workloads, 2u);
  EXPECT_EQ(last->counts.points, 20u);
  EXPECT_EQ(last->counts.states, 30u);
  EXPECT_EQ(last->counts.recovery_states, 40u);
  EXPECT_EQ(last->counts.daemon_deaths, 50u);
  ASSERT_TRUE(append_entry(path, {.number = 111, .workloads = 3, .counts = {21, 31, 41, 51}}));
  last = last_entry(path);
  ASSERT_TRUE(last);
  EXPECT_EQ(last->number, 111u);
  EXPECT_EQ(last->counts.daemon_deaths, 51u);
}

}  // namespace
}  // namespace voltree::crash
