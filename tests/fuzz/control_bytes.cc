// Lines of the control socket, to a service over a store on this host. Each is answered in one line
// or, as a notification, not at all.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "blockstore/store.h"
#include "driver/control/client.h"
#include "driver/control/protocol.h"
#include "tests/fuzz/target.h"

namespace voltree::fuzz {
namespace {

constexpr int kRunsOfAStore = 500;  // then what has come together is thrown away

void must(const Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  std::abort();
}

class Daemon {
 public:
  Daemon() {
    std::string pattern = (std::filesystem::temp_directory_path() / "vtfuzzXXXXXX").string();
    folder_ = ::mkdtemp(pattern.data());
    RuntimeOptions options;
    options.executors = 1;
    auto runtime = make_host_runtime(options);
    must(runtime.status());
    runtime_ = std::move(*runtime);
    must(Store::create(*runtime_, folder_ + "/store", {}));
    auto store = open_store_blocking(*runtime_, folder_ + "/store", {});
    must(store.status());
    store_ = std::move(*store);
    service_ = std::make_unique<Service>(*runtime_, *store_, nullptr);
    must(runtime_->sync_wait(store_->create_volume("disk", 1 << 20, std::nullopt)));
    must(runtime_->sync_wait(store_->snapshot("disk", "one")));
  }
  ~Daemon() {
    service_->stop();
    service_.reset();
    must(runtime_->sync_wait(store_->close()));
    store_.reset();
    runtime_.reset();
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  Daemon(const Daemon&) = delete;
  Daemon& operator=(const Daemon&) = delete;

  void answer(std::string_view line) {
    Waiting client;
    client.send = [](const Json& message) { (void)dump_json(message); };
    client.gone = [] { return true; };
    const std::optional<Json> answer = answer_line(*service_, line, client);
    if (answer && (!answer->is_object() || dump_json(*answer).find('\n') != std::string::npos)) {
      std::abort();
    }
  }

 private:
  std::string folder_;
  std::unique_ptr<Runtime> runtime_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<Service> service_;
};

// Those calls read and write files of the host wherever the caller says: nothing for random words.
bool reaches_into_the_host(std::string_view line) {
  for (const std::string_view word : {"copy_", "manage", "migrate", "\\u"}) {
    if (line.find(word) != std::string_view::npos) return true;
  }
  return false;
}

void run_lines(std::span<const std::byte> bytes) {
  static std::unique_ptr<Daemon> daemon;
  static int runs = 0;
  if (daemon == nullptr || ++runs % kRunsOfAStore == 0) {
    daemon.reset();
    daemon = std::make_unique<Daemon>();
  }
  std::string_view text = text_of(bytes);
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    if (line.size() <= kRequestLineMaxBytes && !reaches_into_the_host(line)) daemon->answer(line);
  }
}

std::vector<Bytes> line_seeds() {
  const std::pair<const char*, const char*> calls[] = {
      {"ping", "{}"},
      {"volume.create", R"({"name":"new","size_bytes":1048576,"erase_policy":"random"})"},
      {"volume.list", R"({"junctions":true,"usage":true})"},
      {"volume.info", R"({"name":"disk@one","usage":true})"},
      {"volume.usage", R"({"names":["disk","disk@one"]})"},
      {"volume.snapshot", R"({"volume":"disk","snapshot":"two"})"},
      {"volume.snapshot_group", R"({"snapshots":["disk@three"]})"},
      {"volume.clone", R"({"source":"disk@one","name":"copy","size_bytes":2097152})"},
      {"volume.revert", R"({"volume":"disk","snapshot":"one","keep_as":"before"})"},
      {"volume.replace", R"({"volume":"disk","source":"copy","erase_policy":"zero"})"},
      {"volume.resize", R"({"name":"disk","size_bytes":4096,"shrink":true})"},
      {"volume.share_file",
       R"({"name":"disk","file":"/proc/self/exe","offset_bytes":0,"length_bytes":4096})"},
      {"volume.take_file", R"({"name":"taken","file":"/dev/null","size_bytes":4096})"},
      {"volume.give", R"({"name":"disk"})"},
      {"volume.given", R"({"name":"disk"})"},
      {"volume.take_given",
       R"({"name":"taken","data":"/dev/null","sums":"/dev/null","size_bytes":4096,"limits":{}})"},
      {"volume.rename", R"({"from":"disk","to":"root"})"},
      {"volume.delete",
       R"({"name":"copy","snapshots":true,"force":true,"erase_first_bytes":1,"erase_io_priority":"idle"})"},
      {"volume.set_notes", R"({"name":"disk","notes":{"owner":"ann"}})"},
      {"volume.extents", R"({"name":"disk","from_bytes":0,"limit":65536})"},
      {"volume.diff", R"({"a":"disk@one","b":"disk","from_bytes":0,"limit":65536})"},
      {"qos.get", R"({"name":"disk"})"},
      {"qos.set", R"({"name":"disk","total_bytes_sec":104857600,"read_iops_sec_per_gb":5})"},
      {"pool.stats", "{}"},
      {"store.check", R"({"data":true})"},
      {"erase.queue", "{}"},
      {"erase.wait", R"({"request":7})"},
      {"erase.certificates", R"({"after_id":0,"limit":100})"},
      {"erase.set", R"({"policy":"random","rate_bytes":104857600})"},
      {"device.attach", R"({"name":"disk","target":"loop","read_only":false})"},
      {"device.list", "{}"},
      {"nbd.private", "{}"},
      {"driver.call",
       R"({"call":"create_volume","arguments":{"volume":{"name":"v","id":"i","size":1}},)"
       R"("configuration":{"free_min_bytes":0,"erase_ionice":"-c2 -n7"}})"},
      {"driver.call",
       R"({"call":"retype","arguments":{"volume":{"name":"v","id":"i","size":1,"qos_specs":{"consumer":)"
       R"("both","specs":{"total_iops_sec":"5"}}},"new_type":{},"diff":{"qos_specs":{"consumer":)"
       R"([null,"both"]}},"host":""}})"},
      {"driver.call",
       R"({"call":"initialize_connection","arguments":{"volume":{"name":"v","id":"i","size":1},)"
       R"("connector":{"host":"h"},"initiator_data":null}})"},
  };
  std::vector<Bytes> seeds;
  std::string all;
  int id = 0;
  for (const auto& [method, params] : calls) {
    const std::string line = std::string(R"({"jsonrpc":"2.0","id":)") + std::to_string(++id) +
                             R"(,"method":")" + method + R"(","params":)" + params + "}\n";
    seeds.push_back(bytes_of(line));
    all += line;
  }
  seeds.push_back(bytes_of(all));
  seeds.push_back(bytes_of("[[[[[[1]]]]]]\n{\"method\":\"ping\"}\n"));
  return seeds;
}

}  // namespace

const Target kControl{run_lines, line_seeds};

}  // namespace voltree::fuzz
