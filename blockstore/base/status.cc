#include "blockstore/base/status.h"

#include <array>
#include <cerrno>
#include <cstring>
#include <system_error>

namespace voltree {
namespace {

struct CodeRow {
  Code code;
  std::string_view name;
  int error_number;
  int exit_code;
};

// One row a code: its word, what a transport answers, what a command exits with.
constexpr std::array<CodeRow, 14> kRows{{
    {Code::kOk, "ok", 0, 0},
    {Code::kInvalid, "invalid", EINVAL, 2},
    {Code::kNotFound, "not-found", ENOENT, 3},
    {Code::kExists, "exists", EEXIST, 1},
    {Code::kBusy, "busy", EBUSY, 4},
    {Code::kNoSpace, "no-space", ENOSPC, 5},
    {Code::kDamaged, "damaged", EIO, 6},
    {Code::kIoError, "io-error", EIO, 1},
    {Code::kReadOnly, "read-only", EROFS, 1},
    {Code::kTooLarge, "too-large", EFBIG, 2},
    {Code::kNotSupported, "not-supported", EOPNOTSUPP, 1},
    {Code::kPermission, "permission", EACCES, 1},
    {Code::kGone, "gone", ESTALE, 3},
    {Code::kCancelled, "cancelled", ECANCELED, 1},
}};

const CodeRow& row_of(Code code) { return kRows.at(static_cast<std::size_t>(code)); }

Code code_of_errno(int error_number) {
  switch (error_number) {
    case EINVAL:
    case ENAMETOOLONG:
      return Code::kInvalid;
    case ENOENT:
    case ENOTDIR:
      return Code::kNotFound;
    case EEXIST:
      return Code::kExists;
    case EBUSY:
    case ETXTBSY:
      return Code::kBusy;
    case ENOSPC:
    case EDQUOT:
      return Code::kNoSpace;
    case EROFS:
      return Code::kReadOnly;
    case EFBIG:
      return Code::kTooLarge;
    case EOPNOTSUPP:
    case ENOSYS:
      return Code::kNotSupported;
    case EACCES:
    case EPERM:
      return Code::kPermission;
    default:
      return Code::kIoError;
  }
}

}  // namespace

std::string_view code_name(Code code) { return row_of(code).name; }

std::optional<Code> code_from_name(std::string_view name) {
  for (const CodeRow& row : kRows) {
    if (row.name == name) return row.code;
  }
  return std::nullopt;
}

Status Status::from_errno(int error, std::string_view what) {
  return Status(code_of_errno(error),
                fmt::format("{}: {}", what, std::generic_category().message(error)));
}

int Status::to_errno() const { return row_of(code()).error_number; }

int Status::exit_code() const { return row_of(code()).exit_code; }

Status Status::with_context(std::string_view context) const {
  if (ok()) return {};
  return Status(code(), fmt::format("{}: {}", context, message()));
}

}  // namespace voltree
