#include "blockstore/runtime/fd_io.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>

#include "blockstore/runtime/host_fs.h"
#include "tests/runtime/runtime_kinds.h"

namespace voltree {
namespace {

class FdTest : public RuntimeTest {
 protected:
  void SetUp() override {
    RuntimeTest::SetUp();
    int ends[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    here_ = UniqueFd(ends[0]);
    there_ = UniqueFd(ends[1]);
  }
  UniqueFd here_, there_;
};
INSTANTIATE_TEST_SUITE_P(All, FdTest, testing::Values(Kind::kUring, Kind::kPool), kind_name);

TEST_P(FdTest, ReadsAndWritesASocket) {
  for (const bool non_blocking : {false, true}) {
    if (non_blocking) {
      ASSERT_EQ(::fcntl(here_.get(), F_SETFL, O_NONBLOCK), 0);
    }
    std::atomic<bool> echoed{false};
    const auto echo = [&]() -> Task<void> {
      Buffer buffer(100);
      const int got = co_await FdRead(runtime(), there_.get(), buffer.span());
      EXPECT_EQ(got, 5);
      const int put = co_await FdWrite(runtime(), there_.get(), buffer.span().first(3));
      EXPECT_EQ(put, 3);
      echoed = true;
    };
    const auto body = [&]() -> Task<void> {
      spawn(runtime().executor(1), echo());
      Buffer hello(5, 'h');
      const int put = co_await FdWrite(runtime(), here_.get(), hello.span());
      EXPECT_EQ(put, 5);
      const int ready = co_await FdPoll(runtime(), here_.get(), POLLIN);
      EXPECT_EQ(ready & POLLIN, POLLIN);
      Buffer back(100);
      const int got = co_await FdRead(runtime(), here_.get(), back.span());
      EXPECT_EQ(got, 3);
      EXPECT_TRUE(back.holds(0, 3, 'h'));
      while (!echoed) co_await runtime().sleep_for(std::chrono::milliseconds(1));
    };
    runtime().run_until_done(body());
  }
}

TEST_P(FdTest, CancelEndsWhatWaits) {
  for (const bool non_blocking : {false, true}) {
    if (non_blocking) {
      ASSERT_EQ(::fcntl(here_.get(), F_SETFL, O_NONBLOCK), 0);
    }
    std::atomic<int> ended{0};
    const auto reader = [&](bool poll) -> Task<void> {
      Buffer buffer(100);
      int result = 0;
      if (poll) {
        result = co_await FdPoll(runtime(), here_.get(), POLLIN);
      } else {
        result = co_await FdRead(runtime(), here_.get(), buffer.span());
      }
      EXPECT_EQ(result, -ECANCELED);
      ++ended;
    };
    const auto body = [&]() -> Task<void> {
      for (std::size_t i = 0; i < 4; ++i) spawn(runtime().executor(i % 2), reader(i < 2));
      co_await runtime().sleep_for(std::chrono::milliseconds(20));
      EXPECT_EQ(ended, 0);
      runtime().cancel_fd(here_.get());
      while (ended != 4) co_await runtime().sleep_for(std::chrono::milliseconds(1));
    };
    runtime().run_until_done(body());
  }
}

TEST_P(FdTest, TheEndAndErrorsAreResults) {
  there_.reset();
  const auto body = [&]() -> Task<void> {
    Buffer buffer(10);
    int got = co_await FdRead(runtime(), here_.get(), buffer.span());
    EXPECT_EQ(got, 0);
    got = co_await FdRead(runtime(), -1, buffer.span());
    EXPECT_EQ(got, -EBADF);
  };
  runtime().run_until_done(body());
}

}  // namespace
}  // namespace voltree
