#include "app/bench/questions.h"

#include <algorithm>
#include <random>

#include "app/bench/distribution.h"

namespace sluice {

namespace {

void append_random(std::vector<TokenId>& tokens, int32_t count, int32_t vocab_size, std::mt19937_64& random) {
  for (int32_t i = 0; i < count; ++i)
    tokens.push_back(static_cast<TokenId>(random() % static_cast<uint64_t>(vocab_size)));
}

}  // namespace

std::vector<Question> make_questions(const QuestionOptions& options) {
  std::mt19937_64 random(options.seed);
  std::vector<std::vector<TokenId>> documents(static_cast<size_t>(options.documents));
  const int32_t spread = options.document_tokens / 8;
  for (auto& document : documents) {
    const auto extra = static_cast<int32_t>(random() % static_cast<uint64_t>(2 * spread + 1)) - spread;
    append_random(document, options.document_tokens + extra, options.vocab_size, random);
  }
  ZipfDistribution popularity(options.documents, options.zipf_exponent);
  std::vector<bool> is_known(documents.size());
  std::vector<Question> questions;
  // Exactly the wanted share repeats, at random places but the first.
  std::vector<bool> repeats(static_cast<size_t>(options.requests));
  const auto num_repeats = static_cast<std::ptrdiff_t>(options.repeat_share * options.requests);
  std::fill_n(repeats.begin() + std::min<std::ptrdiff_t>(1, options.requests), num_repeats, true);
  if (!repeats.empty()) std::shuffle(repeats.begin() + 1, repeats.end(), random);
  for (const bool is_repeat : repeats) {
    if (is_repeat) {
      questions.push_back({QuestionKind::kRepeat, questions[random() % questions.size()].prompt});
      continue;
    }
    const auto document = static_cast<size_t>(popularity.draw(random));
    Question question{is_known[document] ? QuestionKind::kKnownDocument : QuestionKind::kFirst, documents[document]};
    append_random(question.prompt, options.question_tokens, options.vocab_size, random);
    is_known[document] = true;
    questions.push_back(std::move(question));
  }
  return questions;
}

}  // namespace sluice
