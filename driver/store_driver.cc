// Setting up, and statistics.
#include "driver/store_driver.h"

#include <cmath>

#include "driver/store_driver_impl.h"

namespace voltree {
namespace {

double gib(const Json& bytes) {
  const double exact = static_cast<double>(bytes.get<std::uint64_t>()) / static_cast<double>(kGiB);
  return std::round(exact * 100) / 100;
}

}  // namespace

StoreDriver::StoreDriver(Client& client, StoreDriverOptions options)
    : client_(client), options_(std::move(options)) {}

std::string_view StoreDriver::version() const { return VOLTREE_VERSION; }

DriverStatus StoreDriver::do_setup() { return {}; }

DriverStatus StoreDriver::check_for_setup_error() {
  const auto failed = [](const std::string& why) {
    return DriverStatus(Exception::kVolumeBackendAPIException, why);
  };
  const Result<Json> pool = client_.call("pool.stats", Json::object());
  if (!pool.ok()) return failed(std::string(pool.status().message()));
  if ((*pool)["read_only"] == true)
    return failed("the store is read-only: " + text_in(*pool, "warning"));
  if (options_.connection == Connection::kFile || client_.is_daemon()) {
    return path_of("volume").status();
  }
  return failed("loop devices need a running daemon: voltree serve --mount DIR");
}

Json StoreDriver::stats_of(const Json& pool) const {
  Json answer{{"volume_backend_name", options_.backend_name},
              {"vendor_name", "voltree"},
              {"driver_version", version()},
              {"storage_protocol", "file"},
              {"backend_state", "up"},
              {"shared_targets", false},
              {"sparse_copy_volume", true},
              {"replication_enabled", false},
              {"replication_targets", Json::array()}};
  const Json& host = pool["host"];
  Json one{{"pool_name", options_.backend_name},
           {"total_capacity_gb", gib(host["total_bytes"])},
           {"free_capacity_gb", gib(host["free_bytes"])},
           {"provisioned_capacity_gb", gib(pool["virtual_bytes"])},
           {"allocated_capacity_gb", gib(pool["virtual_bytes"])},
           {"reserved_percentage", options_.reserved_percentage},
           {"max_over_subscription_ratio", options_.max_over_subscription_ratio},
           {"thin_provisioning_support", true},
           {"thick_provisioning_support", false},
           {"total_volumes", pool["volumes"]},
           {"location_info", location_info(pool)},
           {"multiattach", true},
           {"online_extend_support", true},
           {"QoS_support", true},
           {"consistent_group_snapshot_enabled", true},
           {"consistent_group_replication_enabled", false},
           {"replication_enabled", false},
           {"clone_across_pools", false},
           {"compression", false},
           {"deduplication", false},
           {"cacheable", false},
           {"filter_function", nullptr},
           {"goodness_function", nullptr},
           {"backend_state", "up"}};
  answer["pools"] = Json::array({std::move(one)});
  return answer;
}

Json StoreDriver::get_volume_stats(bool refresh) {
  if (!refresh && !stats_.is_null()) return stats_;
  const Result<Json> pool = client_.call("pool.stats", Json::object());
  if (pool.ok() && (*pool)["read_only"] == false) {
    stats_ = stats_of(*pool);
    return stats_;
  }
  if (stats_.is_null()) {
    const Json nothing{{"uuid", ""},
                       {"host", Json{{"total_bytes", 0}, {"free_bytes", 0}}},
                       {"virtual_bytes", 0},
                       {"volumes", 0}};
    stats_ = stats_of(pool.ok() ? *pool : nothing);
  }
  stats_["backend_state"] = "down";
  for (Json& one : stats_["pools"]) one["backend_state"] = "down";
  return stats_;
}

}  // namespace voltree
