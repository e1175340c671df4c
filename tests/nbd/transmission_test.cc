// Requests and replies, in all three forms.
#include "tests/nbd/nbd_fixture.h"

namespace voltree::nbd {
namespace {

using Form = TestClient::Form;

class FormTest : public NbdTest, public ::testing::WithParamInterface<Form> {};

INSTANTIATE_TEST_SUITE_P(All, FormTest,
                         ::testing::Values(Form::kSimple, Form::kStructured, Form::kExtended),
                         [](const auto& form) {
                           switch (form.param) {
                             case Form::kSimple:
                               return "Simple";
                             case Form::kStructured:
                               return "Structured";
                             default:
                               return "Extended";
                           }
                         });

TEST_P(FormTest, WhatIsWrittenIsRead) {
  TestClient client(socket_);
  ASSERT_TRUE(client.go("disk", GetParam()));
  EXPECT_EQ(client.size_bytes(), 8 * kMiB);
  Blob model(8 * kMiB);
  std::uint64_t seed = 1;
  for (const auto& [offset, length] :
       std::vector<std::pair<std::size_t, std::size_t>>{{0, 4096},
                                                        {1, 1},
                                                        {4095, 2},
                                                        {12345, 99999},
                                                        {kMiB - 7, 2 * kMiB + 13},
                                                        {8 * kMiB - 1, 1}}) {
    const Blob data = random_bytes(length, ++seed);
    ASSERT_EQ(client.write(offset, data, seed % 2 == 0 ? kFua : 0), WireError::kNone);
    std::copy(data.begin(), data.end(), model.begin() + static_cast<std::ptrdiff_t>(offset));
  }
  EXPECT_EQ(client.run(Command::kFlush), WireError::kNone);
  EXPECT_EQ(client.read(0, 8 * kMiB), std::make_pair(WireError::kNone, model));
  EXPECT_EQ(client.run(Command::kWriteZeroes, 5000, 3000), WireError::kNone);
  EXPECT_EQ(client.run(Command::kWriteZeroes, 100000, 50000, kNoHole), WireError::kNone);
  EXPECT_EQ(client.run(Command::kWriteZeroes, 200000, 5000, kFastZero | kFua), WireError::kNone);
  EXPECT_EQ(client.run(Command::kWriteZeroes, 0, 5000, kFastZero | kNoHole),
            WireError::kNotSupported);
  for (const auto& [offset, length] : std::vector<std::pair<std::ptrdiff_t, std::ptrdiff_t>>{
           {5000, 3000}, {100000, 50000}, {200000, 5000}}) {
    std::fill_n(model.begin() + offset, length, std::byte{0});
  }
  EXPECT_EQ(client.read(0, 300000).second, Blob(model.begin(), model.begin() + 300000));
  // A trim leaves the edges alone and makes whole blocks holes.
  EXPECT_EQ(client.run(Command::kTrim, kMiB + 1, 3 * 4096, kFua), WireError::kNone);
  std::fill_n(model.begin() + static_cast<std::ptrdiff_t>(kMiB) + 4096, 2 * 4096, std::byte{0});
  EXPECT_EQ(client.read(kMiB, 5 * 4096).second,
            Blob(model.begin() + static_cast<std::ptrdiff_t>(kMiB),
                 model.begin() + static_cast<std::ptrdiff_t>(kMiB) + 5 * 4096));
  EXPECT_EQ(client.run(Command::kCache, 0, kMiB), WireError::kNone);
  EXPECT_EQ(client.run(Command::kWrite, 0, 0), WireError::kNone) << "nothing is as good as done";
  EXPECT_EQ(client.read(0, 0).first, WireError::kNone);
  ASSERT_TRUE(client.request(Command::kDisconnect, 0, 0));
  EXPECT_TRUE(client.closed());
}

TEST_P(FormTest, WhatIsWrongIsRefusedAndTheSessionGoesOn) {
  TestClient client(socket_);
  ASSERT_TRUE(client.go("disk", GetParam()));
  const std::uint64_t end = 8 * kMiB;
  EXPECT_EQ(client.read(end, 1).first, WireError::kInvalid);
  EXPECT_EQ(client.read(end - 1, 2).first, WireError::kInvalid);
  EXPECT_EQ(client.read(~std::uint64_t{0}, 2).first, WireError::kInvalid);
  EXPECT_EQ(client.write(end - 1, Blob(2)), WireError::kNoSpace);
  EXPECT_EQ(client.run(Command::kWriteZeroes, end, 1), WireError::kNoSpace);
  EXPECT_EQ(client.run(Command::kTrim, end - 5, 100), WireError::kInvalid);
  EXPECT_EQ(client.run(Command::kFlush, 0, 0, kReqOne), WireError::kInvalid);
  EXPECT_EQ(client.run(Command::kTrim, 0, 1, 0x8000), WireError::kInvalid);
  EXPECT_EQ(client.run(static_cast<Command>(99), 0, 0), WireError::kInvalid);
  EXPECT_EQ(client.run(Command::kBlockStatus, 0, 4096), WireError::kInvalid) << "no context";
  EXPECT_EQ(client.read(0, (32 << 20) + 1).first, WireError::kInvalid);
  EXPECT_EQ(client.write(0, Blob(512, std::byte{7})), WireError::kNone);
  EXPECT_EQ(client.read(0, 512).second, Blob(512, std::byte{7}));
}

TEST_P(FormTest, SnapshotsAreReadOnly) {
  {
    TestClient client(socket_);
    ASSERT_TRUE(client.go("disk"));
    ASSERT_EQ(client.write(0, Blob(4096, std::byte{5})), WireError::kNone);
  }
  must("volume.snapshot", {{"volume", "disk"}, {"snapshot", "one"}});
  TestClient client(socket_);
  ASSERT_TRUE(client.go("disk@one", GetParam()));
  EXPECT_NE(client.flags() & kReadOnly, 0);
  EXPECT_EQ(client.write(0, Blob(4096)), WireError::kPerm);
  EXPECT_EQ(client.run(Command::kWriteZeroes, 0, 4096), WireError::kPerm);
  EXPECT_EQ(client.run(Command::kTrim, 0, 4096), WireError::kPerm);
  EXPECT_EQ(client.run(Command::kFlush), WireError::kNone);
  EXPECT_EQ(client.read(0, 4096).second, Blob(4096, std::byte{5}));
}

TEST_P(FormTest, ManyRequestsAtOnce) {
  TestClient client(socket_);
  ASSERT_TRUE(client.go("disk", GetParam()));
  constexpr std::size_t kCount = 800;
  for (std::size_t i = 0; i < kCount; ++i) {
    ASSERT_TRUE(client.request(Command::kWrite, i * 4096, 4096, 0, i));
    ASSERT_TRUE(client.send(Blob(4096, static_cast<std::byte>(i))));
  }
  std::vector<bool> seen(kCount);
  for (std::size_t i = 0; i < kCount; ++i) {
    const auto reply = client.reply();
    ASSERT_TRUE(reply && reply->error == WireError::kNone && reply->cookie < kCount);
    EXPECT_FALSE(seen[reply->cookie]);
    seen[reply->cookie] = true;
  }
  for (std::size_t i = 0; i < kCount; i += 37) {
    EXPECT_EQ(client.read(i * 4096, 4096).second, Blob(4096, static_cast<std::byte>(i)));
  }
}

TEST_F(NbdTest, LongReadsComeInChunksUnlessTheyMustNot) {
  must("volume.create", {{"name", "big"}, {"size_bytes", 64 * kMiB}});
  TestClient client(socket_);
  ASSERT_TRUE(client.go("big", Form::kStructured));
  const Blob data = random_bytes(32 << 20, 5);
  ASSERT_EQ(client.write(0, data, kFua), WireError::kNone) << "the largest write there is";
  EXPECT_EQ(client.read(0, 32 << 20).second, data);
  EXPECT_GT(client.chunks(), 1U);
  EXPECT_EQ(client.read(0, 32 << 20, kDontFragment).second, data);
  EXPECT_EQ(client.chunks(), 1U);
  EXPECT_EQ(client.read(0, (32 << 20) + 1, kDontFragment).first, WireError::kOverflow);
  EXPECT_EQ(client.read(40 * kMiB, kMiB).second, Blob(kMiB));
}

TEST_F(NbdTest, BlockStatusTellsDataDepthAndChanges) {
  {
    TestClient client(socket_);
    ASSERT_TRUE(client.go("disk"));
    ASSERT_EQ(client.write(0, Blob(2 * 4096, std::byte{1})), WireError::kNone);
  }
  must("volume.snapshot", {{"volume", "disk"}, {"snapshot", "one"}});
  for (const Form form : {Form::kStructured, Form::kExtended}) {
    TestClient client(socket_);
    ASSERT_TRUE(
        client.go("disk", form, {"base:allocation", "voltree:layers", "qemu:dirty-bitmap:one"}));
    ASSERT_EQ(client.contexts().size(), 3U);
    ASSERT_EQ(client.write(4096, Blob(2 * 4096, std::byte{2})), WireError::kNone);
    ASSERT_EQ(client.run(Command::kWriteZeroes, 2 * kMiB, 4096), WireError::kNone);
    auto all = client.status(0, 8 * kMiB);
    EXPECT_EQ(all["base:allocation"],
              (std::vector<StatusRun>{{3 * 4096, 0}, {8 * kMiB - 3 * 4096, 3}}));
    EXPECT_EQ(all["voltree:layers"],
              (std::vector<StatusRun>{{4096, 2}, {2 * 4096, 1}, {8 * kMiB - 3 * 4096, 0}}));
    EXPECT_EQ(all["qemu:dirty-bitmap:one"],
              (std::vector<StatusRun>{{4096, 0}, {2 * 4096, 1}, {8 * kMiB - 3 * 4096, 0}}));
    all = client.status(100, kMiB, kReqOne);
    EXPECT_EQ(all["base:allocation"], (std::vector<StatusRun>{{3 * 4096 - 100, 0}}));
    EXPECT_EQ(all["qemu:dirty-bitmap:one"], (std::vector<StatusRun>{{4096 - 100, 0}}));
    EXPECT_TRUE(client.status(0, 0).empty());
    EXPECT_TRUE(client.status(8 * kMiB, 1).empty());
    EXPECT_EQ(client.last_error(), WireError::kInvalid);
  }
}

TEST_F(NbdTest, AContextCanBeAskedForAlone) {
  TestClient client(socket_);
  ASSERT_TRUE(client.go("disk", Form::kExtended, {"base:allocation", "voltree:layers"}));
  EXPECT_NE(client.flags() & kBlockStatusPayload, 0);
  const auto ask = [&](const std::vector<std::uint32_t>& ids) {
    Writer payload;
    payload.number(std::uint64_t{kMiB});
    for (const std::uint32_t id : ids) payload.number(id);
    EXPECT_TRUE(client.request(Command::kBlockStatus, 0, payload.size(), kPayloadLength));
    EXPECT_TRUE(client.send(payload));
    return client.status_answer();
  };
  const std::uint32_t layers = client.contexts().at("voltree:layers");
  const auto answer = ask({layers});
  EXPECT_EQ(answer.size(), 1U);
  EXPECT_EQ(answer.at("voltree:layers"), (std::vector<StatusRun>{{kMiB, 0}}));
  EXPECT_TRUE(ask({layers, layers}).empty());
  EXPECT_TRUE(ask({77}).empty());
  EXPECT_TRUE(ask({}).empty());
  EXPECT_EQ(client.read(0, 512).first, WireError::kNone) << "the payload was taken off the stream";
}

TEST_F(NbdTest, ChangesSinceADeletedSnapshotAreNotGuessed) {
  must("volume.snapshot", {{"volume", "disk"}, {"snapshot", "one"}});
  TestClient client(socket_);
  ASSERT_TRUE(client.go("disk", Form::kStructured, {"qemu:dirty-bitmap:one"}));
  EXPECT_EQ(client.status(0, kMiB).size(), 1U);
  must("volume.delete", {{"name", "disk@one"}});
  EXPECT_TRUE(client.status(0, kMiB).empty());
  EXPECT_EQ(client.last_error(), WireError::kIo);
}

TEST_F(NbdTest, WhatAClientUsesIsBusy) {
  TestClient client(socket_);
  ASSERT_TRUE(client.go("disk"));
  EXPECT_EQ(code_of("volume.delete", {{"name", "disk"}}), Code::kBusy);
  EXPECT_EQ(code_of("volume.resize", {{"name", "disk"}, {"size_bytes", kMiB}, {"shrink", true}}),
            Code::kBusy);
  EXPECT_EQ(must("volume.info", {{"name", "disk"}})["connections"], 1);
  ASSERT_EQ(must("nbd.connections")["connections"].size(), 1U);
  EXPECT_EQ(must("nbd.connections")["connections"][0]["name"], "disk");
  must("volume.resize", {{"name", "disk"}, {"size_bytes", 16 * kMiB}});
  EXPECT_EQ(client.read(16 * kMiB, 512).first, WireError::kInvalid);
  TestClient later(socket_);
  ASSERT_TRUE(later.go("disk"));
  EXPECT_EQ(later.size_bytes(), 16 * kMiB);
  must("volume.delete", {{"name", "disk"}, {"force", true}});
  EXPECT_TRUE(client.closed());
  EXPECT_TRUE(later.closed());
  EXPECT_TRUE(must("nbd.connections")["connections"].empty());
}

TEST_F(NbdTest, DisconnectLetsGo) {
  TestClient client(socket_);
  ASSERT_TRUE(client.go("disk"));
  EXPECT_EQ(must("nbd.disconnect", {{"name", "disk"}})["disconnected"], 1);
  EXPECT_TRUE(client.closed());
  must("volume.delete", {{"name", "disk"}});
}

TEST_F(NbdTest, ARestartKeepsWhatWasAcknowledged) {
  const Blob data = random_bytes(kMiB, 3);
  TestClient client(socket_);
  ASSERT_TRUE(client.go("disk"));
  ASSERT_EQ(client.write(4096, data), WireError::kNone);
  restart();
  EXPECT_TRUE(client.closed());
  TestClient again(socket_);
  ASSERT_TRUE(again.go("disk"));
  EXPECT_EQ(again.read(4096, kMiB).second, data);
}

TEST_F(NbdTest, AFlushOnOneConnectionCoversAll) {
  TestClient writer(socket_);
  TestClient flusher(socket_);
  ASSERT_TRUE(writer.go("disk") && flusher.go("disk"));
  ASSERT_NE(writer.flags() & kCanMultiConn, 0);
  const Blob data = random_bytes(64 * 1024, 8);
  ASSERT_EQ(writer.write(0, data), WireError::kNone);
  const std::uint64_t commits = store_->counters().catalog_commits;
  ASSERT_EQ(flusher.run(Command::kFlush), WireError::kNone);
  EXPECT_GT(store_->counters().catalog_commits, commits) << "the new blocks' rows were committed";
  EXPECT_EQ(flusher.read(0, data.size()).second, data);
}

}  // namespace
}  // namespace voltree::nbd
