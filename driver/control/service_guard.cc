// Methods on the space of the host: what is kept free, and what is kept for volumes.
#include <mutex>

#include "driver/control/service.h"

namespace voltree {
namespace {

std::string_view name_of(GuardState state) {
  switch (state) {
    case GuardState::kRoom:
      return "room";
    case GuardState::kWarn:
      return "warn";
    case GuardState::kFull:
      return "full";
    case GuardState::kStop:
      return "stop";
  }
  return "?";
}

Result<Json> pool_guard(Call& call) {
  Params params(call.params());
  const auto warn = params.optional_number("warn_free_bytes");
  const auto stop = params.optional_number("stop_free_bytes");
  const auto overprovision = params.optional_number("overprovision_percent");
  VT_RETURN_IF_ERROR(call.accept(params));
  if (warn || stop || overprovision) {
    // What is not named stays: between the look and the change nobody else may change it.
    static std::mutex one_at_a_time;
    const std::lock_guard lock(one_at_a_time);
    VT_ASSIGN_OR_RETURN(const PoolInfo pool, call.wait(call.store().pool()));
    GuardSettings settings = pool.guard.settings;
    if (warn) settings.warn_free_bytes = *warn;
    if (stop) settings.stop_free_bytes = *stop;
    if (overprovision) settings.overprovision_percent = *overprovision;
    VT_RETURN_IF_ERROR(call.wait(call.store().set_guard(settings)));
  }
  VT_ASSIGN_OR_RETURN(const PoolInfo pool, call.wait(call.store().pool()));
  Json answer = guard_json(pool.guard);
  answer["host_free_bytes"] = pool.host.free_bytes;
  answer["host_total_bytes"] = pool.host.total_bytes;
  answer["virtual_bytes"] = pool.virtual_bytes;
  return answer;
}

Result<Json> volume_reserve(Call& call) {
  Params params(call.params());
  const std::string name = params.text("name");
  const std::uint64_t bytes = params.number("bytes");
  VT_RETURN_IF_ERROR(call.accept(params));
  VT_RETURN_IF_ERROR(call.wait(call.store().set_reserve(name, bytes)));
  return Json{{"name", name}, {"reserve_bytes", bytes}};
}

}  // namespace

Json guard_json(const GuardInfo& guard) {
  return Json{{"state", name_of(guard.state)},
              {"warn_free_bytes", guard.settings.warn_free_bytes},
              {"stop_free_bytes", guard.settings.stop_free_bytes},
              {"overprovision_percent", guard.settings.overprovision_percent},
              {"promised_bytes", guard.promised_bytes}};
}

const std::vector<Method>& guard_methods() {
  static const std::vector<Method> methods{{"pool.guard", pool_guard},
                                           {"volume.reserve", volume_reserve}};
  return methods;
}

}  // namespace voltree
