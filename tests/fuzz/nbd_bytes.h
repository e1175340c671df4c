// Any bytes, served as an NBD client's whole session: the server's own handshake and transmission,
// over a store in the simulator.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace voltree::nbd {

// Serves a client that sends these bytes and then hangs up. Returns how many bytes it was sent.
// The store is one for the whole process.
std::size_t serve_bytes(std::span<const std::byte> bytes);

// Sessions as well-behaved clients have them, to begin with.
std::vector<std::vector<std::byte>> seed_sessions();

}  // namespace voltree::nbd
