// What serves the kernel's devices: a socket that is in the transmission phase from its first byte.
// With a kernel: tests/integration/guest.sh.
#include "tests/nbd/nbd_fixture.h"

namespace voltree::nbd {
namespace {

class KernelTest : public NbdTest {
 protected:
  // The kernel's end.
  int serve(const std::string& name, bool read_only = false) {
    int ends[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    auto served = server_->serve_kernel(ends[0], name, read_only);
    EXPECT_TRUE(served.ok()) << served.status().message();
    if (served.ok()) told_ = *served;
    return ends[1];
  }
  KernelExport told_;
};

TEST_F(KernelTest, ServedFromTheFirstByte) {
  TestClient kernel(serve("disk"));
  EXPECT_EQ(told_.size_bytes, 8 * kMiB);
  EXPECT_EQ(told_.flags & kReadOnly, 0);
  EXPECT_NE(told_.flags & kSendFlush, 0);
  const Blob data = random_bytes(8192, 1);
  EXPECT_EQ(kernel.write(4096, data), WireError::kNone);
  EXPECT_EQ(kernel.read(4096, 8192), std::make_pair(WireError::kNone, data));
  const Json list = must("nbd.connections")["connections"];
  ASSERT_EQ(list.size(), 1U);
  EXPECT_EQ(list[0]["peer"], "kernel");
}

TEST_F(KernelTest, ReadOnlyWhenSaidOrASnapshot) {
  must("volume.snapshot", {{"volume", "disk"}, {"snapshot", "s"}});
  for (const char* name : {"disk", "disk@s"}) {
    TestClient kernel(serve(name, std::string_view(name) == "disk"));
    EXPECT_NE(told_.flags & kReadOnly, 0) << name;
    EXPECT_EQ(kernel.write(0, Blob(512)), WireError::kPerm) << name;
  }
}

TEST_F(KernelTest, GrowthIsSeenWithoutANewConnection) {
  TestClient kernel(serve("disk"));
  EXPECT_EQ(kernel.write(8 * kMiB, Blob(4096)), WireError::kNoSpace);
  must("volume.resize", {{"name", "disk"}, {"size_bytes", 9 * kMiB}});
  const Blob data = random_bytes(4096, 2);
  EXPECT_EQ(kernel.write(8 * kMiB, data), WireError::kNone);
  EXPECT_EQ(kernel.read(8 * kMiB, 4096), std::make_pair(WireError::kNone, data));
}

TEST_F(KernelTest, DisconnectIsNotForDevices) {
  TestClient kernel(serve("disk"));
  TestClient other(socket_);
  ASSERT_TRUE(other.go("disk"));
  EXPECT_EQ(must("nbd.disconnect", {{"name", "disk"}})["disconnected"], 1);
  EXPECT_TRUE(other.closed());
  EXPECT_EQ(kernel.read(0, 4096).first, WireError::kNone);
  EXPECT_EQ(code_of("volume.delete", {{"name", "disk"}}), Code::kBusy);
}

TEST_F(KernelTest, AStopAnswersAndHangsUp) {
  TestClient kernel(serve("disk"));
  ASSERT_EQ(kernel.read(0, 4096).first, WireError::kNone);
  server_->stop();
  EXPECT_TRUE(kernel.closed());
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  EXPECT_EQ(server_->serve_kernel(ends[0], "disk", false).status().code(), Code::kCancelled);
  ::close(ends[1]);
}

TEST_F(KernelTest, AnUnknownNameIsNotServed) {
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  EXPECT_EQ(server_->serve_kernel(ends[0], "nothing", false).status().code(), Code::kNotFound);
  TestClient kernel(ends[1]);
  EXPECT_TRUE(kernel.closed());
}

}  // namespace
}  // namespace voltree::nbd
