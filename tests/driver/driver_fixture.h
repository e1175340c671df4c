// A store of its own for each test, in the host's temporary folder, with the service over it.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>

#include "blockstore/store.h"
#include "driver/control/client.h"
#include "driver/control/service.h"

namespace voltree {

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "vtdrvXXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

class ServiceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    RuntimeOptions options;
    options.executors = 2;
    auto runtime = make_host_runtime(options);
    ASSERT_TRUE(runtime.ok()) << runtime.status().message();
    runtime_ = std::move(runtime).value();
    const Status made = Store::create(*runtime_, directory_, {});
    ASSERT_TRUE(made.ok()) << made.message();
    auto store = open_store_blocking(*runtime_, directory_, {});
    ASSERT_TRUE(store.ok()) << store.status().message();
    store_ = std::move(store).value();
    service_ = std::make_unique<Service>(*runtime_, *store_, nullptr);
  }

  void TearDown() override {
    service_.reset();
    if (store_) {
      const Status closed = runtime_->sync_wait(store_->close());
      EXPECT_TRUE(closed.ok()) << closed.message();
    }
    store_.reset();
    runtime_.reset();
  }

  Result<Json> call(std::string_view method, const Json& params = Json::object()) {
    refusal_ = Refusal::kNone;
    return service_->call(method, params, {}, &refusal_);
  }
  // The answer, or a test failure.
  Json must(std::string_view method, const Json& params = Json::object()) {
    Result<Json> answer = call(method, params);
    EXPECT_TRUE(answer.ok()) << method << ": " << answer.status().message();
    return answer.ok() ? std::move(answer).value() : Json();
  }
  Code code_of(std::string_view method, const Json& params = Json::object()) {
    return call(method, params).status().code();
  }

  TemporaryFolder folder_;
  const std::string directory_ = folder_ / "store";
  std::unique_ptr<Runtime> runtime_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<Service> service_;
  Refusal refusal_ = Refusal::kNone;
};

}  // namespace voltree
