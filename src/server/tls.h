// Certificates and keys for the front doors, read once and checked before anything listens, so that a mistake is told
// with the file's name. Files are PEM.
#pragma once

#include <string>

#include "sluice/status.h"

namespace sluice {

struct TlsFiles {
  std::string cert;       // the server's chain, its own certificate first; empty: no TLS
  std::string key;        // its private key, without a passphrase
  std::string client_ca;  // if set, clients must show a certificate of one of these authorities

  bool enabled() const { return !cert.empty(); }
  bool empty() const { return cert.empty() && key.empty() && client_ca.empty(); }  // not even half given
};

// Contents of the files.
struct TlsMaterial {
  std::string cert, key, client_ca;
};

// INVALID_ARGUMENT or NOT_FOUND names option and file: a cert without a key, a file that is no PEM, a key that belongs
// to another certificate.
Result<TlsMaterial> load_tls(const TlsFiles& files);

// Whether an address that is listened on is reachable from this machine only. HOST:PORT; names but "localhost" are not
// trusted to be.
bool is_loopback(const std::string& address);

// INVALID_ARGUMENT if `option`'s address is reachable from elsewhere without TLS, or by anybody, unless `insecure`.
// `authenticated`: clients need a token, or a certificate.
Status check_exposure(const char* option, const std::string& address, bool tls, bool authenticated, bool insecure);

}  // namespace sluice
