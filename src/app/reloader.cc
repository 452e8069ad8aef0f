#include "app/reloader.h"

#include <sys/stat.h>

#include <set>
#include <utility>

#include "sluice/log.h"

#include "app/serve_checks.h"
#include "base/structured_log.h"

namespace sluice {

namespace {

// Of the table; every other one needs a restart.
const std::set<std::string>& reloadable_keys() {
  static const std::set<std::string> keys = {"queue.requests", "queue.tokens", "drain_seconds", "log_level"};
  return keys;
}

// Stands for the content; follows links, so that a swapped link (as Kubernetes mounts secrets) is a change.
std::string state_of(const std::string& file) {
  struct stat found {};
  if (stat(file.c_str(), &found) != 0) return "absent";
  return fmt::format("{} {} {}.{}", found.st_ino, found.st_size, found.st_mtim.tv_sec, found.st_mtim.tv_nsec);
}

}  // namespace

Reloader::Files Reloader::look(const OptionFlags& flags, const Options& options) {
  const auto watch = [](std::vector<Watched>& files, const std::string& file) {
    if (file.empty()) return;
    const std::string state = state_of(file);
    files.push_back({file, state, state});
  };
  Files files;
  watch(files.options, flags.config_file());
  watch(files.tokens, options.auth_tokens);
  for (const std::string* file : {&options.tls_cert, &options.tls_key, &options.tls_client_ca})
    watch(files.certificates, *file);
  return files;
}

Reloader::Reloader(const OptionFlags& flags, Options options, Files files, Parts parts)
    : flags_(flags), options_(std::move(options)), parts_(parts), files_(std::move(files)) {}

bool Reloader::changed(std::vector<Watched>& files) {
  bool changed = false;
  for (Watched& watched : files) {
    std::string now = state_of(watched.file);
    const bool still = now == watched.seen;
    watched.seen = std::move(now);
    if (!still) return false;  // look again at the next tick, when all of them stand still
    changed = changed || watched.seen != watched.read;
  }
  if (!changed) return false;
  for (Watched& watched : files) watched.read = watched.seen;
  return true;
}

void Reloader::tick() {
  if (changed(files_.options)) reload_options();
  if (changed(files_.tokens)) reload_tokens();
  if (changed(files_.certificates)) reload_certificates();
}

void Reloader::reload() {
  for (auto* files : {&files_.options, &files_.tokens, &files_.certificates})
    for (Watched& watched : *files) watched.seen = watched.read = state_of(watched.file);
  reload_options();
  reload_tokens();
  reload_certificates();
}

void Reloader::reload_options() {
  if (files_.options.empty()) return;
  Result<Options> fresh = flags_.resolve();
  if (!fresh.ok()) return log_error("reload: the options of before stay: {}", fresh.status().to_string());
  int num_changed = 0;
  for (const OptionSpec& spec : option_table()) {
    const std::string before = spec.get(options_), now = spec.get(*fresh);
    if (before == now) continue;
    if (!reloadable_keys().contains(spec.key)) {
      log_warn("reload: {}: \"{}\" instead of \"{}\" needs a restart", spec.key, now, before);
      continue;
    }
    (void)spec.set(options_, now);  // it came out of the table a line above
    log_info("reload: {}: {} instead of {}", spec.key, now, before);
    ++num_changed;
  }
  parts_.queue.set_limits({.max_requests = options_.queue_requests, .max_tokens = options_.queue_tokens});
  set_log_level(options_.log_level);
  log_info("reload: {}: {} options changed", files_.options.front().file, num_changed);
}

void Reloader::reload_tokens() {
  if (!parts_.authenticator) return;
  if (const Status status = parts_.authenticator->reload(); !status.ok())
    return log_error("reload: the tokens of before stay: {}", status.to_string());
  const int64_t ended = parts_.frontend.end_revoked();
  log_info("reload: {}: {} tokens; {} answers of revoked ones ended", options_.auth_tokens,
           parts_.authenticator->num_tokens(), ended);
}

void Reloader::reload_certificates() {
  if (files_.certificates.empty()) return;
  // Read once, for both doors or for none of them.
  const auto replace = [this]() -> Status {
    SLUICE_ASSIGN_OR_RETURN(const TlsMaterial material, load_tls(tls_files(options_)));
    std::function<void()> take = [] {};
    if (parts_.http) {
      SLUICE_ASSIGN_OR_RETURN(take, parts_.http->prepare_tls(material));
    }
    SLUICE_RETURN_IF_ERROR(parts_.grpc.set_tls(material));
    take();
    return {};
  };
  if (const Status status = replace(); !status.ok())
    return log_error("reload: the certificates of before stay: {}", status.to_string());
  log_info("reload: {}: new connections see this certificate", options_.tls_cert);
}

}  // namespace sluice
