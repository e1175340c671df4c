// Methods by which a volume goes to another store of this host; entries of volume_methods().
#pragma once

#include "driver/control/service.h"

namespace voltree {

Result<Json> volume_give(Call& call);
Result<Json> volume_given(Call& call);
Result<Json> volume_take_given(Call& call);

// Before a file is opened whose path somebody has said: a pipe or a device would wait, or do
// something, and a file of our own tree is served by the threads that would wait for it.
Status check_shareable(const std::string& file);  // service_volumes.cc

}  // namespace voltree
