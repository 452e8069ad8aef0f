#include "app/answer_log.h"

#include "sluice/clock.h"

#include "base/structured_log.h"

namespace sluice {

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

}  // namespace sluice
