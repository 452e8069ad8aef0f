// One choice on its way from token ids to text: characters, stop strings, what counts and what is overshoot. Owns the
// incremental state of one choice; posts nothing itself. Detokeniser thread only.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "sluice/request.h"

#include "server/generation.h"
#include "server/stop_finder.h"
#include "tokenizer/tokenizer.h"

namespace sluice {

class ChoiceText {
 public:
  // Without a tokenizer there are ids but no text. Everything that `task` holds is copied.
  ChoiceText(const GenerationTask& task, const Tokenizer* tokenizer);

  // Adds what `event` brings to `delta`. True when a stop string has just become complete: the caller posts Finish at
  // num_tokens(); tokens after that are overshoot and change nothing.
  bool apply(TokenEvent& event, GenerationDelta* delta);

  bool finished() const { return finished_; }
  bool stopped_by_string() const { return matched_stop_.has_value(); }
  int32_t num_tokens() const { return num_tokens_; }  // that count

 private:
  bool add_token(TokenEvent& event, GenerationDelta* delta);
  bool add_text(const std::string& text, GenerationDelta* delta);
  void close(const TokenEvent& event, GenerationDelta* delta);

  std::optional<Detokenizer> detokenizer_;
  std::vector<std::string> stops_;
  StopFinder finder_;
  int32_t min_tokens_;
  bool strip_space_;
  bool wants_logprobs_;
  int32_t num_tokens_ = 0;
  std::optional<size_t> matched_stop_;  // index into stops_
  bool finished_ = false;
};

}  // namespace sluice
