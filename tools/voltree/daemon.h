// Going into the background, and telling the one who started us how it went.
#pragma once

#include <string>
#include <string_view>

#include "blockstore/base/status.h"

namespace voltree::cli {

// The child's end of what the parent waits for. Must be made before any thread: it forks.
class Background {
 public:
  // In the parent: waits until the child reports, says what it said and exits. In the child:
  // returns, detached from the terminal. stdin is closed; stdout and stderr stay until ready().
  static Result<Background> enter();
  // Nothing to report to: the foreground.
  Background() = default;
  ~Background();
  Background(Background&& other) noexcept;
  Background& operator=(Background&&) = delete;
  Background(const Background&) = delete;

  // The parent exits 0 after printing `message`; from now on stdout and stderr go to `log_path`.
  Status ready(std::string_view message, const std::string& log_path);
  // The parent prints the failure and exits with its code. What is destroyed without a report is a
  // failure, too.
  void failed(const Status& status);

 private:
  void report(int exit_code, std::string_view message);
  int pipe_ = -1;
};

// "READY=1" and the like, with what there is to say, to who supervises services here
// (sd_notify(3)); nothing when nobody does.
void tell_service_manager(std::string_view state, std::string_view message);

// "2026-03-01 14:05:09 text" on stderr.
void log_line(std::string_view text);

}  // namespace voltree::cli
