#include "driver/images/image_import.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "driver/images/confined_process.h"
#include "driver/images/file_share.h"
#include "driver/images/image_convert.h"
#include "driver/images/image_file.h"
#include "driver/images/raw_copy.h"
#include "driver/images/stop_signals.h"
#include "driver/images/store_volume.h"

namespace voltree {
namespace {

constexpr std::uint64_t kStreamStartBytes = std::uint64_t{1} << 30;

std::uint64_t whole_sectors(std::uint64_t bytes) {
  return (bytes + kSectorBytes - 1) / kSectorBytes * kSectorBytes;
}

// The sum of what a volume holds, up to the end of its image.
class HashSink : public RawSink {
 public:
  HashSink(Sha256& hash, std::uint64_t image_bytes) : hash_(hash), left_bytes_(image_bytes) {}
  Status data(std::uint64_t /*offset_bytes*/, std::span<const std::byte> bytes) override {
    hash_.update(bytes.first(take(bytes.size())));
    return {};
  }
  Status zeros(std::uint64_t /*offset_bytes*/, std::uint64_t length_bytes) override {
    hash_.zeros(take(length_bytes));
    return {};
  }

 private:
  std::uint64_t take(std::uint64_t bytes) {
    const std::uint64_t taken = std::min(bytes, left_bytes_);
    left_bytes_ -= taken;
    return taken;
  }
  Sha256& hash_;
  std::uint64_t left_bytes_;
};

// One import on its way.
class Import {
 public:
  Import(Client& client, const ImportOptions& options, const ProgressSink& progress)
      : client_(client), options_(options), progress_(progress) {}

  Result<ImageReport> run() {
    VT_RETURN_IF_ERROR(prepare());
    Status status = transfer();
    if (status.ok()) status = finish();
    if (!status.ok()) {
      disk_.reset();
      if (!volume_) return status;
      const Status discarded = volume_->discard();
      if (discarded.ok()) return status;
      return Status(status.code(), fmt::format("{}; {}", status.message(), discarded.message()));
    }
    return report_;
  }

 private:
  // What can be known before a volume is made.
  Status prepare() {
    VT_RETURN_IF_ERROR(check_name(options_.name));
    if (options_.size_bytes) VT_RETURN_IF_ERROR(check_volume_size(*options_.size_bytes));
    if (!options_.sha256.empty()) {
      VT_ASSIGN_OR_RETURN(expected_sha256_, parse_sha256(options_.sha256));
      hash_.emplace();
    }
    VT_ASSIGN_OR_RETURN(socket_, private_nbd(client_));
    VT_ASSIGN_OR_RETURN(size_max_bytes_, find_size_max());
    VT_ASSIGN_OR_RETURN(file_, SourceFile::open(options_.file));
    return {};
  }

  Result<std::uint64_t> find_size_max() {
    if (options_.size_max_bytes) return *options_.size_max_bytes;
    VT_ASSIGN_OR_RETURN(const Json stats, client_.call("pool.stats", Json::object()));
    const Json host = stats.value("host", Json::object());
    return host.value("file_size_max_bytes", Params::kNumberMax) / kSectorBytes * kSectorBytes;
  }

  Status transfer() {
    VT_RETURN_IF_ERROR(start_file());
    if (!file_->seekable()) return copy_stream();
    return report_.format == ImageFormat::kRaw ? copy_file() : convert_file();
  }

  // The format is agreed on before a volume is made; a stream's start is read for it.
  Status start_file() {
    if (!file_->seekable()) return {};
    VT_ASSIGN_OR_RETURN(const FormatGuess guess, file_->guess());
    VT_ASSIGN_OR_RETURN(report_.format, agree_on_format(options_.format, guess, options_.file));
    return {};
  }

  Status create(std::uint64_t size_bytes) {
    if (size_bytes > size_max_bytes_) {
      return error(Code::kTooLarge, "{} is more than the {} that a volume may have here",
                   format_size(size_bytes), format_size(size_max_bytes_));
    }
    VT_ASSIGN_OR_RETURN(
        UnfinishedVolume made,
        UnfinishedVolume::create(client_, options_.name, size_bytes,
                                 options_.replace ? Purpose::kReplace : Purpose::kNew));
    volume_.emplace(std::move(made));
    report_.size_bytes = size_bytes;
    return connect();
  }

  Status connect() {
    VT_ASSIGN_OR_RETURN(disk_, NbdDisk::connect(socket_, volume_->name()));
    return {};
  }

  // The size of the volume for an image of this size.
  Result<std::uint64_t> size_for(std::uint64_t image_bytes) {
    if (options_.size_bytes) {
      if (*options_.size_bytes >= image_bytes) return *options_.size_bytes;
      return error(Code::kInvalid, "the size {} is less than the image's, {} bytes",
                   *options_.size_bytes, image_bytes);
    }
    if (image_bytes == 0) return error(Code::kInvalid, "{} is empty: say --size", options_.file);
    return whole_sectors(image_bytes);
  }

  Status copy_file() {
    VT_ASSIGN_OR_RETURN(const std::uint64_t size_bytes, size_for(file_->size_bytes()));
    VT_RETURN_IF_ERROR(create(size_bytes));
    RawWriter writer(*disk_);
    PacedProgress paced(progress_);
    const std::uint64_t end_bytes = file_->size_bytes();
    VT_ASSIGN_OR_RETURN(report_.shared_bytes,
                        share_file(client_, volume_->name(), *file_, [&](std::uint64_t done_bytes) {
                          paced.tell(done_bytes, end_bytes);
                        }));
    // What was shared did not pass by here, and the file may be another one by now: the sum is
    // then the volume's.
    const bool hash_later = hash_ && report_.shared_bytes != 0;
    Sha256* const hash = hash_ && !hash_later ? &*hash_ : nullptr;
    for (std::uint64_t at = report_.shared_bytes; at < end_bytes;) {
      VT_RETURN_IF_ERROR(check_stop());
      VT_ASSIGN_OR_RETURN(const AllocationRun run, file_->next_run(at));
      paced.tell(at, end_bytes);
      if (!run.data) {
        if (hash != nullptr) hash->zeros(run.length_bytes);
        at += run.length_bytes;
        continue;
      }
      VT_ASSIGN_OR_RETURN(const std::span<std::byte> buffer, writer.buffer());
      const auto part = buffer.first(std::min<std::uint64_t>(run.length_bytes, buffer.size()));
      VT_RETURN_IF_ERROR(file_->read(at, part));
      if (hash != nullptr) hash->update(part);
      VT_RETURN_IF_ERROR(writer.write(at, part.size()));
      at += part.size();
    }
    VT_RETURN_IF_ERROR(file_->check_unchanged());
    VT_RETURN_IF_ERROR(writer.drain());
    return hash_later ? hash_volume(end_bytes) : Status();
  }

  Status hash_volume(std::uint64_t image_bytes) {
    HashSink sink(*hash_, image_bytes);
    std::uint64_t data_bytes = 0;
    return read_raw(*disk_, sink, nullptr, data_bytes, progress_);
  }

  // What the headers say decides before QEMU sees anything of it.
  Status convert_file() {
    const ImageFormat format = report_.format;
    if (hash_) {
      VT_ASSIGN_OR_RETURN(report_.sha256, sha256_of_file(file_->fd(), options_.file));
      VT_RETURN_IF_ERROR(compare_sums());
    }
    Result<std::uint64_t> inspected = inspect_image(*file_, format, size_max_bytes_);
    if (!inspected.ok()) return inspected.status().with_context(options_.file);
    const std::uint64_t image_bytes = *inspected;
    VT_RETURN_IF_ERROR(vet_image(*file_, options_.file, format, image_bytes));
    VT_ASSIGN_OR_RETURN(const std::uint64_t size_bytes, size_for(image_bytes));
    VT_RETURN_IF_ERROR(create(size_bytes));
    VT_RETURN_IF_ERROR(convert_to_volume(*file_, options_.file, format, socket_, volume_->name(),
                                         image_bytes, progress_));
    if (std::string gap = confinement_gap(); !gap.empty()) {
      report_.warnings.push_back(std::move(gap));
    }
    return file_->check_unchanged();
  }

  // A stream's length is not known: the volume grows with it.
  Status copy_stream() {
    std::vector<std::byte> first(kChunkBytes);
    VT_ASSIGN_OR_RETURN(std::size_t got, file_->read_next(first));
    const FormatGuess guess = guess_format(std::span(first).first(std::min(got, kGuessBytes)));
    VT_ASSIGN_OR_RETURN(report_.format, agree_on_format(options_.format, guess, options_.file));
    if (report_.format != ImageFormat::kRaw) {
      return error(Code::kNotSupported, "{} images cannot be read from a stream: give a file",
                   format_name(report_.format));
    }
    VT_RETURN_IF_ERROR(
        create(options_.size_bytes.value_or(std::min(kStreamStartBytes, size_max_bytes_))));
    auto writer = std::make_unique<RawWriter>(*disk_);
    PacedProgress paced(progress_);
    std::uint64_t at = 0;
    for (bool begun = false; got > 0; begun = true) {
      if (at + got > report_.size_bytes) {
        VT_RETURN_IF_ERROR(writer->drain());
        VT_RETURN_IF_ERROR(grow(at + got));
        writer = std::make_unique<RawWriter>(*disk_);
      }
      VT_ASSIGN_OR_RETURN(const std::span<std::byte> buffer, writer->buffer());
      if (!begun) std::copy_n(first.begin(), got, buffer.begin());
      if (hash_) hash_->update(buffer.first(got));
      VT_RETURN_IF_ERROR(writer->write(at, got));
      at += got;
      paced.tell(at, options_.size_bytes.value_or(0));
      VT_ASSIGN_OR_RETURN(const std::span<std::byte> next, writer->buffer());
      VT_ASSIGN_OR_RETURN(got, file_->read_next(next));
    }
    VT_RETURN_IF_ERROR(writer->drain());
    VT_ASSIGN_OR_RETURN(const std::uint64_t size_bytes, size_for(at));
    if (size_bytes != report_.size_bytes) shrink_to_bytes_ = size_bytes;
    return {};
  }

  // A client knows the size that the volume had when it came.
  Status grow(std::uint64_t needed_bytes) {
    if (options_.size_bytes) {
      return error(Code::kInvalid, "the stream is longer than --size {}", *options_.size_bytes);
    }
    if (needed_bytes > size_max_bytes_) {
      return error(Code::kTooLarge, "the stream is longer than the {} that a volume may have here",
                   format_size(size_max_bytes_));
    }
    const std::uint64_t doubled_bytes = std::min(report_.size_bytes * 2, size_max_bytes_);
    const std::uint64_t size_bytes = std::max(whole_sectors(needed_bytes), doubled_bytes);
    VT_RETURN_IF_ERROR(disk_->flush());
    disk_.reset();
    VT_RETURN_IF_ERROR(volume_->resize(size_bytes));
    report_.size_bytes = size_bytes;
    return connect();
  }

  Status compare_sums() const {
    if (report_.sha256 == expected_sha256_) return {};
    return error(Code::kInvalid, "{}: its SHA-256 is {}, not {}", options_.file, report_.sha256,
                 expected_sha256_);
  }

  // Everything is written: make it durable, compare, and let it be seen.
  Status finish() {
    if (hash_ && report_.sha256.empty()) report_.sha256 = hash_->finish();
    VT_RETURN_IF_ERROR(compare_sums());
    VT_RETURN_IF_ERROR(disk_->flush());
    disk_.reset();
    VT_RETURN_IF_ERROR(wait_until_free(client_, volume_->name()));
    if (shrink_to_bytes_ != 0) {
      VT_RETURN_IF_ERROR(volume_->resize(shrink_to_bytes_));
      report_.size_bytes = shrink_to_bytes_;
    }
    VT_ASSIGN_OR_RETURN(report_.data_bytes, referenced_bytes(client_, volume_->name()));
    VT_RETURN_IF_ERROR(check_stop());
    return volume_->publish(options_.erase_policy);
  }

  Client& client_;
  const ImportOptions& options_;
  const ProgressSink& progress_;
  std::string socket_;
  std::uint64_t size_max_bytes_ = 0;
  std::string expected_sha256_;
  std::optional<Sha256> hash_;
  std::unique_ptr<SourceFile> file_;
  std::optional<UnfinishedVolume> volume_;
  std::unique_ptr<NbdDisk> disk_;
  std::uint64_t shrink_to_bytes_ = 0;  // 0: as it is
  ImageReport report_;
};

}  // namespace

Result<ImageReport> import_image(Client& client, const ImportOptions& options,
                                 const ProgressSink& progress) {
  return Import(client, options, progress).run();
}

}  // namespace voltree
