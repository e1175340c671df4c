// Methods on the limits of volumes.
#include <mutex>

#include "driver/control/service.h"

namespace voltree {
namespace {

Result<Json> qos_answer(Call& call, const std::string& name) {
  VT_ASSIGN_OR_RETURN(const QosInfo info, call.wait(call.store().qos(name)));
  return Json{{"name", name},
              {"limits", limits_json(info.limits.entries())},
              {"effective", limits_json(info.effective.entries())},
              {"waiting", info.waiting},
              {"delayed", info.delayed}};
}

Result<Json> qos_get(Call& call) {
  Params params(call.params());
  const std::string name = params.text("name");
  VT_RETURN_IF_ERROR(call.accept(params));
  return qos_answer(call, name);
}

Result<Json> qos_set(Call& call) {
  Params params(call.params());
  const std::string name = params.text("name");
  const bool clear = params.flag("clear");
  QosLimits::Entries changes;
  for (std::string& key : qos_keys()) {
    const std::optional<std::uint64_t> value = params.optional_number(key);
    if (value) changes.emplace_back(std::move(key), *value);
  }
  VT_RETURN_IF_ERROR(call.accept(params));
  if (changes.empty() && !clear) return call.refuse("give a limit, or \"clear\"");
  // What is not named stays: between the look and the change nobody else may change it.
  static std::mutex one_at_a_time;
  const std::lock_guard lock(one_at_a_time);
  VT_ASSIGN_OR_RETURN(const QosInfo info, call.wait(call.store().qos(name)));
  QosLimits limits = clear ? QosLimits() : info.limits;
  for (const auto& [key, value] : changes) VT_RETURN_IF_ERROR(limits.set(key, value));
  VT_RETURN_IF_ERROR(call.wait(call.store().set_qos(name, limits)));
  return qos_answer(call, name);
}

}  // namespace

Json limits_json(const QosLimits::Entries& entries) {
  Json object = Json::object();
  for (const auto& [key, value] : entries) object[key] = value;
  return object;
}

const std::vector<Method>& qos_methods() {
  static const std::vector<Method> methods{
      {"qos.get", qos_get},
      {"qos.set", qos_set},
  };
  return methods;
}

}  // namespace voltree
