// The parts of the loop target that need neither root nor loop devices; tests/integration does the
// rest.
#include "driver/targets/loop_device.h"

#include <gtest/gtest.h>

#include "driver/targets/kernel_device.h"

namespace voltree::loop {
namespace {

TEST(LoopDevice, NumbersOfNames) {
  EXPECT_EQ(device_number("/dev/loop0"), 0);
  EXPECT_EQ(device_number("/dev/loop17"), 17);
  for (const char* bad : {"", "/dev/loop", "/dev/loop-1", "/dev/loop1p1", "/dev/loop-control",
                          "loop1", "/dev/sda", "/dev/loop99999999999999"}) {
    EXPECT_EQ(device_number(bad), -1) << bad;
  }
}

TEST(LoopDevice, ADeviceThatIsNotThereIsNotBound) {
  EXPECT_FALSE(state_of("/dev/loop9999").bound);
  EXPECT_FALSE(state_of("/dev/null").bound);
  EXPECT_TRUE(kernel::users_of("/dev/loop9999").empty());
  EXPECT_EQ(unbind("/dev/null").code(), Code::kInvalid);
}

}  // namespace
}  // namespace voltree::loop
