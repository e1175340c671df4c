// What CatalogDb is made of; for catalog_*.cc only.
#pragma once

#include <memory>
#include <string_view>

#include "blockstore/catalog.h"
#include "blockstore/catalog_sqlite.h"

namespace voltree {

struct CatalogDb::Impl {
  std::unique_ptr<Connection> connection;
  FormatInfo format;
  // A checkpoint that failed after its commit was durable: told to the next begin().
  Status checkpoint_failure;

  Query query(std::string_view sql) { return Query(*connection, sql); }
};

}  // namespace voltree
