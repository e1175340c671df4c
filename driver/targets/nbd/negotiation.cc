#include "driver/targets/nbd/negotiation.h"

#include <algorithm>

namespace voltree::nbd {
namespace {

// Names and queries fit many times over; what claims to be larger is not worth reading.
constexpr std::size_t kOptionDataMaxBytes = std::size_t{256} * 1024;
constexpr std::size_t kContextsMax = 64;
constexpr std::size_t kListPartBytes = std::size_t{64} * 1024;

OptionReply reply_of(const Status& status) {
  switch (status.code()) {
    case Code::kNotFound:
    case Code::kGone:
      return OptionReply::kErrUnknown;
    case Code::kTooLarge:
      return OptionReply::kErrTooBig;
    case Code::kCancelled:
      return OptionReply::kErrShutdown;
    case Code::kInvalid:
      return OptionReply::kErrInvalid;
    default:
      return OptionReply::kErrPolicy;
  }
}

}  // namespace

Task<Status> Negotiation::send(std::span<const std::byte> bytes) {
  iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
  co_return co_await stream_->write(std::span(&part, 1));
}

Task<Status> Negotiation::reply(Option option, OptionReply type, std::span<const std::byte> data) {
  Writer message;
  message.number(kOptionReplyMagic).number(option).number(type);
  message.number(static_cast<std::uint32_t>(data.size()));
  message.text({reinterpret_cast<const char*>(data.data()), data.size()});
  co_return co_await send(message.bytes());
}

Task<Status> Negotiation::refuse(Option option, OptionReply type, std::string why) {
  if (why.size() > kStringMaxBytes) why.resize(kStringMaxBytes);
  co_return co_await reply(option, type, std::as_bytes(std::span(why)));
}

Task<Status> Negotiation::refuse(Option option, const Status& why) {
  co_return co_await refuse(option, reply_of(why), std::string(why.message()));
}

// "Fixed newstyle negotiation": a client that does not know it is not spoken to.
Task<Status> Negotiation::greet() {
  Writer greeting;
  greeting.number(kGreetingMagic).number(kOptionMagic);
  greeting.number(static_cast<std::uint16_t>(kFixedNewstyle | kNoZeroes));
  VT_CO_RETURN_IF_ERROR(co_await send(greeting.bytes()));
  std::byte answer[4];
  VT_CO_RETURN_IF_ERROR(co_await stream_->read(answer));
  const auto flags = Reader(answer).number<std::uint32_t>();
  if ((flags & kFixedNewstyle) == 0 || (flags & ~std::uint32_t{kFixedNewstyle | kNoZeroes}) != 0) {
    co_return error(Code::kNotSupported, "the client asks for handshake flags {:#x}", flags);
  }
  client_no_zeroes_ = (flags & kNoZeroes) != 0;
  co_return Status();
}

Task<Result<Negotiation::Message>> Negotiation::read_option() {
  std::byte header[kOptionHeaderBytes];
  VT_CO_RETURN_IF_ERROR(co_await stream_->read(header));
  Reader fields(header);
  const auto magic = fields.number<std::uint64_t>();
  if (magic != kOptionMagic) co_return error(Code::kInvalid, "not an option: {:#x}", magic);
  Message message;
  message.option = static_cast<Option>(fields.number<std::uint32_t>());
  const auto length = fields.number<std::uint32_t>();
  if (length > kOptionDataMaxBytes) {
    co_return error(Code::kTooLarge, "an option with {} bytes", length);
  }
  message.data.resize(length);
  VT_CO_RETURN_IF_ERROR(co_await stream_->read(message.data));
  co_return message;
}

Task<Result<Session>> Negotiation::run() {
  VT_CO_RETURN_IF_ERROR(co_await greet());
  while (true) {
    VT_CO_ASSIGN_OR_RETURN(const Message message, co_await read_option());
    VT_CO_ASSIGN_OR_RETURN(const bool goes_on, co_await answer(message));
    if (!goes_on) co_return std::move(session_);
    // Options may come faster than they are answered: others have their turn.
    co_await ResumeOn{*Executor::current()};
  }
}

Task<Result<bool>> Negotiation::answer(const Message& message) {
  const Option option = message.option;
  if (option == Option::kAbort) {
    (void)co_await reply(option, OptionReply::kAck);
    co_return error(Code::kCancelled, "the client aborted");
  }
  if (tls_required_ && !encrypted_ && option != Option::kStartTls) {
    // "TLS support", FORCEDTLS: EXPORT_NAME has no way to answer an error.
    if (option == Option::kExportName) {
      co_return error(Code::kPermission, "the client asked for an export without TLS");
    }
    VT_CO_RETURN_IF_ERROR(
        co_await refuse(option, OptionReply::kErrTlsRequired, "this server speaks TLS only"));
    co_return true;
  }
  Status status;
  switch (option) {
    case Option::kExportName:
      VT_CO_RETURN_IF_ERROR(co_await answer_export_name(message));
      co_return false;
    case Option::kInfo:
    case Option::kGo:
      co_return co_await answer_info(message);
    case Option::kList:
      status = co_await answer_list(message);
      break;
    case Option::kStartTls:
      status = co_await answer_start_tls(message);
      break;
    case Option::kStructuredReply:
      status = co_await answer_structured_reply(message);
      break;
    case Option::kExtendedHeaders:
      status = co_await answer_extended_headers(message);
      break;
    case Option::kListMetaContext:
    case Option::kSetMetaContext:
      status = co_await answer_meta_context(message);
      break;
    default:
      status = co_await refuse(option, OptionReply::kErrUnsupported, "unknown option");
      break;
  }
  if (!status.ok()) co_return status;
  co_return true;
}

std::uint16_t transmission_flags(bool read_only, bool structured) {
  // A flush makes the whole volume durable, whatever connection or door it came through: that is
  // all that CAN_MULTI_CONN promises.
  unsigned flags = kHasFlags | kSendFlush | kCanMultiConn | kSendCache;
  if (read_only) {
    flags |= kReadOnly;
  } else {
    flags |= kSendFua | kSendTrim | kSendWriteZeroes | kSendFastZero;
  }
  if (structured) flags |= kSendDf;
  return static_cast<std::uint16_t>(flags);
}

std::uint16_t Negotiation::flags(bool read_only) const {
  unsigned flags = transmission_flags(read_only, session_.structured);
  if (session_.extended && !session_.contexts.empty()) flags |= kBlockStatusPayload;
  return static_cast<std::uint16_t>(flags);
}

Task<Status> Negotiation::open_export(std::string name) {
  if (contexts_of_ != name) session_.contexts.clear();
  VT_CO_ASSIGN_OR_RETURN(session_.exported, co_await exports_.open(std::move(name), peer_));
  session_.flags = flags(session_.exported.read_only);
  opened_(session_.exported, peer_);
  co_return Status();
}

// "NBD_OPT_EXPORT_NAME": there is no way to say no but to hang up.
Task<Status> Negotiation::answer_export_name(const Message& message) {
  if (session_.extended) co_return error(Code::kInvalid, "EXPORT_NAME after EXTENDED_HEADERS");
  if (message.data.size() > kStringMaxBytes) co_return error(Code::kTooLarge, "a long name");
  std::string name(reinterpret_cast<const char*>(message.data.data()), message.data.size());
  VT_CO_RETURN_IF_ERROR(co_await open_export(std::move(name)));
  Writer answer;
  answer.number(session_.exported.size_bytes).number(session_.flags);
  if (!client_no_zeroes_) answer.zeroes(kExportNameZeroes);
  co_return co_await send(answer.bytes());
}

Task<Status> Negotiation::answer_list(const Message& message) {
  if (!message.data.empty()) {
    co_return co_await refuse(message.option, OptionReply::kErrInvalid, "LIST takes no data");
  }
  const std::vector<std::string> names = co_await exports_.list(peer_);
  Writer part;
  for (const std::string& name : names) {
    part.number(kOptionReplyMagic).number(message.option).number(OptionReply::kServer);
    part.number(static_cast<std::uint32_t>(4 + name.size()));
    part.number(static_cast<std::uint32_t>(name.size())).text(name);
    if (part.size() < kListPartBytes) continue;
    VT_CO_RETURN_IF_ERROR(co_await send(part.bytes()));
    part = Writer();
  }
  if (part.size() != 0) VT_CO_RETURN_IF_ERROR(co_await send(part.bytes()));
  co_return co_await reply(message.option, OptionReply::kAck);
}

// "NBD_OPT_INFO and NBD_OPT_GO"
Task<Result<bool>> Negotiation::answer_info(const Message& message) {
  Reader fields(message.data);
  std::string name = fields.text();
  const auto count = fields.number<std::uint16_t>();
  std::vector<Info> wanted;
  for (std::size_t i = 0; i < count && fields.ok(); ++i) {
    wanted.push_back(static_cast<Info>(fields.number<std::uint16_t>()));
  }
  if (!fields.complete()) {
    VT_CO_RETURN_IF_ERROR(
        co_await refuse(message.option, OptionReply::kErrInvalid, "malformed request"));
    co_return true;
  }
  ExportInfo about;
  Status status;
  if (message.option == Option::kGo) {
    status = co_await open_export(name);
    if (status.ok()) {
      about = {session_.exported.node, session_.exported.read_only};
      about.node.size_bytes = session_.exported.size_bytes;
    }
  } else {
    Result<ExportInfo> found = co_await exports_.info(name, peer_);
    status = found.status();
    if (status.ok()) about = std::move(*found);
  }
  if (!status.ok()) {
    VT_CO_RETURN_IF_ERROR(co_await refuse(message.option, status));
    co_return true;
  }
  Writer size;
  size.number(Info::kExport).number(about.node.size_bytes);
  // The flags of INFO are those that GO would give.
  if (message.option == Option::kInfo && contexts_of_ != name) session_.contexts.clear();
  size.number(flags(about.read_only));
  VT_CO_RETURN_IF_ERROR(co_await reply(message.option, OptionReply::kInfo, size.bytes()));
  Writer blocks;
  blocks.number(Info::kBlockSize);
  blocks.number(kBlockMinBytes).number(kBlockPreferredBytes).number(kPayloadMaxBytes);
  VT_CO_RETURN_IF_ERROR(co_await reply(message.option, OptionReply::kInfo, blocks.bytes()));
  if (std::find(wanted.begin(), wanted.end(), Info::kName) != wanted.end()) {
    Writer canonical;
    canonical.number(Info::kName).text(name);
    VT_CO_RETURN_IF_ERROR(co_await reply(message.option, OptionReply::kInfo, canonical.bytes()));
  }
  VT_CO_RETURN_IF_ERROR(co_await reply(message.option, OptionReply::kAck));
  co_return message.option == Option::kInfo;
}

// "NBD_OPT_LIST_META_CONTEXT", "NBD_OPT_SET_META_CONTEXT"
Task<Status> Negotiation::answer_meta_context(const Message& message) {
  const bool listing = message.option == Option::kListMetaContext;
  if (!listing) {
    // "including when this command fails"
    session_.contexts.clear();
    contexts_of_.clear();
  }
  if (!session_.structured) {
    co_return co_await refuse(message.option, OptionReply::kErrInvalid,
                              "structured replies come first");
  }
  Reader fields(message.data);
  std::string name = fields.text();
  const auto count = fields.number<std::uint32_t>();
  std::vector<std::string> queries;
  // Each takes four bytes at least, so the data bounds the loop.
  for (std::size_t i = 0; i < count && fields.ok(); ++i) queries.push_back(fields.text());
  if (!fields.complete()) {
    co_return co_await refuse(message.option, OptionReply::kErrInvalid, "malformed request");
  }
  Result<std::vector<Context>> found =
      co_await exports_.contexts(name, peer_, std::move(queries), listing);
  Status status = found.status();
  if (status.ok() && !listing && found->size() > kContextsMax) {
    status = error(Code::kTooLarge, "at most {} contexts at a time", kContextsMax);
  }
  if (!status.ok()) co_return co_await refuse(message.option, status);
  for (const Context& context : *found) {
    Writer about;
    about.number(listing ? std::uint32_t{0} : context.id).text(context.name);
    VT_CO_RETURN_IF_ERROR(co_await reply(message.option, OptionReply::kMetaContext, about.bytes()));
  }
  if (!listing) {
    session_.contexts = std::move(*found);
    contexts_of_ = std::move(name);
  }
  co_return co_await reply(message.option, OptionReply::kAck);
}

// "NBD_OPT_STARTTLS"
Task<Status> Negotiation::answer_start_tls(const Message& message) {
  if (!message.data.empty() || encrypted_) {
    co_return co_await refuse(message.option, OptionReply::kErrInvalid,
                              encrypted_ ? "TLS has begun already" : "STARTTLS takes no data");
  }
  if (!start_tls_) {
    co_return co_await refuse(message.option, OptionReply::kErrPolicy, "there is no TLS here");
  }
  VT_CO_RETURN_IF_ERROR(co_await reply(message.option, OptionReply::kAck));
  // Whoever sends before our answer is not the client that asked for TLS: what it put there in
  // plain text must not be read as if it had come through TLS.
  if (stream_->holds_input()) {
    co_return error(Code::kPermission, "the client sent plain text behind STARTTLS");
  }
  VT_CO_ASSIGN_OR_RETURN(Encrypted encrypted, co_await start_tls_());
  stream_ = encrypted.stream;
  peer_ = std::move(encrypted.peer);
  encrypted_ = true;
  // "the server MUST NOT preserve any negotiation state"
  session_ = Session();
  contexts_of_.clear();
  co_return Status();
}

Task<Status> Negotiation::answer_structured_reply(const Message& message) {
  if (!message.data.empty()) {
    co_return co_await refuse(message.option, OptionReply::kErrInvalid,
                              "STRUCTURED_REPLY takes no data");
  }
  if (session_.extended) {
    co_return co_await refuse(message.option, OptionReply::kErrExtendedHeadersRequired,
                              "extended headers are on");
  }
  session_.structured = true;
  co_return co_await reply(message.option, OptionReply::kAck);
}

// "NBD_OPT_EXTENDED_HEADERS", in the branch extension-ext-header of proto.md.
Task<Status> Negotiation::answer_extended_headers(const Message& message) {
  if (!message.data.empty()) {
    co_return co_await refuse(message.option, OptionReply::kErrInvalid,
                              "EXTENDED_HEADERS takes no data");
  }
  session_.structured = true;
  session_.extended = true;
  co_return co_await reply(message.option, OptionReply::kAck);
}

}  // namespace voltree::nbd
