// Methods on the scrub.
#include "driver/control/service.h"

namespace voltree {
namespace {

Json scrub_json(const ScrubInfo& info) {
  Json findings = Json::array();
  for (const ScrubFinding& found : info.findings) {
    findings.push_back(Json{{"layer", found.layer},
                            {"offset_bytes", found.blocks.first * kBlockBytes},
                            {"length_bytes", found.blocks.count * kBlockBytes},
                            {"seen_by", found.seen_by}});
  }
  return Json{{"running", info.running},         {"started_ns", info.started_ns},
              {"finished_ns", info.finished_ns}, {"rate_bytes", info.rate_bytes},
              {"done_bytes", info.done_bytes},   {"total_bytes", info.total_bytes},
              {"bad_blocks", info.bad_blocks},   {"findings", std::move(findings)},
              {"failure", info.failure}};
}

Result<Json> scrub_start(Call& call) {
  Params params(call.params());
  const std::uint64_t rate_bytes = params.number_or("rate_bytes", 0);
  const bool restart = params.flag("restart");
  VT_RETURN_IF_ERROR(call.accept(params));
  VT_RETURN_IF_ERROR(call.wait(call.store().start_scrub(rate_bytes, restart)));
  return scrub_json(call.store().scrub());
}

Result<Json> scrub_stop(Call& call) {
  VT_RETURN_IF_ERROR(call.accept(Params(call.params())));
  const auto stop = [](Store& store) -> Task<Status> {
    co_await store.stop_scrub();
    co_return Status();
  };
  VT_RETURN_IF_ERROR(call.wait(stop(call.store())));
  return scrub_json(call.store().scrub());
}

Result<Json> scrub_status(Call& call) {
  VT_RETURN_IF_ERROR(call.accept(Params(call.params())));
  return scrub_json(call.store().scrub());
}

Result<Json> scrub_wait(Call& call) {
  VT_RETURN_IF_ERROR(call.accept(Params(call.params())));
  const auto status = call.wait_reporting(
      call.store().wait_scrub(),
      [&call] {
        const ScrubInfo info = call.store().scrub();
        return Progress{info.done_bytes, info.total_bytes};
      },
      /*may_leave=*/true);
  if (!status) {
    return error(Code::kCancelled,
                 "the daemon is stopping; the scrub goes on when it starts again");
  }
  VT_RETURN_IF_ERROR(*status);
  return scrub_json(call.store().scrub());
}

}  // namespace

const std::vector<Method>& scrub_methods() {
  static const std::vector<Method> methods{
      {"scrub.start", scrub_start},
      {"scrub.stop", scrub_stop},
      {"scrub.status", scrub_status},
      {"scrub.wait", scrub_wait},
  };
  return methods;
}

}  // namespace voltree
