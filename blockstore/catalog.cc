// The catalog's strand: group commit, and reads in order with it. Nothing of SQLite is seen here.
#include "blockstore/catalog.h"

#include <array>
#include <utility>

#include "blockstore/lineage_copy.h"

namespace voltree {
namespace {

constexpr std::array<std::string_view, 4> kPolicyNames = {"zero", "random", "discard", "none"};

Status went_read_only() {
  return Status(Code::kReadOnly,
                "the store went read-only because a catalog commit failed: run `voltree check`");
}

}  // namespace

std::string_view erase_policy_name(ErasePolicy policy) {
  return kPolicyNames.at(static_cast<std::size_t>(policy));
}

Result<ErasePolicy> parse_erase_policy(std::string_view text) {
  for (std::size_t i = 0; i < kPolicyNames.size(); ++i) {
    if (kPolicyNames[i] == text) return static_cast<ErasePolicy>(i);
  }
  return error(Code::kInvalid, "{} is not an erase policy: zero, random, discard or none",
               quoted(text));
}

// Lives in the frame of the coroutine that waits for it, which is alive until `handle` is posted
// and no longer.
struct Catalog::Member {
  Change change;
  Status status;
  Executor* home = nullptr;
  std::coroutine_handle<> handle;
};

struct Catalog::CommitAwaiter {
  Catalog& catalog;
  Member member;
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> handle) {
    member.handle = handle;
    member.home = Executor::current();
    catalog.join_group(&member);  // the frame may be gone when this returns
  }
  Status await_resume() { return std::move(member.status); }
};

Catalog::Catalog(Runtime& runtime, std::unique_ptr<CatalogDb> db)
    : db_(std::move(db)), strand_(runtime.make_strand("catalog")) {}

Catalog::~Catalog() {
  strand_.reset();  // finishes what was posted, which uses the rest
  copy_.reset();
  db_.reset();
}

Task<Status> Catalog::commit(Change change) {
  CommitAwaiter awaiter{*this, Member{std::move(change), {}, nullptr, {}}};
  co_return co_await awaiter;
}

// Posts under the mutex: whoever joins a group that is scheduled, and then posts a read, gets it
// behind that group.
void Catalog::join_group(Member* member) {
  const std::lock_guard lock(mutex_);
  waiting_.push_back(member);
  if (group_scheduled_) return;
  group_scheduled_ = true;
  strand_->post([this] { run_group(); });
}

void Catalog::post_read(std::function<void()> job) { strand_->post(std::move(job)); }

// On the strand. While one group waits for its fsync the next one gathers: the slower the disk, the
// larger the group.
void Catalog::run_group() {
  std::vector<Member*> group;
  {
    const std::lock_guard lock(mutex_);
    group.swap(waiting_);
    group_scheduled_ = false;
  }
  if (copy_ != nullptr) heed_copy(copy_->status());
  if (failed()) {
    for (Member* member : group) member->status = went_read_only();
  } else if (Status status = commit_group(group); !status.ok()) {
    // Nothing of the group is there. A full host is told to everybody and may pass; after anything
    // else nobody knows what the disk holds, and nothing more is written (I10).
    if (status.code() != Code::kNoSpace) fail(status);
    for (Member* member : group) member->status = status;
  } else if (!db_->checkpoint_failure().ok()) {
    fail(db_->checkpoint_failure());
  }
  for (Member* member : group) {
    Executor* const home = member->home;
    const std::coroutine_handle<> handle = member->handle;
    home->post(handle);  // touch nothing of the member from here on
  }
  // Nobody waits for the copy: it is a hint, and may be behind.
  if (copy_ != nullptr && !failed()) copy_->append(db_->take_changes());
}

// I10: a failed sync is a failed sync, whatever it was of.
void Catalog::heed_copy(const Status& status) {
  if (!status.ok() && !failed()) fail(status);
}

void Catalog::keep_copy(std::unique_ptr<LineageCopy> copy, const CatalogImage& image) {
  copy_ = std::move(copy);
  db_->remember_changes();
  heed_copy(copy_->take_up(image));
}

Task<void> Catalog::renew_copy() {
  (void)co_await read<bool>([this](CatalogDb& db) -> Result<bool> {
    if (copy_ == nullptr || failed() || !copy_->renewal_due()) return false;
    VT_ASSIGN_OR_RETURN(CatalogImage image, db.load());
    copy_->renew(std::move(image));
    return true;
  });
}

void Catalog::fail(const Status& cause) {
  failure_ = cause;
  failed_.store(true, std::memory_order_release);
}

// One transaction for all of `group`. OK: it is durable, and each member has its own status.
// Otherwise all of it was rolled back and the Status is for everybody.
Status Catalog::commit_group(const std::vector<Member*>& group) {
  VT_RETURN_IF_ERROR(db_->begin());
  bool anything = false;
  for (Member* member : group) {
    Status status = run_member(*member);
    if (!status.ok()) {
      db_->rollback();
      return status;
    }
    anything = anything || member->status.ok();
  }
  if (!anything) {
    db_->rollback();
    return {};
  }
  VT_RETURN_IF_ERROR(db_->commit());
  commits_.fetch_add(1, std::memory_order_relaxed);
  return {};
}

// Runs one member within its savepoint and sets its status. Not OK: the transaction itself failed.
Status Catalog::run_member(Member& member) {
  VT_RETURN_IF_ERROR(db_->savepoint());
  member.status = member.change(*db_);
  if (member.status.ok()) member.status = db_->release_savepoint();
  if (member.status.ok()) return {};
  // When SQLite has rolled all of it back by itself (a full disk, a failed read), the member's
  // reason is everybody's.
  if (!db_->rollback_to_savepoint().ok()) return member.status;
  return {};
}

}  // namespace voltree
