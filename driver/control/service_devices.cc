// Methods on attachments.
#include "driver/control/service.h"
#include "driver/targets/attachments.h"

namespace voltree {
namespace {

Json attachment_json(const Attachment& attachment) {
  const AttachmentRow& row = attachment.row;
  return Json{{"id", row.id},
              {"name", attachment.name.str()},
              {"target", row.target},
              {"device", row.device},
              {"read_only", row.read_only},
              {"sector_size_bytes", row.sector_size_bytes},
              {"created_ns", row.created_ns},
              {"state", attachment.live ? "live" : "stale"}};
}

Result<Json> device_attach(Call& call) {
  Params params(call.params());
  AttachOptions options;
  const std::string name = params.text("name");
  options.read_only = params.flag("read_only");
  options.beside_others = params.flag("beside_others");
  options.target = params.text_or("target", "loop");
  const std::uint64_t sector_size_bytes = params.number_or("sector_size_bytes", kSectorBytes);
  VT_RETURN_IF_ERROR(call.accept(params));
  if (sector_size_bytes != kSectorBytes && sector_size_bytes != kBlockBytes) {
    return call.refuse("parameter \"sector_size_bytes\" must be 512 or 4096");
  }
  if (options.target != "file" && options.target != "loop" && options.target != "nbd") {
    return call.refuse("parameter \"target\" must be \"file\", \"loop\" or \"nbd\"");
  }
  options.sector_size_bytes = static_cast<std::uint32_t>(sector_size_bytes);
  VT_ASSIGN_OR_RETURN(const Attachment made, call.attachments().attach(name, options));
  return attachment_json(made);
}

Result<Json> device_detach(Call& call) {
  Params params(call.params());
  const std::string which = params.text("name_or_device");
  VT_RETURN_IF_ERROR(call.accept(params));
  VT_ASSIGN_OR_RETURN(const std::vector<Attachment> gone, call.attachments().detach(which));
  Json list = Json::array();
  for (const Attachment& attachment : gone) list.push_back(attachment_json(attachment));
  return Json{{"detached", std::move(list)}};
}

Result<Json> device_list(Call& call) {
  VT_RETURN_IF_ERROR(call.accept(Params(call.params())));
  Json list = Json::array();
  for (const Attachment& attachment : call.attachments().list()) {
    list.push_back(attachment_json(attachment));
  }
  return Json{{"attachments", std::move(list)}};
}

}  // namespace

const std::vector<Method>& device_methods() {
  static const std::vector<Method> methods{
      {"device.attach", device_attach},
      {"device.detach", device_detach},
      {"device.list", device_list},
  };
  return methods;
}

}  // namespace voltree
