// Limits on the I/O of a volume: the value (what was asked for, and what that means at a size), and
// the throttle that keeps to it.
//
// The words are Cinder's and QEMU's. Six rates can be limited: operations and bytes a second, of
// reads, of writes, and of both together. All that are given hold at once. Of each rate R:
//   R              so much a second
//   R_max          after quiet times as much as this a second, until R_max more was done than R
//                  alone allows: one second of full burst, longer when R refills meanwhile
//   R_per_gb       in the place of R: so much for each GiB of the volume's size, parts of a GiB too
//   R_per_gb_min   and never less than this
// size_iops_sec: an operation of more bytes counts as several of (at most) so many bytes.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "blockstore/base/status.h"
#include "blockstore/runtime/io.h"
#include "blockstore/runtime/sync.h"
#include "blockstore/runtime/task.h"

namespace voltree {

enum class QosRate : std::uint8_t {
  kReadIops,
  kWriteIops,
  kTotalIops,
  kReadBytes,
  kWriteBytes,
  kTotalBytes,
};
inline constexpr std::size_t kQosRates = 6;
// No rate is larger: 2^40 bytes a second is more than memory does.
inline constexpr std::uint64_t kQosValueMax = std::uint64_t{1} << 40;

// One rate; 0: not given.
struct QosLimit {
  std::uint64_t per_second = 0;
  std::uint64_t burst = 0;
  std::uint64_t per_gib = 0;
  std::uint64_t per_gib_min = 0;
  bool operator==(const QosLimit&) const = default;
};

// What was asked for. A plain value; check() says whether it makes sense.
struct QosLimits {
  using Entries = std::vector<std::pair<std::string, std::uint64_t>>;

  std::array<QosLimit, kQosRates> rates;
  std::uint64_t size_iops_bytes = 0;  // size_iops_sec

  QosLimit& operator[](QosRate rate) { return rates[static_cast<std::size_t>(rate)]; }
  bool empty() const { return *this == QosLimits(); }
  bool operator==(const QosLimits&) const = default;

  // By key, as in "read_iops_sec_max"; 0 takes it away. kInvalid: no such key, or too much.
  Status set(std::string_view key, std::uint64_t value);
  // What is given, in the order of qos_keys().
  Entries entries() const;
  // kInvalid: a burst or a minimum of nothing, two ways to say one rate, a burst below its rate.
  Status check() const;
};

std::vector<std::string> qos_keys();
bool is_qos_key(std::string_view key);
bool qos_key_is_bytes(std::string_view key);  // else it counts operations

// What the limits are at one size; 0: none.
struct ResolvedQos {
  struct Rate {
    std::uint64_t per_second = 0;
    std::uint64_t burst = 0;
    bool operator==(const Rate&) const = default;
  };
  std::array<Rate, kQosRates> rates;
  std::uint64_t size_iops_bytes = 0;

  const Rate& operator[](QosRate rate) const { return rates[static_cast<std::size_t>(rate)]; }
  bool unlimited() const;
  QosLimits::Entries entries() const;
  bool operator==(const ResolvedQos&) const = default;
};
// A burst below the rate (which grows with the size) is raised to it.
ResolvedQos resolve_qos(const QosLimits& limits, std::uint64_t size_bytes);

// Admits the I/O of one volume at the rates it was given. Thread-safe.
//
// Each rate is a bucket that holds R_max, or a tenth of a second's worth of R when there is no
// R_max; with R_max a second one, of a tenth of a second's worth of it, keeps the peak. An
// operation goes once every bucket it draws from holds what it costs, or is full when it never
// holds that much: it then goes into debt. So in any time t, no more than R * t + the larger of
// the bucket and the largest single operation is admitted, and with somebody always waiting no
// less than R * t.
//
// Reads wait for reads and writes for writes, first come, first served. One may overtake the other
// direction only when that waits for a rate of its own, never when for a total.
class Throttle {
 public:
  enum class Direction : std::uint8_t { kRead, kWrite };

  // `timers` is entered by whatever the throttle has sleeping: it must be drained before the
  // runtime ends. Nothing sleeps for longer than 100 ms.
  Throttle(Runtime& runtime, std::shared_ptr<Gate> timers);

  // False: admit() would answer at once. One relaxed load.
  bool active() const { return active_.load(std::memory_order_relaxed); }
  // Waits its turn. kGone: close() was called. On an executor; holds nothing while it waits.
  Task<Status> admit(Direction direction, std::uint64_t bytes);
  // From now on, for those that wait, too. On an executor.
  void set(const ResolvedQos& limits);
  // Who waits and who comes is told kGone, until reopen().
  void close();
  void reopen();

  std::uint64_t waiting() const;
  std::uint64_t delayed() const;  // how many had to wait, since it was made

 private:
  struct State;
  struct Admission;
  static Task<void> wait_for_refill(std::shared_ptr<State> state, Gate::Token token,
                                    std::chrono::nanoseconds delay,
                                    std::chrono::nanoseconds fires_at);
  static void run(const std::shared_ptr<State>& state, std::chrono::nanoseconds fired_at);

  // Outlives this while something sleeps.
  const std::shared_ptr<State> state_;
  std::atomic<bool> active_{false};
};

}  // namespace voltree
