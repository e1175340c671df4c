// What people have set of a volume, apart from its name and size. It goes with a volume that moves
// to another store.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "blockstore/catalog.h"
#include "blockstore/qos.h"

namespace voltree {

using VolumeNotes = std::map<std::string, std::string>;

// kInvalid: more of them, or longer ones, than a volume may have.
Status check_notes(const VolumeNotes& notes);

struct VolumeSettings {
  std::optional<ErasePolicy> erase_policy;  // unset: its store's
  QosLimits limits;
  VolumeNotes notes;
  std::uint64_t reserve_bytes = 0;
  bool operator==(const VolumeSettings&) const = default;

  // kInvalid: not of a volume of this size.
  Status check(std::uint64_t size_bytes) const;
  // The rows beside the volume's own, which has the erase policy.
  Status put(CatalogDb& db, VolumeId volume) const;

  // Lines of text (docs/FORMAT.md, "Volumes that leave"). What a text has that parse() does not
  // know is not in what it makes, so that encode() then makes another text.
  std::string encode() const;
  static VolumeSettings parse(const std::string& lines);
};

}  // namespace voltree
