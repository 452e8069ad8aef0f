#include "server/kserve_answer.h"

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <utility>

#include "server/kserve_tensors.h"
#include "server/wire.h"

namespace sluice {

namespace {

void set(int64_t count, Duration time, inference::StatisticDuration* out) {
  out->set_count(static_cast<uint64_t>(count));
  out->set_ns(static_cast<uint64_t>(time.count()));
}

// As vLLM's back end writes it: Python's None while there is no reason.
std::string reason_of(FinishReason finish) { return finish == FinishReason::kNone ? "None" : name(finish); }

}  // namespace

void InferCounts::add_success(const GenerationEnd& end) {
  const Usage& usage = end.usage;
  std::lock_guard lock(mutex_);
  ++num_successes_;
  success_time_ += end.total_time;
  queue_time_ += usage.queue_time;
  prefill_time_ += usage.prefill_time;
  decode_time_ += usage.decode_time;
  output_time_ += std::max(Duration{}, end.total_time - usage.queue_time - usage.prefill_time - usage.decode_time);
  last_inference_ms_ =
      std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch())
          .count();
}

void InferCounts::add_failure(Duration total) {
  std::lock_guard lock(mutex_);
  ++num_failures_;
  failure_time_ += total;
}

void InferCounts::fill(inference::ModelStatistics* out) const {
  std::lock_guard lock(mutex_);
  out->set_last_inference(static_cast<uint64_t>(last_inference_ms_));
  out->set_inference_count(static_cast<uint64_t>(num_successes_));
  out->set_execution_count(static_cast<uint64_t>(num_successes_));
  inference::InferStatistics& stats = *out->mutable_inference_stats();
  set(num_successes_, success_time_, stats.mutable_success());
  set(num_failures_, failure_time_, stats.mutable_fail());
  set(num_successes_, queue_time_, stats.mutable_queue());
  set(num_successes_, prefill_time_, stats.mutable_compute_input());
  set(num_successes_, decode_time_, stats.mutable_compute_infer());
  set(num_successes_, output_time_, stats.mutable_compute_output());
  set(0, {}, stats.mutable_cache_hit());
  set(0, {}, stats.mutable_cache_miss());
}

InferRenderer::InferRenderer(InferOptions options, const CheckedRequest& checked, const Services& services,
                             InferCounts& counts)
    : options_(std::move(options)),
      model_(services.model.name),
      prompt_text_(options_.prepend_input ? checked.prompt_text : ""),
      num_input_tokens_(static_cast<uint32_t>(checked.task.request.prompt.size())),
      tokenizer_(services.tokenizer),
      counts_(counts),
      choices_(static_cast<size_t>(checked.task.request.num_choices)) {
  for (Choice& choice : choices_) choice.text = prompt_text_;
}

InferRenderer::~InferRenderer() {
  if (!closed_) counts_.add_failure({});
}

Status InferRenderer::close(const GenerationEnd& end) {
  closed_ = true;
  if (end.status.ok()) {
    counts_.add_success(end);
  } else {
    counts_.add_failure(end.total_time);
  }
  return end.status;
}

void InferRenderer::add(GenerationDelta&& delta) {
  Choice& choice = choices_[static_cast<size_t>(delta.choice)];
  choice.text += delta.text;
  choice.num_tokens += std::ssize(delta.token_ids);
  for (PositionLogprobs& position : delta.logprobs) {
    if (position.chosen) choice.cumulative_logprob += position.chosen->logprob;
    choice.logprobs.push_back(std::move(position));
  }
  choice.finish = delta.finish;
}

std::string InferRenderer::logprobs_json(const std::vector<PositionLogprobs>& positions) const {
  const auto entry = [this](const TokenLogprob& token, int64_t rank) {
    const Result<std::string> text = tokenizer_->decode({token.token});  // rows of the head without a token have none
    nlohmann::json out = {{"logprob", token.logprob}, {"decoded_token", text.ok() ? *text : ""}};
    out["rank"] = rank > 0 ? nlohmann::json(rank) : nlohmann::json();
    return out;
  };
  nlohmann::json list = nlohmann::json::array();
  for (const PositionLogprobs& position : positions) {
    nlohmann::json tokens = nlohmann::json::object();
    // The rank of a drawn token that is none of the most likely is not known.
    if (position.chosen) tokens[std::to_string(position.chosen->token)] = entry(*position.chosen, 0);
    for (size_t i = 0; i < position.top.size(); ++i)
      tokens[std::to_string(position.top[i].token)] = entry(position.top[i], static_cast<int64_t>(i) + 1);
    list.push_back(std::move(tokens));
  }
  return list.dump();
}

std::optional<inference::ModelInferResponse> InferRenderer::response(AnswerStream::Batch batch) {
  for (GenerationDelta& delta : batch.deltas) add(std::move(delta));
  // The last piece waits for the end, so that it is the one that says so.
  const bool all_finished =
      std::ranges::all_of(choices_, [](const Choice& c) { return c.finish != FinishReason::kNone; });
  if (all_finished && !batch.end) return std::nullopt;

  inference::ModelInferResponse out;
  out.set_model_name(model_);
  out.set_model_version(kModelVersion);
  out.set_id(options_.id);
  (*out.mutable_parameters())["triton_final_response"].set_bool_param(batch.end.has_value());
  std::vector<std::string> texts, reasons, logprobs;
  std::vector<float> cumulative;
  std::vector<uint32_t> num_tokens;
  for (Choice& choice : choices_) {
    texts.push_back(std::exchange(choice.text, {}));
    reasons.push_back(reason_of(choice.finish));
    cumulative.push_back(static_cast<float>(choice.cumulative_logprob));
    if (options_.logprobs) logprobs.push_back(logprobs_json(choice.logprobs));
    choice.logprobs.clear();
    num_tokens.push_back(static_cast<uint32_t>(std::exchange(choice.num_tokens, 0)));
  }
  if (options_.text) add_output("text_output", texts, options_.raw, &out);
  if (options_.finish_reason) add_output("finish_reason", reasons, options_.raw, &out);
  if (options_.cumulative_logprob) add_output("cumulative_logprob", cumulative, options_.raw, &out);
  if (options_.logprobs) add_output("logprobs", logprobs, options_.raw, &out);
  if (options_.num_input_tokens)
    add_output("num_input_tokens", std::vector<uint32_t>{num_input_tokens_}, options_.raw, &out);
  if (options_.num_output_tokens) add_output("num_output_tokens", num_tokens, options_.raw, &out);
  return out;
}

std::vector<grpc::ByteBuffer> InferRenderer::render(AnswerStream::Batch batch) {
  if (const auto message = response(std::move(batch))) return {serialize_message(*message)};
  return {};
}

}  // namespace sluice
