// A loop thread that computes nothing: takes commands from a RequestQueue and emits scripted tokens, one per choice and
// round, with the events that the real scheduler would emit. Counts what it was told.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "sluice/clock.h"
#include "sluice/request.h"

#include "base/request_queue.h"

namespace sluice {

class FakeLoop {
 public:
  // The tokens of one choice. If they run out before max_tokens, the answer goes on with the first ones again.
  using Script = std::function<std::vector<TokenId>(const Request& request, int32_t choice)>;

  FakeLoop(RequestQueue& queue, TokenSink& sink, const Clock& clock, std::vector<TokenId> eos, Script script)
      : queue_(queue), sink_(sink), clock_(clock), eos_(std::move(eos)), script_(std::move(script)) {
    thread_ = std::thread([this] { run(); });
  }
  ~FakeLoop() { stop(); }

  // Ends without a word to anybody, as if the loop had died.
  void stop() {
    stopping_ = true;
    if (thread_.joinable()) thread_.join();
  }

  void set_paused(bool paused) { paused_ = paused; }  // takes no commands and emits nothing
  void set_round(std::chrono::microseconds round) { round_us_ = round.count(); }
  void fail_next(Status status) {
    std::lock_guard lock(mutex_);
    failure_ = std::move(status);
  }

  int64_t num_cancelled() const { return num_cancelled_; }
  int64_t num_active() const { return num_active_; }
  std::vector<FinishCommand> finishes() const {
    std::lock_guard lock(mutex_);
    return finishes_;
  }
  std::vector<Request> requests() const {
    std::lock_guard lock(mutex_);
    return requests_;
  }

 private:
  struct Choice {
    std::vector<TokenId> script;
    int32_t num_generated = 0;
    bool open = true;
  };
  struct Active {
    Request request;
    std::vector<Choice> choices;
  };

  void run() {
    while (!stopping_) {
      std::this_thread::sleep_for(std::chrono::microseconds(round_us_));
      if (paused_) continue;
      for (Command& command : queue_.drain(Duration{})) apply(command);
      for (auto& [id, active] : active_) round(active);
      std::erase_if(active_, [](const auto& item) { return !is_open(item.second); });
      num_active_ = std::ssize(active_);
    }
  }

  static bool is_open(const Active& active) {
    return std::ranges::any_of(active.choices, [](const Choice& choice) { return choice.open; });
  }

  void apply(Command& command) {
    if (auto* request = std::get_if<Request>(&command)) {
      queue_.release(std::ssize(request->prompt));
      Active active{*request, {}};
      for (int32_t i = 0; i < request->num_choices; ++i) active.choices.push_back({script_(*request, i)});
      {
        std::lock_guard lock(mutex_);
        requests_.push_back(*request);
      }
      active_.emplace(value(request->id), std::move(active));
    } else if (const auto* cancel = std::get_if<CancelCommand>(&command)) {
      const auto place = active_.find(value(cancel->request));
      if (place == active_.end() || !is_open(place->second)) return;  // cancelled twice: by the call and by its write
      ++num_cancelled_;
      end_all(place->second, FinishReason::kCancelled, Status(StatusCode::kCancelled, "cancelled by the client"));
    } else if (const auto* finish = std::get_if<FinishCommand>(&command)) {
      {
        std::lock_guard lock(mutex_);
        finishes_.push_back(*finish);
      }
      const auto place = active_.find(value(finish->request));
      if (place == active_.end()) return;
      Choice& choice = place->second.choices[static_cast<size_t>(finish->choice)];
      if (!choice.open) return;
      choice.num_generated = finish->num_tokens;
      end(place->second, finish->choice, FinishReason::kStop, TokenEvent());
    }
  }

  void round(Active& active) {
    if (clock_.now() >= active.request.deadline) {
      end_all(active, FinishReason::kDeadline, Status(StatusCode::kDeadlineExceeded, "the deadline passed"));
      return;
    }
    if (Status failure = take_failure(); !failure.ok()) return end_all(active, FinishReason::kError, failure);
    for (int32_t i = 0; i < std::ssize(active.choices); ++i)
      if (active.choices[static_cast<size_t>(i)].open) step(active, i);
  }

  void step(Active& active, int32_t index) {
    Choice& choice = active.choices[static_cast<size_t>(index)];
    const Request& request = active.request;
    TokenEvent event;
    event.token = choice.script[static_cast<size_t>(choice.num_generated) % choice.script.size()];
    if (request.num_logprobs >= 0) event.logprob = -0.5f;
    for (int32_t k = 0; k < request.num_logprobs; ++k) event.top_logprobs.push_back({k + 1, -0.5f * float(k + 1)});
    if (index == 0 && choice.num_generated == 0 && request.num_prompt_logprobs >= 0) {
      event.prompt_logprobs.resize(request.prompt.size());
      for (size_t i = 1; i < request.prompt.size(); ++i) event.prompt_logprobs[i].push_back({request.prompt[i], -1.0f});
    }
    ++choice.num_generated;
    const auto& stops = request.stop.stop_token_ids;
    const bool is_eos = !request.stop.ignore_eos && std::ranges::find(eos_, *event.token) != eos_.end();
    if (choice.num_generated > request.stop.min_tokens &&
        (is_eos || std::ranges::find(stops, *event.token) != stops.end())) {
      event.matched_token = event.token;
      end(active, index, FinishReason::kStop, std::move(event));
    } else if (choice.num_generated >= request.stop.max_tokens) {
      end(active, index, FinishReason::kLength, std::move(event));
    } else {
      event.request = request.id;
      event.choice = index;
      sink_.emit(std::move(event));
    }
  }

  void end(Active& active, int32_t index, FinishReason reason, TokenEvent event) {
    Choice& choice = active.choices[static_cast<size_t>(index)];
    choice.open = false;
    event.request = active.request.id;
    event.choice = index;
    event.finish = reason;
    event.usage.prompt_tokens = static_cast<int32_t>(active.request.prompt.size());
    event.usage.cached_prompt_tokens = 1;
    event.usage.completion_tokens = choice.num_generated;
    event.usage.queue_time = std::chrono::milliseconds(1);
    event.usage.prefill_time = std::chrono::milliseconds(2);
    event.usage.decode_time = std::chrono::milliseconds(10) * std::max(0, choice.num_generated - 1);
    sink_.emit(std::move(event));
  }

  void end_all(Active& active, FinishReason reason, const Status& error) {
    for (int32_t i = 0; i < std::ssize(active.choices); ++i) {
      if (!active.choices[static_cast<size_t>(i)].open) continue;
      TokenEvent event;
      event.error = error;
      end(active, i, reason, std::move(event));
    }
  }

  Status take_failure() {
    std::lock_guard lock(mutex_);
    return std::exchange(failure_, Status());
  }

  RequestQueue& queue_;
  TokenSink& sink_;
  const Clock& clock_;
  const std::vector<TokenId> eos_;
  const Script script_;
  std::map<uint64_t, Active> active_;
  std::atomic<bool> stopping_{false}, paused_{false};
  std::atomic<int64_t> round_us_{200}, num_cancelled_{0}, num_active_{0};
  mutable std::mutex mutex_;
  std::vector<FinishCommand> finishes_;
  std::vector<Request> requests_;
  Status failure_;
  std::thread thread_;
};

}  // namespace sluice
