// SHA-256 of a stream.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "blockstore/base/status.h"
#include "blockstore/base/units.h"

namespace voltree {

class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;
  void update(std::span<const std::byte> data);
  void zeros(std::uint64_t length_bytes);
  // In hexadecimal, lower case. Starts anew.
  std::string finish();

 private:
  void* state_ = nullptr;
};

// 64 hexadecimal digits in lower case, or kInvalid.
Result<std::string> parse_sha256(const std::string& text);
// Of a whole file, by its descriptor; kCancelled by a signal.
Result<std::string> sha256_of_file(int fd, const std::string& name);

}  // namespace voltree
