#include "driver/control/service.h"

#include <sys/stat.h>

#include <fstream>
#include <set>

#include "tests/driver/driver_fixture.h"

namespace voltree {
namespace {

constexpr std::uint64_t kMiB = 1ULL << 20U;

TEST_F(ServiceTest, EveryMethodRefusesAnUnknownParameter) {
  std::set<std::string_view> names;
  for (const std::string_view method : Service::method_names()) {
    EXPECT_TRUE(names.insert(method).second) << method << " is there twice";
    EXPECT_EQ(code_of(method, Json{{"no_such_parameter", 1}}), Code::kInvalid) << method;
    EXPECT_EQ(refusal_, Refusal::kBadParams) << method;
    EXPECT_EQ(code_of(method, Json::array({1})), Code::kInvalid) << method;
    EXPECT_EQ(refusal_, Refusal::kBadParams) << method;
  }
}

TEST_F(ServiceTest, UnknownMethodIsRefused) {
  EXPECT_EQ(code_of("volume.explode"), Code::kNotSupported);
  EXPECT_EQ(refusal_, Refusal::kUnknownMethod);
}

TEST_F(ServiceTest, CreatesAndShowsAVolume) {
  const Json made = must("volume.create", {{"name", "a"}, {"size_bytes", 16 * kMiB}});
  EXPECT_EQ(made["name"], "a");
  EXPECT_EQ(made["kind"], "volume");
  EXPECT_EQ(made["size_bytes"], 16 * kMiB);
  const Json shown = must("volume.info", {{"name", "a"}, {"usage", true}});
  EXPECT_EQ(shown["usage"]["virtual_bytes"], 16 * kMiB);
  EXPECT_EQ(shown["usage"]["referenced_bytes"], 0U);
  EXPECT_EQ(must("volume.list")["nodes"].size(), 1U);
}

TEST_F(ServiceTest, BadInputChangesNothing) {
  must("volume.create", {{"name", "a"}, {"size_bytes", kMiB}});
  const auto create = [&](const std::string& name, const Json& size) {
    return code_of("volume.create", {{"name", name}, {"size_bytes", size}});
  };
  EXPECT_EQ(create("a", kMiB), Code::kExists);
  for (const std::string bad : {"", ".", "..", "a/b", "a@b", "a\nb", "-a", "\xff"}) {
    EXPECT_EQ(create(bad, kMiB), Code::kInvalid) << bad;
  }
  EXPECT_EQ(create(std::string(256, 'n'), kMiB), Code::kInvalid);
  EXPECT_EQ(create("b", 0), Code::kInvalid);
  EXPECT_EQ(create("b", -512), Code::kInvalid);
  EXPECT_EQ(create("b", 513), Code::kInvalid);
  EXPECT_EQ(code_of("volume.info", {{"name", "b"}}), Code::kNotFound);
  EXPECT_EQ(code_of("volume.info", {{"name", "a@b"}}), Code::kNotFound);
  EXPECT_EQ(code_of("volume.snapshot", {{"volume", "b"}, {"snapshot", "s"}}), Code::kNotFound);
  EXPECT_EQ(code_of("volume.snapshot", {{"volume", "a"}, {"snapshot", "s/t"}}), Code::kInvalid);
  EXPECT_EQ(code_of("volume.clone", {{"source", "b"}, {"name", "c"}}), Code::kNotFound);
  EXPECT_EQ(code_of("volume.clone", {{"source", "a"}, {"name", "c"}, {"size_bytes", 512}}),
            Code::kInvalid);
  EXPECT_EQ(code_of("volume.rename", {{"from", "b"}, {"to", "c"}}), Code::kNotFound);
  EXPECT_EQ(code_of("volume.resize", {{"name", "a"}, {"size_bytes", 512}}), Code::kInvalid);
  EXPECT_EQ(code_of("volume.resize", {{"name", "a"}}), Code::kInvalid);
  EXPECT_EQ(code_of("volume.resize", {{"name", "a"}, {"size_bytes", 512}, {"grow_bytes", 512}}),
            Code::kInvalid);
  EXPECT_EQ(code_of("volume.delete", {{"name", "b"}}), Code::kNotFound);
  EXPECT_EQ(code_of("volume.diff", {{"a", "a"}, {"b", "b"}}), Code::kNotFound);
  EXPECT_EQ(must("volume.list")["nodes"].size(), 1U);
}

// Whether the host can share is the host's affair; the rest is ours.
TEST_F(ServiceTest, SharesRegularFilesAlone) {
  must("volume.create", {{"name", "a"}, {"size_bytes", kMiB}});
  const auto share = [&](const std::string& file, std::uint64_t length_bytes) {
    return code_of(
        "volume.share_file",
        {{"name", "a"}, {"file", file}, {"offset_bytes", 0}, {"length_bytes", length_bytes}});
  };
  const std::string file = folder_ / "file";
  std::ofstream(file) << std::string(kMiB, 'f');
  const Code shared = share(file, kMiB);
  EXPECT_TRUE(shared == Code::kOk || shared == Code::kNotSupported);
  EXPECT_EQ(share(file, 2 * kMiB), Code::kInvalid);
  EXPECT_EQ(share(file, 512), Code::kInvalid);
  EXPECT_EQ(share(folder_ / "nothing", kMiB), Code::kNotFound);
  EXPECT_EQ(share("/dev/null", kMiB), Code::kInvalid);
  const std::string pipe = folder_ / "pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_EQ(share(pipe, kMiB), Code::kInvalid) << "and nobody waits for a writer";
}

// The store and the file lie on the host's temporary folder, whatever that is.
TEST_F(ServiceTest, TakesRegularFilesAlone) {
  const auto take = [&](const std::string& file, std::uint64_t size_bytes) {
    return code_of("volume.take_file", {{"name", "t"}, {"file", file}, {"size_bytes", size_bytes}});
  };
  const std::string file = folder_ / "file";
  std::ofstream(file) << std::string(kMiB, 'f');
  EXPECT_EQ(take(folder_ / "nothing", kMiB), Code::kNotFound);
  EXPECT_EQ(take("/dev/null", kMiB), Code::kInvalid);
  const std::string pipe = folder_ / "pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_EQ(take(pipe, kMiB), Code::kInvalid) << "and nobody waits for a writer";
  EXPECT_EQ(take(file, kMiB / 2), Code::kInvalid) << "it is longer";
  {
    const std::ifstream reader(file);
    EXPECT_EQ(take(file, kMiB), Code::kBusy);
  }
  EXPECT_TRUE(std::filesystem::exists(file));
  EXPECT_EQ(take(file, 2 * kMiB), Code::kOk);
  EXPECT_FALSE(std::filesystem::exists(file));
  EXPECT_EQ(must("volume.info", {{"name", "t"}})["size_bytes"], 2 * kMiB);
}

TEST_F(ServiceTest, LimitsArePartOfANode) {
  must("volume.create", {{"name", "a"}, {"size_bytes", kMiB}});
  EXPECT_EQ(must("volume.info", {{"name", "a"}})["limits"], Json::object());
  must("qos.set", {{"name", "a"}, {"total_iops_sec", 7}});
  const Json limits{{"total_iops_sec", 7}};
  EXPECT_EQ(must("volume.info", {{"name", "a"}})["limits"], limits);
  EXPECT_EQ(must("volume.list")["nodes"][0]["limits"], limits);
  must("volume.snapshot", {{"volume", "a"}, {"snapshot", "s"}});
  EXPECT_EQ(must("volume.info", {{"name", "a@s"}})["limits"], Json::object());
}

TEST_F(ServiceTest, RevertTakesOnlyItsOwnSnapshots) {
  must("volume.create", {{"name", "a"}, {"size_bytes", kMiB}});
  must("volume.snapshot", {{"volume", "a"}, {"snapshot", "s"}});
  must("volume.clone", {{"source", "a@s"}, {"name", "b"}});
  EXPECT_FALSE(call("volume.revert", {{"volume", "b"}, {"snapshot", "s"}}).ok());
  EXPECT_EQ(must("volume.revert", {{"volume", "a"}, {"snapshot", "s"}})["name"], "a");
  must("volume.revert", {{"volume", "a"}, {"snapshot", "s"}, {"keep_as", "before"}});
  EXPECT_EQ(must("volume.info", {{"name", "a@before"}})["kind"], "snapshot");
}

TEST_F(ServiceTest, AGroupOfSnapshotsIsAllOrNone) {
  must("volume.create", {{"name", "a"}, {"size_bytes", kMiB}});
  must("volume.create", {{"name", "b"}, {"size_bytes", kMiB}});
  const Json taken = must("volume.snapshot_group", {{"snapshots", {"b@s", "a@s"}}});
  ASSERT_EQ(taken["snapshots"].size(), 2U);
  EXPECT_EQ(taken["snapshots"][0]["name"], "b@s");
  EXPECT_EQ(taken["snapshots"][1]["kind"], "snapshot");
  EXPECT_EQ(code_of("volume.snapshot_group", {{"snapshots", {"a@t", "b@s"}}}), Code::kExists);
  EXPECT_EQ(code_of("volume.snapshot_group", {{"snapshots", {"a@t", "a@u"}}}), Code::kInvalid);
  EXPECT_EQ(code_of("volume.snapshot_group", {{"snapshots", "a@t"}}), Code::kInvalid);
  EXPECT_EQ(must("volume.list")["nodes"].size(), 4U);
}

TEST_F(ServiceTest, LimitsAreSetOneByOneAndCleared) {
  must("volume.create", {{"name", "a"}, {"size_bytes", 3 * kMiB}});
  EXPECT_TRUE(must("qos.get", {{"name", "a"}})["limits"].empty());
  must("qos.set", {{"name", "a"}, {"read_iops_sec", 500}, {"total_bytes_sec", 100 * kMiB}});
  const Json both = must("qos.set", {{"name", "a"},
                                     {"read_iops_sec", 0},
                                     {"write_iops_sec_per_gb", 10},
                                     {"write_iops_sec_per_gb_min", 7}});
  EXPECT_EQ(both["limits"], (Json{{"write_iops_sec_per_gb", 10},
                                  {"write_iops_sec_per_gb_min", 7},
                                  {"total_bytes_sec", 100 * kMiB}}));
  EXPECT_EQ(both["effective"], (Json{{"write_iops_sec", 7}, {"total_bytes_sec", 100 * kMiB}}));
  EXPECT_EQ(both["waiting"], 0U);
  EXPECT_EQ(must("qos.get", {{"name", "a"}}), both);
  const Json one = must("qos.set", {{"name", "a"}, {"clear", true}, {"total_iops_sec", 9}});
  EXPECT_EQ(one["limits"], (Json{{"total_iops_sec", 9}}));
  EXPECT_TRUE(must("qos.set", {{"name", "a"}, {"clear", true}})["limits"].empty());
}

TEST_F(ServiceTest, LimitsThatMakeNoSenseChangeNothing) {
  must("volume.create", {{"name", "a"}, {"size_bytes", kMiB}});
  must("volume.snapshot", {{"volume", "a"}, {"snapshot", "s"}});
  must("qos.set", {{"name", "a"}, {"read_iops_sec", 500}});
  const auto set = [&](const std::string& name, const std::string& key, const Json& value) {
    return code_of("qos.set", {{"name", name}, {key, value}});
  };
  EXPECT_EQ(code_of("qos.set", {{"name", "a"}}), Code::kInvalid);
  EXPECT_EQ(set("a", "read_iops", 5), Code::kInvalid);
  EXPECT_EQ(refusal_, Refusal::kBadParams);
  EXPECT_EQ(set("a", "read_iops_sec", "5"), Code::kInvalid);
  EXPECT_EQ(set("a", "read_iops_sec", -5), Code::kInvalid);
  EXPECT_EQ(set("a", "read_iops_sec_max", 499), Code::kInvalid);
  EXPECT_EQ(set("a", "read_iops_sec", 1ULL << 41U), Code::kInvalid);
  EXPECT_EQ(set("a@s", "read_iops_sec", 5), Code::kInvalid);
  EXPECT_EQ(set("b", "read_iops_sec", 5), Code::kNotFound);
  EXPECT_EQ(code_of("qos.get", {{"name", "b"}}), Code::kNotFound);
  EXPECT_EQ(must("qos.get", {{"name", "a"}})["limits"], (Json{{"read_iops_sec", 500}}));
}

TEST_F(ServiceTest, ResizeRenameDelete) {
  must("volume.create", {{"name", "a"}, {"size_bytes", kMiB}});
  EXPECT_EQ(must("volume.resize", {{"name", "a"}, {"grow_bytes", kMiB}})["size_bytes"], 2 * kMiB);
  EXPECT_EQ(
      must("volume.resize", {{"name", "a"}, {"size_bytes", kMiB}, {"shrink", true}})["size_bytes"],
      kMiB);
  must("volume.rename", {{"from", "a"}, {"to", "b"}});
  EXPECT_EQ(code_of("volume.info", {{"name", "a"}}), Code::kNotFound);
  must("volume.delete", {{"name", "b"}});
  EXPECT_TRUE(must("volume.list")["nodes"].empty());
  must("erase.wait");
  EXPECT_TRUE(must("erase.queue")["requests"].empty());
}

TEST_F(ServiceTest, DiffAnswersInPages) {
  must("volume.create", {{"name", "a"}, {"size_bytes", kMiB}});
  must("volume.snapshot", {{"volume", "a"}, {"snapshot", "s"}});
  auto device = runtime_->sync_wait(store_->open_device("a"));
  ASSERT_TRUE(device.ok());
  const std::vector<std::byte> data(kBlockBytes, std::byte{7});
  for (const std::uint64_t block : {1, 3, 5}) {
    ASSERT_TRUE(
        runtime_->sync_wait((*device)->write(block * kBlockBytes, std::span(data), {})).ok());
  }
  const Json first = must("volume.diff", {{"a", "a@s"}, {"b", "a"}, {"limit", 2}});
  ASSERT_EQ(first["ranges"].size(), 2U);
  EXPECT_EQ(first["ranges"][0]["offset_bytes"], kBlockBytes);
  EXPECT_EQ(first["changed_bytes"], 3 * kBlockBytes);
  const Json second =
      must("volume.diff",
           {{"a", "a@s"}, {"b", "a"}, {"limit", 2}, {"from_bytes", first["next_from_bytes"]}});
  ASSERT_EQ(second["ranges"].size(), 1U);
  EXPECT_EQ(second["ranges"][0]["offset_bytes"], 5 * kBlockBytes);
  EXPECT_TRUE(second["next_from_bytes"].is_null());
  device->reset();

  const Json usage = must("volume.usage", {{"names", {"a", "a@s"}}});
  EXPECT_EQ(usage["freed_together_bytes"], 3 * kBlockBytes);
}

TEST_F(ServiceTest, ExtentsAnswerInPagesAndLeadToTheBytes) {
  must("volume.create", {{"name", "a"}, {"size_bytes", kMiB}});
  const auto write = [&](std::uint64_t block, std::byte value) {
    const auto device = runtime_->sync_wait(store_->open_device("a"));
    ASSERT_TRUE(device.ok());
    const std::vector<std::byte> data(2 * kBlockBytes, value);
    ASSERT_TRUE(
        runtime_->sync_wait((*device)->write(block * kBlockBytes, std::span(data), {.fua = true}))
            .ok());
  };
  write(1, std::byte{7});
  must("volume.snapshot", {{"volume", "a"}, {"snapshot", "s"}});
  write(2, std::byte{8});  // over the second one of them
  const Json first = must("volume.extents", {{"name", "a"}, {"limit", 1}});
  const Json second =
      must("volume.extents", {{"name", "a"}, {"from_bytes", first["next_from_bytes"]}});
  EXPECT_TRUE(second["next_from_bytes"].is_null());
  std::vector<std::pair<std::uint64_t, char>> found;  // block, what its file has there
  for (const Json& page : {first, second}) {
    for (const Json& extent : page["extents"]) {
      std::ifstream file(page["files"][extent["file"].get<std::size_t>()].get<std::string>());
      const auto offset_bytes = extent["offset_bytes"].get<std::uint64_t>();
      for (std::uint64_t at = 0; at < extent["length_bytes"]; at += kBlockBytes) {
        file.seekg(static_cast<std::streamoff>(offset_bytes + at));
        found.emplace_back((offset_bytes + at) / kBlockBytes, static_cast<char>(file.get()));
      }
    }
  }
  EXPECT_EQ(found, (std::vector<std::pair<std::uint64_t, char>>{{1, 7}, {2, 8}, {3, 8}}));
  EXPECT_EQ(first["extents"].size(), 1U);
  EXPECT_EQ(code_of("volume.extents", {{"name", "nope"}}), Code::kNotFound);
  EXPECT_EQ(code_of("volume.extents", {{"name", "a"}, {"limit", 0}}), Code::kInvalid);
}

TEST_F(ServiceTest, EraseSettingsAndCertificates) {
  EXPECT_EQ(must("erase.set", {{"policy", "random"}, {"rate_bytes", 1 << 30}})["policy"], "random");
  EXPECT_EQ(code_of("erase.set"), Code::kInvalid);
  EXPECT_EQ(code_of("erase.set", {{"policy", "burn"}}), Code::kInvalid);
  EXPECT_EQ(must("pool.stats")["erase_policy"], "random");

  must("volume.create", {{"name", "a"}, {"size_bytes", kMiB}});
  auto device = runtime_->sync_wait(store_->open_device("a"));
  ASSERT_TRUE(device.ok());
  const std::vector<std::byte> data(kBlockBytes, std::byte{7});
  ASSERT_TRUE(runtime_->sync_wait((*device)->write(0, std::span(data), {})).ok());
  device->reset();
  const Json gone = must("volume.delete", {{"name", "a"}});
  ASSERT_NE(gone["erase_request"], 0U);
  must("erase.wait", {{"request", gone["erase_request"]}});
  EXPECT_EQ(must("erase.certificates")["certificates"].size(), 1U);
}

TEST_F(ServiceTest, CheckReportsASoundStore) {
  must("volume.create", {{"name", "a"}, {"size_bytes", kMiB}});
  const Json report = must("store.check", {{"data", true}});
  EXPECT_EQ(report["sound"], true) << report.dump(2);
}

TEST_F(ServiceTest, AttachingNeedsAMount) {
  must("volume.create", {{"name", "a"}, {"size_bytes", kMiB}});
  EXPECT_EQ(code_of("device.attach", {{"name", "a"}}), Code::kNotSupported);
  EXPECT_EQ(code_of("device.attach", {{"name", "a"}, {"sector_size_bytes", 1024}}), Code::kInvalid);
  EXPECT_EQ(code_of("device.detach", {{"name_or_device", "a"}}), Code::kNotFound);
  EXPECT_TRUE(must("device.list")["attachments"].empty());
}

TEST_F(ServiceTest, StaleAttachmentIsBusyUntilDetached) {
  must("volume.create", {{"name", "a"}, {"size_bytes", kMiB}});
  AttachmentRow row;
  row.target = "loop";
  row.device = "/dev/loop9999";
  ASSERT_TRUE(runtime_->sync_wait(store_->add_attachment("a", row)).ok());
  const Json list = must("device.list");
  ASSERT_EQ(list["attachments"].size(), 1U);
  EXPECT_EQ(list["attachments"][0]["state"], "stale");
  EXPECT_EQ(code_of("volume.delete", {{"name", "a"}}), Code::kBusy);
  EXPECT_EQ(code_of("volume.resize", {{"name", "a"}, {"size_bytes", 512}, {"shrink", true}}),
            Code::kBusy);
  must("device.detach", {{"name_or_device", "/dev/loop9999"}});
  must("volume.delete", {{"name", "a"}});
}

TEST_F(ServiceTest, PingAndVersion) {
  EXPECT_EQ(must("ping")["pid"], ::getpid());
  EXPECT_TRUE(must("ping")["mountpoint"].is_null());
  EXPECT_EQ(must("version")["version"], VOLTREE_VERSION);
}

}  // namespace
}  // namespace voltree
