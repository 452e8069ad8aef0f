// Renders an answer as GenerationResponses of fmaas, and spells tokens as its clients expect. A renderer serves one
// answer, one thread at a time.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "fmaas/generation.pb.h"
#include "server/answer_renderer.h"
#include "server/services.h"

namespace sluice {

// As the vocabulary writes it: the byte alphabet ("Ġthe"), special tokens as they are.
std::string token_spelling(TokenId token, const Tokenizer& tokenizer);

class FmaasRenderer final : public AnswerRenderer {
 public:
  FmaasRenderer(const CheckedRequest& checked, const fmaas::Parameters& params, const Services& services);

  // For a stream: first the input, then what is new.
  std::vector<grpc::ByteBuffer> render(AnswerStream::Batch batch) override;
  // Time limits and cancellations from elsewhere are reasons to stop, not errors.
  Status close(const GenerationEnd& end) override;

  // For a batch: all in one.
  fmaas::GenerationResponse whole(AnswerStream::Batch batch);

 private:
  void describe_input(const AnswerStream::Batch& batch, fmaas::GenerationResponse* out) const;
  void add(const GenerationDelta& delta, fmaas::GenerationResponse* out);
  void set_reason(const GenerationDelta& delta, fmaas::GenerationResponse* out) const;
  void fill(TokenId token, const PositionLogprobs* position, fmaas::TokenInfo* out) const;

  const Tokenizer* const tokenizer_;
  const fmaas::ResponseOptions options_;
  const std::vector<TokenId> prompt_;
  const std::string prompt_text_;
  const std::optional<uint64_t> seed_;  // with SAMPLE
  const int32_t max_tokens_;
  const bool time_limited_;
  const bool include_stop_;
  uint32_t num_generated_ = 0;
  bool first_ = true;
};

}  // namespace sluice
