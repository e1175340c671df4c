// The catalog's schema, format version 1. docs/FORMAT.md explains every table and column.
#pragma once

#include <cstdint>

namespace voltree {

// "vltr": what SQLite's header says the database is.
inline constexpr std::int64_t kCatalogApplicationId = 0x766c7472;

// Makes every table of kFormatVersion in an empty database.
extern const char* const kCatalogSchema;
// Adds volume_limit to it, when a store gets its first limit.
extern const char* const kVolumeLimitSchema;
// Adds volume_note, when a store gets its first note.
extern const char* const kVolumeNoteSchema;
// Adds volume_reserve, with the first one.
extern const char* const kVolumeReserveSchema;
// Adds taken_layer, with the first file that is taken in.
extern const char* const kTakenLayerSchema;
// Adds erase_option, with the first request that has some.
extern const char* const kEraseOptionSchema;

}  // namespace voltree
