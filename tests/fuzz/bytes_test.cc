// The short forms of tools/fuzz: what is wrong ends the process.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/fuzz/target.h"

namespace voltree::fuzz {
namespace {

TEST(Bytes, RowsOfTheCatalog) { run_mutations(kRows, 50'000); }
TEST(Bytes, WordsOfPeople) { run_mutations(kWords, 200'000); }
TEST(Bytes, LinesOfTheControlSocket) { run_mutations(kControl, 4'000); }
TEST(Bytes, HeadersOfImages) { run_mutations(kImages, 100'000); }
TEST(Bytes, FilesOfAStore) { run_mutations(kStore, 500); }

TEST(Bytes, WhatFuzzersFound) {
  EXPECT_GT(run_kept(kRows, "rows"), 0u);
  EXPECT_GT(run_kept(kWords, "words"), 0u);
  EXPECT_GT(run_kept(kControl, "control"), 0u);
  EXPECT_GT(run_kept(kImages, "images"), 0u);
  EXPECT_GT(run_kept(kStore, "store"), 0u);
}

TEST(Bytes, MutationsDifferAndAreTheSameEveryTime) {
  const std::vector<Bytes> seeds{bytes_of("one"), bytes_of("and another")};
  std::mt19937_64 first(1), second(1);
  std::vector<Bytes> made;
  for (int i = 0; i < 100; ++i) {
    made.push_back(mutate(seeds, first));
    EXPECT_EQ(made.back(), mutate(seeds, second));
  }
  std::sort(made.begin(), made.end());
  EXPECT_GT(std::unique(made.begin(), made.end()) - made.begin(), 80);
}

}  // namespace
}  // namespace voltree::fuzz
