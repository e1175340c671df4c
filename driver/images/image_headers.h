// The header checks of each format, for image_format.cc: the size of the disk, or what is wrong.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "driver/images/image_format.h"

namespace voltree {

Result<std::uint64_t> inspect_qcow2(const ImageBytes& bytes);
Result<std::uint64_t> inspect_vmdk(const ImageBytes& bytes);
Result<std::uint64_t> inspect_vhdx(const ImageBytes& bytes);
Result<std::uint64_t> inspect_vdi(const ImageBytes& bytes);

// A piece of the file in memory; reading a number beyond it is a mistake of the caller.
class Piece {
 public:
  explicit Piece(std::vector<std::byte> bytes) : bytes_(std::move(bytes)) {}
  // kInvalid, naming `what`, when the file ends before.
  static Result<Piece> read(const ImageBytes& file, std::uint64_t offset_bytes,
                            std::uint64_t length_bytes, std::string_view what);

  std::size_t size() const { return bytes_.size(); }
  std::uint64_t big(std::size_t offset_bytes, std::size_t width_bytes) const;
  std::uint64_t little(std::size_t offset_bytes, std::size_t width_bytes) const;
  bool all_zero(std::size_t offset_bytes, std::size_t length_bytes) const;
  // The bytes as text, at most to the first NUL.
  std::string_view text() const;
  bool equals(std::size_t offset_bytes, std::string_view expected) const;

 private:
  std::vector<std::byte> bytes_;
};

// kInvalid unless [offset, offset + length) lies within the file and does not wrap around.
Status check_within(const ImageBytes& file, std::uint64_t offset_bytes, std::uint64_t length_bytes,
                    std::string_view what);

}  // namespace voltree
