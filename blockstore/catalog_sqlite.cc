#include "blockstore/catalog_sqlite.h"

#include <bit>
#include <cctype>
#include <utility>

#include "blockstore/catalog_page.h"

namespace voltree {
namespace {

// The WAL is moved into the database once it is this long: 4 MiB of pages.
constexpr int kCheckpointPages = 1000;

// "layer_index" and "a name is taken" are told apart by the extended code.
Code code_of_sqlite(int code) {
  if (code == SQLITE_CONSTRAINT_UNIQUE) return Code::kExists;
  if (code == SQLITE_IOERR_DATA) return Code::kDamaged;  // a page and its checksum
  switch (code & 0xff) {
    case SQLITE_FULL:
      return Code::kNoSpace;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_CONSTRAINT:  // our bug: the rows would not have fitted together
    case SQLITE_MISMATCH:
      return Code::kDamaged;
    case SQLITE_READONLY:
    case SQLITE_PERM:
      return Code::kPermission;
    case SQLITE_TOOBIG:
      return Code::kTooLarge;
    default:
      return Code::kIoError;
  }
}

// Set before the file is first read. locking_mode=EXCLUSIVE lets WAL do without shared memory,
// which our VFS lacks.
constexpr const char* kFirstPragmas =
    "PRAGMA locking_mode=EXCLUSIVE;"
    "PRAGMA temp_store=MEMORY;"
    "PRAGMA mmap_size=0;"
    "PRAGMA cache_size=-32768;"
    "PRAGMA trusted_schema=OFF;"
    "PRAGMA cell_size_check=ON;"
    "PRAGMA foreign_keys=ON;";

// The WAL keeps its place in the file once it was checkpointed; what one huge transaction made of
// it goes back.
constexpr const char* kWalPragmas =
    "PRAGMA synchronous=FULL;"
    "PRAGMA wal_autocheckpoint=0;"
    "PRAGMA journal_size_limit=16777216;";

// A database in WAL mode is not read without a log unless it is said to be immutable
// (https://www.sqlite.org/uri.html).
std::string immutable_uri(const std::string& path) {
  std::string uri = "file:";
  for (const char c : path) {
    const bool plain = std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '/' || c == '.';
    uri += plain ? std::string(1, c) : fmt::format("%{:02x}", static_cast<unsigned char>(c));
  }
  return uri + "?immutable=1";
}

}  // namespace

Result<std::unique_ptr<Connection>> Connection::open(FileSystem& fs, const std::string& path,
                                                     CatalogAccess access) {
  std::unique_ptr<Connection> connection(new Connection(fs, path));
  const bool create = access == CatalogAccess::kCreate;
  const bool read_only = access == CatalogAccess::kReadOnly;
  const int flags = SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE | SQLITE_OPEN_EXRESCODE |
                    (read_only ? SQLITE_OPEN_READONLY | SQLITE_OPEN_URI : SQLITE_OPEN_READWRITE) |
                    (create ? SQLITE_OPEN_CREATE : 0);
  const std::string name = read_only ? immutable_uri(path) : path;
  const int code = sqlite3_open_v2(name.c_str(), &connection->db_, flags, connection->vfs_.name());
  if (code != SQLITE_OK) return connection->failure(code, "open");
  int reserved_bytes = kCatalogPageReservedBytes;  // heeded when the database is made
  sqlite3_file_control(connection->db_, nullptr, SQLITE_FCNTL_RESERVE_BYTES, &reserved_bytes);
  connection->keep_log(true);  // what cannot be opened is left as it is
  // Nothing that somebody may have planted in the file gets to run.
  for (const auto& [option, value] :
       {std::pair{SQLITE_DBCONFIG_DEFENSIVE, 1}, std::pair{SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0},
        std::pair{SQLITE_DBCONFIG_ENABLE_TRIGGER, 0}, std::pair{SQLITE_DBCONFIG_ENABLE_VIEW, 0},
        std::pair{SQLITE_DBCONFIG_DQS_DML, 0}, std::pair{SQLITE_DBCONFIG_DQS_DDL, 0}}) {
    sqlite3_db_config(connection->db_, option, value, nullptr);
  }
  VT_RETURN_IF_ERROR(connection->execute(kFirstPragmas));
  connection->keep_log(!create);
  return connection;
}

Connection::~Connection() {
  for (const auto& [sql, statement] : statements_) sqlite3_finalize(statement);
  // Checkpoints and removes the WAL. What fails here is found, and mended from the WAL, by the next
  // open.
  sqlite3_close(db_);
}

Status Connection::enter_wal() {
  VT_ASSIGN_OR_RETURN(const std::string mode, query_text("PRAGMA journal_mode=WAL"));
  if (mode != "wal") {
    return error(Code::kIoError, "{}: SQLite refuses WAL mode (it stays in '{}')", path_, mode);
  }
  VT_RETURN_IF_ERROR(execute(kWalPragmas));
  // Instead of SQLite's own checkpoints, which swallow their errors.
  sqlite3_wal_hook(
      db_,
      [](void* self, sqlite3* /*db*/, const char* /*name*/, int pages) {
        static_cast<Connection*>(self)->wal_pages_ = pages;
        return SQLITE_OK;
      },
      this);
  return {};
}

Status Connection::execute(const char* sql) {
  const int code = sqlite3_exec(db_, sql, nullptr, nullptr, nullptr);
  return code == SQLITE_OK ? Status() : failure(code, "execute");
}

Result<std::int64_t> Connection::query_number(const char* sql) {
  VT_ASSIGN_OR_RETURN(const std::string text, query_text(sql));
  return static_cast<std::int64_t>(std::strtoll(text.c_str(), nullptr, 10));
}

Result<std::string> Connection::query_text(const char* sql) {
  sqlite3_stmt* statement = nullptr;
  int code = sqlite3_prepare_v2(db_, sql, -1, &statement, nullptr);
  std::string text;
  if (code == SQLITE_OK) {
    code = sqlite3_step(statement);
    if (code == SQLITE_ROW) {
      const auto* bytes = sqlite3_column_blob(statement, 0);
      const auto count = static_cast<std::size_t>(sqlite3_column_bytes(statement, 0));
      if (count > 0) text.assign(static_cast<const char*>(bytes), count);
    }
  }
  Status status;
  if (code != SQLITE_ROW) status = failure(code == SQLITE_DONE ? SQLITE_CORRUPT : code, sql);
  sqlite3_finalize(statement);
  if (!status.ok()) return status;
  return text;
}

bool Connection::has_dangling_rows() const {
  int current = 0;
  int highest = 0;
  const int code =
      sqlite3_db_status(db_, SQLITE_DBSTATUS_DEFERRED_FKS, &current, &highest, /*resetFlg=*/0);
  return code == SQLITE_OK && current != 0;
}

Status Connection::checkpoint_if_due() {
  return wal_pages_ < kCheckpointPages ? Status() : checkpoint();
}

void Connection::keep_log(bool keep) {
  sqlite3_db_config(db_, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, keep ? 1 : 0, nullptr);
}

Status Connection::checkpoint() {
  const int code =
      sqlite3_wal_checkpoint_v2(db_, nullptr, SQLITE_CHECKPOINT_PASSIVE, nullptr, nullptr);
  if (code != SQLITE_OK) return failure(code, "checkpoint");
  wal_pages_ = 0;
  return {};
}

Status Connection::failure(int code, std::string_view doing) {
  const Status host = vfs_.take_failure();
  const char* text = db_ != nullptr ? sqlite3_errmsg(db_) : sqlite3_errstr(code);
  Code ours = code_of_sqlite(code);
  if ((code & 0xff) == SQLITE_CANTOPEN && !host.ok()) ours = host.code();
  if (host.ok()) return error(ours, "{}: {}: {} (SQLite code {})", path_, doing, text, code);
  return error(ours, "{}: {}: {} ({})", path_, doing, text, host.message());
}

Result<sqlite3_stmt*> Connection::prepared(std::string_view sql) {
  if (const auto found = statements_.find(sql); found != statements_.end()) return found->second;
  sqlite3_stmt* statement = nullptr;
  const int code = sqlite3_prepare_v3(db_, sql.data(), static_cast<int>(sql.size()),
                                      SQLITE_PREPARE_PERSISTENT, &statement, nullptr);
  if (code == SQLITE_OK) {
    statements_.emplace(sql, statement);
    return statement;
  }
  // A table or column that is not there: the schema is not the one that this format version has.
  Status status = failure(code, "prepare");
  if (code == SQLITE_ERROR) return Status(Code::kDamaged, std::string(status.message()));
  return status;
}

Query::Query(Connection& connection, std::string_view sql) : connection_(connection) {
  Result<sqlite3_stmt*> statement = connection.prepared(sql);
  if (statement.ok()) {
    statement_ = *statement;
  } else {
    failed_ = statement.status();
  }
}

Query::~Query() {
  if (statement_ == nullptr) return;
  sqlite3_reset(statement_);
  sqlite3_clear_bindings(statement_);
}

void Query::bound(int code) {
  ++next_parameter_;
  if (code != SQLITE_OK && failed_.ok()) failed_ = connection_.failure(code, "bind");
}

Query& Query::bind_null() {
  if (failed_.ok()) bound(sqlite3_bind_null(statement_, next_parameter_));
  return *this;
}

Query& Query::bind(std::uint64_t value) {
  if (value > INT64_MAX && failed_.ok()) {
    failed_ =
        error(Code::kTooLarge, "{}: {} is beyond what a row can hold", connection_.path(), value);
  }
  return bind_bits(value);
}

Query& Query::bind_bits(std::uint64_t value) {
  return bind_signed(std::bit_cast<std::int64_t>(value));
}

Query& Query::bind_signed(std::int64_t value) {
  if (failed_.ok()) bound(sqlite3_bind_int64(statement_, next_parameter_, value));
  return *this;
}

// The nullptr is SQLITE_STATIC: the bytes live until the Query ends. Data of an empty view may be
// null, which would bind NULL.
Query& Query::bind_text(std::string_view value) {
  const char* data = value.empty() ? "" : value.data();
  if (failed_.ok()) {
    bound(
        sqlite3_bind_text64(statement_, next_parameter_, data, value.size(), nullptr, SQLITE_UTF8));
  }
  return *this;
}

Query& Query::bind_blob(std::string_view value) {
  const char* data = value.empty() ? "" : value.data();
  if (failed_.ok()) {
    bound(sqlite3_bind_blob64(statement_, next_parameter_, data, value.size(), nullptr));
  }
  return *this;
}

Result<bool> Query::step() {
  if (!failed_.ok()) return failed_;
  const int code = sqlite3_step(statement_);
  if (code == SQLITE_ROW) return true;
  if (code == SQLITE_DONE) return false;
  failed_ = connection_.failure(code, "step");
  return failed_;
}

Status Query::run() {
  if (!connection_.in_transaction()) {
    return error(Code::kInvalid, "{}: a change outside of a transaction", connection_.path());
  }
  VT_ASSIGN_OR_RETURN(const bool row, step());
  if (row) return error(Code::kInvalid, "{}: a change answered a row", connection_.path());
  return {};
}

Status Query::begin() {
  VT_ASSIGN_OR_RETURN(const bool row, step());
  assert(!row);
  static_cast<void>(row);
  return {};
}

std::string Query::bytes(int column) const {
  const auto* data = static_cast<const char*>(sqlite3_column_blob(statement_, column));
  const auto count = static_cast<std::size_t>(sqlite3_column_bytes(statement_, column));
  return count == 0 ? std::string() : std::string(data, count);
}

std::uint64_t RowReader::number(std::string_view column, std::uint64_t min, std::uint64_t max) {
  const int at = column_++;
  const std::int64_t value = query_.number(at);
  require(query_.column_type(at) == SQLITE_INTEGER, fmt::format("{} is not a number", column));
  const bool fits = value >= 0 && static_cast<std::uint64_t>(value) >= min &&
                    static_cast<std::uint64_t>(value) <= max;
  if (!fits) {
    require(false, fmt::format("{} is {}, not in {}..{}", column, value, min, max));
    return min;
  }
  return static_cast<std::uint64_t>(value);
}

std::int64_t RowReader::signed_number(std::string_view column) {
  const int at = column_++;
  require(query_.column_type(at) == SQLITE_INTEGER, fmt::format("{} is not a number", column));
  return query_.number(at);
}

std::uint64_t RowReader::id_or_none(std::string_view column) {
  if (!next_is_null()) return number(column, 1);
  skip();
  return 0;
}

std::string RowReader::bytes(std::string_view column, int type, std::string_view type_name) {
  const int at = column_++;
  require(query_.column_type(at) == type, fmt::format("{} is not {}", column, type_name));
  return query_.bytes(at);
}

void RowReader::require(bool holds, std::string_view what) {
  if (holds || !status_.ok()) return;
  // Every statement that a RowReader reads selects the key first.
  status_ = error(Code::kDamaged, "catalog: table {}, row {}: {}", table_, query_.bytes(0), what);
}

}  // namespace voltree
