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

constexpr std::string_view kImport = ".import-", kExport = ".export-";
constexpr std::size_t kDigits = 8;

// NAME.import-XXXXXXXX without the Xs; a long name loses its end.
std::string temporary_start(const std::string& name, std::string_view infix) {
  std::string start = name.substr(0, kNameMaxBytes - infix.size() - kDigits);
  while (!check_name(start).ok() && !start.empty()) start.pop_back();  // half a character
  return start.append(infix);
}

std::string temporary_name(const std::string& name, std::string_view infix) {
  return fmt::format("{}{:08x}", temporary_start(name, infix), std::random_device()());
}

bool is_temporary(const std::string& name, const std::string& of) {
  for (const std::string_view infix : {kImport, kExport}) {
    const std::string start = temporary_start(of, infix);
    if (!name.starts_with(start) || name.size() != start.size() + kDigits) continue;
    return name.find_first_not_of("0123456789abcdef", start.size()) == std::string::npos;
  }
  return false;
}

}  // namespace

Result<std::string> private_nbd(Client& client) {
  VT_ASSIGN_OR_RETURN(const Json answer, client.call("nbd.private", Json::object()));
  return text_member(answer, "socket");
}

Result<std::uint64_t> referenced_bytes(Client& client, const std::string& name) {
  VT_ASSIGN_OR_RETURN(const Json node,
                      client.call("volume.info", Json{{"name", name}, {"usage", true}}));
  const auto usage = node.find("usage");
  return number_member(usage == node.end() ? Json() : *usage, "referenced_bytes");
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

Status remove_leftovers(Client& client, const std::string& name) {
  VT_ASSIGN_OR_RETURN(const Json list, client.call("volume.list", Json::object()));
  const auto nodes = list.find("nodes");
  if (nodes == list.end() || !nodes->is_array()) {
    return error(Code::kIoError, "the daemon's answer has no nodes");
  }
  for (const Json& node : *nodes) {
    VT_ASSIGN_OR_RETURN(const std::string found, text_member(node, "name"));
    if (!is_temporary(found, name)) continue;
    Status gone = client.call("volume.delete", Json{{"name", found}}).status();
    if (gone.ok() || gone.code() == Code::kBusy || gone.code() == Code::kNotFound) continue;
    return gone;
  }
  return {};
}

Result<UnfinishedVolume> UnfinishedVolume::create(Client& client, const std::string& final_name,
                                                  std::uint64_t size_bytes, Purpose purpose,
                                                  const std::string& erase_policy) {
  const Status there = client.call("volume.info", Json{{"name", final_name}}).status();
  if (purpose == Purpose::kNew && there.ok()) {
    return error(Code::kExists, "there is a volume {} already", voltree::quoted(final_name));
  }
  const bool fine = purpose == Purpose::kNew ? there.code() == Code::kNotFound : there.ok();
  if (!fine) return there;
  const std::string name = temporary_name(final_name, kImport);
  Json params{{"name", name}, {"size_bytes", size_bytes}};
  if (!erase_policy.empty()) params["erase_policy"] = erase_policy;
  VT_RETURN_IF_ERROR(client.call("volume.create", std::move(params)).status());
  return UnfinishedVolume(client, name, final_name, purpose);
}

Result<UnfinishedVolume> UnfinishedVolume::clone(Client& client, const std::string& source) {
  const std::string name = temporary_name(source, kExport);
  VT_RETURN_IF_ERROR(
      client.call("volume.clone", Json{{"source", source}, {"name", name}}).status());
  return UnfinishedVolume(client, name, source, Purpose::kReplace);
}

UnfinishedVolume::UnfinishedVolume(UnfinishedVolume&& other) noexcept
    : client_(other.client_),
      name_(std::exchange(other.name_, {})),
      final_name_(other.final_name_),
      purpose_(other.purpose_) {}

Status UnfinishedVolume::resize(std::uint64_t size_bytes) {
  const Json params{{"name", name_}, {"size_bytes", size_bytes}, {"shrink", true}};
  return client_.call("volume.resize", params).status();
}

Status UnfinishedVolume::publish(const std::string& erase_policy) {
  if (purpose_ == Purpose::kNew) {
    VT_RETURN_IF_ERROR(
        client_.call("volume.rename", Json{{"from", name_}, {"to", final_name_}}).status());
  } else {
    Json params{{"volume", final_name_}, {"source", name_}};
    if (!erase_policy.empty()) params["erase_policy"] = erase_policy;
    VT_RETURN_IF_ERROR(client_.call("volume.replace", std::move(params)).status());
  }
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
