// SQLite as the catalog uses it: a connection that turns SQLite's codes into Status, and prepared
// statements that are kept for the next time. For catalog_*.cc only.
//
// Not thread-safe: one thread at a time, as CatalogDb.
#pragma once

#include <sqlite3.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>

#include "blockstore/base/status.h"
#include "blockstore/runtime/io.h"
#include "blockstore/sqlite_vfs.h"

namespace voltree {

enum class CatalogAccess : std::uint8_t {
  kCreate,
  kReadWrite,
  kReadOnly,  // of a database that has no log, and that nobody changes meanwhile
};

class Connection {
 public:
  // Opens `path`, with locking_mode=EXCLUSIVE and what else must be set before the file is first
  // looked at.
  static Result<std::unique_ptr<Connection>> open(FileSystem& fs, const std::string& path,
                                                  CatalogAccess access);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // Enters WAL mode with synchronous=FULL. Writes to a file that is not in WAL mode: look first
  // whose file it is.
  Status enter_wal();
  // Runs statements that answer no rows. Not cached.
  Status execute(const char* sql);
  // The first column of the first row. Not cached.
  Result<std::int64_t> query_number(const char* sql);
  Result<std::string> query_text(const char* sql);

  bool in_transaction() const { return sqlite3_get_autocommit(db_) == 0; }
  // Rows that point at nothing and were not mended yet within this transaction.
  bool has_dangling_rows() const;
  // Moves the WAL into the database when it has grown past what is worth keeping. kNoSpace: later
  // will do.
  Status checkpoint_if_due();
  Status checkpoint();
  void keep_log(bool keep);

  // The Status of an SQLite code other than OK, ROW and DONE. `doing` leads the message.
  Status failure(int code, std::string_view doing);
  const std::string& path() const { return path_; }

 private:
  friend class Query;
  Connection(FileSystem& fs, std::string path) : vfs_(fs), path_(std::move(path)) {}
  Result<sqlite3_stmt*> prepared(std::string_view sql);

  SqliteVfs vfs_;
  std::string path_;
  sqlite3* db_ = nullptr;
  int wal_pages_ = 0;
  std::unordered_map<std::string_view, sqlite3_stmt*> statements_;  // by their text, a literal
};

// One use of a cached statement: bind, step, read columns. `sql` must be a literal. What is bound
// must live until the Query ends. A mistake in binding is reported by the next step. Two Queries of
// the same text must not overlap.
class Query {
 public:
  Query(Connection& connection, std::string_view sql);
  ~Query();
  Query(const Query&) = delete;
  Query& operator=(const Query&) = delete;

  Query& bind_null();
  Query& bind(std::uint64_t value);       // up to 2^63 - 1: what is beyond is refused
  Query& bind_bits(std::uint64_t value);  // any 64 bits
  Query& bind_signed(std::int64_t value);
  Query& bind_text(std::string_view value);
  Query& bind_blob(std::string_view value);
  // 0 becomes NULL: an id that is none.
  Query& bind_id(std::uint64_t id) { return id == 0 ? bind_null() : bind(id); }

  // True: a row is there to be read.
  Result<bool> step();
  // Runs a change. Refused outside of a transaction: it would be durable on its own, whatever the
  // rest becomes. kExists when a unique name is taken.
  Status run();
  // As run(), for BEGIN.
  Status begin();

  int column_type(int column) const { return sqlite3_column_type(statement_, column); }
  std::int64_t number(int column) const { return sqlite3_column_int64(statement_, column); }
  std::string bytes(int column) const;

 private:
  void bound(int code);

  Connection& connection_;
  sqlite3_stmt* statement_ = nullptr;
  Status failed_;
  int next_parameter_ = 1;
};

// Reads a row's columns from left to right and checks each: the first thing that is not as it must
// be becomes status(), a kDamaged that names the table and the row.
class RowReader {
 public:
  RowReader(const Query& query, std::string_view table) : query_(query), table_(table) {}

  std::uint64_t number(std::string_view column, std::uint64_t min, std::uint64_t max = INT64_MAX);
  std::int64_t signed_number(std::string_view column);
  std::uint64_t id_or_none(std::string_view column);  // NULL is 0
  bool flag(std::string_view column) { return number(column, 0, 1) == 1; }
  std::string text(std::string_view column) { return bytes(column, SQLITE_TEXT, "text"); }
  std::string blob(std::string_view column) { return bytes(column, SQLITE_BLOB, "a blob"); }
  bool next_is_null() const { return query_.column_type(column_) == SQLITE_NULL; }
  void skip() { ++column_; }
  // Adds the caller's own finding.
  void require(bool holds, std::string_view what);

  const Status& status() const { return status_; }

 private:
  std::string bytes(std::string_view column, int type, std::string_view type_name);

  const Query& query_;
  std::string_view table_;
  int column_ = 0;
  Status status_;
};

}  // namespace voltree
