#include "driver/control/protocol.h"

namespace voltree {
namespace {

struct Request {
  std::string method;
  Json params;
  Json id;
  bool notification = false;
};

// The request in `message`, or why it is none. `id` is set as soon as there is a usable one.
Result<Request> read_request(const Json& message, Json& id) {
  if (message.is_array())
    return error(Code::kInvalid, "batches are not supported: one call a line");
  if (!message.is_object()) return error(Code::kInvalid, "a request must be an object");
  Request request;
  const auto given_id = message.find("id");
  request.notification = given_id == message.end();
  if (!request.notification) {
    if (!given_id->is_string() && !given_id->is_number() && !given_id->is_null()) {
      return error(Code::kInvalid, "\"id\" must be a string, a number or null");
    }
    id = *given_id;
  }
  request.id = id;
  const auto version = message.find("jsonrpc");
  if (version == message.end() || *version != "2.0") {
    return error(Code::kInvalid, "\"jsonrpc\" must be \"2.0\"");
  }
  const auto method = message.find("method");
  if (method == message.end() || !method->is_string()) {
    return error(Code::kInvalid, "\"method\" must be a string");
  }
  request.method = *method->get_ptr<const std::string*>();
  if (const auto params = message.find("params"); params != message.end()) {
    request.params = *params;
  }
  return request;
}

}  // namespace

std::string control_socket_path(const std::string& store_directory) {
  return store_directory + "/run/control.sock";
}

std::string private_nbd_path(const std::string& store_directory) {
  return store_directory + "/run/nbd.sock";
}

Json rpc_result(const Json& id, Json result) {
  return Json{{"jsonrpc", "2.0"}, {"id", id}, {"result", std::move(result)}};
}

Json rpc_error(const Json& id, int rpc_code, const Status& status) {
  Json failure{{"code", rpc_code}, {"message", status.message()}};
  failure["data"]["code"] = code_name(status.code());
  return Json{{"jsonrpc", "2.0"}, {"id", id}, {"error", std::move(failure)}};
}

Json rpc_progress(const Json& id, const Progress& progress) {
  Json params{{"id", id}, {"done", progress.done}, {"total", progress.total}};
  return Json{{"jsonrpc", "2.0"}, {"method", "progress"}, {"params", std::move(params)}};
}

Json rpc_answer(const Json& id, Result<Json> answer, Refusal refusal) {
  if (answer.ok()) return rpc_result(id, std::move(answer).value());
  switch (refusal) {
    case Refusal::kUnknownMethod:
      return rpc_error(id, kRpcMethodNotFound, answer.status());
    case Refusal::kBadParams:
      return rpc_error(id, kRpcInvalidParams, answer.status());
    case Refusal::kNone:
      break;
  }
  return rpc_error(id, kRpcFailed, answer.status());
}

Status status_of_rpc_error(const Json& error_member) {
  std::string message = "the daemon reported a failure without a message";
  Code code = Code::kIoError;
  if (error_member.is_object()) {
    if (const auto found = error_member.find("message");
        found != error_member.end() && found->is_string()) {
      message = *found->get_ptr<const std::string*>();
    }
    const Json word = error_member.value(Json::json_pointer("/data/code"), Json());
    if (word.is_string()) {
      const auto known = code_from_name(*word.get_ptr<const std::string*>());
      if (known && *known != Code::kOk) code = *known;
    }
  }
  return Status(code, std::move(message));
}

std::optional<Json> answer_line(Service& service, std::string_view line, const Waiting& client) {
  const Result<Json> message = parse_json(line);
  if (!message.ok()) return rpc_error(nullptr, kRpcParseError, message.status());
  Json id = nullptr;
  const Result<Request> request = read_request(*message, id);
  if (!request.ok()) return rpc_error(id, kRpcInvalidRequest, request.status());

  Caller caller;
  if (!request->notification) {
    caller.progress = [&](const Progress& now) { client.send(rpc_progress(id, now)); };
    caller.gone = client.gone;
  }
  Refusal refusal = Refusal::kNone;
  Result<Json> answer = service.call(request->method, request->params, caller, &refusal);
  if (request->notification) return std::nullopt;
  return rpc_answer(id, std::move(answer), refusal);
}

}  // namespace voltree
