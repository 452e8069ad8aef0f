// What travels from the front ends to the loop, and back: requests, events, and what both know of the model.
// Plain data. Server threads build a Request (validated and tokenised); the loop thread owns it from then on.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "sluice/clock.h"
#include "sluice/status.h"
#include "sluice/types.h"

namespace sluice {

class Grammar;  // sluice/grammar.h

// How the next token is drawn. The order of application: logit_bias and penalties on the logits, then what a grammar
// allows, then temperature, then top_k, top_p, min_p on the distribution, then one draw keyed by (seed, position).
struct SamplingParams {
  float temperature = 1.0f;             // >= 0; 0 is greedy
  int32_t top_k = 0;                    // >= 0; 0 keeps all
  float top_p = 1.0f;                   // (0, 1]
  float min_p = 0.0f;                   // [0, 1]: keep p >= min_p * max p
  float repetition_penalty = 1.0f;      // > 0; divides positive, multiplies negative logits of tokens seen (prompt too)
  float presence_penalty = 0.0f;        // [-2, 2]; subtracted once from tokens generated before
  float frequency_penalty = 0.0f;       // [-2, 2]; subtracted per occurrence among generated tokens
  std::map<TokenId, float> logit_bias;  // [-100, 100] added to the logit
  uint64_t seed = 0;                    // choice i of a request draws with seed + i
};

// When to stop. Stop strings are found by the detokeniser, which posts Finish; the loop knows ids only.
struct StopParams {
  int32_t max_tokens = 16;  // >= 1, generated tokens
  int32_t min_tokens = 0;   // end-of-sequence and stop ids are masked before that
  bool ignore_eos = false;
  std::vector<TokenId> stop_token_ids;  // besides the model's end-of-sequence ids; the token is not part of the text
};

// Result<void>-style validation of ranges: INVALID_ARGUMENT names the field ("top_p: must be in (0, 1], got 1.5").
// Non-finite values are rejected.
Status validate(const SamplingParams& params, int32_t vocab_size);
Status validate(const StopParams& params, int32_t vocab_size);

struct Request {
  RequestId id{};
  std::vector<TokenId> prompt;  // never empty, all in [0, vocab_size)
  SamplingParams sampling;
  StopParams stop;
  int32_t num_choices = 1;           // n: answers from one prompt, in [1, 16]
  int32_t num_logprobs = -1;         // -1: none; 0: of the drawn token; k: also the k most likely (k <= 20)
  int32_t num_prompt_logprobs = -1;  // the same for the prompt's tokens; >= 0 computes the whole prompt
  int32_t priority = 0;              // lower runs first
  std::shared_ptr<const Grammar> grammar;  // the form of each answer; null: any text
  std::optional<TokenId> grammar_after;    // the form begins behind this token
  std::string cache_salt;            // tenants with different salts never share cached pages
  TimePoint arrival{};
  TimePoint deadline = kNever;
};

enum class FinishReason : uint8_t {
  kNone,    // goes on
  kStop,    // end-of-sequence or a stop token id (matched_token says which), or Finish from the detokeniser, or the end
            // of the grammar
  kLength,  // max_tokens or the context is full
  kCancelled,
  kDeadline,
  kError,  // `error` says what
};

const char* name(FinishReason reason);  // "stop", "length", "cancelled", "deadline", "error"

struct TokenLogprob {
  TokenId token = 0;
  float logprob = 0;  // natural log of the model's own distribution (before temperature, penalties and cuts)
};

// Counts and times of one choice; final when `finish != kNone`.
struct Usage {
  int32_t prompt_tokens = 0;
  int32_t cached_prompt_tokens = 0;  // of these, not computed because the activation cache held them
  int32_t completion_tokens = 0;     // generated, the end-of-sequence token included
  Duration queue_time{};             // arrival -> first step that computes it
  Duration prefill_time{};           // first step -> first token
  Duration decode_time{};            // first token -> last token
};

// One step forward of one choice: a token, or the end, or both. Values only; posted by the loop thread.
struct TokenEvent {
  RequestId request{};
  int32_t choice = 0;                      // [0, num_choices)
  std::optional<TokenId> token;            // absent in a closing event that carries no new token
  std::optional<float> logprob;            // of `token`, if asked for
  std::vector<TokenLogprob> top_logprobs;  // most likely first
  // For prompt logprobs, once, with the first event: entry i is for prompt token i (entry 0 is empty).
  std::vector<std::vector<TokenLogprob>> prompt_logprobs;  // [0] the token itself, then the most likely
  FinishReason finish = FinishReason::kNone;
  std::optional<TokenId> matched_token;  // the stop token, when that ended it
  Status error;                          // for kError, kDeadline, kCancelled
  Usage usage;                           // filled when finish != kNone
};

// Where the loop thread puts events. The implementation must not block and must not call back.
class TokenSink {
 public:
  virtual ~TokenSink() = default;
  virtual void emit(TokenEvent event) = 0;
};

// What front ends and tools need to know of the loaded model.
struct ModelInfo {
  std::string name;          // as served
  std::string architecture;  // model_type of config.json: "deepseek_v2"
  std::string weights;       // resolved weight format: "bf16"
  std::string device;        // "cpu (avx512, 2 threads)"
  int32_t vocab_size = 0;
  int32_t context_length = 0;  // tokens, prompt and answer together
  int64_t num_parameters = 0;
  int64_t num_active_parameters = 0;
  std::vector<TokenId> eos_token_ids;
  std::optional<TokenId> bos_token_id;
  // From generation_config.json; used where a request leaves a field out.
  SamplingParams default_sampling;
  int32_t default_max_tokens = 256;
};

}  // namespace sluice
