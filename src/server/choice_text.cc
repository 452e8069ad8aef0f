#include "server/choice_text.h"

#include <utility>

namespace sluice {

namespace {

PositionLogprobs prompt_position(std::vector<TokenLogprob>& values) {
  PositionLogprobs position;
  if (values.empty()) return position;
  position.chosen = values.front();
  position.top.assign(values.begin() + 1, values.end());
  return position;
}

}  // namespace

ChoiceText::ChoiceText(const GenerationTask& task, const Tokenizer* tokenizer)
    : stops_(task.stop_strings),
      finder_(stops_),
      min_tokens_(task.request.stop.min_tokens),
      strip_space_(task.strip_leading_space),
      wants_logprobs_(task.request.num_logprobs >= 0) {
  if (tokenizer) detokenizer_.emplace(*tokenizer);
}

bool ChoiceText::apply(TokenEvent& event, GenerationDelta* delta) {
  for (std::vector<TokenLogprob>& values : event.prompt_logprobs)
    delta->prompt_logprobs.push_back(prompt_position(values));
  bool completed_stop = false;
  if (event.token && !matched_stop_) completed_stop = add_token(event, delta);
  if (event.finish != FinishReason::kNone) {
    close(event, delta);
    return false;  // the loop has closed the choice itself: there is nothing left to finish
  }
  return completed_stop;
}

bool ChoiceText::add_token(TokenEvent& event, GenerationDelta* delta) {
  ++num_tokens_;
  delta->token_ids.push_back(*event.token);
  if (wants_logprobs_) {
    PositionLogprobs position;
    position.chosen = TokenLogprob{*event.token, event.logprob.value_or(0)};
    position.top = std::move(event.top_logprobs);
    delta->logprobs.push_back(std::move(position));
  }
  // The token that ends the answer is none of its text.
  if (!detokenizer_ || event.matched_token) return false;
  return add_text(detokenizer_->push(*event.token), delta);
}

bool ChoiceText::add_text(const std::string& text, GenerationDelta* delta) {
  std::string_view piece = text;
  if (strip_space_ && !piece.empty()) {
    strip_space_ = false;
    if (piece.front() == ' ') piece.remove_prefix(1);
  }
  if (stops_.empty() || num_tokens_ < min_tokens_) {
    delta->text += piece;
    return false;
  }
  matched_stop_ = finder_.push(piece, &delta->text);
  return matched_stop_.has_value();
}

// A stop string that the detokeniser has seen wins over whatever the loop ended the choice with afterwards: to the
// client the answer ended there.
void ChoiceText::close(const TokenEvent& event, GenerationDelta* delta) {
  finished_ = true;
  if (!matched_stop_ && detokenizer_) add_text(detokenizer_->flush(), delta);
  if (!matched_stop_) finder_.flush(&delta->text);
  delta->finish = matched_stop_ ? FinishReason::kStop : event.finish;
  if (matched_stop_) {
    delta->matched_stop = stops_[*matched_stop_];
  } else {
    delta->matched_token = event.matched_token;
  }
}

}  // namespace sluice
