// Files that change hands: their names, and that nobody else has them open.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "tests/runtime/runtime_kinds.h"

namespace voltree {
namespace {

class NamesTest : public RuntimeTest {};
INSTANTIATE_TEST_SUITE_P(All, NamesTest, testing::Values(Kind::kUring, Kind::kSim), kind_name);

TEST_P(NamesTest, AFileHasSeveral) {
  const std::unique_ptr<File> file = open("f");
  ASSERT_TRUE(file->write_sync(Buffer(100, 7).span(), 0).ok());
  EXPECT_EQ(*file->links(), 1u);
  ASSERT_TRUE(file->link(path("g")).ok());
  EXPECT_EQ(*file->links(), 2u);
  EXPECT_EQ(*open("g")->links(), 2u);
  EXPECT_EQ(*fs().identity(path("f")), *fs().identity(path("g")));
  const std::unique_ptr<File> other = open("h");
  EXPECT_EQ(other->link(path("g")).code(), Code::kExists);
  EXPECT_EQ(other->unlink_name(path("g")).code(), Code::kNotFound) << "it is not this file's";
  EXPECT_EQ(file->unlink_name(path("nothing")).code(), Code::kNotFound);
  ASSERT_TRUE(file->unlink_name(path("f")).ok());
  EXPECT_EQ(*file->links(), 1u);
  EXPECT_FALSE(*fs().exists(path("f")));
  Buffer back(100);
  ASSERT_TRUE(open("g")->read_sync(back.span(), 0).ok());
  EXPECT_TRUE(back.holds(0, 100, 7));
  // From its other name a file that has lost one gets it back.
  ASSERT_TRUE(file->link(path("f")).ok());
  EXPECT_EQ(*file->links(), 2u);
}

TEST_P(NamesTest, AFileKnowsWhereItIs) {
  const std::unique_ptr<File> file = open("f");
  const std::string was = *file->path_now();
  EXPECT_TRUE(was.ends_with("/f")) << was;
  EXPECT_EQ(*fs().identity(was), *fs().identity(path("f")));
  if (is_sim()) return;
  ASSERT_TRUE(fs().rename(path("f"), path("g")).ok());
  EXPECT_TRUE(file->path_now()->ends_with("/g"));
  ASSERT_EQ(::symlink(path("g").c_str(), path("link").c_str()), 0);
  const auto by_link = fs().open(path("link"), {});
  EXPECT_TRUE((*by_link)->path_now()->ends_with("/g"));
  EXPECT_EQ(file->unlink_name(path("link")).code(), Code::kNotFound);
}

TEST_P(NamesTest, ALeaseIsForWhoeverIsAlone) {
  const std::unique_ptr<File> file = open("f");
  {
    const std::unique_ptr<File> other = open("f");
    EXPECT_EQ(file->take_lease().code(), Code::kBusy);
  }
  ASSERT_TRUE(file->take_lease().ok());
  EXPECT_TRUE(file->check_lease().ok());
  ASSERT_TRUE(file->link(path("g")).ok());
  ASSERT_TRUE(file->unlink_name(path("f")).ok());
  ASSERT_TRUE(file->make_ours().ok());
  EXPECT_TRUE(file->check_lease().ok()) << "names are nobody's opening";
  if (is_sim()) return;
  // Somebody opens it who does not want to wait; what tells of him ends nothing.
  const pid_t child = ::fork();
  if (child == 0) ::_exit(::open(path("g").c_str(), O_RDONLY | O_NONBLOCK) < 0 ? errno : 0);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), EWOULDBLOCK);
  EXPECT_EQ(file->check_lease().code(), Code::kBusy);
}

TEST_P(NamesTest, OwnerAndModeAreThoseOfOurFiles) {
  if (is_sim()) return;
  const std::unique_ptr<File> file = open("f");
  ASSERT_EQ(::chmod(path("f").c_str(), 04755), 0);
  if (::geteuid() == 0) {
    ASSERT_EQ(::chown(path("f").c_str(), 1, 1), 0);
  }
  ASSERT_TRUE(file->make_ours().ok());
  struct stat st {};
  ASSERT_EQ(::stat(path("f").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 07777, 0600u);
  EXPECT_EQ(st.st_uid, ::geteuid());
  EXPECT_EQ(st.st_gid, ::getegid());
}

}  // namespace
}  // namespace voltree
