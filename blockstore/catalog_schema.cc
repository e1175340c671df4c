#include "blockstore/catalog_schema.h"

namespace voltree {

// Foreign keys are deferred: within one change rows may come and go in any order, and the end of
// the change is where they must fit. There is none from a layer to its owner, from an erase item to
// its layer or from a node to its volume: a layer on its way to the eraser outlives its owner, and
// a junction outlives its volume.
const char* const kCatalogSchema = R"sql(
CREATE TABLE format (
  one                  INTEGER PRIMARY KEY CHECK (one = 1),
  compatible           INTEGER NOT NULL,
  read_only_compatible INTEGER NOT NULL,
  incompatible         INTEGER NOT NULL
) STRICT;

CREATE TABLE setting (
  key   TEXT PRIMARY KEY,
  value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE last_id (
  kind TEXT PRIMARY KEY,
  id   INTEGER NOT NULL CHECK (id > 0)
) STRICT, WITHOUT ROWID;

CREATE TABLE volume (
  id           INTEGER PRIMARY KEY CHECK (id > 0),
  name         TEXT NOT NULL UNIQUE,
  head         INTEGER REFERENCES node (id) DEFERRABLE INITIALLY DEFERRED,
  erase_policy INTEGER CHECK (erase_policy BETWEEN 0 AND 3),
  created_ns   INTEGER NOT NULL
) STRICT;
CREATE INDEX volume_head ON volume (head);

CREATE TABLE node (
  id         INTEGER PRIMARY KEY CHECK (id > 0),
  kind       INTEGER NOT NULL CHECK (kind BETWEEN 0 AND 2),
  parent     INTEGER REFERENCES node (id) DEFERRABLE INITIALLY DEFERRED,
  volume     INTEGER NOT NULL CHECK (volume >= 0),
  snapshot   TEXT CHECK ((snapshot IS NOT NULL) = (kind = 1)),
  size_bytes INTEGER NOT NULL CHECK (size_bytes >= 0),
  created_ns INTEGER NOT NULL
) STRICT;
CREATE INDEX node_parent ON node (parent);
CREATE UNIQUE INDEX node_snapshot_name ON node (volume, snapshot) WHERE snapshot IS NOT NULL;

CREATE TABLE layer (
  id         INTEGER PRIMARY KEY CHECK (id BETWEEN 1 AND 4294967295),
  owner      INTEGER CHECK (owner > 0),
  size_bytes INTEGER NOT NULL CHECK (size_bytes >= 0),
  unsettled  INTEGER NOT NULL CHECK (unsettled IN (0, 1)),
  created_ns INTEGER NOT NULL
) STRICT;

CREATE TABLE layer_index (
  layer  INTEGER NOT NULL REFERENCES layer (id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
  region INTEGER NOT NULL CHECK (region >= 0),
  state  BLOB NOT NULL CHECK (length(state) > 0),
  dirty  INTEGER NOT NULL CHECK (dirty IN (0, 1)),
  sum    INTEGER NOT NULL,
  PRIMARY KEY (layer, region)
) STRICT, WITHOUT ROWID;

CREATE TABLE saved_map (
  node   INTEGER PRIMARY KEY REFERENCES node (id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
  chunks INTEGER NOT NULL CHECK (chunks >= 0)
) STRICT;

CREATE TABLE saved_map_chunk (
  node  INTEGER NOT NULL
        REFERENCES saved_map (node) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
  chunk INTEGER NOT NULL CHECK (chunk >= 0),
  bytes BLOB NOT NULL,
  sum   INTEGER NOT NULL,
  PRIMARY KEY (node, chunk)
) STRICT;

CREATE TABLE erase_request (
  id             INTEGER PRIMARY KEY CHECK (id > 0),
  what           TEXT NOT NULL,
  policy         INTEGER NOT NULL CHECK (policy BETWEEN 0 AND 3),
  requested_ns   INTEGER NOT NULL,
  erased_bytes   INTEGER NOT NULL CHECK (erased_bytes >= 0),
  verified_bytes INTEGER NOT NULL CHECK (verified_bytes >= 0),
  items_done     INTEGER NOT NULL CHECK (items_done >= 0)
) STRICT;

CREATE TABLE erase_item (
  id              INTEGER PRIMARY KEY CHECK (id > 0),
  request         INTEGER NOT NULL REFERENCES erase_request (id) DEFERRABLE INITIALLY DEFERRED,
  layer           INTEGER NOT NULL CHECK (layer BETWEEN 1 AND 4294967295),
  whole_layer     INTEGER NOT NULL CHECK (whole_layer IN (0, 1)),
  ranges          BLOB NOT NULL CHECK ((length(ranges) = 0) = whole_layer),
  estimated_bytes INTEGER NOT NULL CHECK (estimated_bytes >= 0),
  sum             INTEGER NOT NULL
) STRICT;
CREATE INDEX erase_item_request ON erase_item (request);

CREATE TABLE certificate (
  id   INTEGER PRIMARY KEY CHECK (id > 0),
  json TEXT NOT NULL
) STRICT;

CREATE TABLE attachment (
  id                INTEGER PRIMARY KEY CHECK (id > 0),
  node              INTEGER NOT NULL CHECK (node > 0),
  target            TEXT NOT NULL,
  device            TEXT NOT NULL,
  read_only         INTEGER NOT NULL CHECK (read_only IN (0, 1)),
  sector_size_bytes INTEGER NOT NULL CHECK (sector_size_bytes BETWEEN 512 AND 65536),
  boot_id           TEXT NOT NULL,
  created_ns        INTEGER NOT NULL
) STRICT;

INSERT INTO format VALUES (1, 0, 0, 1);
)sql";

// The reference takes the rows with their volume, also in the hands of a voltree that does not know
// the table.
const char* const kVolumeLimitSchema = R"sql(
CREATE TABLE volume_limit (
  volume INTEGER NOT NULL REFERENCES volume (id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
  key    TEXT NOT NULL,
  value  INTEGER NOT NULL CHECK (value > 0),
  PRIMARY KEY (volume, key)
) STRICT, WITHOUT ROWID;
UPDATE format SET compatible = compatible | 1;
)sql";

const char* const kVolumeNoteSchema = R"sql(
CREATE TABLE volume_note (
  volume INTEGER NOT NULL REFERENCES volume (id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
  key    TEXT NOT NULL,
  text   TEXT NOT NULL,
  PRIMARY KEY (volume, key)
) STRICT, WITHOUT ROWID;
UPDATE format SET compatible = compatible | 2;
)sql";

const char* const kVolumeReserveSchema = R"sql(
CREATE TABLE volume_reserve (
  volume        INTEGER PRIMARY KEY REFERENCES volume (id) ON DELETE CASCADE
                DEFERRABLE INITIALLY DEFERRED,
  reserve_bytes INTEGER NOT NULL CHECK (reserve_bytes > 0)
) STRICT;
UPDATE format SET compatible = compatible | 8;
)sql";

const char* const kTakenLayerSchema = R"sql(
CREATE TABLE taken_layer (
  layer INTEGER PRIMARY KEY REFERENCES layer (id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
  path  TEXT NOT NULL
) STRICT;
UPDATE format SET compatible = compatible | 32;
)sql";

const char* const kEraseOptionSchema = R"sql(
CREATE TABLE erase_option (
  request     INTEGER PRIMARY KEY REFERENCES erase_request (id) ON DELETE CASCADE
              DEFERRABLE INITIALLY DEFERRED,
  first_bytes INTEGER NOT NULL CHECK (first_bytes >= 0),
  io_priority INTEGER NOT NULL CHECK (io_priority BETWEEN 0 AND 65535)
) STRICT;
UPDATE format SET compatible = compatible | 4;
)sql";

}  // namespace voltree
