#include "tokenizer/pre_tokenizer.h"

#include <algorithm>

namespace sluice {
namespace {

// Receives the alternating matches and gaps of one piece, in order, and makes pieces of them.
class Collector {
 public:
  Collector(const PreTokenizerStage& rule, std::vector<std::string_view>* out) : rule_(&rule), out_(out) {}

  void start_piece() {
    has_last_ = false;
    last_was_delimiter_ = false;
  }

  void add(std::string_view part, bool is_match) {
    if (part.empty()) return;
    const bool is_delimiter = is_match != rule_->invert;
    switch (rule_->behavior) {
      case SplitBehavior::kIsolated:
        push(part);
        break;
      case SplitBehavior::kRemoved:
        if (!is_delimiter) push(part);
        break;
      case SplitBehavior::kMergedWithPrevious:
        push_or_extend(part, is_delimiter && !last_was_delimiter_);
        break;
      case SplitBehavior::kContiguous:
        push_or_extend(part, is_delimiter == last_was_delimiter_);
        break;
      case SplitBehavior::kMergedWithNext:
        if (is_delimiter) {
          finish_piece();
          waiting_ = part;
        } else {
          push({part.data() - waiting_.size(), waiting_.size() + part.size()});
          waiting_ = {};
        }
        break;
    }
    last_was_delimiter_ = is_delimiter;
  }

  void finish_piece() {
    if (!waiting_.empty()) push(waiting_);
    waiting_ = {};
  }

 private:
  void push(std::string_view part) {
    out_->push_back(part);
    has_last_ = true;
  }
  void push_or_extend(std::string_view part, bool extend) {
    if (!extend || !has_last_) return push(part);
    std::string_view& last = out_->back();
    last = {last.data(), last.size() + part.size()};
  }

  const PreTokenizerStage* rule_;
  std::vector<std::string_view>* out_;
  std::string_view waiting_;  // kMergedWithNext: a delimiter whose gap comes next
  bool has_last_ = false;     // out_->back() comes from this piece
  bool last_was_delimiter_ = false;
};

Status split_piece(const Regex& regex, std::string_view piece, RegexScratch* scratch, Collector* collector) {
  collector->start_piece();
  size_t gap_begin = 0;
  while (gap_begin < piece.size()) {
    RegexMatch match;
    SLUICE_ASSIGN_OR_RETURN(const bool found, regex.find(piece, gap_begin, scratch, &match));
    if (!found) break;
    collector->add(piece.substr(gap_begin, match.begin - gap_begin), false);
    collector->add(piece.substr(match.begin, match.end - match.begin), true);
    gap_begin = match.end;
  }
  collector->add(piece.substr(gap_begin), false);
  collector->finish_piece();
  return {};
}

// Every piece gets a leading space, unless it has one.
void prefix_spaces(const std::vector<std::string_view>& pieces, std::string* text, std::vector<std::string_view>* out) {
  std::string prefixed;
  std::vector<size_t> ends;
  for (const std::string_view piece : pieces) {
    if (!piece.starts_with(' ')) prefixed += ' ';
    prefixed += piece;
    ends.push_back(prefixed.size());
  }
  *text = std::move(prefixed);
  size_t begin = 0;
  for (const size_t end : ends) {
    out->push_back(std::string_view(*text).substr(begin, end - begin));
    begin = end;
  }
}

}  // namespace

Result<PreTokenizer> PreTokenizer::make(std::vector<PreTokenizerStage> stages) {
  PreTokenizer result;
  for (PreTokenizerStage& rule : stages) {
    Stage stage;
    if (rule.kind == PreTokenizerStage::Kind::kSplit) {
      SLUICE_ASSIGN_OR_RETURN(Regex regex, Regex::compile(rule.pattern, rule.path));
      stage.regex.push_back(std::move(regex));
    }
    stage.rule = std::move(rule);
    result.stages_.push_back(std::move(stage));
  }
  return result;
}

Status PreTokenizer::split(std::string_view text, PieceBuffer* buffer) const {
  buffer->pieces_.clear();
  if (text.empty()) return {};
  buffer->pieces_.push_back(text);
  for (const Stage& stage : stages_) {
    std::swap(buffer->pieces_, buffer->previous_);
    buffer->pieces_.clear();
    if (stage.rule.kind == PreTokenizerStage::Kind::kPrefixSpace) {
      prefix_spaces(buffer->previous_, &buffer->prefixed_, &buffer->pieces_);
      continue;
    }
    Collector collector(stage.rule, &buffer->pieces_);
    for (const std::string_view piece : buffer->previous_)
      SLUICE_RETURN_IF_ERROR(split_piece(stage.regex[0], piece, &buffer->scratch_, &collector));
  }
  return {};
}

}  // namespace sluice
