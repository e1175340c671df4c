// driver.call: Cinder's verbs (driver/volume_driver.h) on this store, for drivers in other
// languages.
#include "driver/control/client.h"
#include "driver/control/service.h"
#include "driver/driver_calls.h"
#include "driver/store_driver.h"

namespace voltree {
namespace {

Result<StoreDriverOptions> read_options(Call& call, const Json& configuration) {
  Params params(configuration);
  StoreDriverOptions options;
  options.backend_name = params.text_or("backend_name", options.backend_name);
  options.host_name = params.text_or("host_name", "");
  const std::string connection = params.text_or("connection", "file");
  if (params.optional_erase_policy("erase_policy")) {
    options.erase_policy = params.text("erase_policy");
  }
  options.reserved_percentage = params.number_or("reserved_percentage", 0, 100);
  options.max_over_subscription_ratio =
      params.text_or("max_over_subscription_ratio", options.max_over_subscription_ratio);
  options.free_min_bytes = params.number_or("free_min_bytes", options.free_min_bytes);
  if (params.has("manage_directories")) {
    options.manage_directories = params.texts("manage_directories");
  }
  VT_RETURN_IF_ERROR(call.accept(params));
  if (connection != "file" && connection != "local") {
    return call.refuse("parameter \"connection\" must be \"file\" or \"local\"");
  }
  options.connection = connection == "file" ? Connection::kFile : Connection::kLocal;
  return options;
}

// What went wrong in the driver is an answer of this method: the caller raises it again.
Result<Json> driver_call(Call& call) {
  Params params(call.params());
  const std::string name = params.text("call");
  const Json arguments = params.object_or_empty("arguments");
  const Json configuration = params.object_or_empty("configuration");
  VT_RETURN_IF_ERROR(call.accept(params));
  VT_ASSIGN_OR_RETURN(StoreDriverOptions options, read_options(call, configuration));
  ServiceClient client(call.service());
  StoreDriver driver(client, std::move(options));
  const Answer<Json> answer = call_driver(driver, name, arguments);
  if (answer.ok()) return Json{{"answer", *answer}};
  return Json{{"exception", name_of(answer.status().exception())},
              {"message", answer.status().message()}};
}

}  // namespace

const std::vector<Method>& driver_methods() {
  static const std::vector<Method> methods{{"driver.call", driver_call}};
  return methods;
}

}  // namespace voltree
