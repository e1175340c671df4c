#include "blockstore/qos.h"

#include <algorithm>
#include <cassert>
#include <chrono>
#include <cmath>
#include <deque>
#include <limits>
#include <mutex>
#include <optional>

#include "blockstore/base/units.h"

namespace voltree {
namespace {

using std::chrono::nanoseconds;

constexpr std::array<std::string_view, kQosRates> kRateNames = {
    "read_iops_sec",  "write_iops_sec",  "total_iops_sec",
    "read_bytes_sec", "write_bytes_sec", "total_bytes_sec"};
constexpr std::array<std::pair<std::string_view, std::uint64_t QosLimit::*>, 4> kForms = {{
    {"", &QosLimit::per_second},
    {"_max", &QosLimit::burst},
    {"_per_gb", &QosLimit::per_gib},
    {"_per_gb_min", &QosLimit::per_gib_min},
}};
constexpr std::string_view kSizeKey = "size_iops_sec";
constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;
constexpr std::uint64_t kSectorsPerGiB = kGiB / kSectorBytes;

// The member that `key` names; nullptr when none is.
std::uint64_t* find_key(QosLimits& limits, std::string_view key) {
  if (key == kSizeKey) return &limits.size_iops_bytes;
  for (std::size_t rate = 0; rate < kQosRates; ++rate) {
    if (!key.starts_with(kRateNames[rate])) continue;
    for (const auto& [suffix, member] : kForms) {
      if (key.substr(kRateNames[rate].size()) == suffix) return &(limits.rates[rate].*member);
    }
  }
  return nullptr;
}

std::uint64_t per_size(std::uint64_t per_gib, std::uint64_t size_bytes) {
  const std::uint64_t whole_gib = size_bytes / kGiB;
  if (whole_gib > kQosValueMax / per_gib) return kQosValueMax;
  // Parts of a GiB count, rounded up. (In sectors: the product stays below 2^61.)
  const std::uint64_t sectors = size_bytes % kGiB / kSectorBytes;
  const std::uint64_t part = (per_gib * sectors + kSectorsPerGiB - 1) / kSectorsPerGiB;
  return std::min(per_gib * whole_gib + part, kQosValueMax);
}

}  // namespace

// --- The value.

Status QosLimits::set(std::string_view key, std::uint64_t value) {
  std::uint64_t* const member = find_key(*this, key);
  if (member == nullptr) return error(Code::kInvalid, "there is no limit {}", quoted(key));
  if (value > kQosValueMax) {
    return error(Code::kInvalid, "{}: at most {}", key, kQosValueMax);
  }
  *member = value;
  return {};
}

QosLimits::Entries QosLimits::entries() const {
  Entries found;
  QosLimits copy = *this;
  for (std::string& key : qos_keys()) {
    const std::uint64_t value = *find_key(copy, key);
    if (value != 0) found.emplace_back(std::move(key), value);
  }
  return found;
}

Status QosLimits::check() const {
  bool iops = false;
  for (std::size_t i = 0; i < kQosRates; ++i) {
    const QosLimit& rate = rates[i];
    const std::string_view name = kRateNames[i];
    const bool given = rate.per_second != 0 || rate.per_gib != 0;
    iops = iops || (given && !qos_key_is_bytes(name));
    if (rate.per_second != 0 && rate.per_gib != 0) {
      return error(Code::kInvalid, "{0} and {0}_per_gb exclude each other", name);
    }
    if (rate.burst != 0 && !given) {
      return error(Code::kInvalid, "{0}_max needs {0} or {0}_per_gb", name);
    }
    if (rate.burst != 0 && rate.burst < rate.per_second) {
      return error(Code::kInvalid, "{0}_max is the burst: at least as much as {0}", name);
    }
    if (rate.per_gib_min != 0 && rate.per_gib == 0) {
      return error(Code::kInvalid, "{0}_per_gb_min needs {0}_per_gb", name);
    }
  }
  if (size_iops_bytes != 0 && !iops) {
    return error(Code::kInvalid, "{} needs a limit on operations, such as total_iops_sec",
                 kSizeKey);
  }
  return {};
}

std::vector<std::string> qos_keys() {
  std::vector<std::string> keys;
  for (const std::string_view rate : kRateNames) {
    for (const auto& form : kForms) keys.push_back(std::string(rate) + std::string(form.first));
  }
  keys.emplace_back(kSizeKey);
  return keys;
}

bool is_qos_key(std::string_view key) {
  QosLimits any;
  return find_key(any, key) != nullptr;
}

bool qos_key_is_bytes(std::string_view key) {
  return key == kSizeKey || key.find("_bytes_") != std::string_view::npos;
}

bool ResolvedQos::unlimited() const {
  return std::all_of(rates.begin(), rates.end(),
                     [](const Rate& rate) { return rate.per_second == 0; });
}

QosLimits::Entries ResolvedQos::entries() const {
  QosLimits::Entries found;
  for (std::size_t i = 0; i < kQosRates; ++i) {
    if (rates[i].per_second == 0) continue;
    found.emplace_back(kRateNames[i], rates[i].per_second);
    if (rates[i].burst != 0)
      found.emplace_back(std::string(kRateNames[i]) + "_max", rates[i].burst);
  }
  if (size_iops_bytes != 0) found.emplace_back(kSizeKey, size_iops_bytes);
  return found;
}

ResolvedQos resolve_qos(const QosLimits& limits, std::uint64_t size_bytes) {
  ResolvedQos resolved;
  resolved.size_iops_bytes = limits.size_iops_bytes;
  for (std::size_t i = 0; i < kQosRates; ++i) {
    const QosLimit& asked = limits.rates[i];
    ResolvedQos::Rate& rate = resolved.rates[i];
    rate.per_second = asked.per_second;
    if (asked.per_gib != 0) {
      rate.per_second =
          std::max({per_size(asked.per_gib, size_bytes), asked.per_gib_min, std::uint64_t{1}});
    }
    if (asked.burst != 0) rate.burst = std::max(asked.burst, rate.per_second);
  }
  return resolved;
}

// --- The throttle.

namespace {

constexpr double kNsPerSecond = 1e9;
// A bucket without a burst holds this part of a second; so does the one that keeps the peak.
constexpr double kBucketSeconds = 0.1;
// Sums of fractions: what is this little short of enough is enough.
constexpr double kRoundingSlack = 1e-9;
constexpr nanoseconds kSleepMax = std::chrono::milliseconds(100);
constexpr nanoseconds kNever = nanoseconds::max();

struct Bucket {
  double per_second = 0;  // 0: no limit
  double capacity = 0;
  double debt = 0;  // how far it is from full

  // `old` has been drawn from under other limits: what is missing stays missing, but no more than
  // it can hold.
  static Bucket make(double per_second, double capacity, const Bucket& old) {
    return {per_second, capacity, std::min(old.debt, capacity)};
  }
  void refill(double seconds) { debt = std::max(0.0, debt - per_second * seconds); }
  nanoseconds wait_for(double cost) const {
    if (per_second == 0) return nanoseconds(0);
    const double missing = debt + std::min(cost, capacity) - capacity;
    if (missing <= kRoundingSlack * std::max(capacity, 1.0)) return nanoseconds(0);
    return nanoseconds(std::llround(std::ceil(missing / per_second * kNsPerSecond)));
  }
  void draw(double cost) {
    if (per_second != 0) debt += cost;
  }
};

constexpr std::array<std::array<QosRate, 2>, 2> kOwnRates = {
    {{QosRate::kReadIops, QosRate::kReadBytes}, {QosRate::kWriteIops, QosRate::kWriteBytes}}};
constexpr std::array<QosRate, 2> kTotalRates = {QosRate::kTotalIops, QosRate::kTotalBytes};

}  // namespace

// One operation that asks; lives in the frame of who waits, until it is posted.
struct Throttle::Admission {
  std::shared_ptr<State> state;
  std::size_t direction;
  std::array<double, 2> cost;  // operations, bytes
  std::uint64_t ticket = 0;
  Waiter waiter;
  bool granted = false;
  bool gone = false;

  bool await_ready() const noexcept { return false; }
  bool await_suspend(std::coroutine_handle<> handle);
  Status await_resume() const {
    if (!gone) return {};
    return error(Code::kGone, "this volume was deleted, or its store closed, while I/O waited");
  }
};

struct Throttle::State {
  State(Runtime& of, std::shared_ptr<Gate> gate) : runtime(of), timers(std::move(gate)) {}

  Runtime& runtime;
  const std::shared_ptr<Gate> timers;
  mutable std::mutex mutex;  // guards all below
  ResolvedQos limits;
  std::array<std::array<Bucket, 2>, kQosRates> buckets;  // the rate and its peak
  nanoseconds refilled_at{0};
  std::array<std::deque<Admission*>, 2> queues;  // by direction
  std::uint64_t next_ticket = 1;
  std::uint64_t delayed = 0;
  bool closed = false;
  nanoseconds fires_at = kNever;  // the first of the timers under way

  void refill(nanoseconds now) {
    const double seconds = static_cast<double>((now - refilled_at).count()) / kNsPerSecond;
    refilled_at = now;
    for (auto& pair : buckets) {
      for (Bucket& bucket : pair) bucket.refill(seconds);
    }
  }

  nanoseconds wait_for(const std::array<QosRate, 2>& rates, const Admission& one) const {
    nanoseconds wait{0};
    for (std::size_t unit = 0; unit < rates.size(); ++unit) {
      for (const Bucket& bucket : buckets[static_cast<std::size_t>(rates[unit])]) {
        wait = std::max(wait, bucket.wait_for(one.cost[unit]));
      }
    }
    return wait;
  }

  void draw(const std::array<QosRate, 2>& rates, const Admission& one) {
    for (std::size_t unit = 0; unit < rates.size(); ++unit) {
      for (Bucket& bucket : buckets[static_cast<std::size_t>(rates[unit])]) {
        bucket.draw(one.cost[unit]);
      }
    }
  }

  void grant(Admission& one, std::vector<Waiter>& wake) {
    draw(kOwnRates[one.direction], one);
    draw(kTotalRates, one);
    queues[one.direction].pop_front();
    one.granted = true;
    // Whoever asks right now has no handle yet, and goes on by itself.
    if (one.waiter.handle) wake.push_back(one.waiter);
  }

  // Admits all that may go now; when the next one may.
  nanoseconds admit_ready(nanoseconds now, std::vector<Waiter>& wake) {
    refill(now);
    for (;;) {
      std::array<Admission*, 2> heads{};
      for (std::size_t i = 0; i < heads.size(); ++i) {
        heads[i] = queues[i].empty() ? nullptr : queues[i].front();
      }
      if (heads[0] == nullptr || (heads[1] != nullptr && heads[1]->ticket < heads[0]->ticket)) {
        std::swap(heads[0], heads[1]);
      }
      nanoseconds next = kNever;
      bool admitted = false;
      for (Admission* one : heads) {  // the older one first
        if (one == nullptr) continue;
        const nanoseconds own = wait_for(kOwnRates[one->direction], *one);
        const nanoseconds total = wait_for(kTotalRates, *one);
        if (own.count() == 0 && total.count() == 0) {
          grant(*one, wake);
          admitted = true;
          break;
        }
        next = std::min(next, std::max(own, total));
        // Who overtook would take what this one waits for.
        if (total.count() != 0) break;
      }
      if (!admitted) return next;
    }
  }

  // When a timer must be started: how long it sleeps.
  std::optional<nanoseconds> arm(nanoseconds now, nanoseconds wait) {
    if (wait == kNever) return std::nullopt;
    const nanoseconds delay = std::min(wait, kSleepMax);
    if (fires_at <= now + delay) return std::nullopt;
    fires_at = now + delay;
    return delay;
  }
};

Throttle::Throttle(Runtime& runtime, std::shared_ptr<Gate> timers)
    : state_(std::make_shared<State>(runtime, std::move(timers))) {}

Task<void> Throttle::wait_for_refill(std::shared_ptr<State> state, Gate::Token token,
                                     nanoseconds delay, nanoseconds fires_at) {
  co_await state->runtime.sleep_for(delay);
  run(state, fires_at);
  token.leave();
}

// Admits who may go and sees to it that somebody does so again when the next one may. `fired_at`:
// the timer that calls, or kNever.
void Throttle::run(const std::shared_ptr<State>& state, nanoseconds fired_at) {
  std::vector<Waiter> wake;
  std::optional<nanoseconds> delay;
  nanoseconds fires_at{0};
  {
    const std::lock_guard lock(state->mutex);
    if (state->fires_at == fired_at) state->fires_at = kNever;
    const nanoseconds now = state->runtime.monotonic_now();
    const nanoseconds next = state->admit_ready(now, wake);
    delay = state->arm(now, next);
    fires_at = state->fires_at;
  }
  for (const Waiter& waiter : wake) waiter.wake();
  if (delay) spawn_here(wait_for_refill(state, state->timers->enter(), *delay, fires_at));
}

bool Throttle::Admission::await_suspend(std::coroutine_handle<> handle) {
  const std::shared_ptr<State> kept = state;  // this may be gone once the mutex is let go
  std::vector<Waiter> wake;
  std::optional<nanoseconds> delay;
  nanoseconds fires_at{0};
  bool waits = false;
  {
    const std::lock_guard lock(kept->mutex);
    gone = kept->closed;
    if (gone) return false;
    ticket = kept->next_ticket++;
    kept->queues[direction].push_back(this);
    const nanoseconds now = kept->runtime.monotonic_now();
    const nanoseconds next = kept->admit_ready(now, wake);
    waits = !granted;
    if (waits) {
      waiter = {handle, Executor::current()};
      ++kept->delayed;
    }
    delay = kept->arm(now, next);
    fires_at = kept->fires_at;
  }
  for (const Waiter& other : wake) other.wake();
  if (delay) spawn_here(wait_for_refill(kept, kept->timers->enter(), *delay, fires_at));
  return waits;
}

Task<Status> Throttle::admit(Direction direction, std::uint64_t bytes) {
  std::uint64_t operations = 1;
  {
    const std::lock_guard lock(state_->mutex);
    const std::uint64_t size = state_->limits.size_iops_bytes;
    if (size != 0 && bytes > size) operations = (bytes + size - 1) / size;
  }
  const std::array<double, 2> cost = {static_cast<double>(operations), static_cast<double>(bytes)};
  Admission admission{state_, static_cast<std::size_t>(direction), cost, 0, {}};
  co_return co_await admission;
}

void Throttle::set(const ResolvedQos& limits) {
  {
    const std::lock_guard lock(state_->mutex);
    if (state_->limits == limits) return;
    state_->refill(state_->runtime.monotonic_now());
    state_->limits = limits;
    for (std::size_t i = 0; i < kQosRates; ++i) {
      const auto rate = static_cast<double>(limits.rates[i].per_second);
      const auto peak = static_cast<double>(limits.rates[i].burst);
      auto& [sustained, burst] = state_->buckets[i];
      const double capacity = peak != 0 ? peak : rate * kBucketSeconds;
      sustained = Bucket::make(rate, capacity, sustained);
      burst = Bucket::make(peak, peak * kBucketSeconds, burst);
    }
    active_.store(!limits.unlimited(), std::memory_order_relaxed);
  }
  run(state_, kNever);
}

void Throttle::close() {
  std::vector<Waiter> wake;
  {
    const std::lock_guard lock(state_->mutex);
    state_->closed = true;
    for (auto& queue : state_->queues) {
      for (Admission* one : queue) {
        one->gone = true;
        wake.push_back(one->waiter);
      }
      queue.clear();
    }
  }
  for (const Waiter& waiter : wake) waiter.wake();
}

void Throttle::reopen() {
  const std::lock_guard lock(state_->mutex);
  state_->closed = false;
}

std::uint64_t Throttle::waiting() const {
  const std::lock_guard lock(state_->mutex);
  return state_->queues[0].size() + state_->queues[1].size();
}

std::uint64_t Throttle::delayed() const {
  const std::lock_guard lock(state_->mutex);
  return state_->delayed;
}

}  // namespace voltree
