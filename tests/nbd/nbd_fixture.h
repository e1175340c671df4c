// A store and an NBD server over it, on a Unix socket.
#pragma once

#include <random>

#include "driver/targets/nbd/server.h"
#include "tests/driver/driver_fixture.h"
#include "tests/nbd/nbd_client.h"

namespace voltree::nbd {

inline constexpr std::uint64_t kMiB = 1 << 20;

class NbdTest : public ServiceTest {
 protected:
  void SetUp() override {
    ServiceTest::SetUp();
    if (HasFatalFailure()) return;
    options_.socket_path = socket_;
    must("volume.create", {{"name", "disk"}, {"size_bytes", 8 * kMiB}});
    start();
  }
  void TearDown() override {
    service_->set_nbd(nullptr);
    server_.reset();
    ServiceTest::TearDown();
  }
  void start() {
    auto server = Server::start(*runtime_, *store_, options_, nullptr);
    ASSERT_TRUE(server.ok()) << server.status().message();
    server_ = std::move(*server);
    service_->set_nbd(server_.get());
  }
  void restart() {
    service_->set_nbd(nullptr);
    server_.reset();
    start();
  }
  static Blob random_bytes(std::size_t size, std::uint64_t seed) {
    std::mt19937_64 random(seed);
    Blob bytes(size);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random() | 1);
    return bytes;
  }
  // A client that comes in now gets what it asks for.
  void expect_served() {
    TestClient client(socket_);
    ASSERT_TRUE(client.go("disk"));
    const Blob data = random_bytes(5000, 99);
    EXPECT_EQ(client.write(12345, data), WireError::kNone);
    EXPECT_EQ(client.read(12345, 5000), std::make_pair(WireError::kNone, data));
  }

  const std::string socket_ = folder_ / "nbd.sock";
  ServerOptions options_;
  std::unique_ptr<Server> server_;
};

}  // namespace voltree::nbd
