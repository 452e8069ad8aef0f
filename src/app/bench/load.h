// Puts a load on a server: sessions over one channel, each in a thread of its own while it runs, either so many at once
// (closed loop) or each at its time, whatever the server does (open loop). Owns the threads and the clock of the run.
#pragma once

#include <atomic>
#include <functional>
#include <mutex>
#include <vector>

#include "app/bench/workload.h"
#include "server/client.h"

namespace sluice {

// One turn as its client saw it. Times in seconds after the run's begin.
struct TurnRecord {
  Status status;
  double sent = 0, first_token = 0, last_token = 0;
  std::vector<double> gaps;  // between messages that carried tokens
  int32_t prompt_tokens = 0, cached_prompt_tokens = 0, completion_tokens = 0;
};

class Load {
 public:
  // Called after each turn, from any thread, one at a time.
  using OnTurn = std::function<void(const TurnRecord&)>;

  Load(Client& client, const std::vector<Session>& sessions, OnTurn on_turn)
      : client_(client), sessions_(sessions), on_turn_(std::move(on_turn)) {}

  // A turn of a session is asked when the one before it has ended. Ctrl-C ends the run early. Once.
  std::vector<TurnRecord> run_closed(int32_t concurrency);
  std::vector<TurnRecord> run_open(const std::vector<double>& arrivals);  // of session i, ascending

 private:
  double elapsed() const { return seconds(std::chrono::steady_clock::now() - begin_); }
  void run_session(const Session& session);
  TurnRecord ask(const std::vector<TokenId>& prompt, int32_t output_tokens, std::vector<TokenId>& answer);

  Client& client_;
  const std::vector<Session>& sessions_;
  const OnTurn on_turn_;
  const TimePoint begin_ = std::chrono::steady_clock::now();
  std::mutex mutex_;
  std::vector<TurnRecord> records_;
};

}  // namespace sluice
