// CatalogDb's rows: what each table takes in, and what is checked of what it gives back.
#include <algorithm>
#include <bit>
#include <limits>
#include <span>
#include <utility>

#include "blockstore/base/checksum.h"
#include "blockstore/catalog_db_impl.h"
#include "blockstore/catalog_schema.h"

namespace voltree {
namespace {

constexpr std::uint64_t kLayerIdMax = std::numeric_limits<LayerId>::max();

// A sum guards a blob against rot that SQLite does not see: a flipped bit in one still decodes, and
// would make blocks appear or vanish. The row's key and owner are summed too, so that a blob under
// another key does not pass.
void check_sum(RowReader& row, std::string_view blob, std::uint64_t key, std::uint64_t subkey) {
  const auto sum = std::bit_cast<std::uint64_t>(row.signed_number("sum"));
  row.require(sum == keyed_checksum(blob, key, subkey),
              fmt::format("the checksum of its blob is wrong (part {})", subkey));
}

LayerId read_layer_id(RowReader& row, std::string_view column) {
  return static_cast<LayerId>(row.number(column, 1, kLayerIdMax));
}

ErasePolicy read_policy(RowReader& row, std::string_view column) {
  return static_cast<ErasePolicy>(row.number(column, 0, 3));
}

VolumeRow read_volume(RowReader& row) {
  VolumeRow volume;
  volume.id = row.number("id", 1);
  volume.name = row.text("name");
  volume.head = row.id_or_none("head");
  if (row.next_is_null()) {
    row.skip();
  } else {
    volume.erase_policy = read_policy(row, "erase_policy");
  }
  volume.created_ns = row.signed_number("created_ns");
  const Status name = check_name(volume.name);
  row.require(name.ok(), name.message());
  return volume;
}

NodeRow read_node(RowReader& row) {
  NodeRow node;
  node.id = row.number("id", 1);
  node.kind = static_cast<NodeKind>(row.number("kind", 0, 2));
  node.parent = row.id_or_none("parent");
  node.volume = row.number("volume", 0);
  if (row.next_is_null()) {
    row.skip();
    row.require(node.kind != NodeKind::kSnapshot, "a snapshot without a name");
  } else {
    node.snapshot = row.text("snapshot");
    row.require(node.kind == NodeKind::kSnapshot, "a name on what is not a snapshot");
    const Status name = check_name(node.snapshot);
    row.require(name.ok(), name.message());
  }
  node.size_bytes = row.number("size_bytes", 0);
  row.require(node.size_bytes % kSectorBytes == 0, "size_bytes is not a multiple of 512");
  row.require(node.parent != node.id, "a node that is its own parent");
  node.created_ns = row.signed_number("created_ns");
  return node;
}

LayerRow read_layer(RowReader& row) {
  LayerRow layer;
  layer.id = read_layer_id(row, "id");
  layer.owner = row.id_or_none("owner");
  layer.size_bytes = row.number("size_bytes", 0);
  layer.unsettled = row.flag("unsettled");
  layer.created_ns = row.signed_number("created_ns");
  return layer;
}

EraseRequestRow read_erase_request(RowReader& row) {
  EraseRequestRow request;
  request.id = row.number("id", 1);
  request.what = row.text("what");
  request.policy = read_policy(row, "policy");
  request.requested_ns = row.signed_number("requested_ns");
  request.erased_bytes = row.number("erased_bytes", 0);
  request.verified_bytes = row.number("verified_bytes", 0);
  request.items_done = row.number("items_done", 0);
  request.first_bytes = row.number("first_bytes", 0);
  const std::uint64_t priority = row.number("io_priority", 0, UINT16_MAX);
  row.require(is_io_priority(priority), "io_priority is none");
  request.io_priority = static_cast<IoPriority>(priority);
  return request;
}

EraseItemRow read_erase_item(RowReader& row) {
  EraseItemRow item;
  item.id = row.number("id", 1);
  item.request = row.number("request", 1);
  item.layer = read_layer_id(row, "layer");
  item.whole_layer = row.flag("whole_layer");
  item.ranges = row.blob("ranges");
  row.require(item.ranges.empty() == item.whole_layer, "ranges do not fit whole_layer");
  item.estimated_bytes = row.number("estimated_bytes", 0);
  check_sum(row, item.ranges, item.id, item.layer);
  return item;
}

AttachmentRow read_attachment(RowReader& row) {
  AttachmentRow attachment;
  attachment.id = row.number("id", 1);
  attachment.node = row.number("node", 1);
  attachment.target = row.text("target");
  attachment.device = row.text("device");
  attachment.read_only = row.flag("read_only");
  attachment.sector_size_bytes =
      static_cast<std::uint32_t>(row.number("sector_size_bytes", 512, 65536));
  attachment.boot_id = row.text("boot_id");
  attachment.created_ns = row.signed_number("created_ns");
  return attachment;
}

VolumeLimitRow read_volume_limit(RowReader& row) {
  VolumeLimitRow limit;
  limit.volume = row.number("volume", 1);
  limit.key = row.text("key");
  limit.value = row.number("value", 1);
  return limit;
}

VolumeReserveRow read_volume_reserve(RowReader& row) {
  VolumeReserveRow reserve;
  reserve.volume = row.number("volume", 1);
  reserve.reserve_bytes = row.number("reserve_bytes", 1);
  return reserve;
}

VolumeNoteRow read_volume_note(RowReader& row) {
  VolumeNoteRow note;
  note.volume = row.number("volume", 1);
  note.key = row.text("key");
  note.text = row.text("text");
  return note;
}

TakenLayerRow read_taken_layer(RowReader& row) {
  TakenLayerRow taken;
  taken.layer = read_layer_id(row, "layer");
  taken.path = row.text("path");
  row.require(taken.path.starts_with('/'), "path is not absolute");
  return taken;
}

// Some are made with their first row.
Result<bool> has_table(Connection& connection, std::string_view table) {
  Query query(connection, "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1");
  query.bind_text(table);
  return query.step();
}

// Reads every row of `query` with `read`, which takes the columns that the query names, in its
// order.
template <typename Row>
Status read_all(Query& query, std::string_view table, Row (*read)(RowReader&),
                std::vector<Row>& out) {
  while (true) {
    VT_ASSIGN_OR_RETURN(const bool more, query.step());
    if (!more) return {};
    RowReader row(query, table);
    Row value = read(row);
    VT_RETURN_IF_ERROR(row.status());
    out.push_back(std::move(value));
  }
}

template <typename Row>
Status read_table(Connection& connection, std::string_view sql, std::string_view table,
                  Row (*read)(RowReader&), std::vector<Row>& out) {
  Query query(connection, sql);
  return read_all(query, table, read, out);
}

// `sql` deletes by ?1.
Status remove_by_id(Connection& connection, std::string_view sql, std::uint64_t id) {
  Query query(connection, sql);
  return query.bind(id).run();
}

Status put_erase_options(Connection& db, const EraseRequestRow& row) {
  if (row.first_bytes == 0 && row.io_priority == 0) return {};
  VT_ASSIGN_OR_RETURN(const bool there, has_table(db, "erase_option"));
  if (!there) VT_RETURN_IF_ERROR(db.execute(kEraseOptionSchema));
  Query query(db,
              "INSERT INTO erase_option (request, first_bytes, io_priority) VALUES (?1, ?2, ?3) "
              "ON CONFLICT (request) DO UPDATE SET first_bytes = excluded.first_bytes, "
              "io_priority = excluded.io_priority");
  query.bind(row.id).bind(row.first_bytes);
  return query.bind(std::uint64_t{row.io_priority}).run();
}

}  // namespace

Result<CatalogImage> CatalogDb::load() {
  CatalogImage image;
  Connection& db = *impl_->connection;
  VT_RETURN_IF_ERROR(
      read_table(db, "SELECT id, name, head, erase_policy, created_ns FROM volume ORDER BY id",
                 "volume", read_volume, image.volumes));
  VT_RETURN_IF_ERROR(read_table(
      db, "SELECT id, kind, parent, volume, snapshot, size_bytes, created_ns FROM node ORDER BY id",
      "node", read_node, image.nodes));
  VT_RETURN_IF_ERROR(
      read_table(db, "SELECT id, owner, size_bytes, unsettled, created_ns FROM layer ORDER BY id",
                 "layer", read_layer, image.layers));
  VT_ASSIGN_OR_RETURN(const bool erase_options, has_table(db, "erase_option"));
  VT_RETURN_IF_ERROR(read_table(
      db,
      erase_options
          ? "SELECT id, what, policy, requested_ns, erased_bytes, verified_bytes, items_done, "
            "coalesce(first_bytes, 0) AS first_bytes, coalesce(io_priority, 0) AS io_priority "
            "FROM erase_request LEFT JOIN erase_option ON request = id ORDER BY id"
          : "SELECT id, what, policy, requested_ns, erased_bytes, verified_bytes, items_done, "
            "0 AS first_bytes, 0 AS io_priority FROM erase_request ORDER BY id",
      "erase_request", read_erase_request, image.erase_requests));
  VT_RETURN_IF_ERROR(
      read_table(db,
                 "SELECT id, request, layer, whole_layer, ranges, estimated_bytes, sum "
                 "FROM erase_item ORDER BY id",
                 "erase_item", read_erase_item, image.erase_items));
  VT_RETURN_IF_ERROR(
      read_table(db,
                 "SELECT id, node, target, device, read_only, sector_size_bytes, boot_id, "
                 "created_ns FROM attachment ORDER BY id",
                 "attachment", read_attachment, image.attachments));
  VT_ASSIGN_OR_RETURN(const bool limits, has_table(db, "volume_limit"));
  if (limits) {
    VT_RETURN_IF_ERROR(
        read_table(db, "SELECT volume, key, value FROM volume_limit ORDER BY volume, key",
                   "volume_limit", read_volume_limit, image.volume_limits));
  }
  VT_ASSIGN_OR_RETURN(const bool reserves, has_table(db, "volume_reserve"));
  if (reserves) {
    VT_RETURN_IF_ERROR(
        read_table(db, "SELECT volume, reserve_bytes FROM volume_reserve ORDER BY volume",
                   "volume_reserve", read_volume_reserve, image.volume_reserves));
  }
  VT_ASSIGN_OR_RETURN(const bool taken, has_table(db, "taken_layer"));
  if (taken) {
    VT_RETURN_IF_ERROR(read_table(db, "SELECT layer, path FROM taken_layer ORDER BY layer",
                                  "taken_layer", read_taken_layer, image.taken_layers));
  }
  VT_ASSIGN_OR_RETURN(const bool notes, has_table(db, "volume_note"));
  if (notes) {
    VT_RETURN_IF_ERROR(read_table(db,
                                  "SELECT volume, key, text FROM volume_note ORDER BY volume, key",
                                  "volume_note", read_volume_note, image.volume_notes));
  }
  VT_ASSIGN_OR_RETURN(image.certificates, certificates(0, SIZE_MAX));
  {
    Query query(db, "SELECT key, value FROM setting");
    while (true) {
      VT_ASSIGN_OR_RETURN(const bool more, query.step());
      if (!more) break;
      image.settings[query.bytes(0)] = query.bytes(1);
    }
  }
  Query query(db, "SELECT kind, id FROM last_id");
  while (true) {
    VT_ASSIGN_OR_RETURN(const bool more, query.step());
    if (!more) break;
    RowReader row(query, "last_id");
    const std::string kind = row.text("kind");
    image.last_ids[kind] = row.number("id", 1);
    VT_RETURN_IF_ERROR(row.status());
  }
  return image;
}

Status CatalogDb::put_volume(const VolumeRow& row) {
  Query query(*impl_->connection,
              "INSERT INTO volume (id, name, head, erase_policy, created_ns) "
              "VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (id) DO UPDATE SET name = excluded.name, "
              "head = excluded.head, erase_policy = excluded.erase_policy, "
              "created_ns = excluded.created_ns");
  query.bind(row.id).bind_text(row.name).bind_id(row.head);
  if (row.erase_policy) {
    query.bind(static_cast<std::uint64_t>(*row.erase_policy));
  } else {
    query.bind_null();
  }
  Status status = impl_->remember(query.bind_signed(row.created_ns).run(), copy_row(row));
  if (status.code() != Code::kExists) return status;
  return error(Code::kExists, "there is a volume {} already", quoted(row.name));
}

Status CatalogDb::remove_volume(VolumeId id) {
  VT_RETURN_IF_ERROR(remove_by_id(*impl_->connection, "DELETE FROM volume WHERE id = ?1", id));
  Status status;
  for (const CopyTable table : {CopyTable::kVolume, CopyTable::kVolumeLimits,
                                CopyTable::kVolumeNotes, CopyTable::kVolumeReserve}) {
    status = impl_->remember({}, copy_gone(table, id));
  }
  return status;
}

Status CatalogDb::put_volume_limits(VolumeId id, const std::vector<VolumeLimitRow>& rows) {
  Connection& db = *impl_->connection;
  VT_ASSIGN_OR_RETURN(const bool there, has_table(db, "volume_limit"));
  if (!there && rows.empty()) return {};
  if (!there) VT_RETURN_IF_ERROR(db.execute(kVolumeLimitSchema));
  VT_RETURN_IF_ERROR(remove_by_id(db, "DELETE FROM volume_limit WHERE volume = ?1", id));
  for (const VolumeLimitRow& row : rows) {
    Query query(db, "INSERT INTO volume_limit (volume, key, value) VALUES (?1, ?2, ?3)");
    VT_RETURN_IF_ERROR(query.bind(id).bind_text(row.key).bind(row.value).run());
  }
  return impl_->remember({}, copy_limits(id, rows));
}

Status CatalogDb::put_volume_reserve(VolumeId id, std::uint64_t reserve_bytes) {
  Connection& db = *impl_->connection;
  VT_ASSIGN_OR_RETURN(const bool there, has_table(db, "volume_reserve"));
  if (!there && reserve_bytes == 0) return {};
  if (!there) VT_RETURN_IF_ERROR(db.execute(kVolumeReserveSchema));
  VT_RETURN_IF_ERROR(remove_by_id(db, "DELETE FROM volume_reserve WHERE volume = ?1", id));
  if (reserve_bytes == 0) return impl_->remember({}, copy_gone(CopyTable::kVolumeReserve, id));
  Query query(db, "INSERT INTO volume_reserve (volume, reserve_bytes) VALUES (?1, ?2)");
  return impl_->remember(query.bind(id).bind(reserve_bytes).run(),
                         copy_row(VolumeReserveRow{id, reserve_bytes}));
}

Status CatalogDb::put_volume_notes(VolumeId id, const std::vector<VolumeNoteRow>& rows) {
  Connection& db = *impl_->connection;
  VT_ASSIGN_OR_RETURN(const bool there, has_table(db, "volume_note"));
  if (!there && rows.empty()) return {};
  if (!there) VT_RETURN_IF_ERROR(db.execute(kVolumeNoteSchema));
  VT_RETURN_IF_ERROR(remove_by_id(db, "DELETE FROM volume_note WHERE volume = ?1", id));
  for (const VolumeNoteRow& row : rows) {
    Query query(db, "INSERT INTO volume_note (volume, key, text) VALUES (?1, ?2, ?3)");
    VT_RETURN_IF_ERROR(query.bind(id).bind_text(row.key).bind_text(row.text).run());
  }
  return impl_->remember({}, copy_notes(id, rows));
}

Status CatalogDb::put_node(const NodeRow& row) {
  Query query(*impl_->connection,
              "INSERT INTO node (id, kind, parent, volume, snapshot, size_bytes, created_ns) "
              "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (id) DO UPDATE SET "
              "kind = excluded.kind, parent = excluded.parent, volume = excluded.volume, "
              "snapshot = excluded.snapshot, size_bytes = excluded.size_bytes, "
              "created_ns = excluded.created_ns");
  query.bind(row.id).bind(static_cast<std::uint64_t>(row.kind)).bind_id(row.parent);
  query.bind(row.volume);
  if (row.snapshot.empty()) {
    query.bind_null();
  } else {
    query.bind_text(row.snapshot);
  }
  query.bind(row.size_bytes).bind_signed(row.created_ns);
  Status status = impl_->remember(query.run(), copy_row(row));
  if (status.code() != Code::kExists) return status;
  return error(Code::kExists, "the volume has a snapshot {} already", quoted(row.snapshot));
}

Status CatalogDb::remove_node(NodeId id) {
  return impl_->remember(remove_by_id(*impl_->connection, "DELETE FROM node WHERE id = ?1", id),
                         copy_gone(CopyTable::kNode, id));
}

Status CatalogDb::put_layer(const LayerRow& row) {
  Query query(*impl_->connection,
              "INSERT INTO layer (id, owner, size_bytes, unsettled, created_ns) "
              "VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (id) DO UPDATE SET "
              "owner = excluded.owner, size_bytes = excluded.size_bytes, "
              "unsettled = excluded.unsettled, created_ns = excluded.created_ns");
  query.bind(row.id).bind_id(row.owner).bind(row.size_bytes).bind(row.unsettled ? 1U : 0U);
  return impl_->remember(query.bind_signed(row.created_ns).run(), copy_row(row));
}

Status CatalogDb::remove_layer(LayerId id) {
  Status removed = remove_by_id(*impl_->connection, "DELETE FROM layer WHERE id = ?1", id);
  removed = impl_->remember(std::move(removed), copy_gone(CopyTable::kLayer, id));
  return impl_->remember(std::move(removed), copy_gone(CopyTable::kTakenLayer, id));
}

Status CatalogDb::put_taken_layer(const TakenLayerRow& row) {
  Connection& db = *impl_->connection;
  VT_ASSIGN_OR_RETURN(const bool there, has_table(db, "taken_layer"));
  if (!there) VT_RETURN_IF_ERROR(db.execute(kTakenLayerSchema));
  Query query(db,
              "INSERT INTO taken_layer (layer, path) VALUES (?1, ?2) "
              "ON CONFLICT (layer) DO UPDATE SET path = excluded.path");
  return impl_->remember(query.bind(row.layer).bind_text(row.path).run(), copy_row(row));
}

Status CatalogDb::remove_taken_layer(LayerId id) {
  Connection& db = *impl_->connection;
  VT_ASSIGN_OR_RETURN(const bool there, has_table(db, "taken_layer"));
  if (!there) return {};
  return impl_->remember(remove_by_id(db, "DELETE FROM taken_layer WHERE layer = ?1", id),
                         copy_gone(CopyTable::kTakenLayer, id));
}

Status CatalogDb::put_region(const RegionRow& row) {
  if (row.state.empty()) {
    Query query(*impl_->connection, "DELETE FROM layer_index WHERE layer = ?1 AND region = ?2");
    return query.bind(row.layer).bind(row.region).run();
  }
  Query query(
      *impl_->connection,
      "INSERT INTO layer_index (layer, region, state, dirty, sum) SELECT ?1, ?2, ?3, ?4, ?5 "
      "WHERE EXISTS (SELECT 1 FROM layer WHERE id = ?1) "
      "ON CONFLICT (layer, region) DO UPDATE SET state = excluded.state, "
      "dirty = excluded.dirty, sum = excluded.sum");
  query.bind(row.layer).bind(row.region).bind_blob(row.state).bind(row.dirty ? 1U : 0U);
  return query.bind_bits(keyed_checksum(row.state, row.layer, row.region)).run();
}

Status CatalogDb::mark_regions(LayerId layer, const std::vector<std::uint64_t>& regions,
                               bool dirty) {
  for (const std::uint64_t region : regions) {
    Query query(*impl_->connection,
                "UPDATE layer_index SET dirty = ?3 WHERE layer = ?1 AND region = ?2");
    VT_RETURN_IF_ERROR(query.bind(layer).bind(region).bind(dirty ? 1U : 0U).run());
  }
  return {};
}

Result<std::vector<RegionRow>> CatalogDb::regions(LayerId layer) {
  std::vector<RegionRow> rows;
  Query query(*impl_->connection,
              "SELECT layer, region, state, dirty, sum FROM layer_index WHERE layer = ?1 "
              "ORDER BY region");
  query.bind(layer);
  const auto read = +[](RowReader& row) {
    RegionRow region;
    region.layer = read_layer_id(row, "layer");
    region.region = row.number("region", 0);
    region.state = row.blob("state");
    row.require(!region.state.empty(), fmt::format("region {}: an empty state", region.region));
    region.dirty = row.flag("dirty");
    check_sum(row, region.state, region.layer, region.region);
    return region;
  };
  VT_RETURN_IF_ERROR(read_all(query, "layer_index", read, rows));
  return rows;
}

Status CatalogDb::put_erase_request(const EraseRequestRow& row) {
  Query query(*impl_->connection,
              "INSERT INTO erase_request (id, what, policy, requested_ns, erased_bytes, "
              "verified_bytes, items_done) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) "
              "ON CONFLICT (id) DO UPDATE SET what = excluded.what, policy = excluded.policy, "
              "requested_ns = excluded.requested_ns, erased_bytes = excluded.erased_bytes, "
              "verified_bytes = excluded.verified_bytes, items_done = excluded.items_done");
  query.bind(row.id).bind_text(row.what).bind(static_cast<std::uint64_t>(row.policy));
  query.bind_signed(row.requested_ns).bind(row.erased_bytes).bind(row.verified_bytes);
  VT_RETURN_IF_ERROR(query.bind(row.items_done).run());
  VT_RETURN_IF_ERROR(impl_->remember(put_erase_options(*impl_->connection, row), copy_row(row)));
  return impl_->remember({}, copy_erase_options(row));
}

Status CatalogDb::remove_erase_request(std::uint64_t id) {
  VT_RETURN_IF_ERROR(impl_->remember(
      remove_by_id(*impl_->connection, "DELETE FROM erase_request WHERE id = ?1", id),
      copy_gone(CopyTable::kEraseRequest, id)));
  return impl_->remember({}, copy_gone(CopyTable::kEraseOption, id));
}

Status CatalogDb::put_erase_item(const EraseItemRow& row) {
  Query query(
      *impl_->connection,
      "INSERT INTO erase_item (id, request, layer, whole_layer, ranges, estimated_bytes, sum) "
      "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (id) DO UPDATE SET "
      "request = excluded.request, layer = excluded.layer, "
      "whole_layer = excluded.whole_layer, ranges = excluded.ranges, "
      "estimated_bytes = excluded.estimated_bytes, sum = excluded.sum");
  query.bind(row.id).bind(row.request).bind(row.layer).bind(row.whole_layer ? 1U : 0U);
  query.bind_blob(row.ranges).bind(row.estimated_bytes);
  query.bind_bits(keyed_checksum(row.ranges, row.id, row.layer));
  return impl_->remember(query.run(), copy_row(row));
}

Status CatalogDb::remove_erase_item(std::uint64_t id) {
  return impl_->remember(
      remove_by_id(*impl_->connection, "DELETE FROM erase_item WHERE id = ?1", id),
      copy_gone(CopyTable::kEraseItem, id));
}

Status CatalogDb::put_certificate(const CertificateRow& row) {
  Query query(*impl_->connection,
              "INSERT INTO certificate (id, json) VALUES (?1, ?2) "
              "ON CONFLICT (id) DO UPDATE SET json = excluded.json");
  return impl_->remember(query.bind(row.id).bind_text(row.json).run(), copy_row(row));
}

Result<std::vector<CertificateRow>> CatalogDb::certificates(std::uint64_t after_id,
                                                            std::size_t limit) {
  std::vector<CertificateRow> rows;
  Query query(*impl_->connection,
              "SELECT id, json FROM certificate WHERE id > ?1 ORDER BY id LIMIT ?2");
  query.bind(after_id).bind(std::min<std::uint64_t>(limit, INT64_MAX));
  const auto read = +[](RowReader& row) {
    CertificateRow certificate;
    certificate.id = row.number("id", 1);
    certificate.json = row.text("json");
    return certificate;
  };
  VT_RETURN_IF_ERROR(read_all(query, "certificate", read, rows));
  return rows;
}

Status CatalogDb::put_attachment(const AttachmentRow& row) {
  Query query(*impl_->connection,
              "INSERT INTO attachment (id, node, target, device, read_only, sector_size_bytes, "
              "boot_id, created_ns) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) "
              "ON CONFLICT (id) DO UPDATE SET node = excluded.node, target = excluded.target, "
              "device = excluded.device, read_only = excluded.read_only, "
              "sector_size_bytes = excluded.sector_size_bytes, boot_id = excluded.boot_id, "
              "created_ns = excluded.created_ns");
  query.bind(row.id).bind(row.node).bind_text(row.target).bind_text(row.device);
  query.bind(row.read_only ? 1U : 0U).bind(row.sector_size_bytes).bind_text(row.boot_id);
  return impl_->remember(query.bind_signed(row.created_ns).run(), copy_row(row));
}

Status CatalogDb::remove_attachment(std::uint64_t id) {
  return impl_->remember(
      remove_by_id(*impl_->connection, "DELETE FROM attachment WHERE id = ?1", id),
      copy_gone(CopyTable::kAttachment, id));
}

Status CatalogDb::put_saved_map(NodeId node, const std::vector<std::string>& chunks) {
  VT_RETURN_IF_ERROR(remove_saved_map(node));
  {
    Query query(*impl_->connection, "SELECT 1 FROM node WHERE id = ?1");
    VT_ASSIGN_OR_RETURN(const bool there, query.bind(node).step());
    if (!there) return {};
  }
  {
    Query query(*impl_->connection, "INSERT INTO saved_map (node, chunks) VALUES (?1, ?2)");
    VT_RETURN_IF_ERROR(query.bind(node).bind(chunks.size()).run());
  }
  for (std::size_t chunk = 0; chunk < chunks.size(); ++chunk) {
    Query query(*impl_->connection,
                "INSERT INTO saved_map_chunk (node, chunk, bytes, sum) VALUES (?1, ?2, ?3, ?4)");
    query.bind(node).bind(chunk).bind_blob(chunks[chunk]);
    VT_RETURN_IF_ERROR(query.bind_bits(keyed_checksum(chunks[chunk], node, chunk)).run());
  }
  return {};
}

Result<std::optional<std::vector<std::string>>> CatalogDb::saved_map(NodeId node) {
  std::uint64_t count = 0;
  {
    Query query(*impl_->connection, "SELECT node, chunks FROM saved_map WHERE node = ?1");
    VT_ASSIGN_OR_RETURN(const bool there, query.bind(node).step());
    if (!there) return std::optional<std::vector<std::string>>();
    RowReader row(query, "saved_map");
    row.skip();
    count = row.number("chunks", 0);
    VT_RETURN_IF_ERROR(row.status());
  }
  std::vector<std::string> chunks;
  Query query(*impl_->connection,
              "SELECT node, chunk, bytes, sum FROM saved_map_chunk WHERE node = ?1 ORDER BY chunk");
  query.bind(node);
  while (true) {
    VT_ASSIGN_OR_RETURN(const bool more, query.step());
    if (!more) break;
    RowReader row(query, "saved_map_chunk");
    row.skip();
    row.number("chunk", chunks.size(), chunks.size());  // in order, none missing
    chunks.push_back(row.blob("bytes"));
    check_sum(row, chunks.back(), node, chunks.size() - 1);
    VT_RETURN_IF_ERROR(row.status());
  }
  if (chunks.size() != count) {
    return error(Code::kDamaged, "catalog: table saved_map, row {}: {} chunks, {} are there", node,
                 count, chunks.size());
  }
  return std::optional<std::vector<std::string>>(std::move(chunks));
}

Result<std::vector<NodeId>> CatalogDb::saved_map_nodes() {
  std::vector<NodeId> nodes;
  Query query(*impl_->connection, "SELECT node FROM saved_map ORDER BY node");
  const auto read = +[](RowReader& row) -> NodeId { return row.number("node", 1); };
  VT_RETURN_IF_ERROR(read_all(query, "saved_map", read, nodes));
  return nodes;
}

Status CatalogDb::remove_saved_map(NodeId node) {
  return remove_by_id(*impl_->connection, "DELETE FROM saved_map WHERE node = ?1", node);
}

}  // namespace voltree
