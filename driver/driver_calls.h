// A driver's calls by name, with JSON in and JSON out: how callers in other languages reach one
// (docs/CONTROL.md, driver.call).
#pragma once

#include <string_view>
#include <vector>

#include "driver/volume_driver.h"

namespace voltree {

// `arguments` is an object with the call's arguments by Cinder's names; those that the call does
// not know are left aside, since Cinder's objects have many more columns than a driver needs.
// kInvalidInput names one that is missing or wrong; kNotImplementedError: there is no such call.
Answer<Json> call_driver(VolumeDriver& driver, std::string_view call, const Json& arguments);

std::vector<std::string_view> driver_call_names();

// A call that moves a volume's bytes: it takes as long as it takes, and tells of its progress.
bool is_long_driver_call(std::string_view call);

}  // namespace voltree
