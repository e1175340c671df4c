#include "tools/voltree/output.h"

#include <langinfo.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <map>

#include "blockstore/base/units.h"

namespace voltree::cli {

std::size_t display_width(std::string_view text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U;  // not a continuation byte
  }));
}

std::string Table::str() const {
  std::vector<std::size_t> widths;
  widths.reserve(columns_.size());
  for (const Column& column : columns_) widths.push_back(display_width(column.title));
  for (const auto& row : rows_) {
    for (std::size_t i = 0; i < row.size(); ++i) {
      widths[i] = std::max(widths[i], display_width(row[i]));
    }
  }
  std::string out;
  const auto put_row = [&](const auto& cell_at) {
    std::string line;
    for (std::size_t i = 0; i < columns_.size(); ++i) {
      const std::string& cell = cell_at(i);
      const std::string pad(widths[i] - display_width(cell), ' ');
      if (i > 0) line += "  ";
      line += columns_[i].align == Align::kRight ? pad + cell : cell + pad;
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  };
  put_row([&](std::size_t i) -> const std::string& { return columns_[i].title; });
  for (const auto& row : rows_) {
    put_row([&](std::size_t i) -> const std::string& { return row[i]; });
  }
  return out;
}

std::string Facts::str() const {
  std::size_t width = 0;
  for (const auto& [key, value] : facts_) width = std::max(width, display_width(key));
  std::string out;
  for (const auto& [key, value] : facts_) {
    out += fmt::format("{}:{:{}}{}\n", key, "", width - display_width(key) + 2, value);
  }
  return out;
}

void print(std::string_view text) { std::fwrite(text.data(), 1, text.size(), stdout); }

void print_line(std::string_view text) {
  print(text);
  std::fputc('\n', stdout);
}

void print_json(const Json& value) { print_line(dump_json_pretty(value)); }

void print_warning(std::string_view text) {
  const std::string line = fmt::format("voltree: warning: {}\n", text);
  std::fwrite(line.data(), 1, line.size(), stderr);
}

std::string format_time(std::int64_t unix_ns) {
  const std::time_t seconds = unix_ns / 1'000'000'000;
  std::tm parts{};
  if (::localtime_r(&seconds, &parts) == nullptr) return "?";
  char text[32];
  const std::size_t length = std::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", &parts);
  return std::string(text, length);
}

std::string format_duration(std::uint64_t seconds) {
  const std::uint64_t hours = seconds / 3600;
  const std::uint64_t minutes = seconds / 60 % 60;
  if (hours == 0) return fmt::format("{}:{:02}", minutes, seconds % 60);
  return fmt::format("{}:{:02}:{:02}", hours, minutes, seconds % 60);
}

std::string format_limit(std::string_view key, std::uint64_t value) {
  if (!qos_key_is_bytes(key)) return fmt::format("{}", value);
  return fmt::format("{} ({})", value, format_size(value));
}

bool locale_is_utf8() { return std::string_view(::nl_langinfo(CODESET)) == "UTF-8"; }

namespace {
const Json* member_of(const Json& object, std::string_view member) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(member);
  return found == object.end() ? nullptr : &*found;
}
}  // namespace

std::string text_of(const Json& object, std::string_view member) {
  const Json* value = member_of(object, member);
  return value && value->is_string() ? value->get<std::string>() : std::string();
}

std::uint64_t number_of(const Json& object, std::string_view member) {
  const Json* value = member_of(object, member);
  return value && value->is_number_integer() ? value->get<std::uint64_t>() : 0;
}

std::int64_t time_of(const Json& object, std::string_view member) {
  const Json* value = member_of(object, member);
  return value && value->is_number_integer() ? value->get<std::int64_t>() : 0;
}

bool flag_of(const Json& object, std::string_view member) {
  const Json* value = member_of(object, member);
  return value && value->is_boolean() && value->get<bool>();
}

const Json& list_of(const Json& object, std::string_view member) {
  static const Json empty = Json::array();
  const Json* value = member_of(object, member);
  return value && value->is_array() ? *value : empty;
}

ProgressMeter::ProgressMeter(std::string what)
    : what_(std::move(what)), terminal_(::isatty(STDERR_FILENO) == 1) {}

ProgressMeter::~ProgressMeter() {
  if (shown_) std::fputs("\r\x1b[K", stderr);
}

std::string ProgressMeter::line(std::string_view what, const Progress& now,
                                double elapsed_seconds) {
  if (now.total == 0 || elapsed_seconds <= 0) {  // how much there is is not known yet
    return fmt::format("{} {}", what, format_duration(static_cast<std::uint64_t>(elapsed_seconds)));
  }
  const double rate = static_cast<double>(now.done) / elapsed_seconds;
  std::string text = fmt::format(
      "{} {} of {} ({}%), {}/s", what, format_size(now.done), format_size(now.total),
      static_cast<int>(100.0 * static_cast<double>(now.done) / static_cast<double>(now.total)),
      format_size(static_cast<std::uint64_t>(rate)));
  if (rate >= 1 && now.done <= now.total) {
    const double left = static_cast<double>(now.total - now.done) / rate;
    text +=
        fmt::format(", {} left", format_duration(static_cast<std::uint64_t>(std::lround(left))));
  }
  return text;
}

ProgressSink ProgressMeter::sink() {
  return [this](const Progress& now) {
    if (!terminal_) return;
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - started_;
    if (elapsed.count() < 1) return;
    shown_ = true;
    fmt::print(stderr, "\r\x1b[K{}", line(what_, now, elapsed.count()));
    std::fflush(stderr);
  };
}

std::vector<TreeLine> draw_tree(const Json& nodes, bool utf8) {
  const std::string_view tee = utf8 ? "├─ " : "|- ";
  const std::string_view corner = utf8 ? "└─ " : "`- ";
  const std::string_view bar = utf8 ? "│  " : "|  ";

  std::map<std::uint64_t, std::vector<const Json*>> children;
  std::map<std::uint64_t, bool> known;
  for (const Json& node : nodes) known[number_of(node, "id")] = true;
  for (const Json& node : nodes) {
    const std::uint64_t parent = number_of(node, "parent");
    children[known.count(parent) != 0 ? parent : 0].push_back(&node);
  }
  // A stack of our own: a lineage can be deeper than the thread's.
  struct Pending {
    const Json* node;
    std::string prefix;  // of the lines below the parent
    bool root;
    bool last;
  };
  std::vector<Pending> stack;
  const auto push_children = [&](std::uint64_t parent, const std::string& prefix, bool root) {
    const auto found = children.find(parent);
    if (found == children.end()) return;
    const std::vector<const Json*>& below = found->second;
    for (std::size_t i = below.size(); i-- > 0;) {
      stack.push_back({below[i], prefix, root, i + 1 == below.size()});
    }
  };
  push_children(0, "", true);
  std::vector<TreeLine> lines;
  while (!stack.empty()) {
    const Pending at = std::move(stack.back());
    stack.pop_back();
    const std::string name = text_of(*at.node, "name");
    std::string drawing = at.prefix;
    std::string below = at.prefix;
    if (!at.root) {
      drawing += at.last ? corner : tee;
      below += at.last ? "   " : bar;
    }
    lines.push_back({drawing + (name.empty() ? "(deleted, shared)" : name), at.node});
    push_children(number_of(*at.node, "id"), below, false);
  }
  return lines;
}

}  // namespace voltree::cli
