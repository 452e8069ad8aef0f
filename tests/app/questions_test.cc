#include "app/bench/questions.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

namespace sluice {
namespace {

const QuestionOptions kOptions = {.requests = 200, .vocab_size = 1000, .seed = 5};

TEST(Questions, AFifthAreExactRepeatsOfEarlierOnes) {
  const std::vector<Question> questions = make_questions(kOptions);
  ASSERT_EQ(questions.size(), 200u);
  int repeats = 0;
  for (size_t i = 0; i < questions.size(); ++i) {
    const auto begin = questions.begin(), self = begin + static_cast<std::ptrdiff_t>(i);
    const bool was_asked =
        std::any_of(begin, self, [&](const Question& earlier) { return earlier.prompt == self->prompt; });
    EXPECT_EQ(was_asked, self->kind == QuestionKind::kRepeat) << i;
    repeats += was_asked;
    for (TokenId token : self->prompt) ASSERT_TRUE(token >= 0 && token < 1000);
  }
  EXPECT_EQ(repeats, 40);
}

TEST(Questions, AreAboutEightDocumentsTheFirstOfThemMostOften) {
  const std::vector<Question> questions = make_questions(kOptions);
  std::map<std::vector<TokenId>, int> documents;  // by their first 64 tokens
  for (const Question& question : questions) {
    const bool is_new = ++documents[{question.prompt.begin(), question.prompt.begin() + 64}] == 1;
    EXPECT_EQ(is_new, question.kind == QuestionKind::kFirst);
    EXPECT_GE(question.prompt.size(), 1024u - 128 + 48);
    EXPECT_LE(question.prompt.size(), 1024u + 128 + 48);
  }
  ASSERT_EQ(documents.size(), 8u);
  const auto most = std::ranges::max_element(documents, {}, [](const auto& entry) { return entry.second; });
  EXPECT_GT(most->second, 200 / 8 * 2);  // Zipf's share of the first of 8 is 37 %
}

TEST(Questions, AreAFunctionOfTheirSeed) {
  QuestionOptions other = kOptions;
  const auto same = [](const std::vector<Question>& a, const std::vector<Question>& b) {
    return std::ranges::equal(a, b, {}, &Question::prompt, &Question::prompt);
  };
  EXPECT_TRUE(same(make_questions(kOptions), make_questions(other)));
  other.seed = 6;
  EXPECT_FALSE(same(make_questions(kOptions), make_questions(other)));
}

}  // namespace
}  // namespace sluice
