#include "blockstore/lineage_copy.h"

#include <algorithm>
#include <iterator>

#include "blockstore/base/checksum.h"

namespace voltree {
namespace {

// Beyond it nobody wrote this.
constexpr std::uint64_t kCopyMaxBytes = std::uint64_t{2} << 30;
// Rows that are written anew go into records of about this length.
constexpr std::size_t kFreshRecordBytes = std::size_t{1} << 20;
// The copy is written anew when its records have become longer than what they add up to, by this.
constexpr std::uint64_t kSlackFactor = 3;
constexpr std::uint64_t kSlackBytes = std::uint64_t{256} << 10;

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

std::uint64_t hash_of(const std::string& value) { return keyed_checksum(value, 0, 0); }

std::size_t length_of(const CopyRow& row) {
  return row.key.size() + (row.value ? row.value->size() : 0) + 16;
}

// A part of the file at a time: it may be far longer than what is right in it.
class Window {
 public:
  Window(File& file, std::uint64_t length_bytes) : file_(file), length_bytes_(length_bytes) {}

  // `want_bytes` or more from there on; fewer where the file ends. Until the next call.
  Result<std::span<const std::byte>> at(std::uint64_t at_bytes, std::size_t want_bytes) {
    const std::uint64_t left_bytes = length_bytes_ - at_bytes;
    const auto wanted = static_cast<std::size_t>(std::min<std::uint64_t>(want_bytes, left_bytes));
    if (at_bytes < begin_bytes_ || at_bytes + wanted > begin_bytes_ + bytes_.size()) {
      begin_bytes_ = at_bytes;
      bytes_.resize(std::min<std::uint64_t>(std::max(wanted, kStepBytes), left_bytes));
      VT_RETURN_IF_ERROR(file_.read_sync(bytes_, at_bytes));
    }
    return std::span<const std::byte>(bytes_).subspan(at_bytes - begin_bytes_);
  }

 private:
  static constexpr std::size_t kStepBytes = std::size_t{1} << 20;

  File& file_;
  const std::uint64_t length_bytes_;
  std::uint64_t begin_bytes_ = 0;
  std::vector<std::byte> bytes_;
};

// The record there; nullopt when it is none.
Result<std::optional<CopyRecord>> read_record(Window& window, std::uint64_t at_bytes,
                                              std::uint64_t generation, std::uint64_t sequence) {
  VT_ASSIGN_OR_RETURN(const auto head, window.at(at_bytes, kCopyRecordHeadBytes));
  if (head.size() < kCopyRecordHeadBytes) return std::optional<CopyRecord>();
  const std::optional<std::size_t> length_bytes = copy_record_bytes(head);
  if (!length_bytes) return std::optional<CopyRecord>();
  VT_ASSIGN_OR_RETURN(const auto bytes, window.at(at_bytes, *length_bytes));
  return decode_copy_record(bytes, generation, sequence);
}

}  // namespace

LineageCopy::LineageCopy(Runtime& runtime, const std::string& directory,
                         std::function<void()> sync_failed)
    : runtime_(runtime),
      directory_(directory),
      sync_failed_(std::move(sync_failed)),
      strand_(runtime.make_strand("lineage")) {}

LineageCopy::~LineageCopy() { strand_.reset(); }

std::string LineageCopy::path(const std::string& directory) { return directory + "/lineage"; }

Result<LineageCopy::Contents> LineageCopy::read(FileSystem& fs, const std::string& directory) {
  const std::string name = path(directory);
  VT_ASSIGN_OR_RETURN(const bool there, fs.exists(name));
  if (!there) return error(Code::kNotFound, "there is no {}", name);
  VT_ASSIGN_OR_RETURN(auto file, fs.open(name, {.writable = false}));
  VT_ASSIGN_OR_RETURN(const std::uint64_t length, file->size_bytes());
  if (length > kCopyMaxBytes) return error(Code::kDamaged, "{} is too long: {}", name, length);
  Window window(*file, length);
  VT_ASSIGN_OR_RETURN(const auto header, window.at(0, kCopyHeaderBytes));
  const auto generation = decode_copy_header(header);
  if (!generation.ok()) return generation.status().with_context(name);
  Contents contents;
  contents.generation = *generation;
  contents.good_bytes = kCopyHeaderBytes;
  while (contents.good_bytes < length) {
    VT_ASSIGN_OR_RETURN(
        auto record, read_record(window, contents.good_bytes, *generation, contents.records + 1));
    if (!record) break;
    for (CopyRow& row : record->rows) apply_copy_row(std::move(row), contents.state);
    ++contents.records;
    contents.good_bytes += record->length_bytes;
  }
  contents.unreadable_bytes = length - contents.good_bytes;
  return contents;
}

Status LineageCopy::take_up(const CatalogImage& image) {
  std::vector<CopyRow> rows = copy_rows(image);
  const auto there = read(runtime_.fs(), directory_);
  bool same = there.ok() && there->unreadable_bytes == 0 && there->state.size() == rows.size();
  for (std::size_t i = 0; same && i < rows.size(); ++i) {
    const auto found = there->state.find({rows[i].table, rows[i].key});
    same = found != there->state.end() && found->second == *rows[i].value;
  }
  std::uint64_t length = 0;
  for (const CopyRow& row : rows) length += length_of(row);
  auto file = runtime_.fs().open(path(directory_), {});
  if (!same || !file.ok() || there->good_bytes > length * kSlackFactor + kSlackBytes) {
    VT_RETURN_IF_ERROR(write_anew(rows));
    renewal_due_.store(file_ == nullptr, std::memory_order_release);
    return {};
  }
  file_ = std::move(*file);
  generation_ = there->generation;
  sequence_ = there->records;
  end_bytes_ = there->good_bytes;
  fresh_bytes_ = length;
  for (const CopyRow& row : rows) known_[{row.table, row.key}] = hash_of(*row.value);
  return {};
}

Status LineageCopy::status() const {
  const std::lock_guard lock(mutex_);
  return failed_;
}

void LineageCopy::append(std::vector<CopyRow> rows) {
  if (!rows.empty()) add_job({std::move(rows), std::nullopt});
}

void LineageCopy::renew(CatalogImage image) { add_job({{}, std::move(image)}); }

void LineageCopy::add_job(Job job) {
  const std::lock_guard lock(mutex_);
  if (!job.image && !jobs_.empty() && !jobs_.back().image) {
    std::vector<CopyRow>& waiting = jobs_.back().rows;
    std::move(job.rows.begin(), job.rows.end(), std::back_inserter(waiting));
  } else {
    jobs_.push_back(std::move(job));
  }
  if (jobs_scheduled_) return;
  jobs_scheduled_ = true;
  strand_->post([this] { run_jobs(); });
}

void LineageCopy::run_jobs() {
  std::deque<Job> jobs;
  {
    const std::lock_guard lock(mutex_);
    jobs.swap(jobs_);
    jobs_scheduled_ = false;
    if (!failed_.ok()) return;
  }
  Status status;
  for (auto job = jobs.begin(); status.ok() && job != jobs.end(); ++job) {
    if (job->image) {
      status = write_anew(copy_rows(*job->image));
    } else {
      status = add_record(std::move(job->rows));
    }
  }
  renewal_due_.store(file_ == nullptr || end_bytes_ > fresh_bytes_ * kSlackFactor + kSlackBytes,
                     std::memory_order_release);
  if (status.ok()) return;
  const std::lock_guard lock(mutex_);
  failed_ = std::move(status);
}

// Of several rows of one key the last one holds.
Status LineageCopy::add_record(std::vector<CopyRow> rows) {
  if (file_ == nullptr) return {};
  std::map<std::pair<CopyTable, std::string>, std::size_t> last;
  for (std::size_t i = 0; i < rows.size(); ++i) last[{rows[i].table, rows[i].key}] = i;
  std::vector<CopyRow> changed;
  for (const auto& [key, index] : last) {
    CopyRow& row = rows[index];
    const auto found = known_.find(key);
    const bool same = row.value ? found != known_.end() && found->second == hash_of(*row.value)
                                : found == known_.end();
    if (!same) changed.push_back(std::move(row));
  }
  rows = std::move(changed);
  if (rows.empty()) return {};
  const std::string record = encode_copy_record(rows, generation_, sequence_ + 1);
  if (record.size() > kCopyRecordMaxBytes ||
      !file_->write_sync(bytes_of(record), end_bytes_).ok()) {
    give_up();
    return {};
  }
  VT_RETURN_IF_ERROR(sync_or_give_up());
  if (file_ == nullptr) return {};
  ++sequence_;
  end_bytes_ += record.size();
  for (const CopyRow& row : rows) {
    if (row.value) {
      known_[{row.table, row.key}] = hash_of(*row.value);
    } else {
      known_.erase({row.table, row.key});
    }
  }
  return {};
}

// A copy that is behind for long would mislead: none is better, and the next renew() makes one.
void LineageCopy::give_up() {
  file_.reset();
  known_.clear();
  (void)runtime_.fs().unlink(path(directory_));
}

Status LineageCopy::sync_or_give_up() {
  Status synced = file_->sync_sync();
  if (synced.code() != Code::kNoSpace) return marked(std::move(synced));
  give_up();
  return {};
}

Status LineageCopy::marked(Status synced) const {
  if (!synced.ok()) sync_failed_();
  return synced;
}

// Beside its place and moved there when it is whole: a crash leaves the old one or the new one.
Result<std::uint64_t> LineageCopy::write_file(const std::vector<CopyRow>& rows) {
  const std::string fresh = path(directory_) + ".new";
  VT_ASSIGN_OR_RETURN(const bool there, runtime_.fs().exists(fresh));
  if (there) VT_RETURN_IF_ERROR(runtime_.fs().unlink(fresh));
  VT_ASSIGN_OR_RETURN(file_, runtime_.fs().open(fresh, {.create = true, .exclusive = true}));
  std::string bytes = encode_copy_header(generation_);
  std::uint64_t at = 0;
  for (std::size_t first = 0; first < rows.size();) {
    std::size_t end = first;
    for (std::size_t length = 0; end < rows.size() && length < kFreshRecordBytes; ++end) {
      length += length_of(rows[end]);
    }
    const auto part = std::span(rows).subspan(first, end - first);
    bytes += encode_copy_record(part, generation_, ++sequence_);
    if (bytes.size() > kCopyRecordMaxBytes) return error(Code::kTooLarge, "a row is too long");
    VT_RETURN_IF_ERROR(file_->write_sync(bytes_of(bytes), at));
    at += bytes.size();
    bytes.clear();
    first = end;
  }
  return at;
}

Status LineageCopy::write_anew(const std::vector<CopyRow>& rows) {
  known_.clear();
  generation_ = runtime_.random_u64();
  sequence_ = 0;
  const auto written = write_file(rows);
  if (!written.ok()) {  // a full host, most likely; a later renew() will do
    file_.reset();
    (void)runtime_.fs().unlink(path(directory_) + ".new");
    give_up();
    return {};
  }
  VT_RETURN_IF_ERROR(sync_or_give_up());
  if (file_ == nullptr) return {};
  if (!runtime_.fs().rename(path(directory_) + ".new", path(directory_)).ok()) {
    give_up();
    return {};
  }
  VT_RETURN_IF_ERROR(marked(runtime_.fs().sync_dir(directory_)));
  end_bytes_ = fresh_bytes_ = *written;
  for (const CopyRow& row : rows) known_[{row.table, row.key}] = hash_of(*row.value);
  return {};
}

}  // namespace voltree
