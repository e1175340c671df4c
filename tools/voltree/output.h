// How voltree prints: tables, sizes, times, progress. Every command formats through here.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "driver/control/json.h"
#include "driver/control/service.h"

namespace voltree::cli {

// A table for people: columns as wide as their longest cell, two spaces between, no trailing space.
class Table {
 public:
  enum class Align : std::uint8_t { kLeft, kRight };
  struct Column {
    std::string title;
    Align align = Align::kLeft;
  };
  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}
  // One cell a column.
  void add(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  bool empty() const { return rows_.empty(); }
  std::string str() const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

// "key:   value" lines, the values in one column.
class Facts {
 public:
  void add(std::string key, std::string value) {
    facts_.emplace_back(std::move(key), std::move(value));
  }
  std::string str() const;

 private:
  std::vector<std::pair<std::string, std::string>> facts_;
};

void print(std::string_view text);          // to stdout, as it is
void print_line(std::string_view text);     // and a newline
void print_json(const Json& value);         // indented
void print_warning(std::string_view text);  // "voltree: warning: ..." to stderr

// Columns that `text` takes on a terminal (code points; good enough for names).
std::size_t display_width(std::string_view text);
std::string format_time(std::int64_t unix_ns);       // local: "2026-03-01 14:05:09"
std::string format_duration(std::uint64_t seconds);  // "1:02:03", "0:42"
// A limit of a volume's I/O, bytes in units, too: "104857600 (100.0 MiB)".
std::string format_limit(std::string_view key, std::uint64_t value);
// True when the locale's character set is UTF-8: box characters can be drawn.
bool locale_is_utf8();

// Members of an answer; the harmless value when the daemon is of a version that has no such member.
std::string text_of(const Json& object, std::string_view member);
std::uint64_t number_of(const Json& object, std::string_view member);
std::int64_t time_of(const Json& object, std::string_view member);
bool flag_of(const Json& object, std::string_view member);
const Json& list_of(const Json& object, std::string_view member);

// A progress line on stderr with rate and time left: from the second second on, and on a terminal
// only.
class ProgressMeter {
 public:
  explicit ProgressMeter(std::string what);
  ~ProgressMeter();  // removes the line
  ProgressMeter(const ProgressMeter&) = delete;
  ProgressMeter& operator=(const ProgressMeter&) = delete;
  ProgressSink sink();
  // What is shown `elapsed_seconds` after the start.
  static std::string line(std::string_view what, const Progress& now, double elapsed_seconds);

 private:
  const std::string what_;
  const bool terminal_;
  const std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
  bool shown_ = false;
};

// The lineage as lines of (drawing and name, node): what `voltree tree` prints.
struct TreeLine {
  std::string drawing;  // the lines that lead to the node, and its name
  const Json* node = nullptr;
};
std::vector<TreeLine> draw_tree(const Json& nodes, bool utf8);

}  // namespace voltree::cli
