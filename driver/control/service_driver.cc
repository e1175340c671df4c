// driver.call: Cinder's verbs (driver/volume_driver.h) on this store, for drivers in other
// languages.
#include <regex>
#include <thread>

#include "driver/control/client.h"
#include "driver/control/service.h"
#include "driver/driver_calls.h"
#include "driver/images/stop_signals.h"
#include "driver/store_driver.h"

namespace voltree {
namespace {

// Arguments of ionice(1), as volume_clear_ionice has them: "-c3", "-c 2 -n 7".
Result<IoPriority> parse_ionice(const std::string& text) {
  if (text.empty()) return IoPriority{0};
  static const std::regex form(
      R"(\s*(?:-c|--class[= ])\s*(3|idle|2|best-effort)(?:\s+(?:-n|--classdata[= ])\s*([0-7]))?\s*)");
  std::smatch parts;
  if (!std::regex_match(text, parts, form)) {
    return error(Code::kInvalid,
                 "volume_clear_ionice is {}: -c3, or -c2 with -n0 to -n7, is what can be asked for",
                 voltree::quoted(text));
  }
  const bool idle = parts[1] == "3" || parts[1] == "idle";
  const std::string level = parts[2].matched ? parts[2].str() : "4";  // ionice's own default
  return parse_io_priority(idle ? "idle" : "best-effort:" + level);
}

Result<StoreDriverOptions> read_options(Call& call, const Json& configuration) {
  Params params(configuration);
  StoreDriverOptions options;
  options.backend_name = params.text_or("backend_name", options.backend_name);
  options.host_name = params.text_or("host_name", "");
  const std::string connection = params.text_or("connection", "file");
  if (params.optional_erase_policy("erase_policy")) {
    options.erase_policy = params.text("erase_policy");
  }
  options.erase_first_bytes = params.number_or("erase_first_bytes", 0);
  const std::string ionice = params.text_or("erase_ionice", "");
  options.reserved_percentage = params.number_or("reserved_percentage", 0, 100);
  options.max_over_subscription_ratio =
      params.text_or("max_over_subscription_ratio", options.max_over_subscription_ratio);
  options.free_min_bytes = params.number_or("free_min_bytes", options.free_min_bytes);
  if (params.has("manage_directories")) {
    options.manage_directories = params.texts("manage_directories");
  }
  options.manage_keeps_files = params.flag("manage_keeps_files");
  VT_RETURN_IF_ERROR(call.accept(params));
  VT_ASSIGN_OR_RETURN(const IoPriority priority, parse_ionice(ionice));
  options.erase_io_priority = io_priority_name(priority);
  if (connection != "file" && connection != "local") {
    return call.refuse("parameter \"connection\" must be \"file\" or \"local\"");
  }
  options.connection = connection == "file" ? Connection::kFile : Connection::kLocal;
  return options;
}

constexpr std::chrono::milliseconds kTellInterval{200};

// A long call works on a thread of its own, while the caller's thread tells the client that there
// is life and watches for reasons to give up: what is half done is then undone by the call itself.
class LongCall {
 public:
  explicit LongCall(Call& call) : call_(call) {}

  ProgressSink sink() {
    return [this](const Progress& now) {
      done_.store(now.done, std::memory_order_relaxed);
      total_.store(now.total, std::memory_order_relaxed);
    };
  }

  Answer<Json> run(const std::function<Answer<Json>()>& work) {
    std::optional<Answer<Json>> answer;
    std::thread worker([&] {
      const StopCondition condition([this] { return check(); });
      Answer<Json> made = work();
      const std::lock_guard lock(mutex_);
      answer.emplace(std::move(made));
      arrived_.notify_all();
    });
    const auto arrived = [&] {
      std::unique_lock lock(mutex_);
      return arrived_.wait_for(lock, kTellInterval, [&] { return answer.has_value(); });
    };
    while (!arrived()) watch();
    worker.join();
    return std::move(*answer);
  }

 private:
  void watch() {
    const Caller& caller = call_.caller();
    if (call_.stopping()) reason_.store("the daemon is stopping", std::memory_order_relaxed);
    if (caller.gone && caller.gone()) {
      reason_.store("nobody waits for the answer any more", std::memory_order_relaxed);
    }
    if (caller.progress) caller.progress({done_.load(), total_.load()});
  }
  Status check() const {
    const char* reason = reason_.load(std::memory_order_relaxed);
    return reason == nullptr ? Status() : Status(Code::kCancelled, reason);
  }

  Call& call_;
  std::atomic<std::uint64_t> done_{0};
  std::atomic<std::uint64_t> total_{0};
  std::atomic<const char*> reason_{nullptr};  // to give up
  std::mutex mutex_;
  std::condition_variable arrived_;
};

// What went wrong in the driver is an answer of this method: the caller raises it again.
Result<Json> driver_call(Call& call) {
  Params params(call.params());
  const std::string name = params.text("call");
  const Json arguments = params.object_or_empty("arguments");
  const Json configuration = params.object_or_empty("configuration");
  VT_RETURN_IF_ERROR(call.accept(params));
  VT_ASSIGN_OR_RETURN(StoreDriverOptions options, read_options(call, configuration));
  ServiceClient client(call.service());
  LongCall long_call(call);
  options.ssh_config = call.migrate_ssh();
  options.progress = long_call.sink();
  Json warnings = Json::array();
  options.warn = [&warnings](std::string warning) { warnings.push_back(std::move(warning)); };
  StoreDriver driver(client, std::move(options));
  const auto make = [&] { return call_driver(driver, name, arguments); };
  const Answer<Json> answer = is_long_driver_call(name) ? long_call.run(make) : make();
  if (answer.ok() && warnings.empty()) return Json{{"answer", *answer}};
  if (answer.ok()) return Json{{"answer", *answer}, {"warnings", std::move(warnings)}};
  return Json{{"exception", name_of(answer.status().exception())},
              {"message", answer.status().message()}};
}

}  // namespace

const std::vector<Method>& driver_methods() {
  static const std::vector<Method> methods{{"driver.call", driver_call}};
  return methods;
}

}  // namespace voltree
