#include "driver/control/service.h"

#include <algorithm>

#include "driver/targets/attachments.h"
#include "driver/targets/file_target.h"
#include "driver/targets/loop_target.h"
#include "driver/targets/nbd_target.h"

namespace voltree {
namespace {

const std::vector<const std::vector<Method>*>& tables() {
  static const std::vector<const std::vector<Method>*> all{
      &volume_methods(), &store_methods(), &device_methods(), &nbd_methods(),
      &driver_methods(), &qos_methods(),   &guard_methods(),  &scrub_methods()};
  return all;
}

const Method* find_method(std::string_view name) {
  for (const std::vector<Method>* table : tables()) {
    for (const Method& method : *table) {
      if (method.name == name) return &method;
    }
  }
  return nullptr;
}

}  // namespace

Service::Service(Runtime& runtime, Store& store, ExportedTree* tree)
    : runtime_(runtime),
      store_(store),
      tree_(tree),
      attachments_(std::make_unique<Attachments>(runtime, store)) {
  attachments_->add(std::make_unique<FileTarget>(tree));
  attachments_->add(std::make_unique<LoopTarget>(runtime, tree));
}

Service::~Service() = default;

void Service::set_nbd(nbd::Server* server) {
  nbd_ = server;
  attachments_->remove("nbd");
  if (server == nullptr) return;
  attachments_->add(std::make_unique<NbdTarget>(runtime_, *server, store_.uuid()));
}

Result<Json> Service::call(std::string_view method, const Json& params, const Caller& caller,
                           Refusal* refusal) {
  if (refusal) *refusal = Refusal::kNone;
  const Method* found = find_method(method);
  if (found == nullptr) {
    if (refusal) *refusal = Refusal::kUnknownMethod;
    return error(Code::kNotSupported, "unknown method {}", voltree::quoted(method.substr(0, 64)));
  }
  Call request(*this, params, caller);
  Result<Json> answer = found->handler(request);
  if (refusal && !answer.ok() && request.bad_params()) *refusal = Refusal::kBadParams;
  return answer;
}

std::vector<std::string> Service::resume_devices() { return attachments_->resume_all(); }

std::vector<std::string> Service::release_devices() { return attachments_->release_all(); }

std::vector<std::string_view> Service::method_names() {
  std::vector<std::string_view> names;
  for (const std::vector<Method>* table : tables()) {
    for (const Method& method : *table) names.push_back(method.name);
  }
  return names;
}

void Call::invalidate(const std::string& name) {
  if (tree() == nullptr) return;
  if (Result<NodeName> node = parse_node_name(name); node.ok()) tree()->invalidate(*node);
}

}  // namespace voltree
