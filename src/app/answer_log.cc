#include "app/answer_log.h"

#include <utility>

#include "sluice/clock.h"
#include "sluice/log.h"

#include "base/structured_log.h"

namespace sluice {

namespace {

void log_answer(const AnswerRecord& record) {
  const Usage& usage = record.end.usage;
  LogFields fields = {{"request_id", record.request_id}};
  if (!record.client.empty()) fields.emplace_back("client", record.client);
  if (record.trace) {
    fields.emplace_back("trace_id", trace_hex(record.trace->trace_id.data(), record.trace->trace_id.size()));
    fields.emplace_back("parent_span_id", trace_hex(record.trace->span_id.data(), record.trace->span_id.size()));
  }
  if (record.finish != FinishReason::kNone) fields.emplace_back("finish_reason", name(record.finish));
  if (!record.end.status.ok()) fields.emplace_back("error", record.end.status.to_string());
  fields.insert(fields.end(), {{"prompt_tokens", int64_t{usage.prompt_tokens}},
                               {"cached_prompt_tokens", int64_t{usage.cached_prompt_tokens}},
                               {"completion_tokens", int64_t{usage.completion_tokens}},
                               {"queue_seconds", seconds(usage.queue_time)},
                               {"first_token_seconds", seconds(usage.queue_time + usage.prefill_time)},
                               {"total_seconds", seconds(record.end.total_time)}});
  log_event("request ended", fields);
}

}  // namespace

AnswerLog::AnswerLog(size_t max_waiting) : max_waiting_(max_waiting), thread_([this] { run(); }) {}

AnswerLog::~AnswerLog() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  came_.notify_one();
  thread_.join();
}

void AnswerLog::record(const AnswerRecord& record) {
  {
    const std::lock_guard lock(mutex_);
    if (waiting_.size() >= max_waiting_) {
      ++num_dropped_;
      return;
    }
    waiting_.push_back(record);
  }
  came_.notify_one();
}

void AnswerLog::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    came_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
    const std::vector<AnswerRecord> records = std::exchange(waiting_, {});
    const int64_t dropped = std::exchange(num_dropped_, 0);
    if (records.empty() && stopping_) return;
    lock.unlock();
    for (const AnswerRecord& record : records) log_answer(record);
    if (dropped > 0) log_warn("{} lines of ended requests are missing here: the log is not read fast enough", dropped);
    lock.lock();
  }
}

}  // namespace sluice
