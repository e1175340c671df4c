// Who may have which export, and how.
//
// A rule is a line "PEER EXPORT ACCESS"; the first that matches decides, and no match is no access.
//   PEER    unix, tcp (without TLS), cert:NAME (the certificate's common name), psk:NAME, or *
//   EXPORT  VOLUME or VOLUME@SNAPSHOT
//   ACCESS  rw, ro or none
// PEER and EXPORT may hold the wildcards of the shell: * ? [...]. What follows a # is a comment.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "blockstore/base/status.h"

namespace voltree::nbd {

enum class Access : std::uint8_t { kNone, kReadOnly, kReadWrite };

class AccessRules {
 public:
  // Without rules everybody who gets as far as asking may have everything.
  AccessRules() = default;
  // kInvalid names the line.
  static Result<AccessRules> parse(std::string_view text);
  static Result<AccessRules> load(const std::string& path);

  Access of(const std::string& peer, const std::string& export_name) const;

 private:
  struct Rule {
    std::string peer;
    std::string export_name;
    Access access = Access::kNone;
  };
  bool open_to_all_ = true;
  std::vector<Rule> rules_;
};

}  // namespace voltree::nbd
