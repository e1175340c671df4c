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

// What a server of volumes announces ("Transmission flags" in proto.md).
std::uint16_t transmission_flags(bool read_only, bool structured);

class Negotiation {
 public:
  // Takes the stream over into TLS; it is the old stream's owner who keeps both.
  struct Encrypted {
    Stream* stream = nullptr;
    std::string peer;  // access.h
  };
  using StartTls = std::function<Task<Result<Encrypted>>()>;

  // `start_tls` may be empty: this door has none. With `tls_required` nothing but STARTTLS is
  // answered before it. `peer` is who the client is as long as TLS has not told (access.h).
  Negotiation(Exports& exports, Stream& stream, StartTls start_tls, bool tls_required,
              std::string peer, std::function<void(const Export&, const std::string& peer)> opened)
      : exports_(exports),
        stream_(&stream),
        start_tls_(std::move(start_tls)),
        tls_required_(tls_required),
        peer_(std::move(peer)),
        opened_(std::move(opened)) {}

  // kCancelled: the client took its leave; kGone: it went without; others: it was sent away.
  Task<Result<Session>> run();
  // Where the session goes on.
  Stream& stream() { return *stream_; }

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
  std::uint16_t flags(bool read_only) const;

  Exports& exports_;
  Stream* stream_;
  const StartTls start_tls_;
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
