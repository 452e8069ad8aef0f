// Renders an answer as ModelInferResponses, and counts the requests of the service. A renderer serves one answer, one
// thread at a time; the counts are for all, any thread.
#pragma once

#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "inference/grpc_service.pb.h"
#include "server/answer_renderer.h"
#include "server/kserve_request.h"
#include "server/services.h"

namespace sluice {

// What ModelStatistics tells: times add up, counts only grow.
class InferCounts {
 public:
  void add_success(const GenerationEnd& end);
  void add_failure(Duration total);
  void fill(inference::ModelStatistics* out) const;

 private:
  mutable std::mutex mutex_;
  int64_t num_successes_ = 0, num_failures_ = 0;
  Duration success_time_{}, failure_time_{}, queue_time_{}, prefill_time_{}, decode_time_{}, output_time_{};
  int64_t last_inference_ms_ = 0;  // since 1970
};

class InferRenderer final : public AnswerRenderer {
 public:
  // `counts` outlives the renderer.
  InferRenderer(InferOptions options, const CheckedRequest& checked, const Services& services, InferCounts& counts);
  // An answer that never ended (a full queue refused it) failed.
  ~InferRenderer() override;

  // The bytes of ModelInferResponses.
  std::vector<grpc::ByteBuffer> render(AnswerStream::Batch batch) override;
  Status close(const GenerationEnd& end) override;

  // The same as messages.
  std::optional<inference::ModelInferResponse> response(AnswerStream::Batch batch);

 private:
  void add(GenerationDelta&& delta);
  std::string logprobs_json(const std::vector<PositionLogprobs>& positions) const;

  struct Choice {
    std::string text;
    int64_t num_tokens = 0;
    std::vector<PositionLogprobs> logprobs;
    double cumulative_logprob = 0;  // since the start
    FinishReason finish = FinishReason::kNone;
  };

  const InferOptions options_;
  const std::string model_;
  const std::string prompt_text_;
  const uint32_t num_input_tokens_;
  const Tokenizer* const tokenizer_;
  InferCounts& counts_;
  std::vector<Choice> choices_;  // what is new of each
  bool closed_ = false;
};

}  // namespace sluice
