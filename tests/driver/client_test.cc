#include "driver/control/client.h"

#include "driver/control/protocol.h"
#include "driver/control/server.h"
#include "tests/driver/driver_fixture.h"

namespace voltree {
namespace {

TEST(OpenClient, AMissingStoreIsNotFoundAndSaysWhatToDo) {
  const TemporaryFolder folder;
  const auto client = open_client({folder / "nothing", false});
  EXPECT_EQ(client.status().code(), Code::kNotFound);
  EXPECT_NE(client.status().message().find("voltree init"), std::string_view::npos);
}

TEST_F(ServiceTest, AnOwnedStoreIsBusyAndSaysByWhom) {
  const auto client = open_client({directory_, false});
  EXPECT_EQ(client.status().code(), Code::kBusy) << client.status().message();
}

TEST_F(ServiceTest, OpenClientPrefersTheDaemon) {
  std::filesystem::create_directories(directory_ + "/run");
  ServerOptions options;
  options.socket_path = control_socket_path(directory_);
  auto server = Server::start(*service_, options);
  ASSERT_TRUE(server.ok()) << server.status().message();
  auto client = open_client({directory_, false});
  ASSERT_TRUE(client.ok()) << client.status().message();
  EXPECT_TRUE((*client)->is_daemon());
  EXPECT_TRUE((*client)->call("ping", Json::object()).ok());
  server->reset();
  EXPECT_FALSE((*client)->call("ping", Json::object()).ok());
}

TEST(EmbeddedClientTest, OpensUsesAndClosesTheStore) {
  const TemporaryFolder folder;
  {
    auto runtime = make_host_runtime({1});
    ASSERT_TRUE(runtime.ok());
    ASSERT_TRUE(Store::create(**runtime, folder / "store", {}).ok());
  }
  for (int i = 0; i < 3; ++i) {
    auto client = open_client({folder / "store", false});
    ASSERT_TRUE(client.ok()) << client.status().message();
    EXPECT_FALSE((*client)->is_daemon());
    const std::string name = "v" + std::to_string(i);
    EXPECT_TRUE((*client)->call("volume.create", {{"name", name}, {"size_bytes", 4096}}).ok());
    EXPECT_EQ((*client)->call("volume.list", Json::object())->at("nodes").size(), i + 1U);
    EXPECT_TRUE((*client)->close().ok());
    EXPECT_EQ((*client)->call("ping", Json::object()).status().code(), Code::kGone);
  }
}

TEST(RpcError, CarriesTheCodeAcrossTheSocket) {
  for (const Code code : {Code::kBusy, Code::kNotFound, Code::kDamaged, Code::kNoSpace}) {
    const Json wire = rpc_error(7, kRpcFailed, Status(code, "why"));
    const Status back = status_of_rpc_error(wire["error"]);
    EXPECT_EQ(back.code(), code);
    EXPECT_EQ(back.message(), "why");
  }
  EXPECT_EQ(status_of_rpc_error(Json(1)).code(), Code::kIoError);
  EXPECT_EQ(status_of_rpc_error(Json{{"data", 3}}).code(), Code::kIoError);
  EXPECT_EQ(status_of_rpc_error(Json{{"data", {{"code", "ok"}}}}).code(), Code::kIoError);
}

}  // namespace
}  // namespace voltree
