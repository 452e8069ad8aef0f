#include "server/vllm_answer.h"

#include <utility>
#include <vector>

#include "server/wire.h"
#include "vllm/grpc/engine/vllm_engine.pb.h"

namespace sluice {

namespace {

using vllm::grpc::engine::GenerateResponse;
using vllm::grpc::engine::InputLogProbs;
using vllm::grpc::engine::OutputLogProbs;
using vllm::grpc::engine::TopLogProbs;

void fill(const std::vector<TokenLogprob>& top, TopLogProbs* out) {
  for (const TokenLogprob& token : top) {
    out->add_values(token.logprob);
    out->add_token_ids(static_cast<uint32_t>(token.token));
  }
}

const char* reason_of(FinishReason finish) { return finish == FinishReason::kCancelled ? "abort" : name(finish); }

class VllmRenderer final : public AnswerRenderer {
 public:
  VllmRenderer(const CheckedRequest& checked, bool stream)
      : stream_(stream),
        prompt_(checked.task.request.prompt),
        choices_(static_cast<size_t>(checked.task.request.num_choices)) {}

  std::vector<grpc::ByteBuffer> render(AnswerStream::Batch batch) override {
    std::vector<grpc::ByteBuffer> out;
    for (GenerationDelta& delta : batch.deltas) {
      Choice& choice = choices_[static_cast<size_t>(delta.choice)];
      choice.ids.insert(choice.ids.end(), delta.token_ids.begin(), delta.token_ids.end());
      if (stream_ && !delta.token_ids.empty()) out.push_back(chunk(delta, choice));
      if (!stream_) keep_logprobs(delta, &choice);
      choice.finish = delta.finish;
      choice.matched_stop = std::move(delta.matched_stop);
      choice.matched_token = delta.matched_token;
    }
    if (!batch.end) return out;
    for (size_t i = 0; i < choices_.size(); ++i) out.push_back(complete(i, batch.end->usage));
    return out;
  }

  // Abort ends an answer well, with its own reason.
  Status close(const GenerationEnd& end) override {
    return end.status.code() == StatusCode::kCancelled ? Status() : end.status;
  }

 private:
  struct Choice {
    std::vector<TokenId> ids;  // since the start
    OutputLogProbs logprobs;   // these two without stream only
    InputLogProbs prompt_logprobs;
    FinishReason finish = FinishReason::kNone;
    std::optional<std::string> matched_stop;
    std::optional<TokenId> matched_token;
  };

  static void fill(const GenerationDelta& delta, OutputLogProbs* out) {
    for (size_t i = 0; i < delta.logprobs.size(); ++i) {
      const PositionLogprobs& position = delta.logprobs[i];
      out->add_token_logprobs(position.chosen ? position.chosen->logprob : 0);
      out->add_token_ids(static_cast<uint32_t>(delta.token_ids[i]));
      sluice::fill(position.top, out->add_top_logprobs());
    }
  }

  void fill_prompt(const GenerationDelta& delta, InputLogProbs* out) const {
    for (size_t i = 0; i < delta.prompt_logprobs.size(); ++i) {
      const PositionLogprobs& position = delta.prompt_logprobs[i];
      auto& value = *out->add_token_logprobs();
      if (position.chosen) value.set_value(position.chosen->logprob);
      out->add_token_ids(static_cast<uint32_t>(prompt_[i]));
      sluice::fill(position.top, out->add_top_logprobs());
    }
  }

  void keep_logprobs(const GenerationDelta& delta, Choice* choice) const {
    fill(delta, &choice->logprobs);
    fill_prompt(delta, &choice->prompt_logprobs);
  }

  grpc::ByteBuffer chunk(const GenerationDelta& delta, const Choice& choice) const {
    GenerateResponse message;
    auto& out = *message.mutable_chunk();
    out.mutable_token_ids()->Assign(delta.token_ids.begin(), delta.token_ids.end());
    out.set_prompt_tokens(static_cast<uint32_t>(prompt_.size()));
    out.set_completion_tokens(static_cast<uint32_t>(choice.ids.size()));
    if (!delta.logprobs.empty()) fill(delta, out.mutable_output_logprobs());
    if (!delta.prompt_logprobs.empty()) fill_prompt(delta, out.mutable_input_logprobs());
    out.set_index(static_cast<uint32_t>(delta.choice));
    return serialize_message(message);
  }

  grpc::ByteBuffer complete(size_t index, const Usage& usage) const {
    const Choice& choice = choices_[index];
    GenerateResponse message;
    auto& out = *message.mutable_complete();
    out.mutable_output_ids()->Assign(choice.ids.begin(), choice.ids.end());
    out.set_finish_reason(reason_of(choice.finish));
    out.set_prompt_tokens(static_cast<uint32_t>(prompt_.size()));
    out.set_completion_tokens(static_cast<uint32_t>(choice.ids.size()));
    out.set_cached_tokens(static_cast<uint32_t>(usage.cached_prompt_tokens));
    if (choice.logprobs.token_ids_size() > 0) *out.mutable_output_logprobs() = choice.logprobs;
    if (choice.prompt_logprobs.token_ids_size() > 0) *out.mutable_input_logprobs() = choice.prompt_logprobs;
    out.set_index(static_cast<uint32_t>(index));
    if (choice.matched_stop) out.set_matched_stop_str(*choice.matched_stop);
    if (choice.matched_token) out.set_matched_token_id(static_cast<uint32_t>(*choice.matched_token));
    return serialize_message(message);
  }

  const bool stream_;
  const std::vector<TokenId> prompt_;
  std::vector<Choice> choices_;
};

}  // namespace

std::unique_ptr<AnswerRenderer> vllm_renderer(const CheckedRequest& checked, bool stream) {
  return std::make_unique<VllmRenderer>(checked, stream);
}

}  // namespace sluice
