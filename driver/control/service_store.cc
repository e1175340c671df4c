// Methods on the store as a whole: who it is, its pool, its erase queue, its check.
#include <unistd.h>

#include <algorithm>

#include "driver/control/service.h"

namespace voltree {
namespace {

constexpr std::uint64_t kCertificatePageMax = 1000;

Result<Json> ping(Call& call) {
  VT_RETURN_IF_ERROR(call.accept(Params(call.params())));
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(call.uptime()).count();
  return Json{{"pid", ::getpid()},
              {"uptime_seconds", seconds},
              {"mountpoint", call.tree() ? Json(call.tree()->mountpoint()) : Json(nullptr)},
              {"read_only", call.store().read_only()}};
}

Result<Json> version(Call& call) {
  VT_RETURN_IF_ERROR(call.accept(Params(call.params())));
  return Json{{"version", VOLTREE_VERSION}, {"format_version", kFormatVersion}};
}

Json counters_json(const StoreCounters& counters) {
  return Json{{"reads", counters.reads},
              {"read_bytes", counters.read_bytes},
              {"writes", counters.writes},
              {"written_bytes", counters.written_bytes},
              {"flushes", counters.flushes},
              {"zeroes", counters.zeroes},
              {"redirected_blocks", counters.redirected_blocks},
              {"checksum_rereads", counters.checksum_rereads},
              {"checksum_errors", counters.checksum_errors},
              {"catalog_commits", counters.catalog_commits},
              {"recovered_blocks", counters.recovered_blocks},
              {"restamped_blocks", counters.restamped_blocks}};
}

Result<Json> pool_stats(Call& call) {
  VT_RETURN_IF_ERROR(call.accept(Params(call.params())));
  VT_ASSIGN_OR_RETURN(const PoolInfo pool, call.wait(call.store().pool()));
  Json host{{"type", pool.host.type},
            {"total_bytes", pool.host.total_bytes},
            {"free_bytes", pool.host.free_bytes},
            {"file_size_max_bytes", pool.host.file_size_max_bytes},
            {"copy_on_write", pool.host.copy_on_write}};
  return Json{{"directory", pool.directory},
              {"uuid", pool.uuid},
              {"copied_from", pool.copied_from},
              {"volumes", pool.volumes},
              {"snapshots", pool.snapshots},
              {"layers", pool.layers},
              {"virtual_bytes", pool.virtual_bytes},
              {"allocated_bytes", pool.allocated_bytes},
              {"erase_left_bytes", pool.erase_left_bytes},
              {"erase_policy", erase_policy_name(pool.erase_policy)},
              {"erase_rate_bytes", pool.erase_rate_bytes},
              {"read_only", pool.read_only},
              {"warning", pool.warning},
              {"guard", guard_json(pool.guard)},
              {"host", std::move(host)},
              {"counters", counters_json(call.store().counters())}};
}

Result<Json> store_check(Call& call) {
  Params params(call.params());
  CheckOptions options;
  options.data = params.flag("data");
  VT_RETURN_IF_ERROR(call.accept(params));
  // The callback runs on an executor, which must not wait for a client's socket: it leaves numbers
  // here.
  struct Numbers {
    std::atomic<std::uint64_t> done{0};
    std::atomic<std::uint64_t> total{0};
  };
  const auto numbers = std::make_shared<Numbers>();
  options.progress = [numbers](std::uint64_t done_bytes, std::uint64_t total_bytes) {
    numbers->done.store(done_bytes, std::memory_order_relaxed);
    numbers->total.store(total_bytes, std::memory_order_relaxed);
  };
  auto report = call.wait_reporting(
      call.store().check(options),
      [&] {
        return Progress{numbers->done.load(), numbers->total.load()};
      },
      /*may_leave=*/false);
  if (!report->ok()) return report->status();
  const CheckReport& found = report->value();
  Json findings = Json::array();
  for (const CheckFinding& finding : found.findings) {
    findings.push_back(Json{{"damage", finding.damage}, {"what", finding.what}});
  }
  return Json{{"sound", found.sound()}, {"findings", std::move(findings)},
              {"nodes", found.nodes},   {"layers", found.layers},
              {"blocks", found.blocks}, {"verified_bytes", found.verified_bytes}};
}

Result<Json> erase_queue(Call& call) {
  VT_RETURN_IF_ERROR(call.accept(Params(call.params())));
  Json requests = Json::array();
  for (const EraseStatus& entry : call.wait(call.store().erase_queue())) {
    requests.push_back(Json{{"request", entry.request.id},
                            {"what", entry.request.what},
                            {"policy", erase_policy_name(entry.request.policy)},
                            {"first_bytes", entry.request.first_bytes},
                            {"io_priority", io_priority_name(entry.request.io_priority)},
                            {"requested_ns", entry.request.requested_ns},
                            {"erased_bytes", entry.request.erased_bytes},
                            {"left_bytes", entry.left_bytes},
                            {"left_items", entry.left_items}});
  }
  return Json{{"requests", std::move(requests)}};
}

Result<Json> erase_certificates(Call& call) {
  Params params(call.params());
  const std::uint64_t after_id = params.number_or("after_id", 0);
  const std::uint64_t limit = params.number_or("limit", 100, kCertificatePageMax);
  VT_RETURN_IF_ERROR(call.accept(params));
  VT_ASSIGN_OR_RETURN(const std::vector<std::string> texts,
                      call.wait(call.store().certificates(after_id, limit)));
  Json list = Json::array();
  for (const std::string& text : texts) {
    VT_ASSIGN_OR_RETURN(Json certificate, parse_json(text));
    list.push_back(std::move(certificate));
  }
  return Json{{"certificates", std::move(list)}};
}

// Bytes that `request` (0: everything) still has to erase.
std::uint64_t left_to_erase(Call& call, std::uint64_t request) {
  std::uint64_t left_bytes = 0;
  for (const EraseStatus& entry : call.wait(call.store().erase_queue())) {
    if (request == 0 || entry.request.id == request) left_bytes += entry.left_bytes;
  }
  return left_bytes;
}

Result<Json> erase_wait(Call& call) {
  Params params(call.params());
  const std::uint64_t request = params.number_or("request", 0);
  VT_RETURN_IF_ERROR(call.accept(params));
  std::uint64_t total_bytes = left_to_erase(call, request);
  const auto status = call.wait_reporting(
      call.store().wait_erased(request),
      [&] {
        const std::uint64_t left_bytes = left_to_erase(call, request);
        total_bytes = std::max(total_bytes, left_bytes);  // more may be queued meanwhile
        return Progress{total_bytes - left_bytes, total_bytes};
      },
      /*may_leave=*/true);
  if (!status) {
    return error(Code::kCancelled, "the daemon is stopping; erasing goes on when it starts again");
  }
  VT_RETURN_IF_ERROR(*status);
  return Json{{"erased_bytes", total_bytes}};
}

Result<Json> erase_set(Call& call) {
  Params params(call.params());
  const auto policy = params.optional_erase_policy("policy");
  const std::optional<std::uint64_t> rate_bytes = params.optional_number("rate_bytes");
  VT_RETURN_IF_ERROR(call.accept(params));
  if (!policy && !rate_bytes) {
    return call.refuse("give at least one of the parameters \"policy\" and \"rate_bytes\"");
  }
  VT_RETURN_IF_ERROR(call.wait(call.store().set_erase(policy, rate_bytes)));
  VT_ASSIGN_OR_RETURN(const PoolInfo pool, call.wait(call.store().pool()));
  return Json{{"policy", erase_policy_name(pool.erase_policy)},
              {"rate_bytes", pool.erase_rate_bytes}};
}

}  // namespace

const std::vector<Method>& store_methods() {
  static const std::vector<Method> methods{
      {"ping", ping},
      {"version", version},
      {"pool.stats", pool_stats},
      {"store.check", store_check},
      {"erase.queue", erase_queue},
      {"erase.certificates", erase_certificates},
      {"erase.wait", erase_wait},
      {"erase.set", erase_set},
  };
  return methods;
}

}  // namespace voltree
