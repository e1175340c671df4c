// What CatalogDb is made of; for catalog_*.cc only.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "blockstore/catalog.h"
#include "blockstore/catalog_sqlite.h"
#include "blockstore/lineage_copy_rows.h"

namespace voltree {

struct CatalogDb::Impl {
  std::unique_ptr<Connection> connection;
  FormatInfo format;
  // A checkpoint that failed after its commit was durable: told to the next begin().
  Status checkpoint_failure;
  // For the lineage copy: what this transaction has changed, and what earlier ones have.
  bool remembers = false;
  std::vector<CopyRow> changing;
  std::size_t changing_before_savepoint = 0;
  std::vector<CopyRow> changed;

  // Passes `status` on, remembering the row when it is OK.
  Status remember(Status status, CopyRow row) {
    if (status.ok() && remembers) changing.push_back(std::move(row));
    return status;
  }

  Query query(std::string_view sql) { return Query(*connection, sql); }
};

}  // namespace voltree
