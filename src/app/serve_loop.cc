#include "app/serve_loop.h"

#include <algorithm>

namespace sluice {

namespace {

// How long the loop sleeps at most without a command: bounds the time in which a deadline or a stop is noticed.
constexpr Duration kIdleWait = std::chrono::milliseconds(50);

// How often ranks without work hear of each other: with the timeout of collectives it bounds how long a lost rank goes
// unnoticed.
constexpr Duration kSignOfLifeInterval = std::chrono::seconds(1);

std::vector<int32_t> routed_layers(const ModelConfig& config) {
  std::vector<int32_t> layers;
  for (int32_t layer = 0; layer < config.num_hidden_layers; ++layer)
    if (config.is_moe_layer(layer)) layers.push_back(layer);
  return layers;
}

}  // namespace

ServeLoop::ServeLoop(LoadedModel& loaded, const Options& options, RequestQueue& queue, TokenSink& sink)
    : queue_(queue),
      core_(loaded, options, sink,
            {.trace = {}, .left_waiting = [this](int64_t num_tokens) { queue_.release(num_tokens); }}),
      expert_load_(routed_layers(loaded.config), loaded.config.n_routed_experts) {
  core_.executor().set_observer(expert_load_.observer());
}

Status ServeLoop::start(const Options& options) {
  SLUICE_RETURN_IF_ERROR(core_.open_disk(options));
  thread_ = std::thread([this] { run(); });
  return {};
}

ServeLoop::~ServeLoop() {
  queue_.close();
  stopping_ = true;
  if (thread_.joinable()) thread_.join();
}

bool ServeLoop::drain(Duration grace) {
  queue_.close();
  const TimePoint end = std::chrono::steady_clock::now() + grace;
  while (!idle_ && std::chrono::steady_clock::now() < end) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  const bool complete = idle_;
  stopping_ = true;
  if (thread_.joinable()) thread_.join();
  return complete;
}

void ServeLoop::apply(Command& command) {
  if (auto* request = std::get_if<Request>(&command)) {
    core_.scheduler().submit(std::move(*request), std::chrono::steady_clock::now());
  } else if (const auto* cancel = std::get_if<CancelCommand>(&command)) {
    core_.scheduler().cancel(cancel->request);
  } else if (const auto* finish = std::get_if<FinishCommand>(&command)) {
    core_.scheduler().finish(finish->request, finish->choice, finish->num_tokens);
  }
}

void ServeLoop::watch_group(bool worked, TimePoint& heard) {
  const TimePoint now = std::chrono::steady_clock::now();
  if (worked) heard = now;
  if (now - heard > kSignOfLifeInterval) {
    const Status alive = core_.executor().give_sign_of_life();
    if (!alive.ok()) core_.scheduler().cancel_all(alive);
    heard = std::chrono::steady_clock::now();
  }
  if (core_.executor().group_status().ok() || !on_broken_group_) return;
  core_.scheduler().cancel_all(core_.executor().group_status());
  on_broken_group_(core_.executor().group_status());
  on_broken_group_ = {};
}

void ServeLoop::run() {
  const TimePoint began = std::chrono::steady_clock::now();
  TimePoint heard = began;  // of the other ranks
  double busy = 0;
  bool worked = false;
  while (!stopping_) {
    Duration wait{};
    if (!worked) {
      const TimePoint deadline = core_.scheduler().next_deadline();
      wait = deadline == kNever
                 ? kIdleWait
                 : std::clamp<Duration>(deadline - std::chrono::steady_clock::now(), Duration{1}, kIdleWait);
    }
    std::vector<Command> commands = queue_.drain(wait);
    for (Command& command : commands) apply(command);
    const TimePoint step_began = std::chrono::steady_clock::now();
    worked = core_.step();
    if (worked) busy += seconds(std::chrono::steady_clock::now() - step_began);
    watch_group(worked, heard);
    publish_snapshot(began, busy);
    // A drained queue stays closed and empty, so idle is final then. The closed flag is read before the queue is found
    // empty: what was let in before the close has been applied.
    const bool closed = queue_.closed();
    if (closed && !worked && core_.scheduler().idle()) {
      commands = queue_.drain(Duration{});
      for (Command& command : commands) apply(command);
      idle_ = core_.scheduler().idle();
      if (idle_) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  // Whoever still waits or runs hears that it is over.
  for (Command& command : queue_.drain(Duration{})) apply(command);
  core_.scheduler().cancel_all(unavailable("the server is shutting down"));
  core_.cache().flush_disk();
  publish_snapshot(began, busy);
}

void ServeLoop::publish_snapshot(TimePoint began, double busy) {
  const PagePool& pool = core_.cache().pool();
  const HostTier& host = core_.cache().host();
  std::lock_guard lock(snapshot_mutex_);
  snapshot_ = {.scheduler = core_.scheduler().stats(),
               .cache = core_.cache().stats(),
               .times = core_.executor().times(),
               .pages_total = pool.num_pages(),
               .pages_used = pool.num_pages() - pool.num_free() - pool.num_cached(),
               .pages_cached = pool.num_cached(),
               .host_pages_total = host.num_slots(),
               .host_pages_cached = host.num_slots() - host.num_free(),
               .busy_seconds = busy,
               .wall_seconds = seconds(std::chrono::steady_clock::now() - began)};
}

LoopSnapshot ServeLoop::snapshot() const {
  std::lock_guard lock(snapshot_mutex_);
  return snapshot_;
}

}  // namespace sluice
