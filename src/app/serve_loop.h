// The one thread that owns scheduler, cache and engine while the server runs: takes commands from the queue, steps, and
// sleeps when there is nothing to do. Everybody else talks to it through the RequestQueue and hears from it through the
// sink.
#pragma once

#include <atomic>
#include <functional>
#include <mutex>
#include <thread>

#include "app/serving_core.h"
#include "base/request_queue.h"
#include "engine/expert_load.h"

namespace sluice {

// A snapshot for GetServer and metrics, taken between steps.
struct LoopSnapshot {
  SchedulerStats scheduler;
  CacheStats cache;
  StepTimes times;
  int32_t pages_total = 0, pages_used = 0, pages_cached = 0;
  int32_t host_pages_total = 0, host_pages_cached = 0;
  double busy_seconds = 0;  // inside steps
  double wall_seconds = 0;  // since the loop began
};

class ServeLoop {
 public:
  ServeLoop(LoadedModel& loaded, const Options& options, RequestQueue& queue, TokenSink& sink);
  // Called once, from the loop thread, when the group of ranks breaks: every answer has ended with UNAVAILABLE by then,
  // and every later one will. Before start().
  void on_broken_group(std::function<void(const Status&)> call) { on_broken_group_ = std::move(call); }
  // Opens the disk tier if the options name one, then starts the thread. Once.
  Status start(const Options& options);
  // Stops at once; running answers end with kCancelled.
  ~ServeLoop();

  // Closes the queue and waits until all answers have ended, or `grace` has passed; the rest is then cancelled. True if
  // nothing had to be cancelled.
  bool drain(Duration grace);

  LoopSnapshot snapshot() const;
  const ExpertLoad& expert_load() const { return expert_load_; }

 private:
  void run();
  void apply(Command& command);
  void watch_group(bool worked, TimePoint& heard);
  void publish_snapshot(TimePoint began, double busy);

  RequestQueue& queue_;
  ServingCore core_;
  ExpertLoad expert_load_;
  std::function<void(const Status&)> on_broken_group_;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> idle_{false};
  mutable std::mutex snapshot_mutex_;
  LoopSnapshot snapshot_;
  std::thread thread_;
};

}  // namespace sluice
