#include "driver/targets/nbd/tls.h"

#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <map>
#include <sstream>

#include "blockstore/runtime/sync.h"

namespace voltree::nbd {
namespace {

// TLS 1.2 and later, and keys that are no use to who records the traffic.
constexpr const char* kCertificatePriority = "SECURE128:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2";
constexpr const char* kPskPriority =
    "SECURE128:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2:+ECDHE-PSK:+DHE-PSK";
constexpr std::size_t kInputBytes = std::size_t{17} * 1024;  // one record, RFC 8446 section 5.2
constexpr std::size_t kOutputBytes = std::size_t{256} * 1024;
constexpr const char* kKeyFile = "/server-key.pem";
constexpr std::size_t kPskFileMaxBytes = 1 << 20;

Status tls_error(int code, std::string_view what) {
  return error(Code::kPermission, "{}: {}", what, ::gnutls_strerror(code));
}

// The form that psktool writes.
Result<std::map<std::string, std::vector<unsigned char>>> read_keys(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text(kPskFileMaxBytes, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<std::size_t>(file.gcount()));
  if (text.empty()) return error(Code::kInvalid, "{} holds no pre-shared keys", path);
  std::map<std::string, std::vector<unsigned char>> keys;
  std::istringstream lines(text);
  std::string line;
  for (std::size_t number = 1; std::getline(lines, line); ++number) {
    if (line.empty()) continue;
    const std::size_t colon = line.find(':');
    const std::string hex = colon == std::string::npos ? "" : line.substr(colon + 1);
    const gnutls_datum_t encoded{reinterpret_cast<unsigned char*>(const_cast<char*>(hex.data())),
                                 static_cast<unsigned>(hex.size())};
    std::vector<unsigned char> key(hex.size() / 2 + 1);
    std::size_t size = key.size();
    if (hex.empty() || colon == 0 || ::gnutls_hex_decode(&encoded, key.data(), &size) != 0 ||
        size < 16) {
      return error(Code::kInvalid,
                   "{}, line {}: want USER:KEY, with at least 16 bytes of key in hexadecimal", path,
                   number);
    }
    key.resize(size);
    keys[line.substr(0, colon)] = std::move(key);
  }
  return keys;
}

}  // namespace

class TlsServer::Credentials {
 public:
  ~Credentials() {
    if (certificate != nullptr) ::gnutls_certificate_free_credentials(certificate);
    if (psk != nullptr) ::gnutls_psk_free_server_credentials(psk);
    if (priority != nullptr) ::gnutls_priority_deinit(priority);
  }

  Status load_certificates(const std::string& folder);
  Status load_psk(const std::string& path);

  gnutls_certificate_credentials_t certificate = nullptr;
  gnutls_psk_server_credentials_t psk = nullptr;
  gnutls_priority_t priority = nullptr;
  std::map<std::string, std::vector<unsigned char>> keys;
};

Status TlsServer::Credentials::load_certificates(const std::string& folder) {
  const std::string ca = folder + "/ca-cert.pem";
  const std::string chain = folder + "/server-cert.pem";
  const std::string key = folder + kKeyFile;
  const std::string revoked = folder + "/ca-crl.pem";
  ::gnutls_certificate_allocate_credentials(&certificate);
  const auto bad = [](const std::string& file, int code) {
    return error(Code::kInvalid, "{}: {}", file, ::gnutls_strerror(code));
  };
  int code = ::gnutls_certificate_set_x509_trust_file(certificate, ca.c_str(), GNUTLS_X509_FMT_PEM);
  if (code < 0) return bad(ca, code);
  if (code == 0) return error(Code::kInvalid, "{} holds no certificate", ca);
  code = ::gnutls_certificate_set_x509_key_file(certificate, chain.c_str(), key.c_str(),
                                                GNUTLS_X509_FMT_PEM);
  if (code < 0) return bad(chain + " and " + key, code);
  if (std::ifstream(revoked).good()) {
    code =
        ::gnutls_certificate_set_x509_crl_file(certificate, revoked.c_str(), GNUTLS_X509_FMT_PEM);
    if (code < 0) return bad(revoked, code);
  }
  return {};
}

Status TlsServer::Credentials::load_psk(const std::string& path) {
  VT_ASSIGN_OR_RETURN(keys, read_keys(path));
  ::gnutls_psk_allocate_server_credentials(&psk);
  ::gnutls_psk_set_server_credentials_function(
      psk, [](gnutls_session_t session, const char* user, gnutls_datum_t* key) -> int {
        const auto* self = static_cast<const Credentials*>(::gnutls_session_get_ptr(session));
        const auto found = self->keys.find(user);
        if (found == self->keys.end()) return -1;
        key->data = static_cast<unsigned char*>(::gnutls_malloc(found->second.size()));
        if (key->data == nullptr) return -1;
        std::memcpy(key->data, found->second.data(), found->second.size());
        key->size = static_cast<unsigned>(found->second.size());
        return 0;
      });
  return {};
}

Result<std::unique_ptr<TlsServer>> TlsServer::make(const TlsOptions& options) {
  auto credentials = std::make_unique<Credentials>();
  const bool psk = !options.psk_file.empty();
  if (psk) {
    VT_RETURN_IF_ERROR(credentials->load_psk(options.psk_file));
  } else {
    VT_RETURN_IF_ERROR(credentials->load_certificates(options.certificates));
  }
  const int code = ::gnutls_priority_init(&credentials->priority,
                                          psk ? kPskPriority : kCertificatePriority, nullptr);
  if (code != 0) return tls_error(code, "setting TLS priorities");
  return std::unique_ptr<TlsServer>(new TlsServer(std::move(credentials)));
}

TlsServer::TlsServer(std::unique_ptr<Credentials> credentials)
    : credentials_(std::move(credentials)) {}
TlsServer::~TlsServer() = default;

namespace {

// GnuTLS reads from one buffer and writes to another; coroutines carry both to and from the socket.
class TlsStream final : public Stream {
 public:
  explicit TlsStream(SocketStream& socket) : socket_(socket), input_(kInputBytes) {
    ::gnutls_init(&session_, GNUTLS_SERVER | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL);
    ::gnutls_transport_set_ptr(session_, this);
    ::gnutls_transport_set_push_function(session_, &push);
    ::gnutls_transport_set_pull_function(session_, &pull);
    ::gnutls_transport_set_pull_timeout_function(
        session_, [](gnutls_transport_ptr_t, unsigned) { return 1; });
  }
  ~TlsStream() override { ::gnutls_deinit(session_); }
  TlsStream(const TlsStream&) = delete;
  TlsStream& operator=(const TlsStream&) = delete;

  gnutls_session_t session() { return session_; }

  Task<Status> handshake() {
    while (true) {
      // Signing takes milliseconds, and anybody may ask for it: not where requests are served.
      const int code = co_await socket_.runtime().run_blocking(
          [this]() -> int { return ::gnutls_handshake(session_); });
      const Status flushed = co_await flush();
      if (code == GNUTLS_E_SUCCESS) co_return flushed;
      if (::gnutls_error_is_fatal(code) != 0) {
        (void)::gnutls_alert_send_appropriate(session_, code);
        (void)co_await flush();
        co_return tls_error(code, "the TLS handshake failed");
      }
      VT_CO_RETURN_IF_ERROR(flushed);
      if (code == GNUTLS_E_AGAIN) VT_CO_RETURN_IF_ERROR(co_await fill());
    }
  }

  Task<Status> read(std::span<std::byte> out) override {
    while (!out.empty()) {
      const ssize_t got = ::gnutls_record_recv(session_, out.data(), out.size());
      if (got > 0) {
        out = out.subspan(static_cast<std::size_t>(got));
      } else if (got == 0) {
        co_return error(Code::kGone, "the client closed the connection");
      } else if (got == GNUTLS_E_AGAIN) {
        if (!output_.empty()) VT_CO_RETURN_IF_ERROR(co_await flush());
        VT_CO_RETURN_IF_ERROR(co_await fill());
      } else if (got == GNUTLS_E_REHANDSHAKE ||
                 ::gnutls_error_is_fatal(static_cast<int>(got)) != 0) {
        co_return tls_error(static_cast<int>(got), "TLS");
      }
    }
    co_return Status();
  }

  Task<Status> write(std::span<iovec> parts) override {
    for (const iovec& part : parts) {
      const auto* data = static_cast<const std::byte*>(part.iov_base);
      for (std::size_t done = 0; done < part.iov_len;) {
        const ssize_t sent = ::gnutls_record_send(session_, data + done, part.iov_len - done);
        if (sent < 0) co_return tls_error(static_cast<int>(sent), "TLS");
        done += static_cast<std::size_t>(sent);
        if (output_.size() >= kOutputBytes) VT_CO_RETURN_IF_ERROR(co_await flush());
      }
    }
    co_return co_await flush();
  }

  bool holds_input() const override {
    return begin_ != end_ || ::gnutls_record_check_pending(session_) != 0;
  }

  void expect_much() override { socket_.expect_much(); }
  void shut_down() override { socket_.shut_down(); }

  // Once, without waiting: the peer may be gone, or not reading.
  Task<void> close() override {
    (void)::gnutls_bye(session_, GNUTLS_SHUT_WR);
    (void)::send(socket_.fd(), output_.data(), output_.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    output_.clear();
    co_await socket_.close();
  }

 private:
  static ssize_t push(gnutls_transport_ptr_t self, const void* data, std::size_t size) {
    auto& output = static_cast<TlsStream*>(self)->output_;
    const auto* bytes = static_cast<const std::byte*>(data);
    output.insert(output.end(), bytes, bytes + size);
    return static_cast<ssize_t>(size);
  }
  static ssize_t pull(gnutls_transport_ptr_t self, void* data, std::size_t size) {
    auto& stream = *static_cast<TlsStream*>(self);
    if (stream.begin_ == stream.end_) {
      ::gnutls_transport_set_errno(stream.session_, EAGAIN);
      return -1;
    }
    const std::size_t take = std::min(size, stream.end_ - stream.begin_);
    std::memcpy(data, stream.input_.data() + stream.begin_, take);
    stream.begin_ += take;
    return static_cast<ssize_t>(take);
  }

  Task<Status> fill() {
    VT_CO_ASSIGN_OR_RETURN(end_, co_await socket_.read_some(input_));
    begin_ = 0;
    co_return Status();
  }
  // Both sides come here: the reading one when TLS itself has something to say.
  Task<Status> flush() {
    const AsyncMutex::Guard guard = co_await flush_mutex_.lock();
    while (!output_.empty()) {
      std::vector<std::byte> sending;
      sending.swap(output_);
      iovec part{sending.data(), sending.size()};
      VT_CO_RETURN_IF_ERROR(co_await socket_.write(std::span(&part, 1)));
    }
    co_return Status();
  }

  SocketStream& socket_;
  gnutls_session_t session_ = nullptr;
  std::vector<std::byte> input_;
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
  std::vector<std::byte> output_;
  AsyncMutex flush_mutex_;
};

// The common name of the certificate that the client has shown, and that was verified.
Result<std::string> certificate_name(gnutls_session_t session) {
  unsigned count = 0;
  const gnutls_datum_t* chain = ::gnutls_certificate_get_peers(session, &count);
  if (chain == nullptr || count == 0) return error(Code::kPermission, "no client certificate");
  gnutls_x509_crt_t certificate = nullptr;
  ::gnutls_x509_crt_init(&certificate);
  const std::unique_ptr<std::remove_pointer_t<gnutls_x509_crt_t>,
                        decltype(&::gnutls_x509_crt_deinit)>
      owned(certificate, &::gnutls_x509_crt_deinit);
  int code = ::gnutls_x509_crt_import(certificate, &chain[0], GNUTLS_X509_FMT_DER);
  std::string name(1024, '\0');
  std::size_t size = name.size();
  if (code == 0) {
    code = ::gnutls_x509_crt_get_dn_by_oid(certificate, GNUTLS_OID_X520_COMMON_NAME, 0, 0,
                                           name.data(), &size);
  }
  if (code == GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE) return std::string();
  if (code != 0) return tls_error(code, "reading the client's certificate");
  name.resize(size);
  return name;
}

}  // namespace

Task<Result<TlsServer::Accepted>> TlsServer::accept(SocketStream& socket) const {
  auto stream = std::make_unique<TlsStream>(socket);
  const gnutls_session_t session = stream->session();
  ::gnutls_session_set_ptr(session, credentials_.get());
  ::gnutls_priority_set(session, credentials_->priority);
  const bool psk = credentials_->psk != nullptr;
  // Outlives the handshake, in which it is used.
  gnutls_typed_vdata_st purpose{};
  std::string client_purpose = GNUTLS_KP_TLS_WWW_CLIENT;
  if (psk) {
    ::gnutls_credentials_set(session, GNUTLS_CRD_PSK, credentials_->psk);
  } else {
    ::gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, credentials_->certificate);
    ::gnutls_certificate_server_set_request(session, GNUTLS_CERT_REQUIRE);
    purpose.type = GNUTLS_DT_KEY_PURPOSE_OID;
    purpose.data = reinterpret_cast<unsigned char*>(client_purpose.data());
    purpose.size = static_cast<unsigned>(client_purpose.size());
    ::gnutls_session_set_verify_cert2(session, &purpose, 1, 0);
  }
  VT_CO_RETURN_IF_ERROR(co_await stream->handshake());
  Accepted accepted;
  if (psk) {
    const char* user = ::gnutls_psk_server_get_username(session);
    accepted.peer = fmt::format("psk:{}", user == nullptr ? "" : user);
  } else {
    VT_CO_ASSIGN_OR_RETURN(const std::string name, certificate_name(session));
    accepted.peer = "cert:" + name;
  }
  accepted.stream = std::move(stream);
  co_return accepted;
}

std::string exposed_secrets(const TlsOptions& options) {
  std::string path = options.psk_file.empty() ? options.certificates + kKeyFile : options.psk_file;
  struct stat info {};
  const bool exposed = ::stat(path.c_str(), &info) == 0 && (info.st_mode & 077) != 0;
  return exposed ? path : std::string();
}

}  // namespace voltree::nbd
