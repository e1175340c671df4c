// The NBD protocol's numbers and byte order: the document "proto.md" of the NBD project, whose
// section names the comments quote. All numbers on the wire are big-endian.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace voltree::nbd {

// --- "Newstyle negotiation"
inline constexpr std::uint64_t kGreetingMagic = 0x4e42444d41474943;  // NBDMAGIC
inline constexpr std::uint64_t kOptionMagic = 0x49484156454f5054;    // IHAVEOPT
inline constexpr std::uint64_t kOptionReplyMagic = 0x3e889045565a9;
inline constexpr std::uint16_t kFixedNewstyle = 1 << 0;  // "Handshake flags", "Client flags"
inline constexpr std::uint16_t kNoZeroes = 1 << 1;
inline constexpr std::size_t kOptionHeaderBytes = 16;
inline constexpr std::size_t kExportNameZeroes = 124;  // after the answer to EXPORT_NAME

// "Option types"
enum class Option : std::uint32_t {
  kExportName = 1,
  kAbort = 2,
  kList = 3,
  kStartTls = 5,
  kInfo = 6,
  kGo = 7,
  kStructuredReply = 8,
  kListMetaContext = 9,
  kSetMetaContext = 10,
  kExtendedHeaders = 11,
};

// "Option reply types"
enum class OptionReply : std::uint32_t {
  kAck = 1,
  kServer = 2,
  kInfo = 3,
  kMetaContext = 4,
  kErrUnsupported = (1U << 31) + 1,
  kErrPolicy = (1U << 31) + 2,
  kErrInvalid = (1U << 31) + 3,
  kErrTlsRequired = (1U << 31) + 5,
  kErrUnknown = (1U << 31) + 6,
  kErrShutdown = (1U << 31) + 7,
  kErrTooBig = (1U << 31) + 9,
  kErrExtendedHeadersRequired = (1U << 31) + 10,
};

// "NBD_REP_INFO"
enum class Info : std::uint16_t { kExport = 0, kName = 1, kDescription = 2, kBlockSize = 3 };

// "Transmission flags"
inline constexpr std::uint16_t kHasFlags = 1 << 0;
inline constexpr std::uint16_t kReadOnly = 1 << 1;
inline constexpr std::uint16_t kSendFlush = 1 << 2;
inline constexpr std::uint16_t kSendFua = 1 << 3;
inline constexpr std::uint16_t kSendTrim = 1 << 5;
inline constexpr std::uint16_t kSendWriteZeroes = 1 << 6;
inline constexpr std::uint16_t kSendDf = 1 << 7;
inline constexpr std::uint16_t kCanMultiConn = 1 << 8;
inline constexpr std::uint16_t kSendCache = 1 << 10;
inline constexpr std::uint16_t kSendFastZero = 1 << 11;
inline constexpr std::uint16_t kBlockStatusPayload = 1 << 12;

// --- "Transmission": "Request message", "Extended request message"
inline constexpr std::uint32_t kRequestMagic = 0x25609513;
inline constexpr std::uint32_t kExtendedRequestMagic = 0x21e41c71;
inline constexpr std::size_t kRequestBytes = 28;
inline constexpr std::size_t kExtendedRequestBytes = 32;

// "Request types"
enum class Command : std::uint16_t {
  kRead = 0,
  kWrite = 1,
  kDisconnect = 2,
  kFlush = 3,
  kTrim = 4,
  kCache = 5,
  kWriteZeroes = 6,
  kBlockStatus = 7,
};

// "Command flags"
inline constexpr std::uint16_t kFua = 1 << 0;
inline constexpr std::uint16_t kNoHole = 1 << 1;
inline constexpr std::uint16_t kDontFragment = 1 << 2;
inline constexpr std::uint16_t kReqOne = 1 << 3;
inline constexpr std::uint16_t kFastZero = 1 << 4;
inline constexpr std::uint16_t kPayloadLength = 1 << 5;

// "Simple reply message", "Structured reply chunk message", "Extended reply chunk message"
inline constexpr std::uint32_t kSimpleReplyMagic = 0x67446698;
inline constexpr std::uint32_t kStructuredReplyMagic = 0x668e33ef;
inline constexpr std::uint32_t kExtendedReplyMagic = 0x6e8a278c;
inline constexpr std::size_t kSimpleReplyBytes = 16;
inline constexpr std::size_t kStructuredReplyBytes = 20;
inline constexpr std::size_t kExtendedReplyBytes = 32;
inline constexpr std::uint16_t kReplyDone = 1 << 0;

// "Structured reply types"
enum class Chunk : std::uint16_t {
  kNone = 0,
  kOffsetData = 1,
  kOffsetHole = 2,
  kBlockStatus = 5,
  kBlockStatusExtended = 6,
  kError = (1 << 15) + 1,
};

// "Error values"
enum class WireError : std::uint32_t {
  kNone = 0,
  kPerm = 1,
  kIo = 5,
  kNoMemory = 12,
  kInvalid = 22,
  kNoSpace = 28,
  kOverflow = 75,
  kNotSupported = 95,
  kShutdown = 108,
};

// --- Limits. "Size constraints" and "Values": strings take at most 4096 bytes.
inline constexpr std::size_t kStringMaxBytes = 4096;
inline constexpr std::uint32_t kBlockMinBytes = 1;
inline constexpr std::uint32_t kBlockPreferredBytes = 4096;
inline constexpr std::uint32_t kPayloadMaxBytes = 32U << 20;
// "Extents" of one answer to BLOCK_STATUS: far below the 2^20 that the protocol allows.
inline constexpr std::size_t kExtentsMax = std::size_t{64} * 1024;

// Appends numbers and strings in the wire's order.
class Writer {
 public:
  template <typename T>
  Writer& number(T value) {
    if constexpr (std::is_enum_v<T>) {
      return number(static_cast<std::underlying_type_t<T>>(value));
    } else {
      std::array<std::byte, sizeof(T)> digits;
      for (std::size_t i = 0; i < sizeof(T); ++i) {
        digits[i] = static_cast<std::byte>((value >> (8 * (sizeof(T) - 1 - i))) & 0xFF);
      }
      bytes_.insert(bytes_.end(), digits.begin(), digits.end());
      return *this;
    }
  }
  Writer& text(std::string_view value) {
    const auto* begin = reinterpret_cast<const std::byte*>(value.data());
    bytes_.insert(bytes_.end(), begin, begin + value.size());
    return *this;
  }
  Writer& zeroes(std::size_t count) {
    bytes_.insert(bytes_.end(), count, std::byte{0});
    return *this;
  }
  std::size_t size() const { return bytes_.size(); }
  std::span<const std::byte> bytes() const { return bytes_; }
  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

// Takes numbers and strings off a message. Reading past its end gives zeros and is remembered.
class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : bytes_(bytes) {}
  template <typename T>
  T number() {
    if (bytes_.size() < sizeof(T)) {
      fail();
      return T{};
    }
    T value = 0;
    for (std::size_t i = 0; i < sizeof(T); ++i) {
      value = static_cast<T>((value << 8) | static_cast<T>(bytes_[i]));
    }
    bytes_ = bytes_.subspan(sizeof(T));
    return value;
  }
  // A 32-bit length and so many bytes.
  std::string text() {
    const auto length = number<std::uint32_t>();
    if (length > kStringMaxBytes || length > bytes_.size()) {
      fail();
      return {};
    }
    std::string value(reinterpret_cast<const char*>(bytes_.data()), length);
    bytes_ = bytes_.subspan(length);
    return value;
  }
  // Everything was there, and nothing is left.
  bool complete() const { return ok_ && bytes_.empty(); }
  bool ok() const { return ok_; }
  std::size_t left() const { return bytes_.size(); }

 private:
  void fail() {
    ok_ = false;
    bytes_ = {};
  }
  std::span<const std::byte> bytes_;
  bool ok_ = true;
};

// One request, of either form.
struct Request {
  std::uint16_t flags = 0;
  Command command = Command::kRead;
  std::uint64_t cookie = 0;
  std::uint64_t offset_bytes = 0;
  std::uint64_t length_bytes = 0;
};

}  // namespace voltree::nbd
