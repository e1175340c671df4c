#include "driver/images/confined_process.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <cstring>

namespace voltree {
namespace {

// A file that the program is given, or not.
class ConfinedProcess : public testing::Test {
 protected:
  void SetUp() override {
    fd_ = ::mkostemp(path_, O_CLOEXEC);
    ASSERT_GE(fd_, 0);
    ASSERT_EQ(::write(fd_, "secret", 6), 6);
  }
  void TearDown() override {
    ::close(fd_);
    ::unlink(path_);
  }
  std::string path_of_fd() const { return "/dev/fd/" + std::to_string(fd_); }

  char path_[32] = "/tmp/voltree-confined-XXXXXX";
  int fd_ = -1;
};

TEST_F(ConfinedProcess, ReadsTheFileThatItWasGiven) {
  ConfinedCommand command;
  command.program = "cat";
  command.arguments = {path_of_fd()};
  command.files = {{fd_, false}};
  const Result<ConfinedOutcome> outcome = run_confined(command);
  ASSERT_TRUE(outcome.ok()) << outcome.status().message();
  EXPECT_EQ(outcome->exit_code, 0) << outcome->errors;
  EXPECT_EQ(outcome->output, "secret");
}

TEST_F(ConfinedProcess, HasNoDescriptorButItsOwn) {
  const int inherited = ::fcntl(fd_, F_DUPFD, 40);  // not even one that an exec would pass on
  ConfinedCommand command;
  command.program = "cat";
  command.arguments = {"/dev/fd/" + std::to_string(inherited)};
  const Result<ConfinedOutcome> outcome = run_confined(command);
  ::close(inherited);
  ASSERT_TRUE(outcome.ok()) << outcome.status().message();
  EXPECT_NE(outcome->exit_code, 0);
  EXPECT_EQ(outcome->output, "");
}

TEST_F(ConfinedProcess, OpensNoOtherFile) {
  if (!confinement_gap().empty()) GTEST_SKIP() << confinement_gap();
  for (const char* path : {static_cast<const char*>(path_), "/etc/passwd"}) {
    ConfinedCommand command;
    command.program = "cat";
    command.arguments = {path};
    const Result<ConfinedOutcome> outcome = run_confined(command);
    ASSERT_TRUE(outcome.ok()) << outcome.status().message();
    EXPECT_NE(outcome->exit_code, 0);
    EXPECT_EQ(outcome->output, "");
    EXPECT_NE(outcome->errors.find("Permission denied"), std::string::npos) << outcome->errors;
  }
}

TEST_F(ConfinedProcess, DoesNotWriteWhatItMayRead) {
  if (!confinement_gap().empty()) GTEST_SKIP() << confinement_gap();
  ConfinedCommand command;
  command.program = "cp";
  command.arguments = {"/dev/null", path_of_fd()};
  command.files = {{fd_, false}};
  const Result<ConfinedOutcome> outcome = run_confined(command);
  ASSERT_TRUE(outcome.ok()) << outcome.status().message();
  EXPECT_NE(outcome->exit_code, 0);
  EXPECT_EQ(::lseek(fd_, 0, SEEK_END), 6);
}

TEST_F(ConfinedProcess, HasNoSockets) {
  ConfinedCommand command;
  command.program = "bash";
  command.arguments = {"-c", "exec 3<>/dev/tcp/127.0.0.1/9"};
  const Result<ConfinedOutcome> outcome = run_confined(command);
  ASSERT_TRUE(outcome.ok()) << outcome.status().message();
  EXPECT_NE(outcome->exit_code, 0);
  EXPECT_NE(outcome->errors.find("not implemented"), std::string::npos) << outcome->errors;
}

TEST_F(ConfinedProcess, IsEndedByItsLimits) {
  ConfinedCommand endless;
  endless.program = "yes";
  endless.cpu_seconds = 1;
  EXPECT_EQ(run_confined(endless).status().code(), Code::kInvalid);

  ConfinedCommand large;
  large.program = "head";
  large.arguments = {"-c", "100", "/dev/urandom"};
  large.files = {{fd_, true}};
  large.memory_bytes = std::uint64_t{1} << 20;  // not enough to start
  const Result<ConfinedOutcome> outcome = run_confined(large);
  EXPECT_TRUE(!outcome.ok() || outcome->exit_code != 0);
}

TEST_F(ConfinedProcess, KeepsNoMoreOutputThanItMay) {
  ConfinedCommand command;
  command.program = "head";
  command.arguments = {"-c", "3000000", "/dev/urandom"};
  std::size_t heard = 0;
  command.on_output = [&heard](std::string_view text) { heard += text.size(); };
  const Result<ConfinedOutcome> outcome = run_confined(command);
  ASSERT_TRUE(outcome.ok()) << outcome.status().message();
  EXPECT_EQ(outcome->output.size(), std::size_t{1} << 20);
  EXPECT_EQ(heard, 3000000U);
}

TEST_F(ConfinedProcess, SaysWhatIsNotInstalled) {
  ConfinedCommand command;
  command.program = "no-such-program";
  EXPECT_EQ(run_confined(command).status().code(), Code::kNotSupported);
}

}  // namespace
}  // namespace voltree
