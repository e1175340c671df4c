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
    must(runtime.sync_wait(made->create_volume("disk", 1 << 20, std::nullopt)));
    must(runtime.sync_wait(made->snapshot("disk", "one")));
    return made;
  }

  Task<std::size_t> serve(std::span<const std::byte> bytes) {
    BytesStream stream(bytes);
    Share share(budget, 128 * 1024, std::size_t{32} << 20);
    Negotiation negotiation(exports, stream, {}, false, "unix",
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

std::vector<std::vector<std::byte>> seed_sessions() {
  std::vector<std::vector<std::byte>> sessions;
  const auto option = [](Writer& out, Option which, const Writer& data) {
    out.number(kOptionMagic).number(which).number(static_cast<std::uint32_t>(data.size()));
    out.text({reinterpret_cast<const char*>(data.bytes().data()), data.size()});
  };
  const auto name = [](std::string_view text) {
    Writer data;
    data.number(static_cast<std::uint32_t>(text.size())).text(text).number(std::uint16_t{1});
    data.number(Info::kName);
    return data;
  };
  const auto contexts = [](std::string_view text) {
    Writer data;
    data.number(static_cast<std::uint32_t>(text.size())).text(text).number(std::uint32_t{3});
    for (const std::string_view query :
         {"base:allocation", "voltree:layers", "qemu:dirty-bitmap:one"}) {
      data.number(static_cast<std::uint32_t>(query.size())).text(query);
    }
    return data;
  };
  enum Form { kSimple, kChunks, kExtended };
  for (const Form form : {kSimple, kChunks, kExtended}) {
    for (const std::string_view exported : {"disk", "disk@one"}) {
      Writer out;
      out.number(std::uint32_t{kFixedNewstyle | kNoZeroes});
      option(out, Option::kList, Writer());
      option(out, Option::kInfo, name(exported));
      if (form != kSimple) {
        option(out, form == kChunks ? Option::kStructuredReply : Option::kExtendedHeaders,
               Writer());
        option(out, Option::kListMetaContext, contexts(exported));
        option(out, Option::kSetMetaContext, contexts(exported));
      }
      option(out, Option::kGo, name(exported));
      for (std::uint16_t command = 0; command <= 8; ++command) {
        if (command == 2) continue;  // the goodbye
        for (const unsigned flags : {0U, 1U, 2U, 4U, 8U}) {
          const bool write = command == 1;
          out.number(form == kExtended ? kExtendedRequestMagic : kRequestMagic);
          out.number(static_cast<std::uint16_t>(flags | (write && form == kExtended ? 32 : 0)));
          out.number(command).number(std::uint64_t{command}).number(std::uint64_t{4000});
          if (form == kExtended) {
            out.number(std::uint64_t{600});
          } else {
            out.number(std::uint32_t{600});
          }
          if (write) out.text(std::string(600, 'w'));
        }
      }
      out.number(form == kExtended ? kExtendedRequestMagic : kRequestMagic);
      out.number(std::uint16_t{0}).number(std::uint16_t{2}).zeroes(form == kExtended ? 24 : 20);
      sessions.push_back(out.take());
    }
  }
  Writer old;
  old.number(std::uint32_t{kFixedNewstyle});
  Writer plain;
  plain.text("disk");
  option(old, Option::kStartTls, Writer());
  option(old, Option::kExportName, plain);
  sessions.push_back(old.take());
  return sessions;
}

}  // namespace voltree::nbd
