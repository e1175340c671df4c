#include "driver/images/store_volume.h"

#include <chrono>
#include <random>
#include <thread>

namespace voltree {
namespace {

constexpr std::chrono::seconds kFreePatience{30};
constexpr std::chrono::milliseconds kFreePause{20};

Result<std::string> text_member(const Json& answer, const char* member) {
  const auto found = answer.find(member);
  if (found == answer.end() || !found->is_string()) {
    return error(Code::kIoError, "the daemon's answer has no {}", member);
  }
  return found->get<std::string>();
}

Result<std::uint64_t> number_member(const Json& answer, const char* member) {
  const auto found = answer.find(member);
  if (found == answer.end() || !found->is_number_unsigned()) {
    return error(Code::kIoError, "the daemon's answer has no {}", member);
  }
  return found->get<std::uint64_t>();
}

// NAME.import-XXXXXXXX; a long name loses its end.
std::string temporary_name(const std::string& name) {
  const std::string suffix = fmt::format(".import-{:08x}", std::random_device()());
  std::string start = name.substr(0, kNameMaxBytes - suffix.size());
  while (!check_name(start + suffix).ok() && !start.empty()) start.pop_back();  // half a character
  return start + suffix;
}

}  // namespace

Result<std::string> private_nbd(Client& client) {
  VT_ASSIGN_OR_RETURN(const Json answer, client.call("nbd.private", Json::object()));
  return text_member(answer, "socket");
}

Result<std::uint64_t> referenced_bytes(Client& client, const std::string& name) {
  VT_ASSIGN_OR_RETURN(const Json node,
                      client.call("volume.info", Json{{"name", name}, {"usage", true}}));
  return number_member(node.value("usage", Json::object()), "referenced_bytes");
}

Status wait_until_free(Client& client, const std::string& name) {
  const auto deadline = std::chrono::steady_clock::now() + kFreePatience;
  while (true) {
    VT_ASSIGN_OR_RETURN(const Json node, client.call("volume.info", Json{{"name", name}}));
    VT_ASSIGN_OR_RETURN(const std::uint64_t connections, number_member(node, "connections"));
    if (connections == 0) return {};
    if (std::chrono::steady_clock::now() >= deadline) {
      return error(Code::kBusy, "{} is in use over NBD", name);
    }
    std::this_thread::sleep_for(kFreePause);
  }
}

Result<UnfinishedVolume> UnfinishedVolume::create(Client& client, const std::string& final_name,
                                                  std::uint64_t size_bytes) {
  const Status taken = client.call("volume.info", Json{{"name", final_name}}).status();
  if (taken.ok())
    return error(Code::kExists, "there is a volume {} already", voltree::quoted(final_name));
  if (taken.code() != Code::kNotFound) return taken;
  const std::string name = temporary_name(final_name);
  VT_RETURN_IF_ERROR(
      client.call("volume.create", Json{{"name", name}, {"size_bytes", size_bytes}}).status());
  return UnfinishedVolume(client, name, final_name);
}

UnfinishedVolume::UnfinishedVolume(UnfinishedVolume&& other) noexcept
    : client_(other.client_),
      name_(std::exchange(other.name_, {})),
      final_name_(other.final_name_) {}

Status UnfinishedVolume::resize(std::uint64_t size_bytes) {
  const Json params{{"name", name_}, {"size_bytes", size_bytes}, {"shrink", true}};
  return client_.call("volume.resize", params).status();
}

Status UnfinishedVolume::publish() {
  VT_RETURN_IF_ERROR(
      client_.call("volume.rename", Json{{"from", name_}, {"to", final_name_}}).status());
  name_.clear();
  return {};
}

Status UnfinishedVolume::discard() {
  if (name_.empty()) return {};
  const std::string name = std::exchange(name_, {});
  const Status deleted =
      client_.call("volume.delete", Json{{"name", name}, {"force", true}}).status();
  if (deleted.ok()) return {};
  return deleted.with_context(fmt::format("{} stays behind, \"voltree delete\" it", name));
}

}  // namespace voltree
