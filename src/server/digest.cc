#include "server/digest.h"

#include <fmt/format.h>
#include <openssl/sha.h>

namespace sluice {

Sha256 sha256(std::string_view bytes) {
  Sha256 digest;
  SHA256(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size(), digest.data());
  return digest;
}

std::string hex(const Sha256& digest) { return fmt::format("{:02x}", fmt::join(digest, "")); }

}  // namespace sluice
