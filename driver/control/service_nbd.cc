// Methods on the NBD server of the daemon.
#include "driver/control/service.h"
#include "driver/targets/nbd/server.h"

namespace voltree {
namespace {

Status no_server() {
  return error(Code::kNotSupported,
               "there is no NBD server: voltree serve --nbd-socket PATH or --nbd-listen HOST:PORT");
}

Result<Json> nbd_uris(Call& call) {
  Params params(call.params());
  const std::string name = params.text("name");
  VT_RETURN_IF_ERROR(call.accept(params));
  VT_RETURN_IF_ERROR(call.wait(call.store().info(name)).status());
  if (call.nbd() == nullptr || call.nbd()->uris(name).empty()) return no_server();
  return Json{{"name", name}, {"uris", call.nbd()->uris(name)}};
}

Result<Json> nbd_connections(Call& call) {
  VT_RETURN_IF_ERROR(call.accept(Params(call.params())));
  if (call.nbd() == nullptr) return no_server();
  Json list = Json::array();
  for (const nbd::ConnectionInfo& info : call.nbd()->connections()) {
    list.push_back(Json{{"id", info.id},
                        {"peer", info.peer},
                        {"name", info.export_name},
                        {"read_only", info.read_only},
                        {"requests", info.requests},
                        {"age_s", info.age.count()}});
  }
  return Json{{"connections", std::move(list)}};
}

Result<Json> nbd_disconnect(Call& call) {
  Params params(call.params());
  const std::string name = params.text("name");
  VT_RETURN_IF_ERROR(call.accept(params));
  VT_ASSIGN_OR_RETURN(const NodeInfo info, call.wait(call.store().info(name)));
  if (call.nbd() == nullptr) return no_server();
  return Json{{"name", name}, {"disconnected", call.nbd()->disconnect(info.id)}};
}

Result<Json> nbd_private(Call& call) {
  VT_RETURN_IF_ERROR(call.accept(Params(call.params())));
  if (!call.private_nbd()) return no_server();
  VT_ASSIGN_OR_RETURN(const std::string path, call.private_nbd()());
  return Json{{"socket", path}};
}

}  // namespace

const std::vector<Method>& nbd_methods() {
  static const std::vector<Method> methods{
      {"nbd.uris", nbd_uris},
      {"nbd.connections", nbd_connections},
      {"nbd.disconnect", nbd_disconnect},
      {"nbd.private", nbd_private},
  };
  return methods;
}

}  // namespace voltree
