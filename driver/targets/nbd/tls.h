// TLS for the server (GnuTLS), over a SocketStream: X.509 certificates with client verification, or
// pre-shared keys ("TLS support" in proto.md).
#pragma once

#include <memory>
#include <string>

#include "blockstore/base/status.h"
#include "blockstore/runtime/task.h"
#include "driver/targets/nbd/stream.h"

namespace voltree::nbd {

struct TlsOptions {
  // A folder with ca-cert.pem, server-cert.pem and server-key.pem, and perhaps ca-crl.pem: clients
  // must show a certificate that this CA has signed.
  std::string certificates;
  // A file of lines USER:HEXKEY, as psktool writes it. One of the two is set.
  std::string psk_file;
};

// Its file of secret keys, when other users of this host can read that; otherwise empty.
std::string exposed_secrets(const TlsOptions& options);

// The credentials. Thread-safe once made.
class TlsServer {
 public:
  // kInvalid names the file that does not serve.
  static Result<std::unique_ptr<TlsServer>> make(const TlsOptions& options);
  ~TlsServer();
  TlsServer(const TlsServer&) = delete;
  TlsServer& operator=(const TlsServer&) = delete;

  struct Accepted {
    std::unique_ptr<Stream> stream;
    std::string peer;  // cert:NAME or psk:NAME
  };
  // The server's side of the handshake. kPermission when the client does not prove who it is. The
  // socket must outlive the stream.
  Task<Result<Accepted>> accept(SocketStream& socket) const;

 private:
  class Credentials;
  explicit TlsServer(std::unique_ptr<Credentials> credentials);
  std::unique_ptr<Credentials> credentials_;
};

}  // namespace voltree::nbd
