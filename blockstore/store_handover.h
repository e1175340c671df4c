// A volume goes from one store of a host to another without being copied: its one layer's files are
// given away, and taken by the other store.
//
// Between the two the volume is a file in STORE/leaving/, whole and no store's: after a crash
// whoever moves it goes on where it stopped, or takes it back. Its sums go with it, so that none of
// it is read, and what is damaged stays so (I9).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "blockstore/catalog.h"
#include "blockstore/store.h"
#include "blockstore/volume_settings.h"

namespace voltree {

class StoreCore;

struct GivenVolume {
  std::string name;
  std::string data;  // the paths of its two files
  std::string sums;
  std::uint64_t size_bytes = 0;
  VolumeSettings settings;  // they go with it
};

// Thread-safe, as Store is.
class StoreHandover {
 public:
  // The volume is no longer of this store: durable when it returns, and all or nothing (I3).
  // kNotSupported: it has snapshots or an ancestor, or more than one layer, or none. kBusy: it is
  // attached, claimed, open, or being read. One that was given already is answered again.
  static Task<Result<GivenVolume>> give(Store& store, std::string volume);
  // One that was given and not taken so far; kNotFound.
  static Task<Result<GivenVolume>> given(Store& store, std::string volume);
  // As Store::take_file, with its settings in the same commit. Also for the store that gave it.
  static Task<Status> take(Store& store, GivenVolume volume);
};

// What a crash left of giving: names of files that the catalog still has go. Before any layer is
// opened.
Task<Status> settle_leaving(StoreCore& core, const CatalogImage& image);

// Those that were given, and that no store has taken so far. Blocking.
Result<std::vector<GivenVolume>> given_volumes(StoreCore& core);

}  // namespace voltree
