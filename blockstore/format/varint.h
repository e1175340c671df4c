// LEB128 numbers, as docs/FORMAT.md writes them, and a reader that never goes past its bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace voltree {

// Seven bits a byte, low first, the top bit set on all but the last.
inline void put_varint(std::string& out, std::uint64_t value) {
  while (value >= 0x80) {
    out.push_back(static_cast<char>(value | 0x80));
    value >>= 7;
  }
  out.push_back(static_cast<char>(value));
}

// A varint of the length, then the bytes.
inline void put_bytes(std::string& out, std::string_view bytes) {
  put_varint(out, bytes.size());
  out.append(bytes);
}

class VarintReader {
 public:
  explicit VarintReader(std::span<const std::byte> bytes) : bytes_(bytes) {}
  bool done() const { return bytes_.empty(); }
  std::optional<std::uint8_t> byte() {
    if (bytes_.empty()) return std::nullopt;
    const auto value = std::to_integer<std::uint8_t>(bytes_.front());
    bytes_ = bytes_.subspan(1);
    return value;
  }
  // A varint in its shortest form that fits 64 bits; nullopt for anything else.
  std::optional<std::uint64_t> varint() {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      const std::optional<std::uint8_t> next = byte();
      if (!next) return std::nullopt;
      const std::uint64_t bits = *next & 0x7FU;
      if (shift == 63 && bits > 1) return std::nullopt;
      value |= bits << shift;
      if ((*next & 0x80U) == 0) {
        const bool padded = bits == 0 && shift != 0;
        return padded ? std::nullopt : std::optional(value);
      }
    }
    return std::nullopt;
  }
  // What put_bytes wrote.
  std::optional<std::string> bytes() {
    const std::optional<std::uint64_t> length = varint();
    if (!length || *length > bytes_.size()) return std::nullopt;
    std::string out(reinterpret_cast<const char*>(bytes_.data()), *length);
    bytes_ = bytes_.subspan(*length);
    return out;
  }

 private:
  std::span<const std::byte> bytes_;
};

}  // namespace voltree
