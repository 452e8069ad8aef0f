#include "app/bench/load.h"

#include <algorithm>
#include <thread>

#include "app/files.h"

namespace sluice {

namespace {

// How late Ctrl-C may be noticed while an open loop waits for the next arrival.
constexpr double kNapSeconds = 0.1;

void sleep_for_seconds(double time) { std::this_thread::sleep_for(std::chrono::duration<double>(time)); }

}  // namespace

TurnRecord Load::ask(const std::vector<TokenId>& prompt, int32_t output_tokens, std::vector<TokenId>& answer) {
  v1::GenerateRequest request;
  for (TokenId token : prompt) request.mutable_token_ids()->add_ids(static_cast<uint32_t>(token));
  request.mutable_sampling()->set_temperature(0);
  request.mutable_stopping()->set_max_tokens(output_tokens);
  request.mutable_stopping()->set_ignore_eos(true);
  TurnRecord record;
  record.sent = elapsed();
  record.status = client_.generate_stream(request, [&](const v1::Answer& message) {
    for (const v1::Choice& choice : message.choices()) {
      if (choice.token_ids().empty()) continue;
      const double now = elapsed();
      if (answer.empty()) {
        record.first_token = now;
      } else {
        record.gaps.push_back(now - record.last_token);
      }
      record.last_token = now;
      for (uint32_t id : choice.token_ids()) answer.push_back(static_cast<TokenId>(id));
    }
    if (message.has_usage()) {
      record.prompt_tokens = message.usage().prompt_tokens();
      record.cached_prompt_tokens = message.usage().cached_prompt_tokens();
      record.completion_tokens = message.usage().completion_tokens();
    }
    return !interrupted();
  });
  if (record.status.ok() && answer.empty()) record.status = internal_error("the answer holds no token");
  return record;
}

void Load::run_session(const Session& session) {
  std::vector<TokenId> said;
  for (const Turn& turn : session.turns) {
    said.insert(said.end(), turn.tokens.begin(), turn.tokens.end());
    std::vector<TokenId> answer;
    TurnRecord record = ask(said, turn.output_tokens, answer);
    said.insert(said.end(), answer.begin(), answer.end());
    const bool goes_on = record.status.ok();
    const std::lock_guard lock(mutex_);
    on_turn_(record);
    records_.push_back(std::move(record));
    if (!goes_on) return;
  }
}

std::vector<TurnRecord> Load::run_closed(int32_t concurrency) {
  std::atomic<size_t> next{0};
  {
    std::vector<std::jthread> threads;
    const auto count = std::min<size_t>(static_cast<size_t>(concurrency), sessions_.size());
    for (size_t i = 0; i < count; ++i)
      threads.emplace_back([&] {
        for (size_t mine = next++; mine < sessions_.size() && !interrupted(); mine = next++)
          run_session(sessions_[mine]);
      });
  }
  return std::move(records_);
}

std::vector<TurnRecord> Load::run_open(const std::vector<double>& arrivals) {
  {
    std::vector<std::jthread> threads;
    for (size_t i = 0; i < sessions_.size() && !interrupted(); ++i) {
      for (double left = arrivals[i] - elapsed(); left > 0 && !interrupted(); left = arrivals[i] - elapsed())
        sleep_for_seconds(std::min(left, kNapSeconds));
      threads.emplace_back([this, i] { run_session(sessions_[i]); });
    }
  }
  return std::move(records_);
}

}  // namespace sluice
