// The handshake: from the greeting to the transmission phase ("Newstyle negotiation" in proto.md).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "blockstore/base/status.h"
#include "blockstore/runtime/task.h"
#include "driver/targets/nbd/exports.h"
#include "driver/targets/nbd/stream.h"
#include "driver/targets/nbd/tls.h"
#include "driver/targets/nbd/wire.h"

namespace voltree::nbd {

// What client and server have agreed on.
struct Session {
  Export exported;
  std::vector<Context> contexts;
  bool structured = false;  // replies in chunks
  bool extended = false;    // 64-bit headers; includes structured
  std::uint16_t flags = 0;  // transmission flags
};

class Negotiation {
 public:
  // `tls` may be null: this door has none. With `tls_required` nothing but STARTTLS is answered
  // before it. `peer` is who the client is as long as TLS has not told (access.h).
  Negotiation(Exports& exports, std::unique_ptr<Stream>& stream, SocketStream& socket,
              const TlsServer* tls, bool tls_required, std::string peer,
              std::function<void(const Export&, const std::string& peer)> opened)
      : exports_(exports),
        stream_(stream),
        socket_(socket),
        tls_(tls),
        tls_required_(tls_required),
        peer_(std::move(peer)),
        opened_(std::move(opened)) {}

  // kCancelled: the client took its leave; kGone: it went without; others: it was sent away.
  // STARTTLS replaces `stream`.
  Task<Result<Session>> run();

 private:
  struct Message {
    Option option = Option::kAbort;
    std::vector<std::byte> data;
  };

  Task<Status> greet();
  Task<Result<Message>> read_option();
  // False: the transmission phase begins.
  Task<Result<bool>> answer(const Message& message);
  Task<Status> answer_export_name(const Message& message);
  Task<Status> answer_list(const Message& message);
  Task<Result<bool>> answer_info(const Message& message);
  Task<Status> answer_meta_context(const Message& message);
  Task<Status> answer_start_tls(const Message& message);
  Task<Status> answer_structured_reply(const Message& message);
  Task<Status> answer_extended_headers(const Message& message);

  Task<Status> send(std::span<const std::byte> bytes);
  Task<Status> reply(Option option, OptionReply type, std::span<const std::byte> data = {});
  Task<Status> refuse(Option option, OptionReply type, std::string why);
  Task<Status> refuse(Option option, const Status& why);
  Task<Status> open_export(std::string name);
  std::uint16_t transmission_flags(bool read_only) const;

  Exports& exports_;
  std::unique_ptr<Stream>& stream_;
  SocketStream& socket_;
  const TlsServer* tls_;
  const bool tls_required_;
  std::string peer_;
  // Called when the client has an export, and before it hears of it.
  const std::function<void(const Export&, const std::string& peer)> opened_;
  bool encrypted_ = false;
  bool client_no_zeroes_ = false;
  std::string contexts_of_;  // the export that session_.contexts is about
  Session session_;
};

}  // namespace voltree::nbd
