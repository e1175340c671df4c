#include "driver/store_move.h"

#include "driver/images/disk_copy.h"
#include "driver/images/file_share.h"
#include "driver/store_driver_impl.h"

namespace voltree {

Result<std::unique_ptr<PeerStore>> PeerStore::connect(const std::string& control_socket) {
  return connect_to_host({}, {}, control_socket);
}

Result<std::unique_ptr<PeerStore>> PeerStore::connect_to_host(const std::string& ssh_config,
                                                              const std::string& host,
                                                              const std::string& control_socket) {
  std::unique_ptr<PeerStore> peer(new PeerStore(ssh_config, host));
  const Status opened = peer->open(control_socket);
  if (!opened.ok()) return peer->explain(opened);
  return peer;
}

Status PeerStore::open(const std::string& control_socket) {
  VT_ASSIGN_OR_RETURN(const int fd, dial(control_socket));
  client_ = SocketClient::over(fd);
  VT_ASSIGN_OR_RETURN(const Json pool, client_->call("pool.stats", Json::object(), {}));
  uuid_ = text_in(pool, "uuid");
  VT_ASSIGN_OR_RETURN(nbd_socket_, private_nbd(*client_));
  return {};
}

Result<int> PeerStore::dial(const std::string& socket_path) {
  if (host_.empty()) return connect_unix(socket_path);
  VT_ASSIGN_OR_RETURN(std::unique_ptr<SshStream> stream,
                      SshStream::open(ssh_config_, host_, socket_path));
  streams_.push_back(std::move(stream));
  return streams_.back()->take_fd();
}

Result<std::unique_ptr<NbdDisk>> PeerStore::disk(const std::string& name) {
  VT_ASSIGN_OR_RETURN(const int fd, dial(nbd_socket_));
  return NbdDisk::connect(fd, name);
}

Status PeerStore::explain(const Status& failure) const {
  for (const auto& stream : streams_) {
    const std::string complaint = stream->complaint();
    if (!complaint.empty()) {
      return Status(failure.code(),
                    fmt::format("{} (ssh to {} says: {})", failure.message(), host_, complaint));
    }
  }
  return host_.empty() ? failure : failure.with_context("the store on " + host_);
}

Status StoreMove::run() {
  Client& there = there_.client();
  VT_ASSIGN_OR_RETURN(from_socket_, private_nbd(here_));
  VT_RETURN_IF_ERROR(remove_leftovers(here_, name_));
  VT_RETURN_IF_ERROR(remove_leftovers(there, name_));
  VT_ASSIGN_OR_RETURN(UnfinishedVolume copy, UnfinishedVolume::clone(here_, name_));
  const Status known = there.call("volume.info", Json{{"name", name_}}).status();
  Status status = known;
  if (known.ok()) status = compare(copy.name(), name_, progress_);
  if (known.code() == Code::kNotFound) status = send(copy.name());
  if (status.ok()) status = check_unchanged(copy.name());
  if (status.ok() && made_) status = made_->publish();
  const Status discarded = copy.discard();
  return status.ok() ? discarded : status;
}

Status StoreMove::send(const std::string& copy) {
  VT_ASSIGN_OR_RETURN(const std::unique_ptr<NbdDisk> from, NbdDisk::connect(from_socket_, copy));
  VT_ASSIGN_OR_RETURN(const Json here, here_.call("volume.info", Json{{"name", name_}}));
  VT_ASSIGN_OR_RETURN(UnfinishedVolume made,
                      UnfinishedVolume::create(there_.client(), name_, from->size_bytes(),
                                               Purpose::kNew, text_in(here, "erase_policy")));
  made_.emplace(std::move(made));
  VT_RETURN_IF_ERROR(send_settings(here, made_->name()));
  VT_ASSIGN_OR_RETURN(const bool shared, share(copy, from->size_bytes()));
  {
    VT_ASSIGN_OR_RETURN(const std::unique_ptr<NbdDisk> to, there_.disk(made_->name()));
    if (!shared) VT_RETURN_IF_ERROR(copy_disk(*from, *to, half(0)));
    VT_RETURN_IF_ERROR(to->flush());
  }
  VT_RETURN_IF_ERROR(compare(copy, made_->name(), half(1)));
  return wait_until_free(there_.client(), made_->name());
}

// Two stores on one file system of this host, which can share blocks. Compared it is all the same:
// what is shared may be damaged.
Result<bool> StoreMove::share(const std::string& copy, std::uint64_t size_bytes) {
  if (!there_.on_this_host()) return false;
  return share_volume(here_, copy, there_.client(), made_->name(), size_bytes,
                      [&, sink = half(0)](std::uint64_t done) {
                        sink({done, size_bytes});
                      });
}

Status StoreMove::compare(const std::string& copy, const std::string& other,
                          const ProgressSink& progress) {
  VT_ASSIGN_OR_RETURN(const std::unique_ptr<NbdDisk> from, NbdDisk::connect(from_socket_, copy));
  VT_ASSIGN_OR_RETURN(const std::unique_ptr<NbdDisk> to, there_.disk(other));
  return compare_disks(*from, *to, progress).with_context("the volume in the other store");
}

// What the volume has beside its erase policy, which a volume is made with.
Status StoreMove::send_settings(const Json& here, const std::string& to) {
  Client& there = there_.client();
  Json limits = here.value("limits", Json::object());
  if (!limits.empty()) {
    limits["name"] = to;
    VT_RETURN_IF_ERROR(there.call("qos.set", std::move(limits)).status());
  }
  Json notes = here.value("notes", Json::object());
  if (!notes.empty()) {
    const Json params{{"name", to}, {"notes", std::move(notes)}};
    VT_RETURN_IF_ERROR(there.call("volume.set_notes", params).status());
  }
  const Json reserve = here.value("reserve_bytes", Json(0));
  if (reserve == Json(0)) return {};
  return there.call("volume.reserve", Json{{"name", to}, {"bytes", reserve}}).status();
}

// What was written since the copy was taken would be lost.
Status StoreMove::check_unchanged(const std::string& copy) {
  VT_ASSIGN_OR_RETURN(const Json diff, here_.call("volume.diff", Json{{"a", copy}, {"b", name_}}));
  if (diff.value("range_count", Json()) == Json(0)) return {};
  return error(Code::kBusy, "{} was written to while it was copied", name_);
}

// Copying and comparing are half of the work each.
ProgressSink StoreMove::half(std::uint64_t which) const {
  return [this, which](const Progress& now) {
    if (progress_) progress_({(now.done + which * now.total) / 2, now.total});
  };
}

}  // namespace voltree
