// A file on its way to being a volume's layer (store_take.cc). Internal to store*.cc.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "blockstore/aligned_io.h"
#include "blockstore/store_core.h"
#include "blockstore/volume_settings.h"

namespace voltree {

// What a layer's file is and a file that was just taken is not: of whole blocks, and the store's.
// Durable when it returns. Blocking.
Status adapt_taken_file(File& file, std::uint64_t size_bytes, SyncWatch& syncs);

class FileTaking {
 public:
  // `sums_from`: a layer's sums, which say what the file holds: it is not read then, and may be of
  // another store, which gave it (store_handover.h). They go with it. Empty: there are none.
  FileTaking(StoreCore& core, std::string volume, std::string file, TakeOptions options,
             std::string sums_from = {}, VolumeSettings settings = {})
      : core_(core),
        fs_(core.engine.runtime().fs()),
        volume_(std::move(volume)),
        opened_as_(std::move(file)),
        options_(std::move(options)),
        sums_from_(std::move(sums_from)),
        settings_(std::move(settings)) {
    if (options_.erase_policy) settings_.erase_policy = options_.erase_policy;
  }
  Task<Status> run();

 private:
  Status check_volume() const;
  Status open_file();
  Status check_alone(std::uint64_t names);
  Task<Status> sum_file();
  Status sum_step(std::uint64_t& at_bytes);
  Status copy_sums();
  Task<Status> take();
  Task<Status> make_rows();
  Status name_layer(SyncWatch& syncs);
  Status put(CatalogDb& db) const;
  Status lose_old_name(SyncWatch& syncs);
  Task<Status> undo();
  Task<void> remove_layer_files();
  void publish();

  static constexpr std::uint64_t kStepBlocks = kRegionBlocks;  // 4 MiB a read

  StoreCore& core_;
  FileSystem& fs_;
  const std::string volume_;
  const std::string opened_as_;
  TakeOptions options_;
  const std::string sums_from_;
  VolumeSettings settings_;
  std::unique_ptr<File> file_;
  std::string path_;  // the name that it has to lose
  std::uint64_t length_bytes_ = 0;
  bool unlinked_ = false;
  LayerId layer_ = kNoLayer;
  std::unique_ptr<File> sums_;
  AlignedBuffer buffer_{kStepBlocks * kBlockBytes};
  ExtentMap index_;
  StoreCore::NewVolume rows_;
  LayerRow row_;
};

}  // namespace voltree
