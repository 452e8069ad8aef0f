#include "server/answer_proto.h"

#include <utility>

#include "server/wire.h"

namespace sluice {

namespace {

v1::FinishReason to_proto(FinishReason reason) {
  switch (reason) {
    case FinishReason::kNone:
      return v1::FINISH_REASON_UNSPECIFIED;
    case FinishReason::kStop:
      return v1::FINISH_REASON_STOP;
    case FinishReason::kLength:
      return v1::FINISH_REASON_LENGTH;
    case FinishReason::kCancelled:
      return v1::FINISH_REASON_CANCELLED;
    case FinishReason::kDeadline:
      return v1::FINISH_REASON_DEADLINE;
    case FinishReason::kError:
      return v1::FINISH_REASON_ERROR;
  }
  return v1::FINISH_REASON_UNSPECIFIED;
}

void fill(const TokenLogprob& from, const Tokenizer* tokenizer, v1::TokenLogprob* to) {
  to->set_token_id(static_cast<uint32_t>(from.token));
  to->set_logprob(from.logprob);
  if (tokenizer) to->set_token(std::string(tokenizer->token_bytes(from.token)));
}

void fill(const PositionLogprobs& from, const Tokenizer* tokenizer, v1::PositionLogprobs* to) {
  if (from.chosen) fill(*from.chosen, tokenizer, to->mutable_chosen());
  for (const TokenLogprob& candidate : from.top) fill(candidate, tokenizer, to->add_top());
}

void fill(GenerationDelta&& from, const Tokenizer* tokenizer, v1::Choice* to) {
  to->set_index(from.choice);
  to->set_text(std::move(from.text));
  to->mutable_token_ids()->Assign(from.token_ids.begin(), from.token_ids.end());
  for (const PositionLogprobs& position : from.logprobs) fill(position, tokenizer, to->add_logprobs());
  to->set_finish_reason(to_proto(from.finish));
  if (from.matched_stop) to->set_matched_stop_string(std::move(*from.matched_stop));
  if (from.matched_token) to->set_matched_token_id(static_cast<uint32_t>(*from.matched_token));
}

void fill(const GenerationEnd& from, v1::Answer* to) {
  v1::Usage& usage = *to->mutable_usage();
  usage.set_prompt_tokens(from.usage.prompt_tokens);
  usage.set_cached_prompt_tokens(from.usage.cached_prompt_tokens);
  usage.set_completion_tokens(from.usage.completion_tokens);
  v1::Timings& timings = *to->mutable_timings();
  timings.set_queue_seconds(seconds(from.usage.queue_time));
  timings.set_prefill_seconds(seconds(from.usage.prefill_time));
  timings.set_first_token_seconds(seconds(from.usage.queue_time + from.usage.prefill_time));
  timings.set_total_seconds(seconds(from.total_time));
  timings.set_seconds_per_token(seconds(from.time_per_token));
}

void fill_prompt(const AnswerHead& head, v1::Prompt* to) {
  to->mutable_token_ids()->Assign(head.prompt.begin(), head.prompt.end());
  if (head.echo) to->set_text(head.prompt_text);
}

class NativeRenderer final : public AnswerRenderer {
 public:
  NativeRenderer(AnswerHead head, const Tokenizer* tokenizer) : head_(std::move(head)), tokenizer_(tokenizer) {}

  std::vector<grpc::ByteBuffer> render(AnswerStream::Batch batch) override {
    return {serialize_message(to_proto(std::move(batch), head_, std::exchange(first_, false), tokenizer_))};
  }

 private:
  const AnswerHead head_;
  const Tokenizer* const tokenizer_;
  bool first_ = true;
};

}  // namespace

AnswerHead head_of(const CheckedRequest& checked, const std::string& request_id, const ModelInfo& model) {
  const Request& request = checked.task.request;
  AnswerHead head{.request_id = request_id,
                  .model = model.name,
                  .seed = request.sampling.seed,
                  .echo = checked.echo,
                  .prompt_logprobs = request.num_prompt_logprobs >= 0,
                  .prompt_text = checked.prompt_text,
                  .prompt = {}};
  if (head.echo || head.prompt_logprobs) head.prompt = request.prompt;
  return head;
}

v1::Answer to_proto(AnswerStream::Batch batch, const AnswerHead& head, bool first, const Tokenizer* tokenizer) {
  v1::Answer answer;
  answer.set_request_id(head.request_id);
  answer.set_model(head.model);
  if (first && (head.echo || head.prompt_logprobs)) fill_prompt(head, answer.mutable_prompt());
  for (GenerationDelta& delta : batch.deltas) {
    for (const PositionLogprobs& position : delta.prompt_logprobs)
      fill(position, tokenizer, answer.mutable_prompt()->add_logprobs());
    fill(std::move(delta), tokenizer, answer.add_choices());
  }
  if (batch.end) {
    fill(*batch.end, &answer);
    answer.set_seed(static_cast<int64_t>(head.seed));
  }
  return answer;
}

std::unique_ptr<AnswerRenderer> native_renderer(const CheckedRequest& checked, const Services& services) {
  return std::make_unique<NativeRenderer>(head_of(checked, checked.task.client_id, services.model), services.tokenizer);
}

v1::Model model_to_proto(const Services& services) {
  const ModelInfo& info = services.model;
  v1::Model model;
  model.set_name(info.name);
  model.set_architecture(info.architecture);
  model.set_weights(info.weights);
  model.set_device(info.device);
  model.set_vocab_size(info.vocab_size);
  model.set_context_length(info.context_length);
  model.set_num_parameters(info.num_parameters);
  model.set_num_active_parameters(info.num_active_parameters);
  model.mutable_eos_token_ids()->Assign(info.eos_token_ids.begin(), info.eos_token_ids.end());
  if (info.bos_token_id) model.set_bos_token_id(static_cast<uint32_t>(*info.bos_token_id));
  model.set_has_tokenizer(services.tokenizer != nullptr);
  if (services.chat_format) model.set_chat_format(name(*services.chat_format));
  const SamplingParams& sampling = info.default_sampling;
  v1::Sampling& out = *model.mutable_default_sampling();
  out.set_temperature(sampling.temperature);
  out.set_top_k(sampling.top_k);
  out.set_top_p(sampling.top_p);
  out.set_min_p(sampling.min_p);
  out.set_repetition_penalty(sampling.repetition_penalty);
  out.set_presence_penalty(sampling.presence_penalty);
  out.set_frequency_penalty(sampling.frequency_penalty);
  model.set_default_max_tokens(info.default_max_tokens);
  return model;
}

}  // namespace sluice
