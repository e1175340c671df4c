// Writes blocks to a volume's file with O_DIRECT and keeps books about what was acknowledged; later
// tells whether the file holds it.
//
//   ack_writer write  FILE BOOKS THREADS SEED   until a write fails (the daemon died) or SIGTERM;
//   prints how many
//   ack_writer flush  FILE BOOKS THREADS SEED   the same, but a write is acknowledged when a flush
//   after it has been
//   ack_writer verify FILE BOOKS                exit 0: each block is what the books allow; they
//   then say what it is
//
// BOOKS is a mapped file with two numbers a block: the last write that was begun and the last that
// was acknowledged. A block has one writer, which waits for each answer, so a block must hold one
// of the two. Numbers are unique and rise; an odd one is a punched hole (zeros), 0 is a block never
// written.
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string_view>
#include <thread>
#include <vector>

namespace {

constexpr std::size_t kBlockBytes = 4096;
constexpr std::uint64_t kRunBlocksMax = 16;  // one request writes 1 .. 16 blocks
constexpr std::size_t kWords = kBlockBytes / sizeof(std::uint64_t);

struct Entry {
  std::atomic<std::uint64_t> begun;
  std::atomic<std::uint64_t> acknowledged;
};

struct Books {
  Entry* entries = nullptr;
  std::uint64_t blocks = 0;
};

std::atomic<bool> stopping{false};

[[noreturn]] void die(const char* what) {
  std::perror(what);
  std::exit(2);
}

Books open_books(const char* path, std::uint64_t blocks) {
  const int fd = ::open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0 || ::ftruncate(fd, static_cast<off_t>(blocks * sizeof(Entry))) != 0) die(path);
  void* memory = ::mmap(nullptr, blocks * sizeof(Entry), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) die("mmap");
  ::close(fd);
  return {static_cast<Entry*>(memory), blocks};
}

std::uint64_t word_of(std::uint64_t block, std::uint64_t number, std::size_t word) {
  std::uint64_t x = block * 0x9E3779B97F4A7C15U ^ number * 0xC2B2AE3D27D4EB4FU ^ word;
  x ^= x >> 29;
  return x * 0xBF58476D1CE4E5B9U | 1;  // never zero
}

bool holds(const std::uint64_t* data, std::uint64_t block, std::uint64_t number) {
  const bool zeros = number == 0 || number % 2 == 1;
  for (std::size_t i = 0; i < kWords; ++i) {
    if (data[i] != (zeros ? 0 : word_of(block, number, i))) return false;
  }
  return true;
}

std::uint64_t* block_memory(std::uint64_t blocks) {
  void* memory = std::aligned_alloc(kBlockBytes, blocks * kBlockBytes);
  if (memory == nullptr) die("memory");
  return static_cast<std::uint64_t*>(memory);
}

// One thread's share: a part of the volume of its own.
struct Share {
  std::uint64_t first = 0;
  std::uint64_t blocks = 0;
};

std::uint64_t write_share(int fd, bool flush, Books books, Share share, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::uint64_t* data = block_memory(kRunBlocksMax);
  std::uint64_t done = 0;
  std::uint64_t number = 0;
  for (std::uint64_t i = 0; i < share.blocks; ++i) {
    number = std::max(number, books.entries[share.first + i].begun.load());
  }
  while (!stopping.load()) {
    const bool punch = random() % 16 == 0;
    number = (number / 2 + 1) * 2 + (punch ? 1 : 0);
    const std::uint64_t count = random() % kRunBlocksMax + 1;
    const std::uint64_t first = share.first + random() % (share.blocks - count + 1);
    for (std::uint64_t i = 0; i < count; ++i) {
      for (std::size_t w = 0; w < kWords; ++w) data[i * kWords + w] = word_of(first + i, number, w);
      books.entries[first + i].begun.store(number);
    }
    const auto offset = static_cast<off_t>(first * kBlockBytes);
    const auto length = static_cast<off_t>(count * kBlockBytes);
    const bool good =
        punch ? ::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length) == 0
              : ::pwrite(fd, data, static_cast<std::size_t>(length), offset) == length;
    if (!good || (flush && ::fdatasync(fd) != 0)) break;
    for (std::uint64_t i = 0; i < count; ++i) books.entries[first + i].acknowledged.store(number);
    ++done;
  }
  std::free(data);
  return done;
}

int write_all(int fd, bool flush, Books books, unsigned threads, std::uint64_t seed) {
  std::atomic<std::uint64_t> done{0};
  std::vector<std::thread> workers;
  const std::uint64_t part = books.blocks / threads;
  for (unsigned t = 0; t < threads; ++t) {
    workers.emplace_back([&, t] {
      done += write_share(fd, flush, books, {t * part, part}, seed + t);
    });
  }
  for (std::thread& worker : workers) worker.join();
  std::printf("%llu writes acknowledged\n", static_cast<unsigned long long>(done.load()));
  return 0;
}

int verify(int fd, Books books) {
  std::uint64_t* data = block_memory(1);
  std::uint64_t wrong = 0;
  std::uint64_t written = 0;
  std::uint64_t under_way = 0;
  for (std::uint64_t block = 0; block < books.blocks; ++block) {
    Entry& entry = books.entries[block];
    const std::uint64_t begun = entry.begun.load();
    const std::uint64_t acknowledged = entry.acknowledged.load();
    const ssize_t got = ::pread(fd, data, kBlockBytes, static_cast<off_t>(block * kBlockBytes));
    if (acknowledged != 0) ++written;
    if (begun != acknowledged) ++under_way;
    const bool old_one = got == kBlockBytes && holds(data, block, acknowledged);
    if (!old_one && !(got == kBlockBytes && holds(data, block, begun))) {
      if (++wrong <= 10) {
        std::printf("block %llu: acknowledged %llu, begun %llu, read %lld bytes, first word %llx\n",
                    static_cast<unsigned long long>(block),
                    static_cast<unsigned long long>(acknowledged),
                    static_cast<unsigned long long>(begun), static_cast<long long>(got),
                    static_cast<unsigned long long>(data[0]));
      }
      continue;
    }
    const std::uint64_t found = old_one ? acknowledged : begun;
    entry.acknowledged.store(found);
    entry.begun.store(found);
  }
  std::free(data);
  std::printf("%llu blocks acknowledged, %llu under way, %llu wrong\n",
              static_cast<unsigned long long>(written), static_cast<unsigned long long>(under_way),
              static_cast<unsigned long long>(wrong));
  return wrong == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string_view what = argc > 1 ? argv[1] : "";
  const bool flush = what == "flush";
  const bool writing = flush || what == "write";
  if ((!writing || argc != 6) && (what != "verify" || argc != 4)) {
    std::fprintf(stderr, "ack_writer write|flush FILE BOOKS THREADS SEED | verify FILE BOOKS\n");
    return 2;
  }
  const int fd = ::open(argv[2], (writing ? O_RDWR : O_RDONLY) | O_DIRECT | O_CLOEXEC);
  struct stat info {};
  if (fd < 0 || ::fstat(fd, &info) != 0) {
    // The daemon may die before the first write as well.
    const bool died = errno == ENOTCONN || errno == ECONNABORTED;
    if (!writing || !died) die(argv[2]);
    std::printf("0 writes acknowledged\n");
    return 0;
  }
  const Books books = open_books(argv[3], static_cast<std::uint64_t>(info.st_size) / kBlockBytes);
  if (!writing) return verify(fd, books);
  ::signal(SIGTERM, [](int) { stopping = true; });
  return write_all(fd, flush, books, static_cast<unsigned>(std::strtoul(argv[4], nullptr, 10)),
                   std::strtoull(argv[5], nullptr, 10));
}
