#include "driver/images/sha256.h"

#include <gnutls/crypto.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <cerrno>
#include <vector>

#include "driver/images/stop_signals.h"

namespace voltree {
namespace {

constexpr std::size_t kDigestBytes = 32;
constexpr std::size_t kReadBytes = std::size_t{1} << 20;

}  // namespace

Sha256::Sha256() {
  gnutls_hash_hd_t hash = nullptr;
  const int failed = gnutls_hash_init(&hash, GNUTLS_DIG_SHA256);
  assert(failed == 0);
  (void)failed;
  state_ = hash;
}

Sha256::~Sha256() { gnutls_hash_deinit(static_cast<gnutls_hash_hd_t>(state_), nullptr); }

void Sha256::update(std::span<const std::byte> data) {
  if (data.empty()) return;
  const int failed = gnutls_hash(static_cast<gnutls_hash_hd_t>(state_), data.data(), data.size());
  assert(failed == 0);
  (void)failed;
}

void Sha256::zeros(std::uint64_t length_bytes) {
  static const std::array<std::byte, 65536> kZeros{};
  while (length_bytes > 0) {
    const std::size_t part = std::min<std::uint64_t>(length_bytes, kZeros.size());
    update(std::span(kZeros).first(part));
    length_bytes -= part;
  }
}

std::string Sha256::finish() {
  std::array<unsigned char, kDigestBytes> digest{};
  gnutls_hash_output(static_cast<gnutls_hash_hd_t>(state_), digest.data());
  std::string text;
  for (const unsigned char byte : digest) text += fmt::format("{:02x}", byte);
  return text;
}

Result<std::string> parse_sha256(const std::string& text) {
  std::string lower;
  for (const char c : text) {
    if (c >= 'A' && c <= 'F') {
      lower += static_cast<char>(c - 'A' + 'a');
    } else if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f')) {
      lower += c;
    }
  }
  if (lower.size() != text.size() || lower.size() != 2 * kDigestBytes) {
    return error(Code::kInvalid, "a SHA-256 is 64 hexadecimal digits, not {}", quoted(text));
  }
  return lower;
}

Result<std::string> sha256_of_file(int fd, const std::string& name) {
  Sha256 hash;
  std::vector<std::byte> chunk(kReadBytes);
  for (std::uint64_t at = 0;;) {
    VT_RETURN_IF_ERROR(check_stop());
    const ssize_t got = ::pread(fd, chunk.data(), chunk.size(), static_cast<off_t>(at));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return Status::from_errno(errno, name);
    if (got == 0) return hash.finish();
    hash.update(std::span(chunk).first(static_cast<std::size_t>(got)));
    at += static_cast<std::uint64_t>(got);
  }
}

}  // namespace voltree
