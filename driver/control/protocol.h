// The messages of the control socket: JSON-RPC 2.0, one message a line (docs/CONTROL.md).
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "blockstore/base/status.h"
#include "driver/control/json.h"
#include "driver/control/service.h"

namespace voltree {

inline constexpr std::size_t kRequestLineMaxBytes = std::size_t{1} << 20;
// Answers are ours and may be long (a list of every volume); the limit keeps a client from being
// filled without end.
inline constexpr std::size_t kAnswerLineMaxBytes = std::size_t{256} << 20;

inline constexpr int kRpcParseError = -32700;
inline constexpr int kRpcInvalidRequest = -32600;
inline constexpr int kRpcMethodNotFound = -32601;
inline constexpr int kRpcInvalidParams = -32602;
inline constexpr int kRpcFailed = -32000;  // error.data.code says what

// STORE/run/control.sock
std::string control_socket_path(const std::string& store_directory);
// STORE/run/nbd.sock: NBD for commands of the store's owner
std::string private_nbd_path(const std::string& store_directory);

Json rpc_result(const Json& id, Json result);
Json rpc_error(const Json& id, int rpc_code, const Status& status);
Json rpc_progress(const Json& id, const Progress& progress);

// What the service's answer looks like on the wire.
Json rpc_answer(const Json& id, Result<Json> answer, Refusal refusal);
// The Status that an "error" member holds.
Status status_of_rpc_error(const Json& error_member);

// The client of a connection, while a call runs.
struct Waiting {
  std::function<void(const Json&)> send;
  std::function<bool()> gone;
};
// Answers one line. Progress goes to the client while the call runs. nullopt: a notification,
// nothing to answer.
std::optional<Json> answer_line(Service& service, std::string_view line, const Waiting& client);

}  // namespace voltree
