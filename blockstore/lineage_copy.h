// The lineage copy: STORE/lineage, what the catalog says of volumes, nodes, layers and the erase
// queue, once more, so that a store whose catalog is lost can be rebuilt (store_repair.cc). A hint:
// nothing else reads it, and the catalog is right wherever the two differ.
//
// Not thread-safe: it lives on the catalog's strand, and its calls block. It is written after the
// commit whose rows it copies; a crash in between leaves the copy one commit behind, which the next
// open mends.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "blockstore/catalog.h"
#include "blockstore/lineage_copy_rows.h"
#include "blockstore/runtime/io.h"

namespace voltree {

class LineageCopy {
 public:
  LineageCopy(Runtime& runtime, const std::string& directory);
  static std::string path(const std::string& directory);

  // What the records say, as far as they can be read. kNotFound: there is no copy.
  struct Contents {
    CopyState state;
    std::uint64_t generation = 0;
    std::uint64_t records = 0;
    std::uint64_t good_bytes = 0;        // where the last record that can be read ends
    std::uint64_t unreadable_bytes = 0;  // what follows it
  };
  static Result<Contents> read(FileSystem& fs, const std::string& directory);

  // Goes on with the copy that is there when it says what `image`, the catalog, says, and writes it
  // anew when it does not. An error of what is not needed for that is no reason to stop: the copy
  // is then made later.
  // Not OK: a sync failed (I10).
  Status take_up(const CatalogImage& image);
  // Adds a record, durable when this returns. What cannot be written takes the copy away until
  // renew().
  // Not OK: a sync failed (I10).
  Status append(std::vector<CopyRow> rows);
  // True when the copy is gone or has grown long: renew() is due.
  bool renewal_due() const;
  Status renew(const CatalogImage& image) { return write_anew(copy_rows(image)); }

 private:
  Status write_anew(const std::vector<CopyRow>& rows);
  Result<std::uint64_t> write_file(const std::vector<CopyRow>& rows);
  void give_up();

  Runtime& runtime_;
  const std::string directory_;
  std::unique_ptr<File> file_;  // nullptr: there is no copy that holds
  std::uint64_t generation_ = 0;
  std::uint64_t sequence_ = 0;  // of the last record
  std::uint64_t end_bytes_ = 0;
  std::uint64_t fresh_bytes_ = 0;  // how long it was when it was last written anew
  // Of each row's value: what did not change is not written again.
  std::map<std::pair<CopyTable, std::string>, std::uint64_t> known_;
};

}  // namespace voltree
