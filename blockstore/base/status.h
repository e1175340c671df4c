// Status and Result<T>: how every call in voltree says that it failed.
//
// A Status is either OK (no allocation, one null pointer) or a code plus a message that names the
// thing and what to do about it. Codes are ours; errno exists only at the edges (to_errno for a
// transport that must answer one, from_errno for a system call that gave one).
#pragma once

#include <fmt/format.h>

#include <cassert>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace voltree {

enum class Code : std::uint8_t {
  kOk,
  kInvalid,       // the caller's words are wrong: names, sizes, options        (exit 2)
  kNotFound,      // no such store, volume, snapshot, attachment                (exit 3)
  kExists,        // the name is taken                                          (exit 1)
  kBusy,          // attached, in use, locked by another process                (exit 4)
  kNoSpace,       // the host file system is full                               (exit 5)
  kDamaged,       // a checksum, the catalog or a layer is not what it must be  (exit 6)
  kIoError,       // the host refused an operation                              (exit 1)
  kReadOnly,      // a snapshot, or a store that went read-only (I10)           (exit 1)
  kTooLarge,      // beyond what the host or the format can hold                (exit 2)
  kNotSupported,  // this host, kernel or build cannot do it                    (exit 1)
  kPermission,    // the host or our own access rule forbids it                 (exit 1)
  kGone,          // the object was deleted while it was open                   (exit 3)
  kCancelled,     // stopped because the store is closing                       (exit 1)
};

// "invalid", "not-found", ...: stable words, used on the control socket.
std::string_view code_name(Code code);
// The inverse; nullopt for a word that is not a code.
std::optional<Code> code_from_name(std::string_view name);

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Code code, std::string message)
      : rep_(code == Code::kOk ? nullptr
                               : std::make_shared<const Rep>(Rep{code, std::move(message)})) {}

  // The Status of a failed system call: `what` names the thing, errno's text is appended.
  static Status from_errno(int error, std::string_view what);

  bool ok() const { return rep_ == nullptr; }
  Code code() const { return rep_ ? rep_->code : Code::kOk; }
  std::string_view message() const { return rep_ ? std::string_view(rep_->message) : ""; }
  // A positive errno for a transport (FUSE, NBD); 0 when ok.
  int to_errno() const;
  // The process exit status that DESIGN section 5 gives this code.
  int exit_code() const;
  // The same code, the message led by `context` and ": ".
  Status with_context(std::string_view context) const;

 private:
  struct Rep {
    Code code;
    std::string message;
  };
  std::shared_ptr<const Rep> rep_;
};

template <typename... Args>
Status error(Code code, fmt::format_string<Args...> format, Args&&... args) {
  return Status(code, fmt::format(format, std::forward<Args>(args)...));
}

// A T, or the Status that says why there is none. Never holds an OK Status.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}         // NOLINT(google-explicit-constructor)
  Result(Status status) : status_(std::move(status)) {  // NOLINT(google-explicit-constructor)
    assert(!status_.ok());
  }

  bool ok() const { return value_.has_value(); }
  const Status& status() const { return status_; }
  T& value() & {
    assert(ok());
    return *value_;
  }
  const T& value() const& {
    assert(ok());
    return *value_;
  }
  T&& value() && {
    assert(ok());
    return std::move(*value_);
  }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

 private:
  Status status_;
  std::optional<T> value_;
};

}  // namespace voltree

#define VT_CONCAT_INNER(a, b) a##b
#define VT_CONCAT(a, b) VT_CONCAT_INNER(a, b)

// Leaves the function with the Status of `expr` when that is not OK. The CO_ forms are for
// coroutines. (A counter names the temporary, so that one use may stand in a lambda within
// another.)
#define VT_RETURN_IF_ERROR(expr) VT_LEAVE_IF_ERROR(expr, return, VT_CONCAT(vt_status_, __COUNTER__))
#define VT_CO_RETURN_IF_ERROR(expr) \
  VT_LEAVE_IF_ERROR(expr, co_return, VT_CONCAT(vt_status_, __COUNTER__))
// NOLINTBEGIN(bugprone-macro-parentheses): these arguments are a keyword and names
#define VT_LEAVE_IF_ERROR(expr, leave, tmp)                   \
  do {                                                        \
    if (::voltree::Status tmp = (expr); !tmp.ok()) leave tmp; \
  } while (false)

// Declares `lhs` from a Result, or leaves the function with its Status.
#define VT_ASSIGN_OR_RETURN(lhs, expr) \
  VT_ASSIGN_IMPL(lhs, expr, return, VT_CONCAT(vt_res_, __COUNTER__))
#define VT_CO_ASSIGN_OR_RETURN(lhs, expr) \
  VT_ASSIGN_IMPL(lhs, expr, co_return, VT_CONCAT(vt_res_, __COUNTER__))
#define VT_ASSIGN_IMPL(lhs, expr, leave, tmp) \
  auto tmp = (expr);                          \
  if (!tmp.ok()) leave tmp.status();          \
  lhs = std::move(tmp).value()
// NOLINTEND(bugprone-macro-parentheses)
