// The handshake, option by option.
#include "tests/nbd/nbd_fixture.h"

namespace voltree::nbd {
namespace {

using HandshakeTest = NbdTest;

TEST_F(HandshakeTest, ListNamesVolumesAndSnapshots) {
  must("volume.snapshot", {{"volume", "disk"}, {"snapshot", "one"}});
  TestClient client(socket_);
  ASSERT_TRUE(client.greet());
  std::vector<std::string> names;
  for (const OptionAnswer& answer : client.ask(Option::kList)) {
    if (answer.type == OptionReply::kServer) names.push_back(Reader(answer.data).text());
  }
  EXPECT_EQ(names, (std::vector<std::string>{"disk", "disk@one"}));
  EXPECT_EQ(client.outcome(Option::kList, blob_of("x")), OptionReply::kErrInvalid);
}

TEST_F(HandshakeTest, InfoTellsSizeFlagsAndBlockSizes) {
  must("volume.snapshot", {{"volume", "disk"}, {"snapshot", "one"}});
  TestClient client(socket_);
  ASSERT_TRUE(client.greet());
  for (const bool snapshot : {false, true}) {
    const std::string name = snapshot ? "disk@one" : "disk";
    const auto answers = client.ask(Option::kInfo, TestClient::name_request(name, {Info::kName}));
    ASSERT_EQ(answers.size(), 4U) << name;
    Reader exported(answers[0].data);
    EXPECT_EQ(exported.number<std::uint16_t>(), 0);
    EXPECT_EQ(exported.number<std::uint64_t>(), 8 * kMiB);
    const auto flags = exported.number<std::uint16_t>();
    EXPECT_EQ((flags & kReadOnly) != 0, snapshot);
    EXPECT_EQ((flags & kSendTrim) != 0, !snapshot);
    EXPECT_NE(flags & kCanMultiConn, 0);
    EXPECT_EQ(flags & kSendDf, 0) << "no structured replies, no DF";
    Reader blocks(answers[1].data);
    EXPECT_EQ(blocks.number<std::uint16_t>(), 3);
    EXPECT_EQ(blocks.number<std::uint32_t>(), 1U);
    EXPECT_EQ(blocks.number<std::uint32_t>(), 4096U);
    EXPECT_EQ(blocks.number<std::uint32_t>(), 32U << 20);
    EXPECT_EQ(answers[2].text().substr(2), name);
    EXPECT_EQ(answers[3].type, OptionReply::kAck);
  }
  EXPECT_EQ(client.outcome(Option::kInfo, TestClient::name_request("none")),
            OptionReply::kErrUnknown);
  EXPECT_EQ(client.outcome(Option::kGo, TestClient::name_request("")), OptionReply::kErrUnknown);
  EXPECT_EQ(client.outcome(Option::kGo, TestClient::name_request("a/b")), OptionReply::kErrUnknown);
}

TEST_F(HandshakeTest, ExportNameIsForOldClients) {
  for (const bool zeroes : {false, true}) {
    TestClient client(socket_);
    ASSERT_TRUE(client.greet(zeroes ? kFixedNewstyle : kFixedNewstyle | kNoZeroes));
    ASSERT_TRUE(client.send_option(Option::kExportName, blob_of("disk")));
    const auto answer = client.receive(zeroes ? 10 + 124 : 10);
    ASSERT_TRUE(answer);
    EXPECT_EQ(Reader(*answer).number<std::uint64_t>(), 8 * kMiB);
    EXPECT_EQ(client.read(0, 512).second, Blob(512));
  }
  TestClient client(socket_);
  ASSERT_TRUE(client.greet());
  ASSERT_TRUE(client.send_option(Option::kExportName, blob_of("none")));
  EXPECT_TRUE(client.closed()) << "the only way to say no";
}

TEST_F(HandshakeTest, AbortAndWhatIsUnknown) {
  TestClient client(socket_);
  ASSERT_TRUE(client.greet());
  EXPECT_EQ(client.outcome(static_cast<Option>(77), blob_of("data")), OptionReply::kErrUnsupported);
  EXPECT_EQ(client.outcome(Option::kStartTls), OptionReply::kErrPolicy);
  EXPECT_EQ(client.outcome(Option::kStructuredReply, blob_of("x")), OptionReply::kErrInvalid);
  EXPECT_EQ(client.outcome(Option::kAbort), OptionReply::kAck);
  EXPECT_TRUE(client.closed());
}

TEST_F(HandshakeTest, OldAndForeignClientsAreSentAway) {
  for (const std::uint32_t flags : {std::uint32_t{0}, std::uint32_t{0x80 | kFixedNewstyle}}) {
    TestClient client(socket_);
    ASSERT_TRUE(client.greet(flags));
    EXPECT_TRUE(client.closed()) << flags;
  }
  TestClient web(socket_);
  ASSERT_TRUE(web.receive(18));
  ASSERT_TRUE(web.send(blob_of("GET / HTTP/1.1\r\nHost: disk\r\n\r\n")));
  EXPECT_TRUE(web.closed());
  expect_served();
}

TEST_F(HandshakeTest, ContextsAreListedAndSelected) {
  must("volume.snapshot", {{"volume", "disk"}, {"snapshot", "one"}});
  TestClient client(socket_);
  ASSERT_TRUE(client.greet());
  EXPECT_EQ(client.outcome(Option::kListMetaContext, TestClient::context_request("disk", {})),
            OptionReply::kErrInvalid)
      << "structured replies come first";
  ASSERT_EQ(client.outcome(Option::kStructuredReply), OptionReply::kAck);
  const auto listed = [&](const std::vector<std::string>& queries) {
    std::vector<std::string> names;
    for (const OptionAnswer& answer :
         client.ask(Option::kListMetaContext, TestClient::context_request("disk", queries))) {
      if (answer.type == OptionReply::kMetaContext) names.push_back(answer.text().substr(4));
    }
    return names;
  };
  EXPECT_EQ(listed({}),
            (std::vector<std::string>{"base:allocation", "voltree:layers", "qemu:allocation-depth",
                                      "qemu:dirty-bitmap:one"}));
  EXPECT_EQ(listed({"qemu:dirty-bitmap:"}), std::vector<std::string>{"qemu:dirty-bitmap:one"});
  EXPECT_EQ(listed({"base:"}), std::vector<std::string>{"base:allocation"});
  EXPECT_TRUE(listed({"other:thing"}).empty());
  const auto set = [&](const std::vector<std::string>& queries) {
    return client.ask(Option::kSetMetaContext, TestClient::context_request("disk", queries));
  };
  EXPECT_EQ(set({"base:"}).size(), 1U) << "a wildcard selects nothing";
  EXPECT_EQ(set({"base:allocation", "qemu:dirty-bitmap:one", "x:y"}).size(), 3U);
  EXPECT_EQ(set({"nonsense"}).back().type, OptionReply::kErrInvalid);
  EXPECT_EQ(client.outcome(Option::kSetMetaContext,
                           TestClient::context_request("none", {"base:allocation"})),
            OptionReply::kErrUnknown);
}

TEST_F(HandshakeTest, ExtendedHeadersOutrankStructuredReplies) {
  TestClient client(socket_);
  ASSERT_TRUE(client.greet());
  EXPECT_EQ(client.outcome(Option::kExtendedHeaders), OptionReply::kAck);
  EXPECT_EQ(client.outcome(Option::kStructuredReply), OptionReply::kErrExtendedHeadersRequired);
  ASSERT_TRUE(client.send_option(Option::kExportName, blob_of("disk")));
  EXPECT_TRUE(client.closed());
}

TEST_F(HandshakeTest, AccessRulesDecide) {
  must("volume.create", {{"name", "secret"}, {"size_bytes", kMiB}});
  auto rules = AccessRules::parse("# who may what\nunix secret* none\nunix disk ro\n* * none\n");
  ASSERT_TRUE(rules.ok());
  options_.rules = *rules;
  restart();
  TestClient client(socket_);
  ASSERT_TRUE(client.greet());
  EXPECT_EQ(client.ask(Option::kList).size(), 2U) << "one name and the end";
  EXPECT_EQ(client.outcome(Option::kGo, TestClient::name_request("secret")),
            OptionReply::kErrUnknown);
  TestClient reader(socket_);
  ASSERT_TRUE(reader.go("disk"));
  EXPECT_NE(reader.flags() & kReadOnly, 0);
  EXPECT_EQ(reader.write(0, Blob(512)), WireError::kPerm);
}

TEST(AccessRules, WhatIsNoRuleIsNamed) {
  for (const char* text : {"unix\n", "unix disk\n", "unix disk rw more\n", "unix disk maybe\n"}) {
    const auto rules = AccessRules::parse(std::string("* * ro\n") + text);
    EXPECT_EQ(rules.status().code(), Code::kInvalid) << text;
    EXPECT_NE(rules.status().message().find("line 2"), std::string::npos) << text;
  }
  auto rules = AccessRules::parse("cert:backup-* *@* ro\npsk:vm1 vm1* rw");
  ASSERT_TRUE(rules.ok());
  EXPECT_EQ(rules->of("cert:backup-a", "disk@one"), Access::kReadOnly);
  EXPECT_EQ(rules->of("cert:backup-a", "disk"), Access::kNone);
  EXPECT_EQ(rules->of("psk:vm1", "vm1-root"), Access::kReadWrite);
  EXPECT_EQ(AccessRules().of("tcp", "x"), Access::kReadWrite);
}

TEST(Endpoint, HostAndPort) {
  EXPECT_EQ(parse_endpoint("localhost:10809")->host, "localhost");
  EXPECT_EQ(parse_endpoint("[::1]:0")->host, "::1");
  EXPECT_EQ(parse_endpoint(":1")->host, "");
  for (const char* text : {"", "host", "host:", "host:x", "::1:10809", "[::1:5", "host:70000"}) {
    EXPECT_EQ(parse_endpoint(text).status().code(), Code::kInvalid) << text;
  }
}

}  // namespace
}  // namespace voltree::nbd
