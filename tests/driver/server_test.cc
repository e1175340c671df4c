#include "driver/control/server.h"

#include <sys/socket.h>
#include <sys/stat.h>

#include <thread>

#include "driver/control/protocol.h"
#include "tests/driver/driver_fixture.h"

namespace voltree {
namespace {

class ServerTest : public ServiceTest {
 protected:
  void start(std::size_t connections_max = 64,
             std::chrono::milliseconds idle_grace = std::chrono::milliseconds(20)) {
    ServerOptions options;
    options.socket_path = folder_ / "control.sock";
    options.connections_max = connections_max;
    options.write_timeout = std::chrono::seconds(1);
    options.idle_grace = idle_grace;
    auto server = Server::start(*service_, options);
    ASSERT_TRUE(server.ok()) << server.status().message();
    server_ = std::move(server).value();
    path_ = options.socket_path;
  }
  void TearDown() override {
    server_.reset();
    ServiceTest::TearDown();
  }
  std::unique_ptr<LineSocket> raw() {
    const Result<int> fd = connect_unix(path_);
    EXPECT_TRUE(fd.ok()) << fd.status().message();
    return std::make_unique<LineSocket>(*fd);
  }
  // What the server answers to one raw line; null when it closes.
  static Json ask(LineSocket& socket, std::string_view line) {
    (void)socket.write_line(line);
    const auto answer = socket.read_line(kAnswerLineMaxBytes);
    if (!answer.ok() || !answer->has_value()) return nullptr;
    return *parse_json(**answer);
  }
  std::unique_ptr<Server> server_;
  std::string path_;
};

TEST_F(ServerTest, SpeaksJsonRpc) {
  start();
  const auto socket = raw();
  const Json answer = ask(*socket, R"({"jsonrpc":"2.0","id":"x","method":"ping"})");
  EXPECT_EQ(answer["id"], "x");
  EXPECT_EQ(answer["jsonrpc"], "2.0");
  EXPECT_EQ(answer["result"]["pid"], ::getpid());
}

TEST_F(ServerTest, RefusesWhatIsNoRequestAndGoesOn) {
  start();
  const auto socket = raw();
  const std::vector<std::pair<std::string, int>> bad{
      {"nonsense", -32700},
      {"", -32700},
      {std::string(100000, '['), -32700},
      {"[]", -32600},
      {"1", -32600},
      {R"([{"jsonrpc":"2.0","id":1,"method":"ping"}])", -32600},
      {R"({"id":1,"method":"ping"})", -32600},
      {R"({"jsonrpc":"1.0","id":1,"method":"ping"})", -32600},
      {R"({"jsonrpc":"2.0","id":1})", -32600},
      {R"({"jsonrpc":"2.0","id":1,"method":7})", -32600},
      {R"({"jsonrpc":"2.0","id":{},"method":"ping"})", -32600},
      {R"({"jsonrpc":"2.0","id":1,"method":"no.such"})", -32601},
      {R"({"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":1}})", -32602},
      {R"({"jsonrpc":"2.0","id":1,"method":"ping","params":[1]})", -32602},
      {R"({"jsonrpc":"2.0","id":1,"method":"volume.info","params":{}})", -32602},
      {R"({"jsonrpc":"2.0","id":1,"method":"volume.info","params":{"name":"a"}})", -32000},
  };
  for (const auto& [line, code] : bad) {
    const Json answer = ask(*socket, line);
    EXPECT_EQ(answer["error"]["code"], code) << line.substr(0, 80);
  }
  const Json failure =
      ask(*socket, R"({"jsonrpc":"2.0","id":1,"method":"volume.info","params":{"name":"a"}})");
  EXPECT_EQ(failure["error"]["data"]["code"], "not-found");
}

TEST_F(ServerTest, NotificationsAreNotAnswered) {
  start();
  const auto socket = raw();
  const Json answer = ask(*socket,
                          "{\"jsonrpc\":\"2.0\",\"method\":\"ping\"}\n"
                          "{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"ping\"}");
  EXPECT_EQ(answer["id"], 2);
}

TEST_F(ServerTest, AHugeLineEndsTheConnectionOnly) {
  start();
  const auto socket = raw();
  const Json answer = ask(*socket, std::string(kRequestLineMaxBytes + 100000, ' '));
  if (!answer.is_null()) {
    EXPECT_EQ(answer["error"]["code"], -32600);
  }
  EXPECT_TRUE(ask(*socket, R"({"jsonrpc":"2.0","id":1,"method":"ping"})").is_null());
  EXPECT_EQ(ask(*raw(), R"({"jsonrpc":"2.0","id":1,"method":"ping"})")["id"], 1);
}

TEST_F(ServerTest, TheSocketIsPrivateAndGoneAfterwards) {
  start();
  struct stat info {};
  ASSERT_EQ(::stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777U, 0600U);
  server_->stop();
  EXPECT_NE(::stat(path_.c_str(), &info), 0);
  EXPECT_EQ(SocketClient::connect(path_).status().code(), Code::kNotFound);
}

TEST_F(ServerTest, AnOldSocketFileIsReplaced) {
  start();
  server_->stop();
  server_.reset();
  const Result<int> left = listen_unix(folder_ / "control.sock");
  ASSERT_TRUE(left.ok());
  ::close(*left);
  start();
  EXPECT_EQ(ask(*raw(), R"({"jsonrpc":"2.0","id":1,"method":"ping"})")["id"], 1);
}

TEST_F(ServerTest, IdleConnectionsMakeRoom) {
  start(4);
  std::vector<std::unique_ptr<LineSocket>> idle;
  for (int i = 0; i < 20; ++i) {
    idle.push_back(raw());
    EXPECT_EQ(ask(*idle.back(), R"({"jsonrpc":"2.0","id":1,"method":"ping"})")["id"], 1) << i;
  }
  // The first was silent for longest.
  EXPECT_TRUE(ask(*idle.front(), R"({"jsonrpc":"2.0","id":1,"method":"ping"})").is_null());
  EXPECT_EQ(ask(*idle.back(), R"({"jsonrpc":"2.0","id":1,"method":"ping"})")["id"], 1);
}

// More clients than connections, each there for a moment: all of them are served.
TEST_F(ServerTest, ABurstIsServed) {
  // Who is given the time that the daemon gives is not taken for idle before it could speak: the
  // burst goes through because each that is served makes room.
  start(4, ServerOptions().idle_grace);
  std::vector<std::thread> threads;
  std::atomic<int> served{0};
  for (int t = 0; t < 40; ++t) {
    threads.emplace_back([&] {
      auto client = SocketClient::connect(path_);
      if (client.ok() && (*client)->call("ping", Json::object(), {}).ok()) ++served;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(served.load(), 40);
}

TEST_F(ServerTest, HalfALineHoldsNobodyUp) {
  start(2);
  const auto first = raw();
  const auto second = raw();
  const Result<int> slow = connect_unix(path_);
  ASSERT_TRUE(slow.ok());
  const LineSocket owner(*slow);
  ASSERT_EQ(::send(*slow, "{\"json", 6, 0), 6);
  EXPECT_EQ(ask(*raw(), R"({"jsonrpc":"2.0","id":1,"method":"ping"})")["id"], 1);
  EXPECT_EQ(ask(*raw(), R"({"jsonrpc":"2.0","id":1,"method":"ping"})")["id"], 1);
}

TEST_F(ServerTest, AClientThatDoesNotReadIsDropped) {
  must("volume.create", {{"name", "a"}, {"size_bytes", 1 << 20}});
  start(2);
  const auto deaf = raw();
  std::string many;
  for (int i = 0; i < 5000; ++i) {
    many += "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"volume.list\"}\n";
  }
  std::thread talker([&] { (void)deaf->write_line(many); });
  EXPECT_EQ(ask(*raw(), R"({"jsonrpc":"2.0","id":1,"method":"ping"})")["id"], 1);
  talker.join();
}

TEST_F(ServerTest, ManyClientsAtOnce) {
  start();
  std::vector<std::thread> threads;
  for (int t = 0; t < 16; ++t) {
    threads.emplace_back([this, t] {
      auto client = SocketClient::connect(path_);
      ASSERT_TRUE(client.ok());
      const std::string name = "v" + std::to_string(t);
      for (int i = 0; i < 3; ++i) {
        auto made = (*client)->call("volume.create", {{"name", name}, {"size_bytes", 4096}}, {});
        ASSERT_TRUE(made.ok()) << made.status().message();
        ASSERT_TRUE((*client)->call("volume.delete", {{"name", name}}, {}).ok());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(must("volume.list")["nodes"].empty());
}

TEST_F(ServerTest, StopWhileClientsAreConnectedAndWaiting) {
  start();
  const auto idle = raw();
  const auto other = raw();
  EXPECT_EQ(ask(*other, R"({"jsonrpc":"2.0","id":1,"method":"ping"})")["id"], 1);
  server_->stop();
  EXPECT_TRUE(ask(*other, R"({"jsonrpc":"2.0","id":1,"method":"ping"})").is_null());
}

TEST_F(ServerTest, SocketAndEmbeddedAnswerTheSame) {
  start();
  auto client = SocketClient::connect(path_);
  ASSERT_TRUE(client.ok());
  const std::vector<std::pair<std::string, Json>> calls{
      {"volume.create", {{"name", "a"}, {"size_bytes", 8192}}},
      {"volume.snapshot", {{"volume", "a"}, {"snapshot", "s"}}},
      {"volume.info", {{"name", "a@s"}, {"usage", true}}},
      {"volume.list", {{"junctions", true}}},
      {"volume.info", {{"name", "nope"}}},
      {"volume.create", {{"name", "a"}, {"size_bytes", 8192}}},
      {"volume.create", {{"name", "b"}, {"size_bytes", 100}}},
      {"volume.diff", {{"a", "a"}, {"b", "a@s"}}},
      {"volume.extents", {{"name", "a"}}},
      {"erase.queue", Json::object()},
      {"version", Json::object()},
      {"no.such.method", Json::object()},
  };
  for (const auto& [method, params] : calls) {
    const Result<Json> remote = (*client)->call(method, params, {});
    if (method == "volume.create" || method == "volume.snapshot") {
      if (remote.ok()) continue;  // it would not be the same twice
    }
    const Result<Json> local = call(method, params);
    ASSERT_EQ(remote.ok(), local.ok()) << method;
    if (local.ok()) {
      EXPECT_EQ(*remote, *local) << method;
    } else {
      EXPECT_EQ(remote.status().code(), local.status().code()) << method;
      EXPECT_EQ(remote.status().message(), local.status().message()) << method;
    }
  }
}

TEST_F(ServerTest, ProgressReachesTheClient) {
  must("erase.set", {{"rate_bytes", 1 << 20}});
  must("volume.create", {{"name", "a"}, {"size_bytes", 4 << 20}});
  auto device = runtime_->sync_wait(store_->open_device("a"));
  ASSERT_TRUE(device.ok());
  const std::vector<std::byte> data(2 << 20, std::byte{7});
  ASSERT_TRUE(runtime_->sync_wait((*device)->write(0, std::span(data), {})).ok());
  device->reset();
  start();
  auto client = SocketClient::connect(path_);
  ASSERT_TRUE(client.ok());
  const auto gone = (*client)->call("volume.delete", {{"name", "a"}}, {});
  ASSERT_TRUE(gone.ok());
  int notifications = 0;
  const auto erased = (*client)->call("erase.wait", {{"request", (*gone)["erase_request"]}},
                                      [&](const Progress&) { ++notifications; });
  ASSERT_TRUE(erased.ok()) << erased.status().message();
  EXPECT_GT(notifications, 0);
}

TEST(ControlPeer, RootAndTheDaemonsUserOnly) {
  EXPECT_TRUE(control_peer_allowed(0, 1000));
  EXPECT_TRUE(control_peer_allowed(1000, 1000));
  EXPECT_FALSE(control_peer_allowed(1001, 1000));
  EXPECT_FALSE(control_peer_allowed(1001, 0));
}

TEST(ControlSocket, LongPathsWork) {
  const TemporaryFolder folder;
  const std::string deep = folder / std::string(120, 'd');
  std::filesystem::create_directory(deep);
  const Result<int> listener = listen_unix(deep + "/control.sock");
  ASSERT_TRUE(listener.ok()) << listener.status().message();
  const Result<int> client = connect_unix(deep + "/control.sock");
  ASSERT_TRUE(client.ok()) << client.status().message();
  ::close(*client);
  ::close(*listener);
}

}  // namespace
}  // namespace voltree
