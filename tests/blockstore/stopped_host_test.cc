// A store whose host's file system was stopped under it.
#include "tests/runtime/stopped_host.h"

#include <vector>

#include "blockstore/runtime/io.h"
#include "blockstore/store.h"

namespace voltree {
namespace {

class StoppedHostStore : public StoppedHost {};

// In place, to pages of sums that are clean: an error of the write, and the store goes on being
// read.
TEST_P(StoppedHostStore, I10_AWriteToAStoreIsAnErrorAndNotTheEnd) {
  auto made = make_host_runtime({});
  ASSERT_TRUE(made.ok()) << made.status().message();
  Runtime& runtime = **made;
  const std::string place = host() + "/store";
  ASSERT_TRUE(Store::create(runtime, place, {}).ok());
  auto opened = runtime.sync_wait(Store::open(runtime, place, {.background_work = false}));
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  Store& store = **opened;
  ASSERT_TRUE(runtime.sync_wait(store.create_volume("v", 1 << 20, std::nullopt)).ok());
  {
    const auto device = runtime.sync_wait(store.open_device("v"));
    ASSERT_TRUE(device.ok()) << device.status().message();
    std::vector<std::byte> data(64 << 10, std::byte{1});
    ASSERT_TRUE(runtime.sync_wait((*device)->write(0, data, {})).ok());
    ASSERT_TRUE(runtime.sync_wait((*device)->flush()).ok());
    ASSERT_TRUE(runtime.sync_wait(store.settle()).ok());
    stop();
    data.assign(data.size(), std::byte{2});
    EXPECT_FALSE(runtime.sync_wait((*device)->write(0, data, {.fua = true})).ok());
    EXPECT_FALSE(runtime.sync_wait((*device)->flush()).ok());
    EXPECT_TRUE(store.read_only());
  }
  (void)runtime.sync_wait(store.close());
}

INSTANTIATE_TEST_SUITE_P(Kinds, StoppedHostStore, ::testing::Values("ext4", "xfs"),
                         [](const auto& kind) { return std::string(kind.param); });

}  // namespace
}  // namespace voltree
