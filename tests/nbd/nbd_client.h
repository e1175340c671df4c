// A client that says exactly what a test wants said, right or wrong, over a blocking socket.
#pragma once

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "driver/targets/nbd/wire.h"

namespace voltree::nbd {

using Blob = std::vector<std::byte>;

inline Blob blob_of(std::string_view text) {
  const auto* begin = reinterpret_cast<const std::byte*>(text.data());
  return Blob(begin, begin + text.size());
}

struct OptionAnswer {
  Option option{};
  OptionReply type{};
  Blob data;
  std::string text() const { return {reinterpret_cast<const char*>(data.data()), data.size()}; }
};

// A reply, or one chunk of it.
struct Reply {
  bool simple = false;
  bool done = true;
  Chunk type = Chunk::kNone;
  std::uint64_t cookie = 0;
  WireError error = WireError::kNone;
  Blob data;
};

// A run of BLOCK_STATUS.
using StatusRun = std::pair<std::uint64_t, std::uint64_t>;  // length, flags

class TestClient {
 public:
  explicit TestClient(const std::string& path) {
    fd_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
    connected_ = ::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  }
  // In the transmission phase already: as the kernel is.
  explicit TestClient(int fd) : fd_(fd), connected_(true) {}
  ~TestClient() { close(); }
  TestClient(const TestClient&) = delete;
  TestClient& operator=(const TestClient&) = delete;
  void close() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }
  bool connected() const { return connected_; }
  int fd() const { return fd_; }

  // --- Bytes. False: the server has closed the connection.
  bool send(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return false;
      bytes = bytes.subspan(static_cast<std::size_t>(sent));
    }
    return true;
  }
  bool send(const Writer& writer) { return send(writer.bytes()); }
  bool receive(std::span<std::byte> out) {
    while (!out.empty()) {
      const ssize_t got = ::recv(fd_, out.data(), out.size(), 0);
      if (got <= 0) return false;
      out = out.subspan(static_cast<std::size_t>(got));
    }
    return true;
  }
  std::optional<Blob> receive(std::size_t count) {
    Blob bytes(count);
    if (!receive(std::span(bytes))) return std::nullopt;
    return bytes;
  }
  // The server has hung up, and sent nothing more.
  bool closed() {
    std::byte one;
    return !receive(std::span(&one, 1));
  }

  // --- The handshake.
  bool greet(std::uint32_t flags = kFixedNewstyle | kNoZeroes) {
    const auto greeting = receive(18);
    if (!greeting) return false;
    Reader fields(*greeting);
    EXPECT_EQ(fields.number<std::uint64_t>(), kGreetingMagic);
    EXPECT_EQ(fields.number<std::uint64_t>(), kOptionMagic);
    EXPECT_EQ(fields.number<std::uint16_t>(), kFixedNewstyle | kNoZeroes);
    return send(Writer().number(flags));
  }
  bool send_option(Option option, std::span<const std::byte> data = {}) {
    Writer message;
    message.number(kOptionMagic).number(option).number(static_cast<std::uint32_t>(data.size()));
    message.text({reinterpret_cast<const char*>(data.data()), data.size()});
    return send(message);
  }
  std::optional<OptionAnswer> option_answer() {
    const auto header = receive(20);
    if (!header) return std::nullopt;
    Reader fields(*header);
    EXPECT_EQ(fields.number<std::uint64_t>(), kOptionReplyMagic);
    OptionAnswer answer;
    answer.option = static_cast<Option>(fields.number<std::uint32_t>());
    answer.type = static_cast<OptionReply>(fields.number<std::uint32_t>());
    const auto data = receive(fields.number<std::uint32_t>());
    if (!data) return std::nullopt;
    answer.data = *data;
    return answer;
  }
  // All answers to an option, the last being an ACK or an error. Empty: hung up.
  std::vector<OptionAnswer> ask(Option option, std::span<const std::byte> data = {}) {
    std::vector<OptionAnswer> all;
    if (!send_option(option, data)) return all;
    while (const auto answer = option_answer()) {
      EXPECT_EQ(answer->option, option);
      all.push_back(*answer);
      const bool error = (static_cast<std::uint32_t>(answer->type) >> 31) != 0;
      if (error || answer->type == OptionReply::kAck) return all;
    }
    return {};
  }
  OptionReply outcome(Option option, std::span<const std::byte> data = {}) {
    const auto all = ask(option, data);
    return all.empty() ? OptionReply{} : all.back().type;
  }
  static Blob name_request(std::string_view name, std::vector<Info> infos = {}) {
    Writer data;
    data.number(static_cast<std::uint32_t>(name.size())).text(name);
    data.number(static_cast<std::uint16_t>(infos.size()));
    for (const Info info : infos) data.number(info);
    return data.take();
  }
  static Blob context_request(std::string_view name, const std::vector<std::string>& queries) {
    Writer data;
    data.number(static_cast<std::uint32_t>(name.size())).text(name);
    data.number(static_cast<std::uint32_t>(queries.size()));
    for (const std::string& query : queries) {
      data.number(static_cast<std::uint32_t>(query.size())).text(query);
    }
    return data.take();
  }

  enum class Form { kSimple, kStructured, kExtended };
  // From the greeting to the transmission phase; contexts() knows the ids after it.
  bool go(const std::string& name, Form form = Form::kSimple,
          const std::vector<std::string>& queries = {}) {
    if (!greet()) return false;
    form_ = form;
    if (form == Form::kStructured && outcome(Option::kStructuredReply) != OptionReply::kAck) {
      return false;
    }
    if (form == Form::kExtended && outcome(Option::kExtendedHeaders) != OptionReply::kAck) {
      return false;
    }
    if (!queries.empty()) {
      for (const OptionAnswer& answer :
           ask(Option::kSetMetaContext, context_request(name, queries))) {
        if (answer.type != OptionReply::kMetaContext) continue;
        Reader fields(answer.data);
        const auto id = fields.number<std::uint32_t>();
        contexts_[answer.text().substr(4)] = id;
      }
    }
    const auto answers = ask(Option::kGo, name_request(name));
    if (answers.empty() || answers.back().type != OptionReply::kAck) return false;
    for (const OptionAnswer& answer : answers) {
      Reader fields(answer.data);
      if (answer.type != OptionReply::kInfo) continue;
      if (fields.number<std::uint16_t>() != 0) continue;
      size_bytes_ = fields.number<std::uint64_t>();
      flags_ = fields.number<std::uint16_t>();
    }
    return true;
  }
  std::uint64_t size_bytes() const { return size_bytes_; }
  std::uint16_t flags() const { return flags_; }
  const std::map<std::string, std::uint32_t>& contexts() const { return contexts_; }

  // --- Requests.
  bool request(Command command, std::uint64_t offset, std::uint64_t length, std::uint16_t flags = 0,
               std::uint64_t cookie = 1) {
    Writer header;
    const bool extended = form_ == Form::kExtended;
    if (extended && command == Command::kWrite) flags |= kPayloadLength;
    header.number(extended ? kExtendedRequestMagic : kRequestMagic).number(flags).number(command);
    header.number(cookie).number(offset);
    if (extended) {
      header.number(length);
    } else {
      header.number(static_cast<std::uint32_t>(length));
    }
    return send(header);
  }
  std::optional<Reply> reply(std::size_t read_bytes = 0) {
    const auto magic_bytes = receive(4);
    if (!magic_bytes) return std::nullopt;
    const auto magic = Reader(*magic_bytes).number<std::uint32_t>();
    Reply reply;
    if (magic == kSimpleReplyMagic) {
      EXPECT_NE(form_, Form::kExtended);
      const auto rest = receive(kSimpleReplyBytes - 4);
      if (!rest) return std::nullopt;
      Reader fields(*rest);
      reply.simple = true;
      reply.error = static_cast<WireError>(fields.number<std::uint32_t>());
      reply.cookie = fields.number<std::uint64_t>();
      if (reply.error == WireError::kNone && read_bytes != 0) {
        const auto data = receive(read_bytes);
        if (!data) return std::nullopt;
        reply.data = *data;
      }
      return reply;
    }
    const bool extended = form_ == Form::kExtended;
    EXPECT_EQ(magic, extended ? kExtendedReplyMagic : kStructuredReplyMagic);
    const auto rest = receive((extended ? kExtendedReplyBytes : kStructuredReplyBytes) - 4);
    if (!rest) return std::nullopt;
    Reader fields(*rest);
    reply.done = (fields.number<std::uint16_t>() & kReplyDone) != 0;
    reply.type = static_cast<Chunk>(fields.number<std::uint16_t>());
    reply.cookie = fields.number<std::uint64_t>();
    if (extended) fields.number<std::uint64_t>();
    const std::uint64_t length =
        extended ? fields.number<std::uint64_t>() : std::uint64_t{fields.number<std::uint32_t>()};
    const auto payload = receive(length);
    if (!payload) return std::nullopt;
    reply.data = *payload;
    if (reply.type == Chunk::kError) {
      reply.error = static_cast<WireError>(Reader(reply.data).number<std::uint32_t>());
    }
    return reply;
  }
  // One request, and how it went.
  WireError run(Command command, std::uint64_t offset = 0, std::uint64_t length = 0,
                std::uint16_t flags = 0) {
    if (!request(command, offset, length, flags)) return WireError::kShutdown;
    const auto answer = reply();
    EXPECT_TRUE(answer && answer->done);
    return answer ? answer->error : WireError::kShutdown;
  }
  WireError write(std::uint64_t offset, const Blob& data, std::uint16_t flags = 0) {
    if (!request(Command::kWrite, offset, data.size(), flags)) return WireError::kShutdown;
    if (!send(data)) return WireError::kShutdown;
    const auto answer = reply();
    return answer ? answer->error : WireError::kShutdown;
  }
  // The bytes, put together from whatever chunks they came in.
  std::pair<WireError, Blob> read(std::uint64_t offset, std::size_t length,
                                  std::uint16_t flags = 0) {
    if (!request(Command::kRead, offset, length, flags)) return {WireError::kShutdown, {}};
    Blob bytes(length);
    std::size_t covered = 0;
    chunks_ = 0;
    while (true) {
      const auto chunk = reply(length);
      if (!chunk) return {WireError::kShutdown, {}};
      ++chunks_;
      if (chunk->error != WireError::kNone) return {chunk->error, {}};
      if (chunk->simple) return {WireError::kNone, chunk->data};
      Reader fields(chunk->data);
      if (chunk->type == Chunk::kOffsetData) {
        const std::uint64_t at = fields.number<std::uint64_t>() - offset;
        EXPECT_LE(at + chunk->data.size() - 8, length);
        std::memcpy(bytes.data() + at, chunk->data.data() + 8, chunk->data.size() - 8);
        covered += chunk->data.size() - 8;
      } else if (chunk->type == Chunk::kOffsetHole) {
        fields.number<std::uint64_t>();
        covered += fields.number<std::uint32_t>();
      }
      if (chunk->done) break;
    }
    EXPECT_EQ(covered, length);
    return {WireError::kNone, bytes};
  }
  std::size_t chunks() const { return chunks_; }
  // By context name; empty when it failed.
  std::map<std::string, std::vector<StatusRun>> status(std::uint64_t offset, std::uint64_t length,
                                                       std::uint16_t flags = 0) {
    std::map<std::string, std::vector<StatusRun>> all;
    if (!request(Command::kBlockStatus, offset, length, flags)) return all;
    return status_answer();
  }
  std::map<std::string, std::vector<StatusRun>> status_answer() {
    std::map<std::string, std::vector<StatusRun>> all;
    while (const auto chunk = reply()) {
      last_error_ = chunk->error;
      if (chunk->error != WireError::kNone || chunk->simple) return {};
      Reader fields(chunk->data);
      const auto id = fields.number<std::uint32_t>();
      const bool extended = chunk->type == Chunk::kBlockStatusExtended;
      if (extended) fields.number<std::uint32_t>();
      std::vector<StatusRun> runs;
      while (fields.left() != 0) {
        const std::uint64_t run_length =
            extended ? fields.number<std::uint64_t>() : fields.number<std::uint32_t>();
        const std::uint64_t value =
            extended ? fields.number<std::uint64_t>() : fields.number<std::uint32_t>();
        runs.emplace_back(run_length, value);
      }
      for (const auto& [name, known] : contexts_) {
        if (known == id) all[name] = runs;
      }
      if (chunk->done) break;
    }
    return all;
  }
  WireError last_error() const { return last_error_; }

 private:
  int fd_ = -1;
  bool connected_ = false;
  Form form_ = Form::kSimple;
  std::uint64_t size_bytes_ = 0;
  std::uint16_t flags_ = 0;
  std::size_t chunks_ = 0;
  WireError last_error_ = WireError::kNone;
  std::map<std::string, std::uint32_t> contexts_;
};

}  // namespace voltree::nbd
