// From rows of logits to tokens, on the device: the draws of src/engine/sampler.h, which has the meaning of every step.
// One block a row; a row's answer depends on the row alone.
//
//   edit_logits        bias, penalties, masks; what the logits were is kept
//   sample             one token a row: the largest, or a draw after top_k, top_p, min_p, keyed by (seed, position)
//   restore_logits     the logits as the model gave them
//   log_probabilities  of the drawn token and of the most likely
//
// A token's weight exp((logit - peak) / temperature) is an integer, 2^44 for the most likely, made by integer
// arithmetic: every sum of weights is the same in any order. What differs from the host's sampler: weights below 2^-45
// are nothing (there 4e-18), and in cuts tokens whose scaled logits differ by less than 2^-26 count as equally likely.
// What the roundings leave out or add is below 1e-8 of a row of 100,000 tokens: the chance that they move a draw.
#pragma once

#include <cstdint>

#include "kernels/cuda/types.h"

namespace sluice::cuda {

// How a row is drawn; the fields of SamplingParams.
struct SampleRow {
  float temperature = 1;  // 0: the largest logit, the lower id on a tie
  int32_t top_k = 0;      // 0 keeps all
  float top_p = 1, min_p = 0;
  float repetition_penalty = 1, presence_penalty = 0, frequency_penalty = 0;
  uint64_t seed = 0, position = 0;  // the draw's key; position of the token that is drawn
};

// One token of one row whose logit changes; a token has one edit at most.
struct LogitEdit {
  int32_t row = 0, token = 0;
  float bias = 0;
  int32_t count = kNotSeen;  // times among the generated tokens; 0: only in the prompt, which counts for repetition
  bool masked = false;       // must not be drawn
  static constexpr int32_t kNotSeen = -1;
};

struct EditLogitsParams {
  float* logits = nullptr;           // [*, vocab]
  const SampleRow* rows = nullptr;   // [*]
  const LogitEdit* edits = nullptr;  // [num_edits]
  float* before = nullptr;           // [num_edits] the logits as they were: written by edit, read by restore
  int32_t num_edits = 0, vocab = 0;
};
void edit_logits(const EditLogitsParams& params, Stream stream);
void restore_logits(const EditLogitsParams& params, Stream stream);

struct SampleParams {
  const float* logits = nullptr;     // [rows, vocab]
  const SampleRow* draws = nullptr;  // [rows]
  int32_t* tokens = nullptr;         // [rows]
  int32_t rows = 0, vocab = 0;
};
constexpr int32_t kMaxVocab = 1 << 19;  // so many weights of 2^44 fit a sum of 64 bits
void sample(const SampleParams& params, Stream stream);

// Natural logs of softmax(logits).
struct LogProbabilitiesParams {
  const float* logits = nullptr;     // [*, vocab]
  const int32_t* row_ids = nullptr;  // [rows] rows of logits, or null for 0, 1, 2, ...
  const int32_t* tokens = nullptr;   // [rows]
  float* token_logprobs = nullptr;   // [rows]
  int32_t* top_tokens = nullptr;     // [rows, num_top] most likely first; unused places (vocab < num_top): -1
  float* top_logprobs = nullptr;     // [rows, num_top]
  int32_t rows = 0, vocab = 0, num_top = 0;
};
constexpr int32_t kMaxTopLogprobs = 32;
void log_probabilities(const LogProbabilitiesParams& params, Stream stream);

}  // namespace sluice::cuda
