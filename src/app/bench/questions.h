// The question-answering workload: few long documents, many questions about them, some asked twice. Token ids are
// random; a document is a prefix that its questions share. Pure function of its options.
#pragma once

#include <cstdint>
#include <vector>

#include "sluice/types.h"

namespace sluice {

struct QuestionOptions {
  int32_t documents = 8;
  int32_t document_tokens = 1024;  // on average; each has its own length, up to an eighth more or less
  int32_t question_tokens = 48;
  int32_t requests = 64;
  double zipf_exponent = 1;  // of the documents' popularity; the question is new unless it is a repeat
  double repeat_share = 0.2;
  int32_t vocab_size = 0;
  uint64_t seed = 1;
};

enum class QuestionKind { kFirst, kKnownDocument, kRepeat };

struct Question {
  QuestionKind kind = QuestionKind::kFirst;
  std::vector<TokenId> prompt;
};

std::vector<Question> make_questions(const QuestionOptions& options);

}  // namespace sluice
