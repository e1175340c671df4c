// Whether a driver does what Cinder asks of one: every call there is, called with the contract's
// arguments, and behaving. Cinder's own test of this cannot fail.
//
// It makes, changes and deletes volumes named "compliance-…" on the driver's back end, and leaves
// none behind where deletes work. Used by tests of drivers, and by whoever writes one.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "driver/volume_driver.h"

namespace voltree {

// How the test gets at the data of volumes, by their names on the back end. Offsets in bytes.
struct ComplianceData {
  std::function<bool(const std::string& node, std::uint64_t offset_bytes, char fill)> write_block;
  // The first byte of the 4 KiB block, when all of it is the same; nothing on an error or when it
  // differs.
  std::function<std::optional<char>(const std::string& node, std::uint64_t offset_bytes)>
      read_block;
  // Where image files are made that the driver can read and write; none stays there.
  std::string folder;
};

// A line for each gap: the call, what was asked, and what came instead. Empty: it complies.
std::vector<std::string> find_gaps(VolumeDriver& driver, const ComplianceData& data);

}  // namespace voltree
