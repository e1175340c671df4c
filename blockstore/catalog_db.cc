// CatalogDb as a whole: create, open, transactions, settings, ids, integrity. Its rows are in
// catalog_rows.cc.
#include <algorithm>
#include <array>
#include <bit>
#include <iterator>
#include <utility>

#include "blockstore/catalog_db_impl.h"
#include "blockstore/catalog_schema.h"

namespace voltree {
namespace {

constexpr std::array<std::string_view, 7> kIdKinds = {"volume", "node",        "layer",     "erase",
                                                      "item",   "certificate", "attachment"};
constexpr std::uint64_t kLayerIdMax = UINT32_MAX;

Status remove_if_present(FileSystem& fs, const std::string& path) {
  Status status = fs.unlink(path);
  return status.code() == Code::kNotFound ? Status() : status;
}

// A new database with its schema, complete and closed: its WAL is gone and every byte of it is
// durable.
Status build(FileSystem& fs, const std::string& path, const CatalogDb::Settings& settings) {
  VT_ASSIGN_OR_RETURN(std::unique_ptr<Connection> connection,
                      Connection::open(fs, path, CatalogAccess::kCreate));
  VT_RETURN_IF_ERROR(connection->enter_wal());
  VT_RETURN_IF_ERROR(connection->execute("BEGIN"));
  VT_RETURN_IF_ERROR(connection->execute(kCatalogSchema));
  const std::string marks = fmt::format("PRAGMA application_id={}; PRAGMA user_version={}",
                                        kCatalogApplicationId, kFormatVersion);
  VT_RETURN_IF_ERROR(connection->execute(marks.c_str()));
  for (const auto& [key, value] : settings) {
    Query query(*connection, "INSERT INTO setting (key, value) VALUES (?1, ?2)");
    VT_RETURN_IF_ERROR(query.bind_text(key).bind_text(value).run());
  }
  VT_RETURN_IF_ERROR(connection->execute("COMMIT"));
  return connection->execute("PRAGMA wal_checkpoint(TRUNCATE)");
}

Result<FormatInfo> read_format(Connection& connection) {
  VT_ASSIGN_OR_RETURN(const std::int64_t application,
                      connection.query_number("PRAGMA application_id"));
  if (application != kCatalogApplicationId) {
    return error(Code::kDamaged, "{}: not a voltree catalog (application id {:#x})",
                 connection.path(), application);
  }
  VT_ASSIGN_OR_RETURN(const std::int64_t version, connection.query_number("PRAGMA user_version"));
  if (version < 1) {
    return error(Code::kDamaged, "{}: format version {} never existed", connection.path(), version);
  }
  if (version > kFormatVersion) {
    return error(Code::kNotSupported,
                 "{}: the store has format version {}, this voltree knows up to {}: use a voltree "
                 "that knows version {}",
                 connection.path(), version, kFormatVersion, version);
  }
  FormatInfo format;
  format.version = static_cast<std::uint32_t>(version);
  Query query(connection,
              "SELECT compatible, read_only_compatible, incompatible FROM format WHERE one = 1");
  VT_ASSIGN_OR_RETURN(const bool found, query.step());
  if (!found) return error(Code::kDamaged, "{}: table format has no row", connection.path());
  format.compatible = std::bit_cast<std::uint64_t>(query.number(0));
  format.read_only_compatible = std::bit_cast<std::uint64_t>(query.number(1));
  format.incompatible = std::bit_cast<std::uint64_t>(query.number(2));
  const std::uint64_t unknown = format.incompatible & ~kKnownIncompatible;
  if (unknown != 0) {
    return error(Code::kNotSupported,
                 "{}: the store uses incompatible features {:#x}, which this voltree (format "
                 "version {}) does not know: use the newer voltree that wrote them",
                 connection.path(), unknown, kFormatVersion);
  }
  return format;
}

}  // namespace

Result<std::unique_ptr<CatalogDb>> CatalogDb::create(FileSystem& fs, const std::string& path,
                                                     const Settings& settings) {
  VT_ASSIGN_OR_RETURN(const bool there, fs.exists(path));
  if (there) return error(Code::kExists, "{}: there is a catalog already", path);
  // Built beside its place and moved there when complete, so that a crash leaves all of it or
  // nothing.
  const std::string fresh = path + ".new";
  for (const char* suffix : {"-wal", "-journal", ""}) {
    VT_RETURN_IF_ERROR(remove_if_present(fs, fresh + suffix));
  }
  if (Status status = build(fs, fresh, settings); !status.ok()) {
    for (const char* suffix : {"-wal", "-journal", ""}) {
      // What stays behind is removed by the next create.
      static_cast<void>(remove_if_present(fs, fresh + suffix));
    }
    return status;
  }
  VT_RETURN_IF_ERROR(fs.rename(fresh, path));
  VT_RETURN_IF_ERROR(fs.sync_dir(parent_folder(path)));
  return open(fs, path);
}

Result<std::unique_ptr<CatalogDb>> CatalogDb::open(FileSystem& fs, const std::string& path,
                                                   bool read_only) {
  VT_ASSIGN_OR_RETURN(const bool there, fs.exists(path));
  if (!there) return error(Code::kNotFound, "{}: no such catalog", path);
  auto impl = std::make_unique<Impl>();
  const CatalogAccess access = read_only ? CatalogAccess::kReadOnly : CatalogAccess::kReadWrite;
  VT_ASSIGN_OR_RETURN(impl->connection, Connection::open(fs, path, access));
  VT_ASSIGN_OR_RETURN(impl->format, read_format(*impl->connection));
  if (!read_only) {
    VT_RETURN_IF_ERROR(impl->connection->enter_wal());
    impl->connection->keep_log(false);
  }
  return std::unique_ptr<CatalogDb>(new CatalogDb(std::move(impl)));
}

CatalogDb::CatalogDb(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
CatalogDb::~CatalogDb() = default;

const FormatInfo& CatalogDb::format() const { return impl_->format; }

Status CatalogDb::begin() {
  VT_RETURN_IF_ERROR(impl_->checkpoint_failure);
  impl_->changing.clear();
  return impl_->query("BEGIN IMMEDIATE").begin();
}

Status CatalogDb::commit() {
  Status status = impl_->query("COMMIT").run();
  if (!status.ok()) {
    rollback();
    return status;
  }
  std::move(impl_->changing.begin(), impl_->changing.end(), std::back_inserter(impl_->changed));
  impl_->changing.clear();
  // The commit is durable whatever becomes of the checkpoint. A host without space will have some
  // later; anything else is for the next transaction to hear.
  Status checkpoint = impl_->connection->checkpoint_if_due();
  if (checkpoint.code() != Code::kNoSpace) impl_->checkpoint_failure = std::move(checkpoint);
  return {};
}

Status CatalogDb::checkpoint() { return impl_->connection->checkpoint(); }

void CatalogDb::keep_log(bool keep) { impl_->connection->keep_log(keep); }

const Status& CatalogDb::checkpoint_failure() const { return impl_->checkpoint_failure; }

void CatalogDb::rollback() {
  impl_->changing.clear();
  // SQLite may have rolled back by itself.
  if (!impl_->connection->in_transaction()) return;
  // A rollback reads at most; when it fails, SQLite leaves the transaction all the same.
  static_cast<void>(impl_->query("ROLLBACK").run());
}

Status CatalogDb::savepoint() {
  impl_->changing_before_savepoint = impl_->changing.size();
  return impl_->query("SAVEPOINT member").run();
}

Status CatalogDb::release_savepoint() {
  if (impl_->connection->has_dangling_rows()) {
    return error(Code::kDamaged,
                 "{}: the change would leave a row that points at nothing (a bug in voltree); it "
                 "was not made",
                 impl_->connection->path());
  }
  return impl_->query("RELEASE member").run();
}

Status CatalogDb::rollback_to_savepoint() {
  impl_->changing.resize(impl_->changing_before_savepoint);
  VT_RETURN_IF_ERROR(impl_->query("ROLLBACK TO member").run());
  return impl_->query("RELEASE member").run();
}

Result<std::optional<std::string>> CatalogDb::setting(const std::string& key) {
  Query query(*impl_->connection, "SELECT value FROM setting WHERE key = ?1");
  VT_ASSIGN_OR_RETURN(const bool found, query.bind_text(key).step());
  if (!found) return std::optional<std::string>();
  return std::optional<std::string>(query.bytes(0));
}

Status CatalogDb::put_setting(const std::string& key, const std::string& value) {
  Query query(*impl_->connection,
              "INSERT INTO setting (key, value) VALUES (?1, ?2) "
              "ON CONFLICT (key) DO UPDATE SET value = excluded.value");
  return impl_->remember(query.bind_text(key).bind_text(value).run(), copy_setting(key, value));
}

Result<std::uint64_t> CatalogDb::next_id(const std::string& kind) {
  if (std::find(kIdKinds.begin(), kIdKinds.end(), kind) == kIdKinds.end()) {
    return error(Code::kInvalid, "catalog: there are no ids of kind {}", quoted(kind));
  }
  std::uint64_t id = 1;
  {
    Query query(*impl_->connection, "SELECT kind, id FROM last_id WHERE kind = ?1");
    VT_ASSIGN_OR_RETURN(const bool found, query.bind_text(kind).step());
    if (found) {
      RowReader row(query, "last_id");
      row.skip();
      id = row.number("id", 1, INT64_MAX - 1) + 1;
      VT_RETURN_IF_ERROR(row.status());
    }
  }
  if (kind == "layer" && id > kLayerIdMax) {
    return error(Code::kTooLarge, "catalog: the store has had {} layers, which is all it can have",
                 kLayerIdMax);
  }
  VT_RETURN_IF_ERROR(put_last_id(kind, id));
  return id;
}

Status CatalogDb::put_last_id(const std::string& kind, std::uint64_t id) {
  Query query(*impl_->connection,
              "INSERT INTO last_id (kind, id) VALUES (?1, ?2) "
              "ON CONFLICT (kind) DO UPDATE SET id = excluded.id");
  return impl_->remember(query.bind_text(kind).bind(id).run(), copy_last_id(kind, id));
}

Status CatalogDb::add_compatible(std::uint64_t bits) {
  Query query(*impl_->connection, "UPDATE format SET compatible = compatible | ?1");
  return query.bind(bits).run();
}

void CatalogDb::remember_changes() { impl_->remembers = true; }

std::vector<CopyRow> CatalogDb::take_changes() { return std::exchange(impl_->changed, {}); }

Result<std::vector<std::string>> CatalogDb::integrity_check() {
  std::vector<std::string> findings;
  {
    Query query(*impl_->connection, "PRAGMA integrity_check");
    while (true) {
      VT_ASSIGN_OR_RETURN(const bool row, query.step());
      if (!row) break;
      std::string text = query.bytes(0);
      if (text != "ok") findings.push_back("catalog: " + std::move(text));
    }
  }
  Query query(*impl_->connection, "PRAGMA foreign_key_check");
  while (true) {
    VT_ASSIGN_OR_RETURN(const bool row, query.step());
    if (!row) break;
    findings.push_back(fmt::format("catalog: table {}, row {}: points at a {} that is not there",
                                   query.bytes(0), query.bytes(1), query.bytes(2)));
  }
  return findings;
}

}  // namespace voltree
