#include "driver/control/service_handover.h"

#include "blockstore/store_handover.h"

namespace voltree {
namespace {

Json given_json(const GivenVolume& given) {
  Json json{{"name", given.name},
            {"data", given.data},
            {"sums", given.sums},
            {"size_bytes", given.size_bytes}};
  json.update(settings_json(given.settings));
  // As volume.take_given has it: one that is not set is not there.
  if (!given.settings.erase_policy) json.erase("erase_policy");
  return json;
}

}  // namespace

Result<Json> volume_give(Call& call) {
  Params params(call.params());
  const std::string name = params.text("name");
  VT_RETURN_IF_ERROR(call.accept(params));
  VT_ASSIGN_OR_RETURN(const GivenVolume given, call.wait(StoreHandover::give(call.store(), name)));
  call.invalidate(name);
  return given_json(given);
}

Result<Json> volume_given(Call& call) {
  Params params(call.params());
  const std::string name = params.text("name");
  VT_RETURN_IF_ERROR(call.accept(params));
  VT_ASSIGN_OR_RETURN(const GivenVolume given, call.wait(StoreHandover::given(call.store(), name)));
  return given_json(given);
}

Result<Json> volume_take_given(Call& call) {
  Params params(call.params());
  GivenVolume given;
  given.name = params.text("name");
  given.data = params.text("data");
  given.sums = params.text("sums");
  given.size_bytes = params.number("size_bytes");
  const Json limits = params.object_or_empty("limits");
  given.settings.erase_policy = params.optional_erase_policy("erase_policy");
  given.settings.notes = params.notes_or_empty("notes");
  given.settings.reserve_bytes = params.number_or("reserve_bytes", 0);
  VT_RETURN_IF_ERROR(call.accept(params));
  for (const auto& [key, value] : limits.items()) {
    if (!value.is_number_unsigned()) return call.refuse("a limit is a number");
    VT_RETURN_IF_ERROR(given.settings.limits.set(key, value.get<std::uint64_t>()));
  }
  for (const std::string& file : {given.data, given.sums}) {
    VT_RETURN_IF_ERROR(check_shareable(file));
  }
  if (!given.data.ends_with(".data") || !given.sums.ends_with(".sum")) {
    return call.refuse("these are no files of a volume that was given");
  }
  const std::string name = given.name;
  VT_RETURN_IF_ERROR(call.wait(StoreHandover::take(call.store(), std::move(given))));
  call.invalidate(name);
  return Json{{"name", name}};
}

}  // namespace voltree
