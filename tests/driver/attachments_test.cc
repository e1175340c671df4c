// The books of attachments, over devices that exist in this test alone. Real ones:
// tests/integration.
#include "driver/targets/attachments.h"

#include <map>

#include "tests/driver/driver_fixture.h"

namespace voltree {
namespace {

// The host's devices, which outlive a daemon.
struct Devices {
  std::map<std::string, std::uint64_t> bound;  // by path: the id of the attachment
  std::map<std::string, bool> in_use;
  std::map<std::string, std::uint64_t> told_bytes;
  std::vector<std::string> resumed;
  bool supported = true;
  bool bind_fails = false;
};

class TestTarget final : public Target {
 public:
  TestTarget(std::string name, Devices& devices, bool resumes)
      : name_(std::move(name)), devices_(devices), resumes_(resumes) {}
  std::string_view name() const override { return name_; }
  Status check_supported() const override {
    return devices_.supported ? Status() : error(Code::kNotSupported, "no such devices here");
  }
  Result<std::string> bind(const Attachment& attachment) override {
    if (devices_.bind_fails) return error(Code::kIoError, "the device is broken");
    std::string path = fmt::format("/dev/{}{}", name_, devices_.bound.size());
    devices_.bound[path] = attachment.row.id;
    return path;
  }
  Status unbind(const AttachmentRow& row) override {
    if (devices_.in_use[row.device]) return error(Code::kBusy, "{} is in use", row.device);
    devices_.bound.erase(row.device);
    return {};
  }
  bool is_live(const AttachmentRow& row) const override {
    const auto found = devices_.bound.find(row.device);
    return found != devices_.bound.end() && found->second == row.id;
  }
  Status capacity_changed(const Attachment& attachment, std::uint64_t size_bytes) override {
    devices_.told_bytes[attachment.row.device] = size_bytes;
    return {};
  }
  bool resumes() const override { return resumes_; }
  Status resume(const Attachment& attachment) override {
    if (attachment.name.str() == "broken") return error(Code::kIoError, "no");
    devices_.resumed.push_back(attachment.row.device);
    return {};
  }

 private:
  const std::string name_;
  Devices& devices_;
  const bool resumes_;
};

class AttachmentsTest : public ServiceTest {
 protected:
  void SetUp() override {
    ServiceTest::SetUp();
    if (HasFatalFailure()) return;
    must("volume.create", {{"name", "disk"}, {"size_bytes", 1 << 20}});
    attachments_ = std::make_unique<Attachments>(*runtime_, *store_);
    attachments_->add(std::make_unique<TestTarget>("loop", loops_, false));
    attachments_->add(std::make_unique<TestTarget>("nbd", nbds_, true));
  }
  void TearDown() override {
    attachments_.reset();
    ServiceTest::TearDown();
  }
  Code attach_code(const std::string& name, const AttachOptions& options) {
    return attachments_->attach(name, options).status().code();
  }
  Devices loops_;
  Devices nbds_;
  std::unique_ptr<Attachments> attachments_;
};

TEST_F(AttachmentsTest, ByKindAndBack) {
  auto made = attachments_->attach("disk", {.target = "nbd"});
  ASSERT_TRUE(made.ok()) << made.status().message();
  EXPECT_EQ(made->row.device, "/dev/nbd0");
  ASSERT_EQ(attachments_->list().size(), 1U);
  EXPECT_TRUE(attachments_->list()[0].live);
  EXPECT_EQ(attach_code("disk", {}), Code::kBusy);
  EXPECT_EQ(attach_code("disk", {.target = "floppy"}), Code::kInvalid);
  attachments_->capacity_changed("disk", 2 << 20);
  EXPECT_EQ(nbds_.told_bytes["/dev/nbd0"], 2U << 20);
  auto gone = attachments_->detach("/dev/nbd0");
  ASSERT_TRUE(gone.ok());
  EXPECT_TRUE(attachments_->list().empty());
  EXPECT_TRUE(nbds_.bound.empty());
  EXPECT_EQ(attachments_->detach("disk").status().code(), Code::kNotFound);
}

TEST_F(AttachmentsTest, WhatFailsLeavesNoBooks) {
  loops_.bind_fails = true;
  EXPECT_EQ(attach_code("disk", {}), Code::kIoError);
  EXPECT_TRUE(attachments_->list().empty());
  loops_.supported = false;
  EXPECT_EQ(attach_code("disk", {}), Code::kNotSupported);
  EXPECT_EQ(attach_code("nothing", {}), Code::kNotFound);
  EXPECT_TRUE(attachments_->list().empty());
}

TEST_F(AttachmentsTest, InUseStaysAttached) {
  ASSERT_TRUE(attachments_->attach("disk", {}).ok());
  loops_.in_use["/dev/loop0"] = true;
  EXPECT_EQ(attachments_->detach("disk").status().code(), Code::kBusy);
  EXPECT_EQ(attachments_->list().size(), 1U);
  const auto lines = attachments_->release_all();
  ASSERT_EQ(lines.size(), 1U);
  EXPECT_NE(lines[0].find("fails from now on"), std::string::npos) << lines[0];
  loops_.in_use.clear();
  EXPECT_TRUE(attachments_->release_all().empty());
  EXPECT_EQ(attachments_->list().size(), 1U) << "the books stay";
  EXPECT_FALSE(attachments_->list()[0].live);
  EXPECT_TRUE(attachments_->detach("disk").ok()) << "a stale one needs no device";
}

TEST_F(AttachmentsTest, ResumedAreThoseThatCanBe) {
  must("volume.create", {{"name", "other"}, {"size_bytes", 1 << 20}});
  must("volume.create", {{"name", "broken"}, {"size_bytes", 1 << 20}});
  ASSERT_TRUE(attachments_->attach("disk", {.target = "nbd"}).ok());
  ASSERT_TRUE(attachments_->attach("other", {}).ok());
  ASSERT_TRUE(attachments_->attach("broken", {.target = "nbd"}).ok());
  nbds_.in_use["/dev/nbd0"] = true;
  EXPECT_NE(attachments_->release_all().at(0).find("waits for the next"), std::string::npos);
  const auto failed = attachments_->resume_all();
  EXPECT_EQ(nbds_.resumed, std::vector<std::string>{"/dev/nbd0"});
  EXPECT_EQ(loops_.resumed, std::vector<std::string>{"/dev/loop0"});
  ASSERT_EQ(failed.size(), 1U);
  EXPECT_NE(failed[0].find("broken"), std::string::npos) << failed[0];
}

}  // namespace
}  // namespace voltree
