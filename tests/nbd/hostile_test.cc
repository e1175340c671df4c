// Clients that are slow, rude or hostile: they hurt nobody but themselves. The tests that bear a
// CVE number are about the class of that flaw in other servers.
#include <sys/resource.h>

#include <chrono>
#include <fstream>
#include <thread>

#include "tests/nbd/nbd_fixture.h"

namespace voltree::nbd {
namespace {

using HostileTest = NbdTest;
using Form = TestClient::Form;

std::size_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  std::size_t total = 0;
  std::size_t resident = 0;
  statm >> total >> resident;
  return resident * 4096;
}

// What a well-behaved client says, up to and with a write, a read and a goodbye.
Blob whole_session() {
  Writer bytes;
  bytes.number(std::uint32_t{kFixedNewstyle | kNoZeroes});
  const auto option = [&bytes](Option which, const Blob& data) {
    bytes.number(kOptionMagic).number(which).number(static_cast<std::uint32_t>(data.size()));
    bytes.text({reinterpret_cast<const char*>(data.data()), data.size()});
  };
  option(Option::kStructuredReply, {});
  option(Option::kSetMetaContext, TestClient::context_request("disk", {"base:allocation"}));
  option(Option::kGo, TestClient::name_request("disk"));
  const auto request = [&bytes](Command command, std::uint32_t length) {
    bytes.number(kRequestMagic).number(std::uint16_t{0}).number(command);
    bytes.number(std::uint64_t{1}).number(std::uint64_t{0}).number(length);
  };
  request(Command::kWrite, 600);
  bytes.text(std::string(600, 'w'));
  request(Command::kRead, 600);
  request(Command::kBlockStatus, 4096);
  request(Command::kDisconnect, 0);
  return bytes.take();
}

TEST_F(HostileTest, CVE_2017_9524_AClientThatLeavesAtEveryByteOfASession) {
  const Blob session = whole_session();
  for (std::size_t cut = 0; cut <= session.size(); ++cut) {
    TestClient client(socket_);
    ASSERT_TRUE(client.connected());
    ASSERT_TRUE(client.send(std::span(session).first(cut)));
    // Every other one does not even wait for the greeting.
    if (cut % 2 == 0) (void)client.receive(18);
  }
  expect_served();
}

TEST_F(HostileTest, CVE_2017_15119_AnOptionThatClaimsToBeHuge) {
  const std::size_t before = resident_bytes();
  std::vector<std::unique_ptr<TestClient>> clients;
  for (int i = 0; i < 50; ++i) {
    clients.push_back(std::make_unique<TestClient>(socket_));
    TestClient& client = *clients.back();
    ASSERT_TRUE(client.greet());
    Writer option;
    option.number(kOptionMagic).number(Option::kList).number(std::uint32_t{0xFFFFFFFF});
    ASSERT_TRUE(client.send(option));
    EXPECT_TRUE(client.closed());
  }
  EXPECT_LT(resident_bytes(), before + (64U << 20));
  expect_served();
}

TEST_F(HostileTest, CVE_2021_3716_PlainTextBehindStartTls) {
  const std::string keys = folder_ / "keys";
  std::ofstream(keys) << "client:00112233445566778899aabbccddeeff\n";
  options_.tls = TlsOptions{"", keys};
  restart();
  TestClient client(socket_);
  ASSERT_TRUE(client.greet());
  Writer both;
  for (const Option option : {Option::kStartTls, Option::kList}) {
    both.number(kOptionMagic).number(option).number(std::uint32_t{0});
  }
  ASSERT_TRUE(client.send(both));
  const auto answer = client.option_answer();
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->option, Option::kStartTls);
  EXPECT_EQ(answer->type, OptionReply::kAck);
  // LIST is no beginning of TLS; whatever else comes, its answer does not.
  std::string rest;
  for (std::byte one; client.receive(std::span(&one, 1));) rest += static_cast<char>(one);
  Writer magic;
  magic.number(kOptionReplyMagic);
  const std::string_view sought(reinterpret_cast<const char*>(magic.bytes().data()), magic.size());
  EXPECT_EQ(rest.find(sought), std::string::npos);
  expect_served();
}

TEST_F(HostileTest, CVE_2022_26496_LengthsWithinAnOptionThatLie) {
  for (const std::uint32_t length : {5U, 4096U, 4097U, 0x7FFFFFFFU, 0xFFFFFFFFU}) {
    TestClient client(socket_);
    ASSERT_TRUE(client.greet());
    Writer info;
    info.number(length).text("disk").number(std::uint16_t{0});
    EXPECT_EQ(client.outcome(Option::kInfo, info.bytes()), OptionReply::kErrInvalid) << length;
    Writer count;
    count.number(std::uint32_t{4}).text("disk").number(std::uint16_t{0xFFFF});
    EXPECT_EQ(client.outcome(Option::kGo, count.bytes()), OptionReply::kErrInvalid);
    ASSERT_EQ(client.outcome(Option::kStructuredReply), OptionReply::kAck);
    Writer queries;
    queries.number(std::uint32_t{4}).text("disk").number(std::uint32_t{0xFFFFFFFF}).number(length);
    EXPECT_EQ(client.outcome(Option::kSetMetaContext, queries.bytes()), OptionReply::kErrInvalid);
    const std::string long_name(5000, 'n');
    EXPECT_EQ(client.outcome(Option::kInfo, TestClient::name_request(long_name)),
              OptionReply::kErrInvalid);
    EXPECT_EQ(client.outcome(Option::kInfo, blob_of("ab")), OptionReply::kErrInvalid);
  }
  TestClient old(socket_);
  ASSERT_TRUE(old.greet());
  ASSERT_TRUE(old.send_option(Option::kExportName, Blob(200'000, std::byte{'n'})));
  EXPECT_TRUE(old.closed());
  expect_served();
}

TEST_F(HostileTest, CVE_2024_7409_StoppingWhileClientsComeAndGo) {
  for (int round = 0; round < 5; ++round) {
    std::vector<std::unique_ptr<TestClient>> half_open;
    for (int i = 0; i < 30; ++i) half_open.push_back(std::make_unique<TestClient>(socket_));
    TestClient working(socket_);
    ASSERT_TRUE(working.go("disk"));
    ASSERT_TRUE(working.request(Command::kRead, 0, 1 << 20));  // and does not read the reply
    std::atomic<bool> over{false};
    std::thread knocking([&] {
      while (!over.load()) TestClient another(socket_);
    });
    server_->stop();
    over.store(true);
    knocking.join();
    for (const auto& client : half_open) {
      (void)client->receive(18);
      EXPECT_TRUE(client->closed());
    }
    restart();
  }
  expect_served();
}

TEST_F(HostileTest, CVE_2025_47711_And_47712_BlockStatusAtTheEdgeOf32Bits) {
  must("volume.create", {{"name", "huge"}, {"size_bytes", std::uint64_t{16} << 30}});
  for (const Form form : {Form::kStructured, Form::kExtended}) {
    TestClient client(socket_);
    ASSERT_TRUE(client.go("huge", form, {"base:allocation", "voltree:layers"}));
    for (const std::uint64_t offset : {0ULL, 1ULL, 511ULL, 512ULL, 4095ULL, 1ULL << 32}) {
      for (const std::uint64_t length : {0xFFFFFFFFULL, 0xFFFFFFFEULL, 0xFFFFF001ULL, 1ULL}) {
        for (const auto& [name, runs] : client.status(offset, length)) {
          std::uint64_t sum = 0;
          for (const StatusRun& run : runs) {
            EXPECT_NE(run.first, 0U);
            sum += run.first;
          }
          EXPECT_LE(sum, length) << name << " at " << offset;
          EXPECT_GT(sum, 0U);
        }
      }
    }
    EXPECT_TRUE(client.status((16ULL << 30) - 5, 0xFFFFFFFF).empty());
    EXPECT_EQ(client.last_error(), WireError::kInvalid);
  }
  TestClient client(socket_);
  ASSERT_TRUE(client.go("huge", Form::kExtended, {"base:allocation"}));
  EXPECT_EQ(client.status(0, 16ULL << 30)["base:allocation"],
            (std::vector<StatusRun>{{16ULL << 30, 3}}))
      << "64-bit lengths in one answer";
  EXPECT_TRUE(client.status(1, ~std::uint64_t{0}).empty());
}

TEST_F(HostileTest, CVE_2022_0485_DamageIsAnErrorAndNeverData) {
  {
    TestClient client(socket_);
    ASSERT_TRUE(client.go("disk"));
    ASSERT_EQ(client.write(0, random_bytes(3 * kMiB, 4), kFua), WireError::kNone);
  }
  // One bit of the second MiB, on the host.
  for (const auto& entry : std::filesystem::recursive_directory_iterator(directory_ + "/layers")) {
    if (!entry.is_regular_file() || entry.path().extension() == ".sum") continue;
    std::fstream layer(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
    layer.seekg(kMiB + 5000);
    const auto byte = static_cast<char>(layer.get() ^ 4);
    layer.seekp(kMiB + 5000);
    layer.put(byte);
  }
  for (const Form form : {Form::kSimple, Form::kStructured, Form::kExtended}) {
    TestClient client(socket_);
    ASSERT_TRUE(client.go("disk", form));
    EXPECT_EQ(client.read(kMiB + 4096, 4096).first, WireError::kIo);
    EXPECT_EQ(client.read(0, 3 * kMiB).first, WireError::kIo) << "in the middle of many chunks";
    EXPECT_EQ(client.read(0, kMiB).first, WireError::kNone) << "the session goes on";
  }
}

TEST_F(HostileTest, HalfOpenConnectionsMakeRoom) {
  options_.connections_max = 20;
  restart();
  TestClient working(socket_);
  ASSERT_TRUE(working.go("disk"));
  std::vector<std::unique_ptr<TestClient>> half_open;
  for (int i = 0; i < 200; ++i) half_open.push_back(std::make_unique<TestClient>(socket_));
  expect_served();
  EXPECT_EQ(working.read(0, 512).first, WireError::kNone) << "who works stays";
  EXPECT_LE(server_->connections().size(), 21U);
}

TEST_F(HostileTest, TenThousandHalfOpenConnections) {
  constexpr std::size_t kCount = 10'000;
  rlimit files{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &files), 0);
  if (files.rlim_max < kCount + 2000) GTEST_SKIP() << "at most " << files.rlim_max << " files";
  files.rlim_cur = files.rlim_max;
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &files), 0);
  TestClient working(socket_);
  ASSERT_TRUE(working.go("disk"));
  std::vector<std::unique_ptr<TestClient>> half_open;
  const std::size_t before = resident_bytes();
  for (std::size_t i = 0; i < kCount; ++i) {
    half_open.push_back(std::make_unique<TestClient>(socket_));
    ASSERT_TRUE(half_open.back()->connected()) << i;
    if (i % 1000 == 0) {
      expect_served();
      EXPECT_EQ(working.read(0, 4096).first, WireError::kNone);
    }
  }
  expect_served();
  EXPECT_LE(server_->connections().size(), options_.connections_max + 1);
  EXPECT_LT(resident_bytes(), before + (64U << 20));
}

TEST_F(HostileTest, AHandshakeHasItsTime) {
  options_.handshake_timeout = std::chrono::seconds(1);
  restart();
  TestClient idle(socket_);
  TestClient slow(socket_);
  TestClient working(socket_);
  ASSERT_TRUE(slow.greet());
  ASSERT_TRUE(working.go("disk"));
  ASSERT_TRUE(idle.receive(18));
  EXPECT_TRUE(idle.closed());
  EXPECT_TRUE(slow.closed());
  EXPECT_EQ(working.read(0, 512).first, WireError::kNone);
}

TEST_F(HostileTest, WhoDoesNotReadHoldsLittleAndHurtsNobody) {
  must("volume.create", {{"name", "big"}, {"size_bytes", 64 * kMiB}});
  options_.memory_bytes = 32 << 20;
  options_.connection_memory_bytes = 8 << 20;
  options_.stall_timeout = std::chrono::seconds(3600);
  restart();
  {
    TestClient client(socket_);
    ASSERT_TRUE(client.go("big"));
    ASSERT_EQ(client.write(0, random_bytes(32 << 20, 6)), WireError::kNone);
  }
  const std::size_t before = resident_bytes();
  std::vector<std::unique_ptr<TestClient>> deaf;
  for (int i = 0; i < 10; ++i) {
    deaf.push_back(std::make_unique<TestClient>(socket_));
    ASSERT_TRUE(deaf.back()->go("big"));
    for (int request = 0; request < 200; ++request) {
      ASSERT_TRUE(deaf.back()->request(Command::kRead, 0, 1 << 20));
    }
  }
  expect_served();
  TestClient polite(socket_);
  ASSERT_TRUE(polite.go("big"));
  for (int i = 0; i < 50; ++i) {
    EXPECT_EQ(polite.read(static_cast<std::uint64_t>(i) * 65536, 65536).first, WireError::kNone);
  }
  EXPECT_LT(resident_bytes(), before + (96U << 20)) << "2 GB were asked for";
}

TEST_F(HostileTest, StalledClientsGoWhenOthersNeedTheMemory) {
  must("volume.create", {{"name", "big"}, {"size_bytes", 64 * kMiB}});
  options_.memory_bytes = 32 << 20;
  options_.connection_memory_bytes = 32 << 20;
  options_.stall_timeout = std::chrono::seconds(1);
  restart();
  TestClient deaf(socket_);
  ASSERT_TRUE(deaf.go("big"));
  for (int request = 0; request < 40; ++request) {
    ASSERT_TRUE(deaf.request(Command::kRead, 0, 1 << 20));
  }
  TestClient polite(socket_);
  ASSERT_TRUE(polite.go("big"));
  EXPECT_EQ(polite.read(0, 16 << 20).first, WireError::kNone) << "more than is left";
}

TEST_F(HostileTest, WhoStopsInTheMiddleOfItsPayloadGoesWhenOthersNeedTheMemory) {
  options_.memory_bytes = 32 << 20;
  options_.stall_timeout = std::chrono::seconds(1);
  restart();
  std::vector<std::unique_ptr<TestClient>> mute;
  for (int i = 0; i < 32; ++i) {
    mute.push_back(std::make_unique<TestClient>(socket_));
    ASSERT_TRUE(mute.back()->go("disk"));
    ASSERT_TRUE(mute.back()->request(Command::kWrite, 0, kMiB));
    ASSERT_TRUE(mute.back()->send(Blob(100)));
  }
  TestClient polite(socket_);
  ASSERT_TRUE(polite.go("disk"));
  EXPECT_EQ(polite.write(0, random_bytes(4 * kMiB, 7)), WireError::kNone) << "more than is left";
}

TEST_F(HostileTest, DisconnectDoesNotWaitForWhoComesBack) {
  std::atomic<bool> over{false};
  std::atomic<bool> ended{false};
  std::thread returning([&] {
    while (!over.load()) {
      TestClient client(socket_);
      if (client.go("disk")) (void)client.closed();
    }
    ended.store(true);
  });
  for (int i = 0; i < 50; ++i) must("nbd.disconnect", {{"name", "disk"}});
  over.store(true);
  // Until it says so: between two connections there is none to be seen, and yet one to come.
  while (!ended.load()) must("nbd.disconnect", {{"name", "disk"}});
  returning.join();
}

TEST_F(HostileTest, NothingButRequestsInTheTransmissionPhase) {
  TestClient client(socket_);
  ASSERT_TRUE(client.go("disk"));
  ASSERT_TRUE(client.send(Blob(28, std::byte{0x5A})));
  EXPECT_TRUE(client.closed());
  TestClient large(socket_);
  ASSERT_TRUE(large.go("disk"));
  ASSERT_TRUE(large.request(Command::kWrite, 0, 0xFFFFFFFF));
  EXPECT_TRUE(large.closed()) << "a payload of 4 GiB is not taken";
  expect_served();
}

TEST_F(HostileTest, AnEndlessRequestEndsWithItsClientOrTheServer) {
  must("volume.create", {{"name", "huge"}, {"size_bytes", std::uint64_t{1} << 40}});
  for (const bool leaves : {true, false}) {
    TestClient client(socket_);
    ASSERT_TRUE(client.go("huge", Form::kExtended));
    // A tebibyte of zeros that take space: hours of work, and more than the host has.
    ASSERT_TRUE(client.request(Command::kWriteZeroes, 0, std::uint64_t{1} << 40, kNoHole));
    if (leaves) {
      client.close();
      TestClient other(socket_);
      ASSERT_TRUE(other.go("disk"));
      must("nbd.disconnect", {{"name", "huge"}});
    } else {
      server_->stop();
      EXPECT_TRUE(client.closed()) << "no answer: a client that comes back asks again";
    }
  }
}

TEST_F(HostileTest, AThousandClientsInTurnLeaveNothing) {
  expect_served();
  const std::size_t before = resident_bytes();
  for (int i = 0; i < 1000; ++i) {
    TestClient client(socket_);
    ASSERT_TRUE(client.go("disk"));
    ASSERT_EQ(client.read(0, 4096).first, WireError::kNone);
  }
#if !defined(__SANITIZE_ADDRESS__)  // which keeps what was freed, and finds leaks by itself
  EXPECT_LT(resident_bytes(), before + (16U << 20));
#else
  EXPECT_GT(before, 0U);
#endif
}

TEST_F(HostileTest, ASocketInUseIsNotTaken) {
  auto second = Server::start(*runtime_, *store_, options_, nullptr);
  EXPECT_EQ(second.status().code(), Code::kBusy);
  expect_served();
  std::ofstream(folder_ / "file") << "precious";
  options_.socket_path = folder_ / "file";
  EXPECT_EQ(Server::start(*runtime_, *store_, options_, nullptr).status().code(), Code::kExists);
}

TEST_F(HostileTest, OtherMachinesNeedTls) {
  options_.socket_path.clear();
  options_.endpoint = Endpoint{"0.0.0.0", "0"};
  EXPECT_EQ(Server::start(*runtime_, *store_, options_, nullptr).status().code(),
            Code::kPermission);
  options_.insecure = true;
  EXPECT_TRUE(Server::start(*runtime_, *store_, options_, nullptr).ok());
}

}  // namespace
}  // namespace voltree::nbd
