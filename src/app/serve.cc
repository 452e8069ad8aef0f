// `sluice serve`: the server from start to drain. Threads: this one waits for signals; the loop thread computes; the
// front end has its detokeniser thread; gRPC and HTTP bring their own.
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <mutex>
#include <thread>

#include "sluice/log.h"

#include "app/answer_log.h"
#include "app/commands.h"
#include "app/grammar.h"
#include "app/loop_report.h"
#include "app/rank_processes.h"
#include "app/reloader.h"
#include "app/serve_checks.h"
#include "app/serve_loop.h"
#include "base/structured_log.h"
#include "server/grpc_server.h"
#include "server/http_server.h"
#include "server/span_exporter.h"

namespace sluice {

namespace {

struct ServeCommand {
  OptionFlags options;

  Status run();
};

// SIGTERM, SIGINT and, where there is something to read again, SIGHUP are taken by next_signal() alone; blocked before
// any thread starts, so that all inherit it.
sigset_t block_signals(bool with_hangup) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  if (with_hangup) sigaddset(&set, SIGHUP);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  return set;
}

// Waits so long at most; 0 if none came.
int next_signal(const sigset_t& set, std::chrono::milliseconds patience) {
  const timespec time{.tv_sec = patience.count() / 1000, .tv_nsec = patience.count() % 1000 * 1'000'000};
  return std::max(0, sigtimedwait(&set, nullptr, &time));
}

const char* name_of(int signal) { return signal == SIGTERM ? "SIGTERM" : "SIGINT"; }

// The one that ends the server; meanwhile files that change are read again.
int wait_for_end(const sigset_t& set, Reloader& reloader) {
  while (true) {
    const int signal = next_signal(set, std::chrono::seconds(1));
    if (signal == SIGHUP) reloader.reload();
    if (signal == SIGTERM || signal == SIGINT) return signal;
    reloader.tick();
  }
}

// Hears signals while the main thread is busy with something that takes long: loads, or drains.
class SignalListener {
 public:
  SignalListener(const sigset_t& set, std::function<void(int)> on_end)
      : thread_([this, set, on_end = std::move(on_end)] {
          while (!done_)
            if (const int signal = next_signal(set, std::chrono::milliseconds(50));
                signal == SIGTERM || signal == SIGINT)
              on_end(signal);
        }) {}
  ~SignalListener() {
    done_ = true;
    thread_.join();
  }

 private:
  std::atomic<bool> done_{false};
  std::thread thread_;
};

// Nobody is served yet, so nobody is waited for.
void end_while_loading(int signal) {
  log_info("{} while loading: nothing was served yet", name_of(signal));
  std::_Exit(128 + signal);
}

Result<std::unique_ptr<Authenticator>> load_tokens(const Options& options) {
  if (options.auth_tokens.empty()) return std::unique_ptr<Authenticator>();
  return Authenticator::load(options.auth_tokens);
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
  const TimePoint begin = std::chrono::steady_clock::now();
  ServingCore core(loaded, cold, sink);
  Request request;
  request.prompt.assign(static_cast<size_t>(std::min(64, loaded.info.context_length / 2)), 0);
  request.sampling.temperature = 0;
  request.stop.max_tokens = 4;
  request.stop.ignore_eos = true;
  log_debug("warm-up: {} prompt tokens, {} tokens", request.prompt.size(), request.stop.max_tokens);
  core.scheduler().submit(std::move(request), begin);
  while (core.step()) {
  }
  log_info("warmed up in {:.2f} s", seconds(std::chrono::steady_clock::now() - begin));
}

std::unique_ptr<SpanExporter> make_exporter(const Options& options, const ModelInfo& model) {
  if (options.trace_endpoint.empty()) return nullptr;
  return std::make_unique<SpanExporter>(SpanExporterOptions{.endpoint = options.trace_endpoint,
                                                            .sample_ratio = options.trace_sample_ratio,
                                                            .service_version = SLUICE_VERSION,
                                                            .model = model.name});
}

Status ServeCommand::run() {
  SLUICE_ASSIGN_OR_RETURN(const Options resolved, options.resolve());
  set_up_logging(resolved.log_level.c_str());
  if (resolved.log_format == "json") use_json_logs();
  Reloader::Files files = Reloader::look(options, resolved);
  const TlsFiles tls = tls_files(resolved);
  SLUICE_RETURN_IF_ERROR(check_security(resolved));
  SLUICE_ASSIGN_OR_RETURN(const auto authenticator, load_tokens(resolved));
  SLUICE_RETURN_IF_ERROR(check_folders(resolved));
  SLUICE_ASSIGN_OR_RETURN(const Launch launch, read_launch(resolved.tp));
  // Rank 0 alone listens; its addresses need not be those of the others' machines.
  if (!launch.is_rank || launch.rank == 0) SLUICE_RETURN_IF_ERROR(check_addresses(resolved));
  if (!launch.is_rank) return run_rank_processes(launch, true);
  const sigset_t signals = block_signals(authenticator || !tls.empty() || !options.config_file().empty());
  raise_file_limit();
  std::optional<SignalListener> listener(std::in_place, signals, end_while_loading);
  SLUICE_ASSIGN_OR_RETURN(const auto loaded, LoadedModel::load(resolved));
  if (!loaded->leads()) {
    listener.reset();  // the end is rank 0's to say
    return follow(*loaded, resolved);
  }
  if (!loaded->chat_format) log_warn("chat is off: {}", loaded->chat_status.message());
  warm_up(*loaded, resolved);
  listener.reset();

  const SteadyClock clock;
  RequestQueue queue({.max_requests = resolved.queue_requests, .max_tokens = resolved.queue_tokens});
  const Tokenizer* tokenizer = loaded->tokenizer ? &*loaded->tokenizer : nullptr;
  const auto exporter = make_exporter(resolved, loaded->info);  // outlives the front end, which hands it what ended
  AnswerLog answer_log;                                         // this, too
  Frontend frontend(queue, tokenizer, clock);
  const auto compiler = make_compiler(*loaded, resolved);  // ends before the front end, to which it hands requests
  frontend.set_compiler(compiler.get());
  frontend.set_observer([&](const AnswerRecord& record) {
    answer_log.record(record);
    if (exporter) exporter->record(record);
  });
  // Whoever waits for the group is told; the end is that of SIGTERM, after which whoever started the ranks does it again.
  std::mutex broken_mutex;
  Status broken;
  ServeLoop loop(*loaded, resolved, queue, frontend);
  loop.on_broken_group([&](const Status& why) {
    log_error("nothing can be computed any more: {}", why.to_string());
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
                          .has_grammars = compiler != nullptr,
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
    SLUICE_ASSIGN_OR_RETURN(http, HttpServer::start({.address = resolved.http,
                                                     .max_body_bytes = max_bytes,
                                                     .tls = tls,
                                                     .authenticator = authenticator.get(),
                                                     .own_pages_only = !authenticator && !resolved.insecure},
                                                    services));
    http->set_ready(true);
  }
  grpc->set_ready(true);
  std::printf("ready grpc=%s%s\n", grpc->address().c_str(), http ? (" http=" + http->address()).c_str() : "");
  std::fflush(stdout);

  Reloader reloader(
      options, resolved, std::move(files),
      {.queue = queue, .frontend = frontend, .authenticator = authenticator.get(), .grpc = *grpc, .http = http.get()});
  const int signal = wait_for_end(signals, reloader);
  const double drain_seconds = reloader.options().drain_seconds;
  if (http) http->set_ready(false);
  grpc->set_ready(false);
  log_info("{}: draining, {} answers have {} s to end", name_of(signal), frontend.num_open(), drain_seconds);
  std::atomic<bool> impatient{false};
  listener.emplace(signals, [&](int again) {
    impatient = true;
    log_warn("{} again: {} answers are cut", name_of(again), frontend.num_open());
    frontend.fail_all(unavailable("the server is shutting down"));
  });
  const auto grace = std::chrono::duration_cast<Duration>(std::chrono::duration<double>(drain_seconds));
  const bool complete = grpc->shutdown(grace);  // waits for the answers of both
  if (http) http->shutdown(Duration{});
  listener.reset();
  loop.drain(Duration{});
  log_info("stopped{}", complete && !impatient ? "" : "; some answers were cut");
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
