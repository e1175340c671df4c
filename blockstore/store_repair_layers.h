// What the files of layers say of themselves. For store_repair*.cc.
#pragma once

#include <functional>
#include <map>
#include <string>

#include "blockstore/base/status.h"
#include "blockstore/base/units.h"
#include "blockstore/extent_map.h"
#include "blockstore/runtime/io.h"

namespace voltree {

struct LayerFiles {
  bool data = false;
  bool sums = false;
};
// Every layer that has a file. Blocking.
Result<std::map<LayerId, LayerFiles>> layer_files(FileSystem& fs, const std::string& directory);

// A layer as its files have it. Blocks of `damaged` and `unsummed` are in the index as data and
// fail when they are read.
struct LayerScan {
  std::uint64_t file_bytes = 0;
  std::uint64_t size_bytes = 0;  // the larger of that and what it should be
  ExtentMap index;
  ExtentMap damaged;   // value 1: the data is not what the sum says, or cannot be read
  ExtentMap unsummed;  // value 1: there is data, and no sum says what it must be
};
// Reads all of the layer, and makes what it has read durable (I1). `size_bytes` is what it should
// be, 0 when nobody knows; `left_out` are blocks that are nobody's. Both files must be there.
// Blocking.
Result<LayerScan> scan_layer(FileSystem& fs, const std::string& directory, LayerId id,
                             std::uint64_t size_bytes, const ExtentMap& left_out,
                             const std::function<void(std::uint64_t bytes)>& progress);

}  // namespace voltree
