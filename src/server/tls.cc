#include "server/tls.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <fstream>
#include <iterator>
#include <memory>
#include <string_view>

namespace sluice {

namespace {

using Bio = std::unique_ptr<BIO, decltype(&BIO_free)>;
using Certificate = std::unique_ptr<X509, decltype(&X509_free)>;
using Key = std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)>;

Bio open_bio(const std::string& pem) { return {BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())), &BIO_free}; }

// Nobody is asked for a passphrase: such a key is an error.
int no_passphrase(char*, int, int, void*) { return 0; }

Result<std::string> read_pem(const char* option, const std::string& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) return not_found("{}: {} cannot be read", option, file);
  return std::string{std::istreambuf_iterator<char>(in), {}};
}

Result<Certificate> parse_certificate(const char* option, const std::string& file, const std::string& pem) {
  Certificate certificate(PEM_read_bio_X509(open_bio(pem).get(), nullptr, no_passphrase, nullptr), &X509_free);
  ERR_clear_error();
  if (!certificate) return invalid_argument("{}: {}: expected a certificate in PEM form", option, file);
  return certificate;
}

}  // namespace

Result<TlsMaterial> load_tls(const TlsFiles& files) {
  if (!files.enabled()) return invalid_argument("tls.cert: must be given with tls.key and tls.client_ca, found none");
  if (files.key.empty()) return invalid_argument("tls.key: must be given with tls.cert, found none");
  TlsMaterial out;
  SLUICE_ASSIGN_OR_RETURN(out.cert, read_pem("tls.cert", files.cert));
  SLUICE_ASSIGN_OR_RETURN(out.key, read_pem("tls.key", files.key));
  SLUICE_ASSIGN_OR_RETURN(const Certificate certificate, parse_certificate("tls.cert", files.cert, out.cert));
  const Key key(PEM_read_bio_PrivateKey(open_bio(out.key).get(), nullptr, no_passphrase, nullptr), &EVP_PKEY_free);
  const bool matches = key && X509_check_private_key(certificate.get(), key.get()) == 1;
  ERR_clear_error();
  if (!key) return invalid_argument("tls.key: {}: expected a private key in PEM form, without a passphrase", files.key);
  if (!matches) return invalid_argument("tls.key: {}: is not the key of the certificate in {}", files.key, files.cert);
  if (files.client_ca.empty()) return out;
  SLUICE_ASSIGN_OR_RETURN(out.client_ca, read_pem("tls.client_ca", files.client_ca));
  SLUICE_ASSIGN_OR_RETURN(const Certificate authority,
                          parse_certificate("tls.client_ca", files.client_ca, out.client_ca));
  return out;
}

bool is_loopback(const std::string& address) {
  std::string host = address.substr(0, address.rfind(':'));
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  if (host == "localhost") return true;
  in_addr v4{};
  if (inet_pton(AF_INET, host.c_str(), &v4) == 1) return (ntohl(v4.s_addr) >> 24) == 127;
  in6_addr v6{};
  return inet_pton(AF_INET6, host.c_str(), &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

Status check_exposure(const char* option, const std::string& address, bool tls, bool authenticated, bool insecure) {
  if (insecure || is_loopback(address) || (tls && authenticated)) return {};
  const std::string_view lacking = tls ? "clients need neither a token nor a certificate (auth.tokens, tls.client_ca)"
                                   : authenticated
                                       ? "there is no TLS (tls.cert, tls.key)"
                                       : "there is neither TLS (tls.cert, tls.key) nor a need for tokens (auth.tokens)";
  return invalid_argument("{}: \"{}\" is reachable from other machines, but {}; bind to 127.0.0.1, or say --insecure",
                          option, address, lacking);
}

}  // namespace sluice
