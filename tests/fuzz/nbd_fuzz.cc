// libFuzzer's way into nbd_bytes.h: tools/fuzz nbd.
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>

#include "tests/fuzz/nbd_bytes.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  voltree::nbd::serve_bytes(std::as_bytes(std::span(data, size)));
  return 0;
}

// "--seeds FOLDER" as the first words writes the seeds and ends.
extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  if (*argc < 3 || std::strcmp((*argv)[1], "--seeds") != 0) return 0;
  int number = 0;
  for (const auto& session : voltree::nbd::seed_sessions()) {
    std::ofstream file(std::string((*argv)[2]) + "/seed-" + std::to_string(number++));
    file.write(reinterpret_cast<const char*>(session.data()),
               static_cast<std::streamsize>(session.size()));
  }
  std::exit(0);
}
