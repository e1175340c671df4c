#include "driver/targets/nbd/access.h"

#include <fnmatch.h>

#include <fstream>
#include <sstream>

namespace voltree::nbd {

Result<AccessRules> AccessRules::parse(std::string_view text) {
  AccessRules all;
  all.open_to_all_ = false;
  std::istringstream lines{std::string(text)};
  std::string line;
  for (std::size_t number = 1; std::getline(lines, line); ++number) {
    line = line.substr(0, line.find('#'));
    std::istringstream words(line);
    Rule rule;
    std::string access;
    std::string more;
    if (!(words >> rule.peer)) continue;
    if (!(words >> rule.export_name >> access) || (words >> more)) {
      return error(Code::kInvalid, "line {}: a rule is PEER EXPORT ACCESS", number);
    }
    if (access == "rw") {
      rule.access = Access::kReadWrite;
    } else if (access == "ro") {
      rule.access = Access::kReadOnly;
    } else if (access != "none") {
      return error(Code::kInvalid, "line {}: the access must be rw, ro or none", number);
    }
    all.rules_.push_back(std::move(rule));
  }
  return all;
}

Result<AccessRules> AccessRules::load(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  if (!file || !(text << file.rdbuf())) {
    return Status::from_errno(errno, fmt::format("reading the access rules {}", path));
  }
  Result<AccessRules> rules = parse(text.str());
  if (!rules.ok()) return rules.status().with_context(path);
  return rules;
}

Access AccessRules::of(const std::string& peer, const std::string& export_name) const {
  if (open_to_all_) return Access::kReadWrite;
  for (const Rule& rule : rules_) {
    if (::fnmatch(rule.peer.c_str(), peer.c_str(), 0) == 0 &&
        ::fnmatch(rule.export_name.c_str(), export_name.c_str(), 0) == 0) {
      return rule.access;
    }
  }
  return Access::kNone;
}

}  // namespace voltree::nbd
