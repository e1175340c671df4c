// Rows of the catalog as the lineage copy keeps them (docs/FORMAT.md), and back.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "blockstore/base/status.h"
#include "blockstore/catalog.h"
#include "blockstore/format/lineage_copy_format.h"

namespace voltree {

CopyRow copy_setting(const std::string& key, const std::string& value);
CopyRow copy_last_id(const std::string& kind, std::uint64_t id);
CopyRow copy_row(const VolumeRow& row);
CopyRow copy_row(const NodeRow& row);
// Without `unsettled`, which comes and goes with writes.
CopyRow copy_row(const LayerRow& row);
CopyRow copy_row(const EraseRequestRow& row);
CopyRow copy_row(const EraseItemRow& row);
CopyRow copy_row(const AttachmentRow& row);
CopyRow copy_row(const VolumeReserveRow& row);
CopyRow copy_row(const CertificateRow& row);
// What a request has beyond its policy; nothing: the row went. A row of its own, so that a voltree
// that does not know it reads the request.
CopyRow copy_erase_options(const EraseRequestRow& row);
CopyRow copy_row(const TakenLayerRow& row);
// All of a volume's; none: the row went.
CopyRow copy_limits(VolumeId volume, const std::vector<VolumeLimitRow>& rows);
CopyRow copy_notes(VolumeId volume, const std::vector<VolumeNoteRow>& rows);
CopyRow copy_gone(CopyTable table, std::uint64_t id);

// Every row that the copy keeps.
std::vector<CopyRow> copy_rows(const CatalogImage& image);

// What the records of a copy add up to, by table and key.
using CopyState = std::map<std::pair<CopyTable, std::string>, std::string>;
void apply_copy_row(CopyRow row, CopyState& state);
// kDamaged, naming the row, when a value is not what one of these functions makes.
Result<CatalogImage> image_of_copy(const CopyState& state);

}  // namespace voltree
