// What the tests of the catalog share: a simulated machine, and rows to put into a catalog.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sqlite3.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <utility>

#include "blockstore/catalog.h"
#include "blockstore/runtime/sim_runtime.h"
#include "blockstore/sqlite_vfs.h"
#include "tests/blockstore/faulty_fs.h"

namespace voltree::testing {

inline constexpr const char* kPath = "store/catalog.db";

#define EXPECT_OK(expr)                                     \
  do {                                                      \
    const ::voltree::Status vt_expected = (expr);           \
    EXPECT_TRUE(vt_expected.ok()) << vt_expected.message(); \
  } while (false)

template <typename T>
T must(Result<T> result) {
  if (!result.ok()) {
    ADD_FAILURE() << result.status().message();
    std::abort();
  }
  return std::move(result).value();
}

// Runs SQL on a closed catalog, past CatalogDb.
inline void tamper(FileSystem& fs, const char* path, const char* sql) {
  SqliteVfs vfs(fs);
  sqlite3* db = nullptr;
  ASSERT_EQ(SQLITE_OK, sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, vfs.name()));
  char* message = nullptr;
  sqlite3_exec(db, "PRAGMA locking_mode=EXCLUSIVE; PRAGMA ignore_check_constraints=ON", nullptr,
               nullptr, nullptr);
  EXPECT_EQ(SQLITE_OK, sqlite3_exec(db, sql, nullptr, nullptr, &message)) << message;
  sqlite3_free(message);
  EXPECT_EQ(SQLITE_OK, sqlite3_close(db));
}

// A simulated machine with the folder "store" on it.
class CatalogTest : public ::testing::Test {
 protected:
  CatalogTest() : runtime_(world_, SimOptions{}), fs_(runtime_.fs()) {
    seed_sqlite_randomness(1);
    EXPECT_OK(runtime_.fs().make_dir("store"));
  }
  ~CatalogTest() override { seed_sqlite_randomness(0); }

  std::unique_ptr<CatalogDb> create() { return must(CatalogDb::create(fs_, kPath)); }
  std::unique_ptr<CatalogDb> open() { return must(CatalogDb::open(fs_, kPath)); }
  Status open_status() {
    Result<std::unique_ptr<CatalogDb>> db = CatalogDb::open(fs_, kPath);
    return db.ok() ? Status() : db.status();
  }

  // Runs `change` in a transaction of its own.
  static Status change(CatalogDb& db, const Catalog::Change& fn) {
    VT_RETURN_IF_ERROR(db.begin());
    if (Status status = fn(db); !status.ok()) {
      db.rollback();
      return status;
    }
    return db.commit();
  }

  void tamper(const char* sql) { ::voltree::testing::tamper(fs_, kPath, sql); }

  SimWorld world_;
  SimRuntime runtime_;
  FaultyFs fs_;
};

inline VolumeRow volume_row(VolumeId id, const std::string& name) {
  return {id, name, kNoNode, {}, 5};
}

// Several rows of every table.
inline Status fill(CatalogDb& db) {
  // The volume first: what it points at comes later in the same change.
  VT_RETURN_IF_ERROR(db.put_volume({1, "a", 12, ErasePolicy::kRandom, 100}));
  VT_RETURN_IF_ERROR(db.put_volume({2, "gone", kNoNode, std::nullopt, -7}));
  VT_RETURN_IF_ERROR(db.put_node({10, NodeKind::kJunction, kNoNode, 9, "", 4096, 1}));
  VT_RETURN_IF_ERROR(db.put_node({11, NodeKind::kSnapshot, 10, 1, "s", 8192, 2}));
  VT_RETURN_IF_ERROR(db.put_node({12, NodeKind::kHead, 11, 1, "", 512, 3}));
  VT_RETURN_IF_ERROR(db.put_layer({4294967295U, 12, std::uint64_t{1} << 44, true, 4}));
  VT_RETURN_IF_ERROR(db.put_layer({7, kNoNode, 0, false, 5}));
  VT_RETURN_IF_ERROR(db.put_region({7, 3, std::string("\0\1x", 3), true}));
  VT_RETURN_IF_ERROR(db.put_region({7, 0, "state", false}));
  VT_RETURN_IF_ERROR(db.put_erase_request({1, "volume b", ErasePolicy::kNone, 6, 7, 8, 9}));
  VT_RETURN_IF_ERROR(db.put_erase_item({1, 1, 7, true, "", 10}));
  VT_RETURN_IF_ERROR(db.put_erase_item({2, 1, 7, false, std::string("\0r", 2), 11}));
  VT_RETURN_IF_ERROR(db.put_certificate({1, "{}"}));
  VT_RETURN_IF_ERROR(db.put_certificate({2, "{\"x\":1}"}));
  VT_RETURN_IF_ERROR(db.put_attachment({1, 12, "loop", "/dev/loop3", true, 4096, "boot", 12}));
  VT_RETURN_IF_ERROR(db.put_saved_map(11, {"one", std::string("\0two", 4)}));
  VT_RETURN_IF_ERROR(db.put_saved_map(12, {}));
  return db.put_setting("uuid", "u");
}

}  // namespace voltree::testing
