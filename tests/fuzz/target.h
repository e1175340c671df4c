// What tools/fuzz gives bytes to, and the tests their short form of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <string_view>
#include <vector>

namespace voltree::fuzz {

using Bytes = std::vector<std::byte>;

// `run` aborts on what must not be; it keeps what is expensive to make until the process ends.
struct Target {
  void (*run)(std::span<const std::byte> bytes);
  std::vector<Bytes> (*seeds)();
};

extern const Target kNbd;      // the NBD server's byte stream, from connect on
extern const Target kControl;  // lines of the control socket
extern const Target kRows;     // the catalog's blobs: layer index rows, saved maps
extern const Target kWords;    // names, sizes, policies and priorities, as people write them
extern const Target kImages;   // headers of image files
extern const Target kStore;    // a store whose files somebody has changed

Bytes bytes_of(std::string_view text);
std::string_view text_of(std::span<const std::byte> bytes);

// One of the seeds with some bytes changed, lost, repeated or swapped for another's.
Bytes mutate(const std::vector<Bytes>& seeds, std::mt19937_64& random);
// Runs the seeds, and `count` mutations of them; the same ones every time.
void run_mutations(const Target& target, std::size_t count);
// Runs what a long run of the fuzzer has found worth keeping: the files of tests/fuzz/corpus/NAME.
// How many there were.
std::size_t run_kept(const Target& target, std::string_view name);

}  // namespace voltree::fuzz
