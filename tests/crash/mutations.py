"""Single mutations of the code that keeps the invariants: (name, file, what there is, what there is instead).

tools/mutate applies one at a time, builds the crash tests and the engine's own, and counts those that turn red.
"""

E = 'blockstore/engine.cc'
L = 'blockstore/layer.cc'
V = 'blockstore/volume.cc'
IO = 'blockstore/volume_io.cc'
F = 'blockstore/store_fork.cc'
C = 'blockstore/store_core.cc'
Z = 'blockstore/store_resize.cc'
X = 'blockstore/eraser.cc'
R = 'blockstore/recovery.cc'
S = 'blockstore/store.cc'
Q = 'blockstore/sqlite_vfs.cc'
D = 'blockstore/catalog_db.cc'
P = 'blockstore/catalog_sqlite.cc'
T = 'blockstore/inflight.cc'
Y = 'blockstore/store_repair_layers.cc'
K = 'blockstore/store_take.cc'
G = 'blockstore/store_handover.cc'

MUTATIONS = [
    # --- Syncs that are not made.
    ('create: the folder\'s own name is not synced', S,
     'Status named = fs.sync_dir(parent_folder(directory));', 'Status named;'),
    ('create: the catalog\'s name is not synced', D,
     '  VT_RETURN_IF_ERROR(fs.sync_dir(parent_folder(path)));\n', ''),
    ('layer: its folder\'s name is not synced', L,
     '    VT_RETURN_IF_ERROR(syncs(fs.sync_dir(store_directory + "/layers")));\n', ''),
    ('layer: the data file\'s length is not synced', L, '  VT_RETURN_IF_ERROR(syncs(data->sync_sync()));\n', ''),
    ('layer: the files\' names are not synced', L, '  VT_RETURN_IF_ERROR(syncs(fs.sync_dir(folder)));\n', ''),
    ('layer: an unlink is not synced', L,
     'return removed ? syncs(fs.sync_dir(folder_of(store_directory, id))) : Status();', '(void)removed; return {};'),
    ('flush: the data is not synced', V, '  Status synced = co_await batch;\n', '  Status synced;\n'),
    ('flush: writes in place are not synced', V,
     'return !layer->state.needs_sync && layer->state.pending_regions.empty();',
     'return layer->state.pending_regions.empty();'),
    ('settle: the data is not synced', E, '  VT_CO_RETURN_IF_ERROR(co_await sync_layer(layer));\n  const Status synced',
     '  const Status synced'),
    ('settle: the sums are not synced', E,
     '[&layer] { return layer.sums().sync_sync(0, layer.sums().size_bytes()); });',
     '[] { return Status(); });'),
    ('grow: the layer\'s length is not synced', Z,
     '        VT_CO_RETURN_IF_ERROR(co_await engine.sync_layer(*active));\n', ''),
    ('eraser: what was overwritten is not synced', X,
     '    VT_CO_RETURN_IF_ERROR(co_await sync(file, layer));\n', ''),
    ('eraser: holes are not synced', X, '  VT_CO_RETURN_IF_ERROR(co_await engine_.sync_layer(*layer));\n', ''),
    ('recovery: data is not synced before its rows', R,
     'Status synced = co_await layer.file(true).sync_data();', 'Status synced;'),
    ('catalog: nothing is synced', Q, 'Status status = open.file->sync_sync(); !status.ok()',
     'Status status; !status.ok()'),
    ('catalog: new files\' names are not synced', Q, 'open->name_unsynced = mode.create;',
     'open->name_unsynced = false;'),
    ('catalog: commits are not synced', P, 'PRAGMA synchronous=FULL;', 'PRAGMA synchronous=OFF;'),
    ('catalog: commits are synced at checkpoints only', P, 'PRAGMA synchronous=FULL;',
     'PRAGMA synchronous=NORMAL;'),
    # --- Failures that are not heeded (I10).
    ('flush: after a failed sync writing goes on', V,
     '    engine_.fail(\n        synced);  // I10: the kernel may have dropped the dirty pages; no fsync is tried again\n',
     ''),
    ('commit: after a failed one writing goes on', E,
     '  if (catalog_->failed()) fail(catalog_->failure());\n', ''),
    ('syncing: after a failed sync writing goes on', 'blockstore/engine.h',
     '  if (!syncs.failure().ok()) fail(syncs.failure());\n', ''),
    ('close: a failed checkpoint is not told', S, '  core.engine.fail(checkpointed);\n  co_return checkpointed;\n',
     '  co_return status;\n'),
    ('sync: one of a layer beside another counts', E,
     '  const AsyncMutex::Guard guard = co_await layer.sync_mutex.lock();\n', ''),
    ('write: blocks in place that got there keep their old sums', IO,
     '    if (plan.in_place) co_await stamp_what_was_written(plan, range, sums, batch);\n', ''),
    ('write: what got there is believed only when it can be read', IO,
     'const bool whole = batch.requests()[i].status.ok();', 'const bool whole = batch.requests().empty();'),
    ('discard: what was not punched counts as gone', IO,
     '  if (!punched.ok()) co_await put_back_what_stayed(plan, sums);\n', '  (void)sums;\n'),
    ('recovery: the page cache is not doubted', S, '    doubted = needs_check || table->failed();\n',
     '    (void)needs_check;\n'),
    ('recovery: the catalog is not written again', S, '    if (doubted) {\n      for', '    if (false) {\n      for'),
    ('recovery: doubted data is not written again', R, 'restamp(layer, range, doubted)', 'restamp(layer, range, false)'),
    ('recovery: doubted sums are not written again', R, '    if (!doubted) continue;\n', '    if (true) continue;\n'),
    ('catalog: pages are not checked', Q, '  if (!take_page_sum(page, number)) {', '  if (false) {'),
    ('catalog: a damaged log is taken for a short one', 'blockstore/catalog_log.cc', '  if (reader.commits_after() > 1) {',
     '  if (false) {'),
    ('catalog: the end of a log that a crash left stays', 'blockstore/catalog_log.cc', '  if (reader.whole() == size) return {};',
     '  if (reader.whole() <= size) return {};'),
    ('create: a folder that an init left is refused', S, '    if (ours) continue;\n', '    (void)ours;\n'),
    ('catalog: a failed sync is tried again', Q, '    open.vfs.sync_failed = true;\n    open.vfs.failure = status;\n'
     '    return SQLITE_IOERR_FSYNC;', '    open.vfs.failure = status;\n    return SQLITE_IOERR_FSYNC;'),
    # --- Rows that are not written, and marks that are not made.
    ('flush: the rows are not committed', V, 'if (rows.empty()) co_return Status();\n  Status committed',
     'co_return Status();\n  Status committed'),
    ('flush: a later flush counts as covered', V, 'flush_covered_ = covers;', 'flush_covered_ = covers + 1;'),
    ('flush: one that waited for a failed one succeeds', V,
     '  VT_CO_RETURN_IF_ERROR(engine_.check_writable());\n  FlushRows rows;', '  FlushRows rows;'),
    ('flush: FUA is not heeded', V, '  if (!options.fua) co_return Status();\n', '  if (options.fua) co_return Status();\n'),
    ('write: new blocks are not pending', IO, '      state.pending_regions.insert(region);\n',
     '      (void)region;\n'),
    ('write: a layer is not marked as unsettled', IO,
     'if (!state.unsettled) return {Need::kUnsettled, layer, {}};', ''),
    ('write: the unsettled mark is not committed', E,
     'co_await commit_freeing([&row](CatalogDb& db) { return db.put_layer(row); }));\n  const std::lock_guard',
     'Status());\n  const std::lock_guard'),
    ('write: a region is not marked as dirty', IO, '    wanted.regions.push_back(region);\n', ''),
    ('write: the dirty mark is not committed', E,
     '[id, &regions](CatalogDb& db) { return db.mark_regions(id, regions, true); }',
     '[](CatalogDb&) { return Status(); }'),
    ('write: in place without a slot of the in-flight table', IO,
     '    slot = co_await engine_.inflight().acquire(node_, range, sums);\n', ''),
    ('discard: a hole instead of a tombstone', IO,
     'return segment.own && bottom ? kIndexAbsent : kIndexTombstone;',
     '(void)bottom; return kIndexAbsent;'),
    ('settle: regions with discards that are not flushed become clean', E,
     'if (state.settling_regions.erase(region) != 0) state.dirty_regions.insert(region);\n      }\n    });',
     '}\n    });'),
    ('settle: a layer that is written to counts as settled', E,
     '''    row.unsettled = !state.pending_regions.empty() || !state.dirty_regions.empty() ||
                    state.needs_sync || write_gate != nullptr;''', '    row.unsettled = false;'),
    ('fork: sealed layers are not synced', F, 'co_return co_await any->sync_layers(std::move(sealed));',
     'co_return FlushRows();'),
    ('fork: writes under way are not waited for', F, '    co_await any->write_gate().drain();\n', ''),
    ('fork: the index rows are not written', F, '    VT_RETURN_IF_ERROR(rows.put(db));\n', ''),
    ('fork: the head is not written', F, '    VT_RETURN_IF_ERROR(db.put_node(one.head));\n', ''),
    ('fork: the snapshot is not written', F, '    VT_RETURN_IF_ERROR(db.put_node(one.sealed));\n', ''),
    ('fork: the layers\' owners are not written', F,
     '    for (const auto& layer : one.layers) VT_RETURN_IF_ERROR(db.put_layer(row_of(*layer)));\n', ''),
    ('fork: the switch is not undone after a failure', F, '    Volume::rows_failed(rows);\n    abort_forks(all);\n',
     '    Volume::rows_failed(rows);\n'),
    ('revert: writes under way are not waited for', F,
     '    range_guard = co_await volume->range_lock().lock(kAllBlocks);\n', ''),
    ('change: the erase queue is not written', C,
     '    VT_RETURN_IF_ERROR(put_erase_job(db, job, plan));\n', ''),
    ('change: layers that move are not written', C,
     '    for (const LayerRow& row : moved) VT_RETURN_IF_ERROR(db.put_layer(row));\n', ''),
    ('change: nodes that change are not written', C,
     '  for (const NodeId id : plan.changed_nodes) VT_RETURN_IF_ERROR(db.put_node(next.find(id)->row));\n', ''),
    ('change: indexes that lose blocks are not written', C,
     '    VT_RETURN_IF_ERROR(put_index_changes(db, id, before.at(id), index));\n',
     '    (void)id; (void)index; (void)before;\n'),
    ('change: nodes that go are not removed', C, '    VT_RETURN_IF_ERROR(db.remove_node(id));\n', ''),
    ('change: layers that go are not removed', C,
     '  for (const auto& entry : plan.erased_layers) VT_RETURN_IF_ERROR(db.remove_layer(entry.first));\n', ''),
    ('grow: the layer\'s row is not written', Z, 'return layer_row ? db.put_layer(*layer_row) : Status();',
     'return Status();'),
    ('grow: the rest of the last block is not zeroed', Z,
     'std::fill(tail.begin(), tail.end(), std::byte{0});', '(void)tail;'),
    ('open: the store still counts as clean', S, 'return db.put_setting("clean", "0");',
     'return db.put_setting("clean", "1");'),
    ('open: the boot is not written down', S,
     '    VT_RETURN_IF_ERROR(db.put_setting("boot_id", boot_id));\n', ''),
    ('close: what is open is not flushed', S,
     '  if (status.ok()) status = co_await close_idle_devices(true);\n', ''),
    # --- Steps in another order.
    ('layer: the row comes before the files', E,
     '''  Status made =
      co_await run_syncing([&layer](SyncWatch& syncs) { return layer->create_files(syncs); });
  if (made.ok()) {
    made = co_await commit([&row](CatalogDb& db) { return db.put_layer(row); });
  }''',
     '''  Status made = co_await commit([&row](CatalogDb& db) { return db.put_layer(row); });
  if (made.ok()) {
    made = co_await run_syncing([&layer](SyncWatch& syncs) { return layer->create_files(syncs); });
  }'''),
    ('write: the sums come before the data', IO,
     '''  Status written = co_await batch;
  if (!written.ok()) {
    if (plan.in_place) co_await stamp_what_was_written(plan, range, sums, batch);
    co_return written;
  }
  for (const Segment& segment : plan.segments) {
    for (std::uint64_t block = segment.range.first; block < segment.range.end(); ++block) {
      segment.layer->set_sum(block, sums[block - range.first]);
    }
  }
  // Not before all of them are stored: what was overwritten in place may have been acknowledged.
  for (const Segment& segment : plan.segments) {
    VT_CO_RETURN_IF_ERROR(engine_.check_stored(segment.layer->sums()));
  }
  finish_write(plan, false);''',
     '''  for (const Segment& segment : plan.segments) {
    for (std::uint64_t block = segment.range.first; block < segment.range.end(); ++block) {
      segment.layer->set_sum(block, sums[block - range.first]);
    }
  }
  slot.release();
  VT_CO_RETURN_IF_ERROR(co_await batch);
  finish_write(plan, false);'''),
    ('eraser: the queue entry goes without the bytes', X,
     'erased = co_await erase_layer(item, request, rate_bytes);', 'erased = Outcome{};'),
    # --- Erase (I8).
    ('eraser: nothing is overwritten', X,
     '  if (ranges.empty()) co_return Status();\n  const std::uint64_t seed', '  co_return Status();\n  const std::uint64_t seed'),
    ('eraser: it does not read back', X, 'for (const bool verify : {false, true}) {',
     'for (const bool verify : {false}) {'),
    ('eraser: reads under way are not waited for', X, '  co_await engine_.read_gate().drain();\n', ''),
    ('eraser: sums stay', X, '      layer->set_sum(block, kSumAbsent);\n', '      (void)block;\n'),
    ('shrink: the sums do not say what was cut away', Z, 'stamp_tombstones(engine, *target, beyond)',
     'stamp_tombstones(engine, *target, {beyond.first, 0})'),
    ('eraser: holes are not punched', X,
     '''    VT_CO_RETURN_IF_ERROR(co_await layer->file(true).punch_hole(range.first * kBlockBytes,
                                                                range.count * kBlockBytes));
''', ''),
    ('eraser: files stay', X, '    return Layer::unlink_files(fs, engine_.directory(), id, syncs);',
     '    (void)id; return Status();'),
    ('eraser: the item stays in the queue', X,
     '    if (item.id != 0) VT_RETURN_IF_ERROR(db.remove_erase_item(item.id));\n', ''),
    ('eraser: a certificate with every item', X, '    if (!last) return db.put_erase_request(request);\n', '    (void)last;\n'),
    # --- Recovery.
    ('recovery: none', S, 'if (!clean) VT_CO_RETURN_IF_ERROR(co_await recover(', 'if (false) VT_CO_RETURN_IF_ERROR(co_await recover('),
    ('recovery: every death counts as one of the daemon', S,
     'recover(same_boot && !copied)', 'recover(true)'),
    ('recovery: every death counts as a power loss', S,
     'recover(same_boot && !copied)', 'recover(false)'),
    ('recovery: a copy of an open store counts as the store', S, 'recover(same_boot && !copied)', 'recover(same_boot)'),
    ('recovery: a host that was mounted anew is trusted', S, '  doubted = doubted || (same_boot && mounted_anew);\n', '  (void)mounted_anew;\n'),
    ('open: a copy on another device counts as the store', S, 'if (storage.empty() || storage != storage_was) co_return true;', ''),
    ('open: a store that is there under its old device, too, counts as moved', S, 'co_return !there.ok() || *there == storage;',
     'co_return !there.ok();'),
    ('recovery: sums that were cut off are adopted', R, '!sealed && !layer.sums_were_short()', '!sealed'),
    ('recovery: sums are not adopted', R, '  if (adopts && !doubted) VT_CO_RETURN_IF_ERROR(co_await adopt_sums(layer));\n', ''),
    ('recovery: what was in flight is not stamped', R,
     '  if (same_boot) VT_CO_RETURN_IF_ERROR(co_await restamp_left_behind());\n', ''),
    ('recovery: sums of writes under way prove nothing', R,
     '          if (!under_way.contains({block, there})) continue;\n', '          continue;\n'),
    ('recovery: sums of a slot that is not whole are believed', T,
     '      if (check_of(entry.node, entry.range, entry.sums) != head.check) entry.sums.clear();\n', ''),
    ('recovery: sums are not restored', R, 'if (!same_boot) co_return co_await restore_sums(layer);', 'if (!same_boot) co_return Status();'),
    ('recovery: sums that are doubted are not restored', R, '  if (doubted) VT_CO_RETURN_IF_ERROR(co_await restore_sums(layer));\n', ''),
    ('recovery: sums of absent blocks stay', R, 'if (layer.sum(block) != sum) layer.set_sum(block, sum);',
     '(void)sum;'),
    ('recovery: dirty regions are not stamped', R,
     '    VT_CO_RETURN_IF_ERROR(co_await restamp(layer, range, doubted));\n', ''),
    ('recovery: what is to be erased comes back', R,
     'if (value == known || pending_erase.at(block) != 0) continue;', 'if (value == known) continue;'),
    ('recovery: discards without a trace are not adopted', R,
     '      if (read.ok() && all_zero(buffer.span())) index.assign(block, 1, kIndexTombstone);\n', '      (void)read;\n'),
    ('recovery: sums that are lost count as discards', R,
     '      if (read.ok() && all_zero(buffer.span())) index.assign(block, 1, kIndexTombstone);\n',
     '      (void)read;\n      index.assign(block, 1, kIndexTombstone);\n'),
    ('in-flight: what is left behind is not read', T, 'if (head.node == kNoNode || head.count == 0) continue;\n    Entry', 'continue;\n    Entry'),
    # --- Files that are taken in.
    ('take: the file is not synced', K, 'sums_from_.empty() ? file_->sync_sync() : Status()', 'Status()'),
    ('take: the sums are not synced', K, '[this](SyncWatch& syncs) { return syncs(sums_->sync_sync()); }',
     '[](SyncWatch&) { return Status(); }'),
    ('take: the layer\'s name is not synced', K,
     '  VT_RETURN_IF_ERROR(syncs(fs_.sync_dir(parent_folder(data))));\n', '  (void)syncs;\n'),
    ('take: the mark is not written', K, '  return db.put_taken_layer({layer_, path_});\n', '  return {};\n'),
    ('take: what was set of a volume is not written', K,
     '  VT_RETURN_IF_ERROR(settings_.put(db, rows_.volume.id));\n', ''),
    ('take: the old name goes before the commit', K,
     '  if (done.ok()) done = co_await core_.engine.commit([this](CatalogDb& db) { return put(db); });\n',
     '''    if (done.ok()) {
      done = co_await core_.engine.run_syncing([this](SyncWatch& syncs) { return lose_old_name(syncs); });
    }
    if (done.ok()) done = co_await core_.engine.commit([this](CatalogDb& db) { return put(db); });
    if (done.ok()) {
      (void)co_await core_.engine.commit([this](CatalogDb& db) { return db.remove_taken_layer(layer_); });
      file_.reset();
      publish();
      co_return Status();
    }
'''),
    ('take: that the old name went is not synced', K,
     '  unlinked_ = true;\n  VT_RETURN_IF_ERROR(sync_old_folder(fs_, path_, syncs));\n', '  unlinked_ = true;\n'),
    ('take: who opens the file is not noticed', K, '  VT_RETURN_IF_ERROR(file_->check_lease());\n', ''),
    ('take: other names are not noticed', K, '  if (links == names) return {};\n', '  if (links >= names) return {};\n'),
    ('take: what has failed is not undone', K, '    const Status undone = co_await undo();\n',
     '    const Status undone;\n'),
    ('take: the name that the file gets back is not synced', K,
     '''    VT_RETURN_IF_ERROR(file_->link(path_));
    return syncs(fs_.sync_dir(parent_folder(path_)));''', '    (void)syncs;\n    return file_->link(path_);'),
    ('take: the length is not synced', K, '  return syncs(file.sync_sync());\n', '  (void)syncs;\n  return {};\n'),
    ('take: a length that could not be synced is not set again', K,
     '  VT_RETURN_IF_ERROR(file.truncate(Layer::data_file_bytes(size_bytes)));\n',
     '''  VT_ASSIGN_OR_RETURN(const std::uint64_t length_bytes, file.size_bytes());
  if (length_bytes == Layer::data_file_bytes(size_bytes)) return {};
  VT_RETURN_IF_ERROR(file.truncate(Layer::data_file_bytes(size_bytes)));
'''),
    ('take: recovery does not look at the names', K, '  one.is_ours = links == 1;\n', '  (void)links;\n'),
    ('take: recovery does not sync the old folder', K,
     '  VT_RETURN_IF_ERROR(sync_old_folder(fs, one.taken.path, syncs));\n', ''),
    ('take: recovery leaves the mark', K,
     '      VT_RETURN_IF_ERROR(db.remove_taken_layer(one.layer.id));\n', ''),
    ('take: recovery leaves a second name', R, '      if (bytes != 0 && links == 1) continue;\n',
     '      if (bytes != 0) continue;\n      (void)links;\n'),
    ('take: what could not be undone is not left to recovery', S, 'if (status.ok() && !recovery_due) {', 'if (status.ok()) {'),
    ('give: the names in leaving/ are not synced', G, '    return syncs(fs.sync_dir(folder_of(engine_)));\n',
     '    return {};\n'),
    ('give: the names go before the commit', G, '    if (done.ok()) done = co_await commit();\n',
     '''    if (done.ok()) {
      done = co_await engine_.run_syncing([this](SyncWatch& syncs) {
        return Layer::unlink_files(engine_.runtime().fs(), engine_.directory(), layer_->id(), syncs);
      });
    }
    if (done.ok()) done = co_await commit();
'''),
    ('give: what was not given keeps its second names', G, '      } else if (!ours || in_place) {\n',
     '      } else if (!ours && in_place) {\n'),
    ('give: the sums do not go with it', K, '    done = co_await core_.engine.run_syncing([this](SyncWatch&) { return copy_sums(); });\n', ''),
    ('eraser: a file with another name is overwritten', X, '  return links > 1;\n', '  (void)links;\n  return false;\n'),
    ('catalog: a first page that is torn is not looked for in the log', Q,
     'const bool whole_page = at % kCatalogPageBytes == 0 && wanted == kCatalogPageBytes;',
     'const bool whole_page = at % kCatalogPageBytes + wanted <= kCatalogPageBytes;'),
    ('mapping: sums that the host has lost are not heeded', IO,
     '''  // Not before all of them are stored: what was overwritten in place may have been acknowledged.
  for (const Segment& segment : plan.segments) {
    VT_CO_RETURN_IF_ERROR(engine_.check_stored(segment.layer->sums()));
  }
''', ''),
    ('mapping: sums of one part that are lost keep those of the next from being stored', IO,
     '''    }
  }
  // Not before all of them are stored: what was overwritten in place may have been acknowledged.
  for (const Segment& segment : plan.segments) {
    VT_CO_RETURN_IF_ERROR(engine_.check_stored(segment.layer->sums()));
  }
''', '''    }
    VT_CO_RETURN_IF_ERROR(engine_.check_stored(segment.layer->sums()));
  }
'''),
    ('mapping: sums that the host has lost are no failure of the store', E, '  if (!failure.ok()) fail(failure);\n  return failure;\n',
     '  return failure;\n'),
    ('mapping: tombstones of a shrink that the host has lost are not heeded', 'blockstore/store_resize.cc',
     '  (void)engine.check_stored(layer.sums());\n', '  (void)engine;\n'),
    ('taking: the reserve of a volume that was not taken stays', 'blockstore/store_take.cc',
     '    std::erase_if(image.volume_reserves, is_its);\n', ''),
    ('discard: a hole that is made beside a flush is not the next one\'s', IO,
     '    segment.layer->state.needs_sync |= segment.own;\n', ''),
    # --- Repair.
    ('repair: what waits for the eraser comes back', Y, '    if (left_out_.at(block) != 0) return;\n', ''),
    ('repair: data without a sum is left out', Y, '} else if (!have || !all_zero(bytes)) {', '} else if (!have || (false && !all_zero(bytes))) {'),
    ('repair: a file that was being taken in stays as it was', 'blockstore/store_repair.cc',
     '    VT_RETURN_IF_ERROR(adapt_recovered_layers());\n', ''),
    ('repair: a file that was being taken in is a volume, too', 'blockstore/store_repair.cc', '      if (shared) {\n', '      if (shared && id == kNoLayer) {\n'),
    ('repair: rows that do not fit together are built on', 'blockstore/store_repair.cc',
     '      if (image.ok()) status = check_rows(*image, lineage_);\n', '      if (image.ok()) (void)check_rows(*image, lineage_);\n'),
    ('eraser: ranges of a layer that cannot be opened stay', X,
     '''  VT_CO_RETURN_IF_ERROR(
      co_await overwrite(**opened, nullptr, ranges, request, rate_bytes, outcome));
  for (const BlockRange& range : ranges) {
    VT_CO_RETURN_IF_ERROR(
        co_await (*opened)->punch_hole(range.first * kBlockBytes, range.count * kBlockBytes));
  }
''', ''),
    ('inflight: who waits for a slot is forgotten', 'blockstore/inflight.cc', '    pool.waiters.push_back({{handle, Executor::current()}, where});\n', '    (void)handle;\n    (void)where;\n'),
    # --- Reads (I9).
    ('read: a mismatch is served', IO, '        mismatches.push_back(block);\n', ''),
]
