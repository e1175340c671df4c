// The short form of tools/fuzz nbd: well-behaved sessions, and what becomes of them when bytes are
// changed, lost, repeated and swapped.
#include <gtest/gtest.h>

#include "tests/fuzz/nbd_bytes.h"
#include "tests/fuzz/target.h"

namespace voltree::nbd {
namespace {

TEST(NbdBytes, SeedsAreAnswered) {
  for (const auto& session : seed_sessions()) EXPECT_GT(serve_bytes(session), 18U);
}

TEST(NbdBytes, AnyBytesAreSurvived) { fuzz::run_mutations(fuzz::kNbd, 200'000); }

TEST(NbdBytes, WhatFuzzersFound) { EXPECT_GT(fuzz::run_kept(fuzz::kNbd, "nbd"), 0u); }

}  // namespace
}  // namespace voltree::nbd
