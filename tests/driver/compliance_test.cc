// Drivers against Cinder's contract: ours, in this process and through a daemon's socket, and one
// with gaps, each of which must be named.
#include "driver/compliance.h"

#include <fstream>

#include "driver/control/client.h"
#include "driver/control/server.h"
#include "driver/driver_calls.h"
#include "driver/images/stop_signals.h"
#include "driver/store_driver.h"
#include "driver/targets/nbd/server.h"
#include "tests/driver/driver_fixture.h"

namespace voltree {
namespace {

class TestTree final : public ExportedTree {
 public:
  std::string mountpoint() const override { return "/mnt/voltree"; }
  std::string path_of(const NodeName& name) const override { return "/mnt/voltree/" + name.str(); }
  void invalidate(const NodeName&) override {}
};

class ComplianceTest : public ServiceTest {
 protected:
  void SetUp() override {
    ServiceTest::SetUp();
    if (HasFatalFailure()) return;
    service_ = std::make_unique<Service>(*runtime_, *store_, &tree_);
    nbd::ServerOptions nbd_options;
    auto listener = listen_unix(nbd_path_);
    ASSERT_TRUE(listener.ok()) << listener.status().message();
    nbd_options.private_listener = *listener;
    auto nbd = nbd::Server::start(*runtime_, *store_, std::move(nbd_options), nullptr);
    ASSERT_TRUE(nbd.ok()) << nbd.status().message();
    nbd_ = std::move(nbd).value();
    service_->set_private_nbd([this] { return Result<std::string>(nbd_path_); });
    data_.folder = folder_ / "images";
    std::filesystem::create_directory(data_.folder);
    data_.write_block = [this](const std::string& node, std::uint64_t at, char fill) {
      auto device = runtime_->sync_wait(store_->open_device(node));
      if (!device.ok()) return false;
      const std::vector<std::byte> block(kBlockBytes, static_cast<std::byte>(fill));
      return runtime_->sync_wait((*device)->write(at, block, {})).ok();
    };
    data_.read_block = [this](const std::string& node, std::uint64_t at) -> std::optional<char> {
      auto device = runtime_->sync_wait(store_->open_device(node));
      std::vector<std::byte> block(kBlockBytes);
      if (!device.ok() || !runtime_->sync_wait((*device)->read(at, block)).ok()) return {};
      for (const std::byte byte : block) {
        if (byte != block[0]) return {};
      }
      return static_cast<char>(block[0]);
    };
  }
  void TearDown() override {
    service_.reset();
    nbd_.reset();
    ServiceTest::TearDown();
  }
  // No test of a driver may depend on how full this host is.
  static StoreDriverOptions options() {
    StoreDriverOptions options;
    options.free_min_bytes = 0;
    options.host_name = "here";
    return options;
  }
  static std::string lines(const std::vector<std::string>& gaps) {
    return fmt::format("{}", fmt::join(gaps, "\n"));
  }
  // A file of `size_bytes` that begins with so many bytes of 'n'.
  std::string image_file(std::size_t data_bytes, std::uint64_t size_bytes) const {
    std::string path = data_.folder + "/image";
    std::ofstream(path, std::ios::binary | std::ios::trunc) << std::string(data_bytes, 'n');
    std::filesystem::resize_file(path, size_bytes);
    return path;
  }
  std::vector<std::string> volume_names() const {
    std::vector<std::string> names;
    for (const NodeName& name : runtime_->sync_wait(store_->names())) names.push_back(name.str());
    return names;
  }
  TestTree tree_;
  const std::string nbd_path_ = folder_ / "nbd.sock";
  std::unique_ptr<nbd::Server> nbd_;
  ComplianceData data_;
};

TEST_F(ComplianceTest, InThisProcess) {
  ServiceClient client(*service_);
  StoreDriver driver(client, options());
  EXPECT_EQ(lines(find_gaps(driver, data_)), "");
  EXPECT_TRUE(runtime_->sync_wait(store_->names()).empty()) << "something was left behind";
}

TEST_F(ComplianceTest, ThroughTheDaemon) {
  ServerOptions server_options;
  server_options.socket_path = folder_ / "control.sock";
  auto server = Server::start(*service_, server_options);
  ASSERT_TRUE(server.ok()) << server.status().message();
  auto client = SocketClient::connect(server_options.socket_path);
  ASSERT_TRUE(client.ok()) << client.status().message();
  StoreDriver driver(**client, options());
  EXPECT_EQ(lines(find_gaps(driver, data_)), "");
  (*server)->stop();
  const Json stats = driver.get_volume_stats(true);
  EXPECT_EQ(stats["backend_state"], "down") << "the daemon is gone, and the stats are an answer";
  EXPECT_EQ(driver.check_for_setup_error().exception(), Exception::kVolumeBackendAPIException);
}

// Everything but what it says it does not do.
class IncompleteDriver final : public VolumeDriver {
 public:
  std::string_view version() const override { return ""; }
  std::string_view ci_wiki_name() const override { return "none"; }
  DriverStatus do_setup() override { return {}; }
};

TEST_F(ComplianceTest, EveryGapIsNamed) {
  IncompleteDriver driver;
  const std::vector<std::string> gaps = find_gaps(driver, data_);
  const auto named = [&gaps](std::string_view call) {
    return std::any_of(gaps.begin(), gaps.end(),
                       [&](const std::string& gap) { return gap.find(call) == 0; });
  };
  EXPECT_TRUE(named("VERSION"));
  EXPECT_FALSE(named("CI_WIKI_NAME"));
  for (const std::string_view call : driver_call_names()) {
    if (call == "do_setup" || call == "snapshot_revert_use_temp_snapshot") {
      EXPECT_FALSE(named(call)) << call;
    } else {
      EXPECT_TRUE(named(call)) << call;
    }
  }
}

TEST_F(ComplianceTest, ByNameAndJson) {
  const auto call = [this](const std::string& name, const Json& arguments) {
    return must(
        "driver.call",
        {{"call", name}, {"arguments", arguments}, {"configuration", {{"free_min_bytes", 0}}}});
  };
  const Json disk{{"name", "volume-1"}, {"id", "1"}, {"size", 1}, {"display_name", "mine"}};
  const Json nothing{{"answer", nullptr}};
  EXPECT_EQ(call("create_volume", {{"volume", disk}}), nothing);
  EXPECT_EQ(call("create_volume", {{"volume", {{"name", "x"}}}})["exception"], "InvalidInput");
  EXPECT_EQ(call("create_volume", Json::object())["exception"], "InvalidInput");
  EXPECT_EQ(call("invent_volume", {{"volume", disk}})["exception"], "NotImplementedError");
  EXPECT_EQ(call("extend_volume", {{"volume", disk}, {"new_size", 2}}), nothing);
  EXPECT_EQ(call("get_volume_stats", {{"refresh", true}})["answer"]["pools"][0]["total_volumes"],
            1);
  const Json group{{"id", "g"}, {"consistent_group_snapshot", true}};
  EXPECT_EQ(call("create_consistencygroup", {{"group", group}})["answer"]["status"], "available");
  EXPECT_EQ(code_of("driver.call", {{"call", "do_setup"}, {"configuration", {{"typo", 1}}}}),
            Code::kInvalid);
}

TEST_F(ComplianceTest, ImagesByNameAndJson) {
  const auto call = [this](const std::string& name, const Json& image) {
    const Json disk{{"name", "volume-1"}, {"id", "1"}, {"size", 1}};
    return must("driver.call", {{"call", name},
                                {"arguments", {{"volume", disk}, {"image", image}}},
                                {"configuration", {{"free_min_bytes", 0}}}});
  };
  const Json nothing{{"answer", nullptr}};
  const Json image{{"path", image_file(kBlockBytes, 1000001)}, {"disk_format", "raw"}};
  EXPECT_EQ(call("create_volume", nullptr), nothing);
  (void)must("qos.set", {{"name", "volume-1"}, {"write_iops_sec", 1}});
  EXPECT_EQ(call("copy_image_to_volume", image), nothing);
  EXPECT_EQ(data_.read_block("volume-1", 0), 'n');
  EXPECT_EQ(must("qos.get", {{"name", "volume-1"}})["limits"]["write_iops_sec"], 1);
  for (const auto& [member, value, exception] :
       std::vector<std::tuple<std::string, Json, std::string>>{
           {"path", "image", "InvalidInput"},
           {"path", data_.folder, "InvalidInput"},
           {"path", "/nowhere", "VolumeBackendAPIException"},
           {"path", nullptr, "InvalidInput"},
           {"disk_format", "iso", "ImageUnacceptable"},
           {"disk_format", "vhdx", "ImageUnacceptable"}}) {
    Json bad = image;
    bad[member] = value;
    EXPECT_EQ(call("copy_image_to_volume", bad)["exception"], exception) << member << value;
  }
  std::ofstream(image["path"].get<std::string>(), std::ios::binary | std::ios::in) << "QFI\xfb";
  const Json looks = call("copy_image_to_volume", image);
  EXPECT_EQ(looks["exception"], "ImageUnacceptable") << "what looks like qcow2 is not raw";
  EXPECT_EQ(data_.read_block("volume-1", 0), 'n') << "refused, it is as it was";
  EXPECT_EQ(volume_names(), std::vector<std::string>{"volume-1"});
}

TEST_F(ComplianceTest, AnImageThatIsGivenUpLeavesTheVolumeAsItWas) {
  ServiceClient client(*service_);
  StoreDriver driver(client, options());
  DriverVolume disk;
  disk.name = "volume-1";
  disk.size_gib = 1;
  ASSERT_TRUE(driver.create_volume(disk).ok());
  ASSERT_TRUE(data_.write_block("volume-1", 0, 'o'));
  // What a copy has left that was killed, in either direction; and what only looks so.
  for (const char* name : {"volume-1.import-0123abcd", "volume-1.export-00000000",
                           "volume-1.import-0123", "volume-12.import-0123abcd"}) {
    (void)must("volume.create", {{"name", name}, {"size_bytes", kBlockBytes}});
  }
  const std::string path = image_file(std::size_t{20} << 20, std::size_t{20} << 20);
  {
    int asked = 0;
    const StopCondition condition(
        [&asked] { return ++asked > 3 ? Status(Code::kCancelled, "enough") : Status(); });
    const DriverStatus given_up = driver.copy_image_to_volume(disk, {path, "raw"});
    ASSERT_FALSE(given_up.ok());
    EXPECT_EQ(given_up.exception(), Exception::kVolumeBackendAPIException);
    EXPECT_EQ(given_up.message(), "enough");
    EXPECT_FALSE(driver.copy_volume_to_image(disk, {path + ".out", "raw"}).ok());
    EXPECT_FALSE(std::filesystem::exists(path + ".out"));
  }
  EXPECT_EQ(data_.read_block("volume-1", 0), 'o');
  const std::vector<std::string> left{"volume-1", "volume-1.import-0123",
                                      "volume-12.import-0123abcd"};
  EXPECT_EQ(volume_names(), left);
  EXPECT_TRUE(driver.copy_image_to_volume(disk, {path, "raw"}).ok());
  EXPECT_EQ(data_.read_block("volume-1", 0), 'n');
}

TEST_F(ComplianceTest, AVolumeInUseGetsNoImage) {
  ServiceClient client(*service_);
  StoreDriver driver(client, options());
  DriverVolume disk;
  disk.name = "volume-1";
  disk.size_gib = 1;
  ASSERT_TRUE(driver.create_volume(disk).ok());
  ASSERT_TRUE(data_.write_block("volume-1", 0, 'o'));
  const auto claimed = runtime_->sync_wait(store_->claim_device("volume-1"));
  ASSERT_TRUE(claimed.ok());
  const std::string path = image_file(kBlockBytes, kBlockBytes);
  EXPECT_EQ(driver.copy_image_to_volume(disk, {path, "raw"}).exception(), Exception::kVolumeIsBusy);
  EXPECT_TRUE(driver.copy_volume_to_image(disk, {path, "raw"}).ok()) << "that may be done";
  EXPECT_EQ(std::filesystem::file_size(path), std::uint64_t{1} << 30);
  EXPECT_EQ(data_.read_block("volume-1", 0), 'o');
}

TEST_F(ComplianceTest, LimitsOfTheType) {
  ServiceClient client(*service_);
  StoreDriver driver(client, options());
  DriverVolume disk;
  disk.name = "volume-1";
  disk.size_gib = 1;
  disk.qos_specs = Json{
      {"consumer", "back-end"},
      {"specs", {{"total_iops_sec", "500"}, {"read_bytes_sec_per_gb", 1048576}, {"else", "x"}}}};
  const auto limits = [this](const char* name) {
    return must("qos.get", {{"name", name}})["limits"];
  };
  ASSERT_TRUE(driver.create_volume(disk).ok());
  EXPECT_EQ(limits("volume-1").size(), 2U);
  EXPECT_EQ(limits("volume-1")["total_iops_sec"], 500);
  DriverVolume copy = disk;
  copy.name = "volume-2";
  copy.qos_specs["consumer"] = "front-end";
  ASSERT_TRUE(driver.create_cloned_volume(copy, disk).ok());
  EXPECT_TRUE(limits("volume-2").empty()) << "the front end keeps them";
  const Json diff{{"qos_specs",
                   {{"consumer", {"back-end", "both"}},
                    {"total_iops_sec", {"500", "900"}},
                    {"read_bytes_sec_per_gb", {"1048576", nullptr}}}}};
  const Answer<bool> changed = driver.retype(disk, Json::object(), diff, "");
  ASSERT_TRUE(changed.ok()) << changed.status().message();
  EXPECT_TRUE(*changed);
  EXPECT_EQ(limits("volume-1").size(), 1U);
  EXPECT_EQ(limits("volume-1")["total_iops_sec"], 900);
  disk.qos_specs["specs"]["total_iops_sec"] = "many";
  disk.name = "volume-3";
  EXPECT_EQ(driver.create_volume(disk).status().exception(), Exception::kInvalidInput);
  EXPECT_EQ(code_of("volume.info", {{"name", "volume-3"}}), Code::kNotFound);
}

TEST_F(ComplianceTest, BusyNamesTheSnapshotThatIsInTheWay) {
  ServiceClient client(*service_);
  StoreDriver driver(client, options());
  DriverVolume disk;
  disk.name = "volume-1";
  disk.size_gib = 1;
  ASSERT_TRUE(driver.create_volume(disk).ok());
  (void)must("volume.snapshot", {{"volume", "volume-1"}, {"snapshot", "unmanaged"}});
  const DriverStatus busy = driver.delete_volume(disk);
  ASSERT_FALSE(busy.ok());
  EXPECT_EQ(busy.exception(), Exception::kVolumeIsBusy);
  EXPECT_NE(busy.message().find("unmanaged"), std::string::npos) << busy.message();
  EXPECT_EQ(code_of("volume.delete",
                    {{"name", "volume-1"}, {"snapshots", true}, {"unless_snapshots", true}}),
            Code::kInvalid);
  EXPECT_TRUE(runtime_->sync_wait(store_->info("volume-1")).ok());
}

TEST_F(ComplianceTest, WhoHasAVolumeIsNoted) {
  ServiceClient client(*service_);
  StoreDriver driver(client, options());
  DriverVolume disk;
  disk.name = "volume-1";
  disk.size_gib = 1;
  ASSERT_TRUE(driver.create_volume(disk).ok());
  (void)must("volume.set_notes", {{"name", "volume-1"}, {"notes", {{"owner", "ann"}}}});
  const auto notes = [this] { return must("volume.info", {{"name", "volume-1"}})["notes"]; };
  ASSERT_TRUE(driver.attach_volume(disk, "instance", "stor1", "/dev/vdb").ok());
  ASSERT_TRUE(driver.attach_volume(disk, "", "stor2", "/mnt").ok());
  EXPECT_EQ(notes(), Json({{"attached-to:instance", "stor1 /dev/vdb"},
                           {"attached-to:stor2", "stor2 /mnt"},
                           {"owner", "ann"}}));
  ASSERT_TRUE(driver.detach_volume(disk, VolumeAttachment{"stor1", "instance"}).ok());
  EXPECT_EQ(notes(), Json({{"attached-to:stor2", "stor2 /mnt"}, {"owner", "ann"}}));
  ASSERT_TRUE(driver.detach_volume(disk, VolumeAttachment{"stor9", ""}).ok());
  EXPECT_EQ(notes(), Json({{"attached-to:stor2", "stor2 /mnt"}, {"owner", "ann"}}));
  ASSERT_TRUE(driver.detach_volume(disk, std::nullopt).ok());
  EXPECT_EQ(notes(), Json({{"owner", "ann"}}));
  EXPECT_EQ(code_of("volume.set_notes", {{"name", "volume-1"}, {"notes", {{"k", 1}}}}),
            Code::kInvalid);
}

TEST_F(ComplianceTest, AFullPoolTakesNothingNew) {
  ServiceClient client(*service_);
  StoreDriverOptions full = options();
  full.free_min_bytes = std::uint64_t{1} << 62;
  StoreDriver driver(client, full);
  DriverVolume disk;
  disk.name = "volume-1";
  disk.size_gib = 1;
  EXPECT_EQ(driver.create_volume(disk).status().exception(), Exception::kVolumeBackendAPIException);
  EXPECT_TRUE(runtime_->sync_wait(store_->names()).empty());
}

}  // namespace
}  // namespace voltree
