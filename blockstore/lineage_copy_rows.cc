#include "blockstore/lineage_copy_rows.h"

#include <algorithm>
#include <bit>

#include "blockstore/format/varint.h"

namespace voltree {
namespace {

std::string key_of(std::uint64_t id) {
  std::string key;
  put_varint(key, id);
  return key;
}

// The fields of a value, one after the other.
class Writer {
 public:
  Writer& number(std::uint64_t value) {
    put_varint(out_, value);
    return *this;
  }
  Writer& time(std::int64_t ns) { return number(std::bit_cast<std::uint64_t>(ns)); }
  Writer& text(std::string_view value) {
    put_bytes(out_, value);
    return *this;
  }
  std::string take() { return std::move(out_); }

 private:
  std::string out_;
};

// The first field that is not there, or not in its range, makes all of it not ok().
class Fields {
 public:
  explicit Fields(const std::string& value)
      : reader_(std::as_bytes(std::span(value.data(), value.size()))) {}
  std::uint64_t number(std::uint64_t max = INT64_MAX) {
    const auto value = reader_.varint();
    ok_ = ok_ && value && *value <= max;
    return ok_ ? *value : 0;
  }
  std::int64_t time() { return std::bit_cast<std::int64_t>(number(UINT64_MAX)); }
  bool flag() { return number(1) == 1; }
  std::string text() {
    auto value = reader_.bytes();
    ok_ = ok_ && value;
    return ok_ ? std::move(*value) : std::string();
  }
  void require(bool holds) { ok_ = ok_ && holds; }
  bool more() const { return ok_ && !reader_.done(); }
  bool ok() const { return ok_ && reader_.done(); }

 private:
  VarintReader reader_;
  bool ok_ = true;
};

CopyRow put(CopyTable table, std::uint64_t id, Writer& value) {
  return {table, key_of(id), value.take()};
}

// Policies are written one higher: 0 is none.
constexpr std::uint64_t kPolicies = 4;

ErasePolicy policy_of(std::uint64_t number) { return static_cast<ErasePolicy>(number); }

void read_volume(VolumeId id, Fields& fields, CatalogImage& image) {
  VolumeRow row;
  row.id = id;
  row.name = fields.text();
  row.head = fields.number();
  const std::uint64_t policy = fields.number(kPolicies);
  if (policy != 0) row.erase_policy = policy_of(policy - 1);
  row.created_ns = fields.time();
  fields.require(check_name(row.name).ok());
  image.volumes.push_back(std::move(row));
}

void read_node(NodeId id, Fields& fields, CatalogImage& image) {
  NodeRow row;
  row.id = id;
  row.kind = static_cast<NodeKind>(fields.number(2));
  row.parent = fields.number();
  row.volume = fields.number();
  row.snapshot = fields.text();
  row.size_bytes = fields.number();
  row.created_ns = fields.time();
  fields.require((row.kind == NodeKind::kSnapshot) == !row.snapshot.empty());
  fields.require(row.snapshot.empty() || check_name(row.snapshot).ok());
  fields.require(row.size_bytes % kSectorBytes == 0 && row.parent != row.id);
  image.nodes.push_back(std::move(row));
}

void read_layer(std::uint64_t id, Fields& fields, CatalogImage& image) {
  LayerRow row;
  row.id = static_cast<LayerId>(id);
  fields.require(id <= UINT32_MAX);
  row.owner = fields.number();
  row.size_bytes = fields.number();
  row.created_ns = fields.time();
  image.layers.push_back(row);
}

void read_erase_request(std::uint64_t id, Fields& fields, CatalogImage& image) {
  EraseRequestRow row;
  row.id = id;
  row.what = fields.text();
  row.policy = policy_of(fields.number(kPolicies - 1));
  row.requested_ns = fields.time();
  row.erased_bytes = fields.number();
  row.verified_bytes = fields.number();
  row.items_done = fields.number();
  image.erase_requests.push_back(std::move(row));
}

void read_erase_item(std::uint64_t id, Fields& fields, CatalogImage& image) {
  EraseItemRow row;
  row.id = id;
  row.request = fields.number();
  const std::uint64_t layer = fields.number(UINT32_MAX);
  row.layer = static_cast<LayerId>(layer);
  row.whole_layer = fields.flag();
  row.ranges = fields.text();
  row.estimated_bytes = fields.number();
  fields.require(layer != 0 && row.ranges.empty() == row.whole_layer);
  image.erase_items.push_back(std::move(row));
}

void read_attachment(std::uint64_t id, Fields& fields, CatalogImage& image) {
  AttachmentRow row;
  row.id = id;
  row.node = fields.number();
  row.target = fields.text();
  row.device = fields.text();
  row.read_only = fields.flag();
  row.sector_size_bytes = static_cast<std::uint32_t>(fields.number(65536));
  row.boot_id = fields.text();
  row.created_ns = fields.time();
  fields.require(row.sector_size_bytes >= kSectorBytes);
  image.attachments.push_back(std::move(row));
}

void read_limits(VolumeId id, Fields& fields, CatalogImage& image) {
  while (fields.more()) {
    std::string key = fields.text();
    image.volume_limits.push_back({id, std::move(key), fields.number()});
  }
}

void read_notes(VolumeId id, Fields& fields, CatalogImage& image) {
  while (fields.more()) {
    std::string key = fields.text();
    image.volume_notes.push_back({id, std::move(key), fields.text()});
  }
}

// A voltree that does not know the next two leaves them when their request or volume goes.
void read_erase_option(std::uint64_t id, Fields& fields, CatalogImage& image) {
  const std::uint64_t first_bytes = fields.number();
  const std::uint64_t io_priority = fields.number();
  fields.require(is_io_priority(io_priority));
  for (EraseRequestRow& row : image.erase_requests) {
    if (row.id != id) continue;
    row.first_bytes = first_bytes;
    row.io_priority = static_cast<IoPriority>(io_priority);
  }
}

void read_reserve(VolumeId id, Fields& fields, CatalogImage& image) {
  const VolumeReserveRow row{id, fields.number()};
  fields.require(row.reserve_bytes != 0);
  const bool there = std::any_of(image.volumes.begin(), image.volumes.end(),
                                 [id](const VolumeRow& volume) { return volume.id == id; });
  if (there) image.volume_reserves.push_back(row);
}

void read_certificate(std::uint64_t id, Fields& fields, CatalogImage& image) {
  image.certificates.push_back({id, fields.text()});
}

void read_taken_layer(std::uint64_t id, Fields& fields, CatalogImage& image) {
  fields.require(id <= UINT32_MAX);
  image.taken_layers.push_back({static_cast<LayerId>(id), fields.text()});
  fields.require(image.taken_layers.back().path.starts_with('/'));
}

bool read_row(CopyTable table, const std::string& key, const std::string& value,
              CatalogImage& image) {
  if (table == CopyTable::kSetting) {
    image.settings[key] = value;
    return true;
  }
  Fields fields(value);
  if (table == CopyTable::kLastId) {
    image.last_ids[key] = fields.number();
    return fields.ok();
  }
  VarintReader reader(std::as_bytes(std::span(key.data(), key.size())));
  const auto id = reader.varint();
  if (!id || !reader.done() || *id == 0 || *id > INT64_MAX) return false;
  using Read = void (*)(std::uint64_t, Fields&, CatalogImage&);
  static const std::map<CopyTable, Read> kReaders = {
      {CopyTable::kVolume, read_volume},
      {CopyTable::kNode, read_node},
      {CopyTable::kLayer, read_layer},
      {CopyTable::kEraseRequest, read_erase_request},
      {CopyTable::kEraseItem, read_erase_item},
      {CopyTable::kAttachment, read_attachment},
      {CopyTable::kVolumeLimits, read_limits},
      {CopyTable::kVolumeNotes, read_notes},
      {CopyTable::kEraseOption, read_erase_option},
      {CopyTable::kVolumeReserve, read_reserve},
      {CopyTable::kCertificate, read_certificate},
      {CopyTable::kTakenLayer, read_taken_layer},
  };
  kReaders.at(table)(*id, fields, image);
  return fields.ok();
}

}  // namespace

CopyRow copy_setting(const std::string& key, const std::string& value) {
  return {CopyTable::kSetting, key, value};
}

CopyRow copy_last_id(const std::string& kind, std::uint64_t id) {
  Writer value;
  return {CopyTable::kLastId, kind, value.number(id).take()};
}

CopyRow copy_row(const VolumeRow& row) {
  Writer value;
  value.text(row.name).number(row.head);
  value.number(row.erase_policy ? static_cast<std::uint64_t>(*row.erase_policy) + 1 : 0);
  return put(CopyTable::kVolume, row.id, value.time(row.created_ns));
}

CopyRow copy_row(const NodeRow& row) {
  Writer value;
  value.number(static_cast<std::uint64_t>(row.kind)).number(row.parent).number(row.volume);
  value.text(row.snapshot).number(row.size_bytes);
  return put(CopyTable::kNode, row.id, value.time(row.created_ns));
}

CopyRow copy_row(const LayerRow& row) {
  Writer value;
  value.number(row.owner).number(row.size_bytes);
  return put(CopyTable::kLayer, row.id, value.time(row.created_ns));
}

CopyRow copy_row(const EraseRequestRow& row) {
  Writer value;
  value.text(row.what).number(static_cast<std::uint64_t>(row.policy)).time(row.requested_ns);
  value.number(row.erased_bytes).number(row.verified_bytes);
  return put(CopyTable::kEraseRequest, row.id, value.number(row.items_done));
}

CopyRow copy_row(const EraseItemRow& row) {
  Writer value;
  value.number(row.request).number(row.layer).number(row.whole_layer ? 1 : 0).text(row.ranges);
  return put(CopyTable::kEraseItem, row.id, value.number(row.estimated_bytes));
}

CopyRow copy_row(const AttachmentRow& row) {
  Writer value;
  value.number(row.node).text(row.target).text(row.device).number(row.read_only ? 1 : 0);
  value.number(row.sector_size_bytes).text(row.boot_id);
  return put(CopyTable::kAttachment, row.id, value.time(row.created_ns));
}

CopyRow copy_row(const VolumeReserveRow& row) {
  Writer value;
  return put(CopyTable::kVolumeReserve, row.volume, value.number(row.reserve_bytes));
}

CopyRow copy_row(const CertificateRow& row) {
  Writer value;
  return put(CopyTable::kCertificate, row.id, value.text(row.json));
}

CopyRow copy_erase_options(const EraseRequestRow& row) {
  if (row.first_bytes == 0 && row.io_priority == 0) {
    return copy_gone(CopyTable::kEraseOption, row.id);
  }
  Writer value;
  value.number(row.first_bytes);
  return put(CopyTable::kEraseOption, row.id, value.number(row.io_priority));
}

CopyRow copy_row(const TakenLayerRow& row) {
  Writer value;
  return put(CopyTable::kTakenLayer, row.layer, value.text(row.path));
}

CopyRow copy_limits(VolumeId volume, const std::vector<VolumeLimitRow>& rows) {
  if (rows.empty()) return copy_gone(CopyTable::kVolumeLimits, volume);
  Writer value;
  for (const VolumeLimitRow& row : rows) value.text(row.key).number(row.value);
  return put(CopyTable::kVolumeLimits, volume, value);
}

CopyRow copy_notes(VolumeId volume, const std::vector<VolumeNoteRow>& rows) {
  if (rows.empty()) return copy_gone(CopyTable::kVolumeNotes, volume);
  Writer value;
  for (const VolumeNoteRow& row : rows) value.text(row.key).text(row.text);
  return put(CopyTable::kVolumeNotes, volume, value);
}

CopyRow copy_gone(CopyTable table, std::uint64_t id) { return {table, key_of(id), std::nullopt}; }

std::vector<CopyRow> copy_rows(const CatalogImage& image) {
  std::vector<CopyRow> rows;
  const auto add = [&rows](const auto& from) {
    for (const auto& row : from) rows.push_back(copy_row(row));
  };
  for (const auto& [key, value] : image.settings) rows.push_back(copy_setting(key, value));
  for (const auto& [kind, id] : image.last_ids) rows.push_back(copy_last_id(kind, id));
  add(image.volumes);
  add(image.nodes);
  add(image.layers);
  add(image.erase_requests);
  add(image.erase_items);
  add(image.attachments);
  add(image.volume_reserves);
  add(image.certificates);
  for (const EraseRequestRow& row : image.erase_requests) {
    CopyRow options = copy_erase_options(row);
    if (options.value) rows.push_back(std::move(options));
  }
  add(image.taken_layers);
  std::map<VolumeId, std::vector<VolumeLimitRow>> limits;
  for (const VolumeLimitRow& row : image.volume_limits) limits[row.volume].push_back(row);
  for (const auto& [volume, of_it] : limits) rows.push_back(copy_limits(volume, of_it));
  std::map<VolumeId, std::vector<VolumeNoteRow>> notes;
  for (const VolumeNoteRow& row : image.volume_notes) notes[row.volume].push_back(row);
  for (const auto& [volume, of_it] : notes) rows.push_back(copy_notes(volume, of_it));
  return rows;
}

void apply_copy_row(CopyRow row, CopyState& state) {
  auto key = std::make_pair(row.table, std::move(row.key));
  if (row.value) {
    state[std::move(key)] = std::move(*row.value);
  } else {
    state.erase(key);
  }
}

Result<CatalogImage> image_of_copy(const CopyState& state) {
  CatalogImage image;
  for (const auto& [key, value] : state) {
    if (read_row(key.first, key.second, value, image)) continue;
    return error(Code::kDamaged, "the lineage copy has a row of table {} that cannot be read",
                 static_cast<unsigned>(key.first));
  }
  return image;
}

}  // namespace voltree
