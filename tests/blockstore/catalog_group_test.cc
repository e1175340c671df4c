// Catalog: group commit on the strand, and what a failed commit leads to.
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <thread>

#include "tests/blockstore/catalog_fixture.h"

namespace voltree::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class GroupCommitTest : public CatalogTest {
 protected:
  // Runs `count` commits at once, on all executors, and returns each one's Status.
  std::vector<Status> commit_all(Catalog& catalog, std::vector<Catalog::Change> changes) {
    std::vector<Status> statuses(changes.size());
    for (std::size_t i = 0; i < changes.size(); ++i) {
      spawn(runtime_.executor(i % runtime_.executor_count()),
            commit_one(catalog, std::move(changes[i]), statuses[i]));
    }
    runtime_.run_until_idle();
    return statuses;
  }

 private:
  static Task<void> commit_one(Catalog& catalog, Catalog::Change change, Status& out) {
    out = Status(Code::kCancelled, "it never ended");
    out = co_await catalog.commit(std::move(change));
  }
};

Catalog::Change put_volume(VolumeId id) {
  return [id](CatalogDb& db) { return db.put_volume(volume_row(id, fmt::format("v{}", id))); };
}

TEST_F(GroupCommitTest, ManyCommitsShareTransactions) {
  constexpr std::size_t kCommits = 200;
  {
    Catalog catalog(runtime_, create());
    std::vector<Catalog::Change> changes;
    for (std::size_t i = 1; i <= kCommits; ++i) changes.push_back(put_volume(i));
    const int syncs = fs_.faults.syncs;
    for (const Status& status : commit_all(catalog, std::move(changes))) EXPECT_OK(status);
    EXPECT_GE(catalog.commit_count(), 1U);
    EXPECT_LT(catalog.commit_count(), kCommits / 2);
    EXPECT_LT(static_cast<std::size_t>(fs_.faults.syncs - syncs), kCommits);
  }
  EXPECT_THAT(must(open()->load()).volumes, SizeIs(kCommits));
}

TEST_F(GroupCommitTest, AMemberThatFailsIsAlone) {
  {
    Catalog catalog(runtime_, create());
    std::vector<Catalog::Change> changes;
    for (std::size_t i = 1; i <= 30; ++i) changes.push_back(put_volume(i));
    changes[7] = [](CatalogDb& db) {
      VT_RETURN_IF_ERROR(db.put_volume(volume_row(1000, "half")));
      return Status(Code::kBusy, "changed its mind");
    };
    changes[9] = [](CatalogDb& db) { return db.put_volume({1001, "dangling", 5, {}, 0}); };
    const std::vector<Status> statuses = commit_all(catalog, std::move(changes));
    for (std::size_t i = 0; i < statuses.size(); ++i) {
      const Code expected = i == 7 ? Code::kBusy : i == 9 ? Code::kDamaged : Code::kOk;
      EXPECT_EQ(statuses[i].code(), expected) << i << ": " << statuses[i].message();
    }
    EXPECT_FALSE(catalog.failed());
  }
  EXPECT_THAT(must(open()->load()).volumes, SizeIs(28));
}

TEST_F(GroupCommitTest, AGroupOfFailuresCommitsNothing) {
  Catalog catalog(runtime_, create());
  const Status status =
      runtime_.sync_wait(catalog.commit([](CatalogDb&) { return Status(Code::kGone, "gone"); }));
  EXPECT_EQ(status.code(), Code::kGone);
  EXPECT_EQ(catalog.commit_count(), 0U);
  EXPECT_FALSE(catalog.failed());
}

TEST_F(GroupCommitTest, AReadSeesTheCommitsBeforeIt) {
  Catalog catalog(runtime_, create());
  const auto commits_then_reads = [](Catalog& on) -> Task<Result<std::size_t>> {
    for (std::size_t i = 1; i <= 3; ++i) {
      VT_CO_RETURN_IF_ERROR(co_await on.commit(put_volume(i)));
    }
    std::function<Result<std::size_t>(CatalogDb&)> count =
        [](CatalogDb& db) -> Result<std::size_t> {
      VT_ASSIGN_OR_RETURN(const CatalogImage image, db.load());
      return image.volumes.size();
    };
    co_return co_await on.read(std::move(count));
  };
  EXPECT_EQ(must(runtime_.sync_wait(commits_then_reads(catalog))), 3U);
}

TEST_F(GroupCommitTest, AFullHostIsToldToAllAndPasses) {
  Catalog catalog(runtime_, create());
  world_.set_capacity(world_.used_bytes());
  for (const Status& status : commit_all(catalog, {put_volume(1), put_volume(2)})) {
    EXPECT_EQ(status.code(), Code::kNoSpace) << status.message();
  }
  EXPECT_FALSE(catalog.failed());
  EXPECT_EQ(catalog.commit_count(), 0U);
  world_.set_capacity(std::uint64_t{1} << 40);
  for (const Status& status : commit_all(catalog, {put_volume(1), put_volume(2)})) {
    EXPECT_OK(status);
  }
}

// I10.
TEST_F(GroupCommitTest, AfterAFailedCommitNothingIsWritten) {
  Catalog catalog(runtime_, create());
  EXPECT_OK(runtime_.sync_wait(catalog.commit(put_volume(1))));
  fs_.faults.fail_sync = true;
  for (const Status& status : commit_all(catalog, {put_volume(2), put_volume(3)})) {
    // In one group or in two: the second one meets a store that went read-only.
    EXPECT_TRUE(status.code() == Code::kIoError || status.code() == Code::kReadOnly);
  }
  EXPECT_TRUE(catalog.failed());
  fs_.faults.fail_sync = false;
  const int syncs = fs_.faults.syncs;
  const Status later = runtime_.sync_wait(catalog.commit(put_volume(4)));
  EXPECT_EQ(later.code(), Code::kReadOnly);
  EXPECT_THAT(std::string(later.message()), HasSubstr("voltree check"));
  EXPECT_EQ(fs_.faults.syncs, syncs);
}

TEST_F(GroupCommitTest, AFailedWriteIsAFailedCommit) {
  Catalog catalog(runtime_, create());
  fs_.faults.fail_write = true;
  EXPECT_EQ(runtime_.sync_wait(catalog.commit(put_volume(1))).code(), Code::kIoError);
  EXPECT_TRUE(catalog.failed());
}

// On this host's files and threads: other executors post while the strand commits.
TEST(CatalogOnTheHost, CommitsFromManyThreadsComeBack) {
  std::string folder = ::testing::TempDir() + "catalog-XXXXXX";
  ASSERT_NE(::mkdtemp(folder.data()), nullptr);
  const std::string path = folder + "/catalog.db";
  RuntimeOptions options;
  options.executors = 2;
  options.force_pool = true;
  std::unique_ptr<Runtime> runtime = must(make_host_runtime(options));
  constexpr std::size_t kCommits = 200;
  {
    Catalog catalog(*runtime, must(CatalogDb::create(runtime->fs(), path)));
    std::atomic<std::size_t> done{0};
    std::atomic<std::size_t> durable{0};
    const auto commit_one = [](Catalog& on, VolumeId id, std::atomic<std::size_t>& ended,
                               std::atomic<std::size_t>& fine) -> Task<void> {
      const Status status = co_await on.commit(put_volume(id));
      if (status.ok()) fine.fetch_add(1);
      ended.fetch_add(1);
    };
    for (std::size_t i = 0; i < kCommits; ++i) {
      spawn(runtime->executor(i % 2), commit_one(catalog, i + 1, done, durable));
    }
    while (done.load() < kCommits) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    EXPECT_EQ(durable.load(), kCommits);
    EXPECT_LT(catalog.commit_count(), kCommits);
  }
  auto db = must(CatalogDb::open(runtime->fs(), path));
  EXPECT_THAT(must(db->load()).volumes, SizeIs(kCommits));
  EXPECT_THAT(must(db->integrity_check()), IsEmpty());
  db.reset();
  EXPECT_THAT(must(runtime->fs().list_dir(folder)), ::testing::ElementsAre("catalog.db"));
  // Any SQLite reads a closed catalog.
  sqlite3* plain = nullptr;
  EXPECT_EQ(SQLITE_OK, sqlite3_open_v2(path.c_str(), &plain, SQLITE_OPEN_READWRITE, nullptr));
  EXPECT_EQ(SQLITE_OK, sqlite3_exec(plain, "SELECT * FROM volume", nullptr, nullptr, nullptr));
  sqlite3_close(plain);
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace voltree::testing
