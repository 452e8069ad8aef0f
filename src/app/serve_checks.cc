#include "app/serve_checks.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <utility>

#include "sluice/log.h"

#include "server/address.h"

namespace sluice {

namespace {

namespace fs = std::filesystem;

// Tries it, because permissions do not tell of a read-only or full file system.
Status check_folder(const char* option, const std::string& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error)
    return failed_precondition("{}: {} cannot be made: {}; expected a folder that this user (id {}) may write to",
                               option, folder, error.message(), getuid());
  const std::string probe = fmt::format("{}/.sluice-probe-{}", folder, getpid());
  errno = 0;
  const bool written = (std::ofstream(probe) << "probe").flush().good();
  const int reason = errno;
  fs::remove(probe, error);
  if (written) return {};
  return failed_precondition("{}: {} cannot be written to: {}; expected a folder that this user (id {}) may write to",
                             option, folder, std::strerror(reason), getuid());
}

}  // namespace

TlsFiles tls_files(const Options& options) { return {options.tls_cert, options.tls_key, options.tls_client_ca}; }

Status check_security(const Options& options) {
  const TlsFiles tls = tls_files(options);
  if (!tls.empty()) SLUICE_RETURN_IF_ERROR(load_tls(tls).status());
  const bool authenticated = !options.auth_tokens.empty() || !options.tls_client_ca.empty();
  for (const auto& [option, address] : {std::pair("grpc", &options.grpc), {"http", &options.http}}) {
    if (*address == "off") continue;
    SLUICE_RETURN_IF_ERROR(check_exposure(option, *address, tls.enabled(), authenticated, options.insecure));
    if (is_loopback(*address)) continue;
    if (options.insecure && !(tls.enabled() && authenticated))
      log_warn("insecure: {} is reachable from other machines without {}", *address,
               tls.enabled() ? "authentication" : "TLS");
    if (!options.auth_tokens.empty() && !tls.enabled())
      log_warn("insecure: tokens travel in the clear to {}", *address);
  }
  return {};
}

Status check_addresses(const Options& options) {
  SLUICE_RETURN_IF_ERROR(check_listenable("grpc", options.grpc));
  if (options.http != "off") {
    SLUICE_RETURN_IF_ERROR(check_listenable("http", options.http));
    SLUICE_RETURN_IF_ERROR(check_distinct("http", options.http, "grpc", options.grpc));
  }
  return options.trace_endpoint.empty() ? Status() : parse_host_port("trace.endpoint", options.trace_endpoint).status();
}

Status check_folders(const Options& options) {
  if (!options.cache_disk.empty()) {
    if (!options.cache_enabled || options.cache_host_mib == 0)
      return invalid_argument("cache.disk: pages reach it through host memory: set cache.host_mib above 0, found {}{}",
                              options.cache_host_mib, options.cache_enabled ? "" : ", and cache.enabled to true");
    SLUICE_RETURN_IF_ERROR(check_folder("cache.disk", options.cache_disk));
  }
  return options.weights_cache.empty() ? Status() : check_folder("weights_cache", options.weights_cache);
}

}  // namespace sluice
