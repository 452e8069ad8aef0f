#include "server/http_stream.h"

#include <openssl/ssl.h>

#include <memory>

namespace sluice {

namespace {

namespace asio = boost::asio;
namespace ssl = boost::asio::ssl;

// Names our sessions to OpenSSL, which resumes none of a client with a certificate without a name.
constexpr unsigned char kSessionContext[] = "sluice";

}  // namespace

Result<std::unique_ptr<ssl::context>> make_tls_context(const TlsMaterial& material) {
  auto context = std::make_unique<ssl::context>(ssl::context::tls_server);
  boost::system::error_code error;
  const auto fail = [&](const char* option) { return invalid_argument("{}: {}", option, error.message()); };
  // As gRPC: older versions are broken.
  SSL_CTX_set_min_proto_version(context->native_handle(), TLS1_2_VERSION);
  SSL_CTX_set_session_id_context(context->native_handle(), kSessionContext, sizeof(kSessionContext) - 1);
  context->use_certificate_chain(asio::buffer(material.cert), error);
  if (error) return fail("tls.cert");
  context->use_private_key(asio::buffer(material.key), ssl::context::pem, error);
  if (error) return fail("tls.key");
  if (material.client_ca.empty()) return context;
  context->add_certificate_authority(asio::buffer(material.client_ca), error);
  if (!error) context->set_verify_mode(ssl::verify_peer | ssl::verify_fail_if_no_peer_cert, error);
  if (error) return fail("tls.client_ca");
  return context;
}

}  // namespace sluice
