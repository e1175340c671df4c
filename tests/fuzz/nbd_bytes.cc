#include "tests/fuzz/nbd_bytes.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include "blockstore/runtime/sim_runtime.h"
#include "blockstore/store.h"
#include "driver/targets/nbd/negotiation.h"
#include "driver/targets/nbd/transmission.h"
#include "tests/fuzz/target.h"

namespace voltree::nbd {
namespace {

class BytesStream final : public Stream {
 public:
  explicit BytesStream(std::span<const std::byte> input) : input_(input) {}
  Task<Status> read(std::span<std::byte> out) override {
    if (out.size() > input_.size()) {
      input_ = {};
      co_return error(Code::kGone, "the client closed the connection");
    }
    if (!out.empty()) std::memcpy(out.data(), input_.data(), out.size());
    input_ = input_.subspan(out.size());
    co_return Status();
  }
  Task<Status> write(std::span<iovec> parts) override {
    for (const iovec& part : parts) sent_ += part.iov_len;
    co_return Status();
  }
  bool holds_input() const override { return !input_.empty(); }
  void expect_much() override {}
  Task<void> close() override { co_return; }
  void shut_down() override { input_ = {}; }
  std::size_t sent() const { return sent_; }

 private:
  std::span<const std::byte> input_;
  std::size_t sent_ = 0;
};

void must(const Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  std::abort();
}

struct Server {
  SimWorld world;
  SimRuntime runtime;
  std::unique_ptr<Store> store;
  Exports exports;
  Budget budget{std::size_t{64} << 20};
  std::atomic<bool> stopping{false};

  Server() : runtime(world, SimOptions{}), store(make()), exports(*store, AccessRules()) {}

  std::unique_ptr<Store> make() {
    must(Store::create(runtime, "/store", {}));
    auto opened = runtime.sync_wait(Store::open(runtime, "/store", {.background_work = false}));
    must(opened.status());
    std::unique_ptr<Store> made = std::move(*opened);
    // Small, so that an execution is quick: what is long is for the tests of the transmission.
    must(runtime.sync_wait(made->create_volume("disk", 32 << 10, std::nullopt)));
    must(runtime.sync_wait(made->snapshot("disk", "one")));
    return made;
  }

  Task<std::size_t> serve(std::span<const std::byte> bytes) {
    BytesStream stream(bytes);
    Share share(budget, 128 * 1024, std::size_t{32} << 20);
    // The bytes after STARTTLS stand for what TLS would have decrypted.
    Negotiation::StartTls start_tls = [&stream]() -> Task<Result<Negotiation::Encrypted>> {
      co_return Negotiation::Encrypted{&stream, "cert:client"};
    };
    Negotiation negotiation(exports, stream, std::move(start_tls), false, "unix",
                            [](const Export&, const std::string&) {});
    Result<Session> session = co_await negotiation.run();
    if (!session.ok()) co_return stream.sent();
    Transmission transmission(*store, stream, std::move(*session), share, nullptr, stopping);
    (void)co_await transmission.run();
    co_return stream.sent();
  }
};

}  // namespace

std::size_t serve_bytes(std::span<const std::byte> bytes) {
  static auto* server = new Server;  // until the process ends
  return server->runtime.sync_wait(server->serve(bytes));
}

namespace {

enum class Form : std::uint8_t { kSimple, kChunks, kExtended };

// A client that writes down what it would send.
class Script {
 public:
  explicit Script(Form form) : form_(form) {
    out_.number(std::uint32_t{kFixedNewstyle | kNoZeroes});
  }

  Script& option(Option which, const Writer& data = {}) {
    out_.number(kOptionMagic).number(which).number(static_cast<std::uint32_t>(data.size()));
    out_.text({reinterpret_cast<const char*>(data.bytes().data()), data.size()});
    return *this;
  }
  Script& form() {
    if (form_ == Form::kSimple) return *this;
    return option(form_ == Form::kChunks ? Option::kStructuredReply : Option::kExtendedHeaders);
  }
  Script& contexts(Option which, std::string_view exported) {
    Writer data;
    data.number(static_cast<std::uint32_t>(exported.size())).text(exported);
    data.number(std::uint32_t{3});
    for (const std::string_view query :
         {"base:allocation", "voltree:layers", "qemu:dirty-bitmap:one"}) {
      data.number(static_cast<std::uint32_t>(query.size())).text(query);
    }
    return option(which, data);
  }
  Script& open(Option which, std::string_view exported) {
    Writer data;
    data.number(static_cast<std::uint32_t>(exported.size())).text(exported);
    data.number(std::uint16_t{1}).number(Info::kName);
    return option(which, data);
  }
  Script& request(int command, unsigned flags, std::uint64_t offset_bytes,
                  std::uint32_t length_bytes) {
    const bool extended = form_ == Form::kExtended;
    const bool write = command == 1;
    out_.number(extended ? kExtendedRequestMagic : kRequestMagic);
    out_.number(static_cast<std::uint16_t>(flags | (write && extended ? 32 : 0)));
    out_.number(static_cast<std::uint16_t>(command))
        .number(static_cast<std::uint64_t>(command))
        .number(offset_bytes);
    if (extended) {
      out_.number(std::uint64_t{length_bytes});
    } else {
      out_.number(length_bytes);
    }
    if (write) out_.text(std::string(length_bytes, 'w'));
    return *this;
  }
  std::vector<std::byte> end() {
    request(2, 0, 0, 0);
    return out_.take();
  }

 private:
  Form form_;
  Writer out_;
};

}  // namespace

std::vector<std::vector<std::byte>> seed_sessions() {
  std::vector<std::vector<std::byte>> sessions;
  for (const Form form : {Form::kSimple, Form::kChunks, Form::kExtended}) {
    // One request in each: short sessions are quick to run and easy to read when they break it.
    for (const int command : {0, 1, 3, 4, 5, 6, 7, 8}) {
      for (const unsigned flags : {0U, 1U, 2U, 4U, 8U, 16U}) {
        Script script(form);
        script.form();
        if (command == 7) script.contexts(Option::kSetMetaContext, "disk");
        sessions.push_back(
            script.open(Option::kGo, "disk").request(command, flags, 4000, 200).end());
      }
    }
    // Every option, every command, one after the other.
    for (const std::string_view exported : {"disk", "disk@one"}) {
      Script script(form);
      script.option(Option::kList).open(Option::kInfo, exported).form();
      script.contexts(Option::kListMetaContext, exported);
      script.contexts(Option::kSetMetaContext, exported);
      script.open(Option::kGo, exported);
      for (const int command : {1, 0, 6, 4, 7, 3, 5, 0, 8}) {
        script.request(command, 0, static_cast<std::uint64_t>(command), 600);
      }
      sessions.push_back(script.end());
    }
  }
  Script secret(Form::kChunks);
  secret.form().contexts(Option::kSetMetaContext, "disk").option(Option::kStartTls).form();
  sessions.push_back(secret.open(Option::kGo, "disk").request(0, 0, 0, 512).end());
  Writer plain;
  plain.text("disk");
  sessions.push_back(Script(Form::kSimple)
                         .option(Option::kExportName, plain)
                         .request(1, 1, 512, 512)
                         .request(0, 0, 0, 1024)
                         .end());
  sessions.push_back(Script(Form::kSimple).option(Option::kAbort).end());
  return sessions;
}

}  // namespace voltree::nbd

namespace voltree::fuzz {

const Target kNbd{[](std::span<const std::byte> bytes) { (void)nbd::serve_bytes(bytes); },
                  nbd::seed_sessions};

}  // namespace voltree::fuzz
