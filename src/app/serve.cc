// `sluice serve`: the server from start to drain. Threads: this one waits for signals; the loop thread computes; the
// front end has its detokeniser thread; gRPC and HTTP bring their own.
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <mutex>

#include "sluice/log.h"

#include "app/commands.h"
#include "app/loop_report.h"
#include "app/rank_processes.h"
#include "app/serve_loop.h"
#include "server/grpc_server.h"
#include "server/http_server.h"

namespace sluice {

namespace {

struct ServeCommand {
  OptionFlags options;

  Status run();
};

// SIGTERM, SIGINT and, where there is something to read again, SIGHUP are taken by wait_for_signal() alone; blocked
// before any thread starts, so that all inherit it.
sigset_t block_signals(bool with_hangup) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  if (with_hangup) sigaddset(&set, SIGHUP);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  return set;
}

// The one that ends the server; meanwhile SIGHUP reads the tokens again.
int wait_for_signal(const sigset_t& set, Authenticator* authenticator) {
  while (true) {
    int signal = 0;
    if (sigwait(&set, &signal) != 0) continue;
    if (signal != SIGHUP) return signal;
    if (const Status status = authenticator->reload(); status.ok()) {
      log_info("SIGHUP: {} tokens", authenticator->num_tokens());
    } else {
      log_error("SIGHUP: the tokens of before stay: {}", status.to_string());
    }
  }
}

Result<std::unique_ptr<Authenticator>> load_tokens(const Options& options) {
  if (options.auth_tokens.empty()) return std::unique_ptr<Authenticator>();
  return Authenticator::load(options.auth_tokens);
}

// Before the model is loaded: mistakes are told at once.
Status check_security(const Options& options, const TlsFiles& tls) {
  if (!tls.empty()) SLUICE_RETURN_IF_ERROR(load_tls(tls).status());
  const bool authenticated = !options.auth_tokens.empty() || !options.tls_client_ca.empty();
  SLUICE_RETURN_IF_ERROR(check_exposure("grpc", options.grpc, tls.enabled(), authenticated, options.insecure));
  if (options.http != "off" && !options.insecure) {
    SLUICE_RETURN_IF_ERROR(check_exposure("http", options.http, false, false, false));
    // A way in beside the one that is guarded is no guard.
    if (authenticated)
      return invalid_argument(
          "http: the HTTP server asks for neither tokens nor certificates; say --http off, or --insecure");
  }
  if (options.insecure && !is_loopback(options.grpc) && !(tls.enabled() && authenticated))
    log_warn("insecure: {} is reachable from other machines without {}", options.grpc,
             tls.enabled() ? "authentication" : "TLS");
  if (!options.auth_tokens.empty() && !tls.enabled() && !is_loopback(options.grpc))
    log_warn("insecure: tokens travel in the clear");
  return {};
}

// A file descriptor per connection: what the administrator allows, not what shells start with.
void raise_file_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  if (setrlimit(RLIMIT_NOFILE, &limit) != 0) log_warn("the limit of open files stays as it is");
}

// One short generation through the executor, so that the first client does not pay for page faults and cold caches.
// Its pages are left to be overwritten.
void warm_up(LoadedModel& loaded, const Options& options) {
  struct Ignore final : TokenSink {
    void emit(TokenEvent) override {}
  } sink;
  Options cold = options;
  cold.cache_enabled = false;
  ServingCore core(loaded, cold, sink);
  Request request;
  request.prompt.assign(static_cast<size_t>(std::min(64, loaded.info.context_length / 2)), 0);
  request.sampling.temperature = 0;
  request.stop.max_tokens = 4;
  request.stop.ignore_eos = true;
  core.scheduler().submit(std::move(request), std::chrono::steady_clock::now());
  while (core.step()) {
  }
}

Status ServeCommand::run() {
  SLUICE_ASSIGN_OR_RETURN(const Options resolved, options.resolve());
  set_up_logging(resolved.log_level.c_str());
  const TlsFiles tls{resolved.tls_cert, resolved.tls_key, resolved.tls_client_ca};
  SLUICE_RETURN_IF_ERROR(check_security(resolved, tls));
  SLUICE_ASSIGN_OR_RETURN(const auto authenticator, load_tokens(resolved));
  SLUICE_ASSIGN_OR_RETURN(const Launch launch, read_launch(resolved.tp));
  if (!launch.is_rank) return run_rank_processes(launch, true);
  const sigset_t signals = block_signals(authenticator != nullptr);
  raise_file_limit();
  SLUICE_ASSIGN_OR_RETURN(const auto loaded, LoadedModel::load(resolved));
  if (!loaded->leads()) return follow(*loaded, resolved);
  if (!loaded->chat_format) log_warn("chat is off: {}", loaded->chat_status.message());
  warm_up(*loaded, resolved);

  const SteadyClock clock;
  RequestQueue queue({.max_requests = resolved.queue_requests, .max_tokens = resolved.queue_tokens});
  const Tokenizer* tokenizer = loaded->tokenizer ? &*loaded->tokenizer : nullptr;
  Frontend frontend(queue, tokenizer, clock);
  // Whoever waits for the group is told; the end is that of SIGTERM, after which whoever started the ranks does it again.
  std::mutex broken_mutex;
  Status broken;
  ServeLoop loop(*loaded, resolved, queue, frontend);
  loop.on_broken_group([&](const Status& why) {
    log_error("the group of ranks is broken: {}", why.to_string());
    {
      const std::lock_guard lock(broken_mutex);
      broken = why;
    }
    kill(getpid(), SIGTERM);
  });
  SLUICE_RETURN_IF_ERROR(loop.start(resolved));
  const Services services{.frontend = frontend,
                          .queue = queue,
                          .model = loaded->info,
                          .model_directory = loaded->directory,
                          .tokenizer = tokenizer,
                          .chat_format = loaded->chat_format,
                          .chat_status = loaded->chat_status,
                          .clock = clock,
                          .version = SLUICE_VERSION,
                          .report = [&] { return report_of(loop.snapshot(), *loaded, resolved); },
                          .expert_load = [&] { return report_of(loop.expert_load()); }};
  const int64_t max_bytes = int64_t{resolved.max_message_mib} << 20;
  SLUICE_ASSIGN_OR_RETURN(
      const auto grpc,
      GrpcServer::start(
          {.address = resolved.grpc, .max_message_bytes = max_bytes, .tls = tls, .authenticator = authenticator.get()},
          services));
  std::unique_ptr<HttpServer> http;
  if (resolved.http != "off") {
    SLUICE_ASSIGN_OR_RETURN(http, HttpServer::start({.address = resolved.http, .max_body_bytes = max_bytes}, services));
    http->set_ready(true);
  }
  grpc->set_ready(true);
  std::printf("ready grpc=%s%s\n", grpc->address().c_str(), http ? (" http=" + http->address()).c_str() : "");
  std::fflush(stdout);

  const int signal = wait_for_signal(signals, authenticator.get());
  log_info("{}: draining, {} answers have {} s to end", signal == SIGTERM ? "SIGTERM" : "SIGINT", frontend.num_open(),
           resolved.drain_seconds);
  const auto grace = std::chrono::duration_cast<Duration>(std::chrono::duration<double>(resolved.drain_seconds));
  if (http) http->set_ready(false);
  const bool complete = grpc->shutdown(grace);  // waits for the answers of both
  if (http) http->shutdown(Duration{});
  loop.drain(Duration{});
  log_info("stopped{}", complete ? "" : "; some answers were cut");
  const std::lock_guard lock(broken_mutex);
  return broken;
}

}  // namespace

Action add_serve(CLI::App& app) {
  auto command = std::make_shared<ServeCommand>();
  command->options.add_to(app);
  return [command] { return command->run(); };
}

}  // namespace sluice
