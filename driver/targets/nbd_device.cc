#include "driver/targets/nbd_device.h"

#include <linux/nbd-netlink.h>
#include <linux/nbd.h>
#include <netlink/genl/ctrl.h>
#include <netlink/genl/genl.h>
#include <netlink/netlink.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <memory>
#include <thread>

#include "driver/targets/kernel_device.h"

namespace voltree::nbd_device {
namespace {

constexpr std::string_view kPrefix = "/dev/nbd";
constexpr int kReleaseTries = 20;
constexpr std::chrono::milliseconds kReleasePause{100};

struct SocketDeleter {
  void operator()(nl_sock* socket) const { nl_socket_free(socket); }
};
struct MessageDeleter {
  void operator()(nl_msg* message) const { nlmsg_free(message); }
};

Status no_client() {
  return error(Code::kNotSupported,
               "the kernel has no NBD client: modprobe nbd, if it has the module; without it, a "
               "loop device (voltree attach) or a client of its own (voltree nbd prints the URI, "
               "for QEMU, nbdfuse, nbdcopy) does the same");
}

// Where the kernel's answer goes.
struct Answer {
  std::optional<std::uint32_t> number;
};

int take_answer(nl_msg* message, void* argument) {
  nlattr* found = nlmsg_find_attr(nlmsg_hdr(message), GENL_HDRLEN, NBD_ATTR_INDEX);
  if (found != nullptr) static_cast<Answer*>(argument)->number = nla_get_u32(found);
  return NL_OK;
}

// One request and its answer.
class Request {
 public:
  explicit Request(std::uint8_t command) : socket_(nl_socket_alloc()), message_(nlmsg_alloc()) {
    if (socket_ == nullptr || message_ == nullptr) return;
    failed_ = genl_connect(socket_.get());
    if (failed_ < 0) return;
    family_ = genl_ctrl_resolve(socket_.get(), NBD_GENL_FAMILY_NAME);
    if (family_ < 0) return;
    genlmsg_put(message_.get(), NL_AUTO_PORT, NL_AUTO_SEQ, family_, 0, 0, command,
                NBD_GENL_VERSION);
  }

  Request& u32(int attribute, std::uint32_t value) {
    if (ready()) note(nla_put_u32(message_.get(), attribute, value));
    return *this;
  }
  Request& u64(int attribute, std::uint64_t value) {
    if (ready()) note(nla_put_u64(message_.get(), attribute, value));
    return *this;
  }
  Request& text(int attribute, const std::string& value) {
    if (ready()) note(nla_put_string(message_.get(), attribute, value.c_str()));
    return *this;
  }
  Request& socket(int fd) {
    if (!ready()) return *this;
    nlattr* list = nla_nest_start(message_.get(), NBD_ATTR_SOCKETS);
    nlattr* item = list ? nla_nest_start(message_.get(), NBD_SOCK_ITEM) : nullptr;
    if (item == nullptr) {
      note(-NLE_NOMEM);
      return *this;
    }
    note(nla_put_u32(message_.get(), NBD_SOCK_FD, static_cast<std::uint32_t>(fd)));
    nla_nest_end(message_.get(), item);
    nla_nest_end(message_.get(), list);
    return *this;
  }

  // `what`: for the message of an error.
  Result<Answer> send(const std::string& what) {
    if (socket_ == nullptr || message_ == nullptr)
      return error(Code::kIoError, "{}: out of memory", what);
    if (failed_ >= 0 && family_ < 0) return no_client();
    Answer answer;
    nl_socket_modify_cb(socket_.get(), NL_CB_VALID, NL_CB_CUSTOM, take_answer, &answer);
    if (failed_ >= 0) failed_ = nl_send_auto(socket_.get(), message_.get());
    // The data, when there is any, and then the acknowledgement.
    if (failed_ >= 0) failed_ = nl_wait_for_ack(socket_.get());
    if (failed_ >= 0) return answer;
    const int code = -failed_;
    if (code == NLE_PERM || code == NLE_NOACCESS) {
      return error(Code::kPermission, "{}: NBD devices need root: run the daemon as root", what);
    }
    if (code == NLE_BUSY) return error(Code::kBusy, "{}: it is in use by another", what);
    return error(Code::kIoError, "{}: {}", what, nl_geterror(failed_));
  }

 private:
  bool ready() const { return failed_ >= 0 && family_ >= 0 && message_ != nullptr; }
  void note(int result) {
    if (result < 0 && failed_ >= 0) failed_ = result;
  }

  std::unique_ptr<nl_sock, SocketDeleter> socket_;
  std::unique_ptr<nl_msg, MessageDeleter> message_;
  int failed_ = 0;  // the first failure, as libnl counts them
  int family_ = -1;
};

std::string folder_of(const std::string& device) {
  return "/sys/block/" + device.substr(device.rfind('/') + 1);
}

Result<std::uint32_t> number_of(const std::string& device) {
  const int number = device_number(device);
  if (number < 0) return error(Code::kInvalid, "{} is no NBD device", device);
  return static_cast<std::uint32_t>(number);
}

}  // namespace

int device_number(const std::string& device) { return kernel::device_number(kPrefix, device); }

Status check_supported() {
  if (::access("/sys/module/nbd", F_OK) != 0 && ::access("/sys/block/nbd0", F_OK) != 0) {
    return no_client();
  }
  if (::geteuid() != 0) {
    return error(Code::kPermission,
                 "NBD devices need root: run the daemon (voltree serve) as root");
  }
  return {};
}

Result<std::string> connect(const Config& config) {
  Request request(NBD_CMD_CONNECT);
  if (config.number) request.u32(NBD_ATTR_INDEX, *config.number);
  request.u64(NBD_ATTR_SIZE_BYTES, config.size_bytes)
      .u64(NBD_ATTR_BLOCK_SIZE_BYTES, config.sector_size_bytes)
      .u64(NBD_ATTR_SERVER_FLAGS, config.server_flags)
      // No time limit: the server is this host's daemon, and a slow answer is no reason to drop the
      // socket. With one socket and no limit the kernel sends what was under way on a dead socket
      // again over the new one.
      .u64(NBD_ATTR_TIMEOUT, 0)
      .u64(NBD_ATTR_DEAD_CONN_TIMEOUT, kDeadConnectionSeconds)
      .text(NBD_ATTR_BACKEND_IDENTIFIER, config.identifier)
      .socket(config.socket);
  VT_ASSIGN_OR_RETURN(const Answer answer, request.send("connecting an NBD device"));
  const std::optional<std::uint32_t> number = answer.number ? answer.number : config.number;
  if (!number)
    return error(Code::kIoError, "the kernel connected an NBD device, but did not say which");
  std::string device = fmt::format("{}{}", kPrefix, *number);
  kernel::make_nodes(device);
  return device;
}

Status reconnect(const std::string& device, int socket, const std::string& identifier) {
  VT_ASSIGN_OR_RETURN(const std::uint32_t number, number_of(device));
  return Request(NBD_CMD_RECONFIGURE)
      .u32(NBD_ATTR_INDEX, number)
      .text(NBD_ATTR_BACKEND_IDENTIFIER, identifier)
      .socket(socket)
      .send("connecting " + device + " again")
      .status();
}

Status set_size(const std::string& device, std::uint64_t size_bytes,
                const std::string& identifier) {
  VT_ASSIGN_OR_RETURN(const std::uint32_t number, number_of(device));
  return Request(NBD_CMD_RECONFIGURE)
      .u32(NBD_ATTR_INDEX, number)
      .u64(NBD_ATTR_SIZE_BYTES, size_bytes)
      .text(NBD_ATTR_BACKEND_IDENTIFIER, identifier)
      .send("telling " + device + " its new size")
      .status();
}

State state_of(const std::string& device) {
  State state;
  // "pid" is there while it is connected (Documentation/admin-guide/blockdev/nbd.rst and the
  // driver's pid_show).
  state.connected = ::access((folder_of(device) + "/pid").c_str(), F_OK) == 0;
  if (state.connected) state.identifier = kernel::read_line(folder_of(device) + "/backend");
  return state;
}

Status disconnect(const std::string& device) {
  VT_ASSIGN_OR_RETURN(const std::uint32_t number, number_of(device));
  VT_RETURN_IF_ERROR(kernel::wait_until_unused(device));
  const std::vector<std::string> partitions = kernel::partitions_of(device);
  VT_RETURN_IF_ERROR(kernel::write_back(device));
  VT_RETURN_IF_ERROR(Request(NBD_CMD_DISCONNECT)
                         .u32(NBD_ATTR_INDEX, number)
                         .send("disconnecting " + device)
                         .status());
  // The kernel lets go when the last one closes it.
  for (int i = 0; i < kReleaseTries; ++i) {
    if (!state_of(device).connected) {
      kernel::remove_nodes(partitions);
      return {};
    }
    std::this_thread::sleep_for(kReleasePause);
  }
  return kernel::busy(device, kernel::users_of(device));
}

}  // namespace voltree::nbd_device
