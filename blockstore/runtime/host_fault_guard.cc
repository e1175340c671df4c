#include "blockstore/runtime/host_fault_guard.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cassert>
#include <cerrno>
#include <csignal>
#include <mutex>
#include <vector>

namespace voltree {
namespace {

// The handler may run at any instruction of any thread, so it takes no lock: slots are never freed,
// and lie in blocks that are only ever added.
struct Block {
  static constexpr std::size_t kSlots = 256;
  std::array<FaultGuard::Slot, kSlots> slots;
  std::atomic<Block*> next{nullptr};
};

// Ends with the process, as its handler does.
struct Registry {
  std::mutex mutex;
  Block first;
  Block* last = &first;
  std::size_t used = 0;  // of the last block
  std::vector<FaultGuard::Slot*> free;
  struct sigaction before {};
  std::uintptr_t page_bytes = 0;
};

std::atomic<Registry*> registry{nullptr};

// A slot that is given to another range meanwhile has another begin.
bool holds(const FaultGuard::Slot& slot, std::uintptr_t address) {
  const std::uintptr_t begin = slot.begin.load(std::memory_order_acquire);
  const std::uintptr_t end = slot.end.load(std::memory_order_acquire);
  return begin <= address && address < end && slot.begin.load(std::memory_order_acquire) == begin;
}

FaultGuard::Slot* slot_of(Registry& all, std::uintptr_t address) {
  for (Block* block = &all.first; block != nullptr;
       block = block->next.load(std::memory_order_acquire)) {
    for (FaultGuard::Slot& slot : block->slots) {
      if (holds(slot, address)) return &slot;
    }
  }
  return nullptr;
}

// When the handler returns.
void end_process(int signal) {
  (void)::signal(signal, SIG_DFL);
  (void)::raise(signal);
}

void hand_on(const struct sigaction& before, int signal, siginfo_t* info, void* context) {
  if ((before.sa_flags & SA_SIGINFO) != 0) {
    before.sa_sigaction(signal, info, context);
    return;
  }
  const bool is_fault = info->si_code > 0;
  const bool is_ignored = before.sa_handler == SIG_IGN;
  if (before.sa_handler != SIG_DFL && !is_ignored) {
    before.sa_handler(signal);
  } else if (is_fault || !is_ignored) {
    end_process(signal);  // the kernel ignores no fault either
  }
}

void on_fault(int signal, siginfo_t* info, void* context) {
  const int saved_errno = errno;
  Registry& all = *registry.load(std::memory_order_acquire);
  const auto address = reinterpret_cast<std::uintptr_t>(info->si_addr);
  FaultGuard::Slot* slot = info->si_code > 0 ? slot_of(all, address) : nullptr;
  if (slot == nullptr) {
    hand_on(all.before, signal, info, context);
    errno = saved_errno;
    return;
  }
  // Before anybody can see the zeros.
  slot->failed.store(true, std::memory_order_seq_cst);
  // The system call itself: a library's wrapper need not be fit for a handler.
  const long mapped =
      ::syscall(SYS_mmap, address / all.page_bytes * all.page_bytes, all.page_bytes,
                PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  if (mapped == -1) end_process(signal);
  errno = saved_errno;
}

Registry& installed() {
  static Registry* const all = [] {
    auto* made = new Registry;
    made->page_bytes = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
    registry.store(made, std::memory_order_release);
    struct sigaction action {};
    action.sa_sigaction = &on_fault;
    // On the thread's own stack: no thread of ours has another one.
    action.sa_flags = SA_SIGINFO | SA_RESTART;
    sigemptyset(&action.sa_mask);
    [[maybe_unused]] const int result = ::sigaction(SIGBUS, &action, &made->before);
    assert(result == 0);
    return made;
  }();
  return *all;
}

FaultGuard::Slot& new_slot(Registry& all) {
  const std::lock_guard lock(all.mutex);
  if (!all.free.empty()) {
    FaultGuard::Slot* slot = all.free.back();
    all.free.pop_back();
    return *slot;
  }
  if (all.used == Block::kSlots) {
    auto* block = new Block;
    all.last->next.store(block, std::memory_order_release);
    all.last = block;
    all.used = 0;
  }
  return all.last->slots[all.used++];
}

}  // namespace

FaultGuard::FaultGuard(const std::byte* begin, std::uint64_t size_bytes)
    : slot_(new_slot(installed())) {
  const auto address = reinterpret_cast<std::uintptr_t>(begin);
  slot_.failed.store(false, std::memory_order_release);
  slot_.begin.store(address, std::memory_order_release);
  slot_.end.store(address + size_bytes, std::memory_order_release);
}

FaultGuard::~FaultGuard() {
  slot_.end.store(0, std::memory_order_release);
  slot_.begin.store(0, std::memory_order_release);
  Registry& all = installed();
  const std::lock_guard lock(all.mutex);
  all.free.push_back(&slot_);
}

bool FaultGuard::failed() const {
  // Stays behind the accesses that it is asked about; who has read with acquire needs no more.
  std::atomic_signal_fence(std::memory_order_seq_cst);
  return slot_.failed.load(std::memory_order_seq_cst);
}

}  // namespace voltree
