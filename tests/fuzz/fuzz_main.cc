// libFuzzer's way into target.h: tools/fuzz.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>

#include "tests/fuzz/target.h"

namespace {
const voltree::fuzz::Target& target = voltree::fuzz::VOLTREE_FUZZ_TARGET;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  target.run(std::as_bytes(std::span(data, size)));
  return 0;
}

// "--seeds FOLDER" as the first words writes the seeds and ends.
extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  if (*argc < 3 || std::strcmp((*argv)[1], "--seeds") != 0) return 0;
  int number = 0;
  for (const auto& seed : target.seeds()) {
    std::ofstream file(std::string((*argv)[2]) + "/seed-" + std::to_string(number++));
    file.write(reinterpret_cast<const char*>(seed.data()),
               static_cast<std::streamsize>(seed.size()));
  }
  std::exit(0);
}
