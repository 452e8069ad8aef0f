#include "server/fmaas_answer.h"

#include <utility>

#include "server/wire.h"
#include "tokenizer/byte_level.h"

namespace sluice {

std::string token_spelling(TokenId token, const Tokenizer& tokenizer) {
  const std::string_view bytes = tokenizer.token_bytes(token);
  if (tokenizer.is_special(token)) return std::string(bytes);
  std::string spelling;
  for (char byte : bytes) spelling += spelling_of_byte(static_cast<uint8_t>(byte));
  return spelling;
}

FmaasRenderer::FmaasRenderer(const CheckedRequest& checked, const fmaas::Parameters& params, const Services& services)
    : tokenizer_(services.tokenizer),
      options_(params.response()),
      prompt_(checked.task.request.prompt),
      prompt_text_(checked.prompt_text),
      seed_(params.method() == fmaas::SAMPLE ? std::optional(checked.task.request.sampling.seed) : std::nullopt),
      max_tokens_(checked.task.request.stop.max_tokens),
      time_limited_(params.stopping().time_limit_millis() > 0),
      include_stop_(!params.stopping().has_include_stop_sequence() || params.stopping().include_stop_sequence()) {}

Status FmaasRenderer::close(const GenerationEnd& end) {
  if (end.status.code() == StatusCode::kCancelled) return {};
  if (end.status.code() == StatusCode::kDeadlineExceeded && time_limited_) return {};
  return end.status;
}

void FmaasRenderer::fill(TokenId token, const PositionLogprobs* position, fmaas::TokenInfo* out) const {
  out->set_text(token_spelling(token, *tokenizer_));
  if (!position) return;
  if (options_.token_logprobs() && position->chosen) out->set_logprob(position->chosen->logprob);
  for (const TokenLogprob& candidate : position->top) {
    auto& top = *out->add_top_tokens();
    top.set_text(token_spelling(candidate.token, *tokenizer_));
    if (options_.token_logprobs()) top.set_logprob(candidate.logprob);
  }
}

void FmaasRenderer::describe_input(const AnswerStream::Batch& batch, fmaas::GenerationResponse* out) const {
  out->set_input_token_count(static_cast<uint32_t>(prompt_.size()));
  if (seed_) out->set_seed(*seed_);
  if (options_.input_text()) out->set_text(prompt_text_);
  if (!options_.input_tokens()) return;
  const std::vector<PositionLogprobs>* positions = nullptr;
  for (const GenerationDelta& delta : batch.deltas)
    if (!delta.prompt_logprobs.empty()) positions = &delta.prompt_logprobs;
  for (size_t i = 0; i < prompt_.size(); ++i)
    fill(prompt_[i], positions ? &(*positions)[i] : nullptr, out->add_input_tokens());
}

void FmaasRenderer::set_reason(const GenerationDelta& delta, fmaas::GenerationResponse* out) const {
  switch (delta.finish) {
    case FinishReason::kNone:
      return;
    case FinishReason::kStop:
      out->set_stop_reason(delta.matched_stop ? fmaas::STOP_SEQUENCE : fmaas::EOS_TOKEN);
      if (delta.matched_stop) out->set_stop_sequence(*delta.matched_stop);
      if (delta.matched_token) out->set_stop_sequence(token_spelling(*delta.matched_token, *tokenizer_));
      return;
    case FinishReason::kLength:
      out->set_stop_reason(std::cmp_less(num_generated_, max_tokens_) ? fmaas::TOKEN_LIMIT : fmaas::MAX_TOKENS);
      return;
    case FinishReason::kCancelled:
      return out->set_stop_reason(fmaas::CANCELLED);
    case FinishReason::kDeadline:
      return out->set_stop_reason(fmaas::TIME_LIMIT);
    case FinishReason::kError:
      return out->set_stop_reason(fmaas::ERROR);
  }
}

void FmaasRenderer::add(const GenerationDelta& delta, fmaas::GenerationResponse* out) {
  num_generated_ += static_cast<uint32_t>(delta.token_ids.size());
  out->set_generated_token_count(num_generated_);
  *out->mutable_text() += delta.text;
  // The stop sequence is what came next; the text after it in the same token is dropped either way.
  if (include_stop_ && delta.matched_stop) *out->mutable_text() += *delta.matched_stop;
  if (options_.generated_tokens())
    for (size_t i = 0; i < delta.token_ids.size(); ++i)
      fill(delta.token_ids[i], delta.logprobs.empty() ? nullptr : &delta.logprobs[i], out->add_tokens());
  set_reason(delta, out);
}

std::vector<grpc::ByteBuffer> FmaasRenderer::render(AnswerStream::Batch batch) {
  std::vector<grpc::ByteBuffer> out;
  if (std::exchange(first_, false)) {
    fmaas::GenerationResponse input;
    describe_input(batch, &input);
    out.push_back(serialize_message(input));
  }
  for (const GenerationDelta& delta : batch.deltas) {  // one choice
    fmaas::GenerationResponse message;
    add(delta, &message);
    out.push_back(serialize_message(message));
  }
  return out;
}

fmaas::GenerationResponse FmaasRenderer::whole(AnswerStream::Batch batch) {
  fmaas::GenerationResponse out;
  describe_input(batch, &out);
  for (const GenerationDelta& delta : batch.deltas) add(delta, &out);
  return out;
}

}  // namespace sluice
