// Forms against a small vocabulary: what may come next, ends, rolling back, what is refused, what is kept.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>

#include "grammar/grammar_compiler.h"

namespace sluice {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

// Every byte, a few words, a tag without text, and the end.
GrammarVocabulary vocabulary() {
  GrammarVocabulary out;
  for (int byte = 0; byte < 256; ++byte) out.tokens.emplace_back(1, static_cast<char>(byte));
  for (const char* word : {"yes", "no", "ye", "s", "\":", "{\"", "true"}) out.tokens.emplace_back(word);
  out.tokens.emplace_back("");  // </think>
  out.tokens.emplace_back("");  // the end
  out.end_token_ids = {static_cast<TokenId>(out.tokens.size()) - 1};
  return out;
}

class GrammarTest : public testing::Test {
 protected:
  Result<std::shared_ptr<const Grammar>> compile(FormKind kind, std::string text) {
    std::promise<Result<std::shared_ptr<const Grammar>>> answer;
    const Status status = compiler_->compile({kind, std::move(text), "the_field"},
                                             [&](auto result) { answer.set_value(std::move(result)); });
    if (!status.ok()) return status;
    return answer.get_future().get();
  }
  std::unique_ptr<TokenConstraint> begin(FormKind kind, std::string text, std::optional<TokenId> after = {}) {
    auto grammar = compile(kind, std::move(text));
    EXPECT_TRUE(grammar.ok()) << grammar.status().to_string();
    return grammar.ok() ? (*grammar)->begin(after) : nullptr;
  }
  TokenId id(const std::string& text) const {
    return static_cast<TokenId>(std::ranges::find(all_.tokens, text) - all_.tokens.begin());
  }
  std::vector<uint32_t> mask(TokenConstraint& constraint) const {
    std::vector<uint32_t> words((all_.tokens.size() + 31) / 32, 0xdeadbeef);
    any_ = constraint.allowed(words);
    return words;
  }
  std::vector<TokenId> allowed(TokenConstraint& constraint) const {
    const std::vector<uint32_t> words = mask(constraint);
    std::vector<TokenId> out;
    for (TokenId token = 0; token < static_cast<TokenId>(words.size() * 32); ++token)
      if (words[static_cast<size_t>(token) / 32] >> (token % 32) & 1) out.push_back(token);
    return out;
  }
  void advance_text(TokenConstraint& constraint, const std::string& text) const {
    for (const char c : text) ASSERT_TRUE(constraint.advance(static_cast<unsigned char>(c))) << text << " at " << c;
  }

  const GrammarVocabulary all_ = vocabulary();
  const TokenId end_ = all_.end_token_ids[0], think_ = end_ - 1;
  std::unique_ptr<GrammarCompiler> compiler_ = make_grammar_compiler(all_);
  mutable bool any_ = false;
};

TEST_F(GrammarTest, TokensThatWouldLeaveTheFormAreNotAllowed) {
  const auto constraint = begin(FormKind::kGrammar, R"(root ::= "yes" | "no")");
  EXPECT_THAT(allowed(*constraint), testing::UnorderedElementsAre('y', 'n', id("yes"), id("no"), id("ye")));
  EXPECT_FALSE(constraint->advance('x'));
  EXPECT_TRUE(constraint->advance(id("ye")));
  EXPECT_THAT(allowed(*constraint), testing::UnorderedElementsAre('s', id("ye") + 1))
      << "the byte, and the word of one byte";
  EXPECT_TRUE(constraint->advance('s'));
  EXPECT_FALSE(constraint->ended());
  EXPECT_THAT(allowed(*constraint), testing::UnorderedElementsAre(end_));
  EXPECT_TRUE(constraint->advance(end_));
  EXPECT_TRUE(constraint->ended());
  EXPECT_FALSE(constraint->advance(end_));
}

TEST_F(GrammarTest, RollingBackForgetsTheLastTokensAndTheEnd) {
  const auto constraint = begin(FormKind::kRegex, "a[0-9]{2}b");
  advance_text(*constraint, "a12b");
  ASSERT_TRUE(constraint->advance(end_));
  constraint->roll_back(3);
  EXPECT_FALSE(constraint->ended());
  EXPECT_EQ(allowed(*constraint).size(), 10u);
  advance_text(*constraint, "7b");
  constraint->roll_back(4);
  EXPECT_THAT(allowed(*constraint), testing::ElementsAre('a'));
}

TEST_F(GrammarTest, TheFormMayBeginBehindAToken) {
  const auto constraint = begin(FormKind::kRegex, "ab", think_);
  EXPECT_GE(allowed(*constraint).size(), all_.tokens.size());
  advance_text(*constraint, "hm");
  EXPECT_TRUE(constraint->advance(think_));
  EXPECT_THAT(allowed(*constraint), testing::ElementsAre('a'));
  advance_text(*constraint, "ab");
  constraint->roll_back(3);  // "a", "b" and the tag
  EXPECT_GE(allowed(*constraint).size(), all_.tokens.size());
  EXPECT_TRUE(constraint->advance('x'));
  EXPECT_TRUE(constraint->advance(think_));
  advance_text(*constraint, "ab");
}

TEST_F(GrammarTest, SchemasTagsAndObjects) {
  const auto schema = begin(FormKind::kJsonSchema,
                            R"({"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]})");
  advance_text(*schema, "{ \"a\": ");
  EXPECT_FALSE(schema->advance('1'));
  EXPECT_TRUE(schema->advance(id("true")));
  EXPECT_FALSE(schema->advance(','));  // no properties but those it names
  EXPECT_TRUE(schema->advance('}'));
  EXPECT_THAT(allowed(*schema), testing::ElementsAre(end_));
  const auto object = begin(FormKind::kJsonObject, "");
  EXPECT_FALSE(object->advance('['));
  advance_text(*object, R"({"any": [1, {"b": null}]})");
  const auto tag = begin(
      FormKind::kStructuralTag,
      R"({"type": "structural_tag", "format": {"type": "sequence", "elements": [{"type": "const_string", "value": "<f>"}, {"type": "json_schema", "json_schema": {"type": "object"}}]}})");
  advance_text(*tag, "<f>{}");
  EXPECT_TRUE(tag->advance(end_));
}

TEST_F(GrammarTest, WhitespaceBetweenPartsOfJsonIsBounded) {
  const auto constraint =
      begin(FormKind::kJsonSchema, R"({"type": "array", "items": {"type": "boolean"}, "maxItems": 1})");
  advance_text(*constraint, "[" + std::string(16, ' '));
  EXPECT_FALSE(constraint->advance(' '));
}

TEST_F(GrammarTest, WhatCannotBeCompiledNamesTheField) {
  const std::pair<FormKind, std::string> kBad[] = {{FormKind::kJsonSchema, R"({"type": "strin"})"},
                                                   {FormKind::kRegex, "(a"},
                                                   {FormKind::kGrammar, "root ::= foo"},
                                                   {FormKind::kGrammar, "other ::= \"a\""},
                                                   {FormKind::kStructuralTag, "{}"}};
  for (const auto& [kind, text] : kBad) {
    const auto grammar = compile(kind, text);
    ASSERT_FALSE(grammar.ok()) << text;
    EXPECT_EQ(grammar.status().code(), StatusCode::kInvalidArgument);
    EXPECT_THAT(grammar.status().message(), StartsWith("the_field: ")) << text;
    EXPECT_THAT(grammar.status().message(), testing::Not(HasSubstr(".cc"))) << "a place in the library is of no use";
  }
}

TEST_F(GrammarTest, AFormThatNothingHasIsRefused) {
  const auto grammar = compile(FormKind::kJsonSchema, R"({"$ref": "#"})");
  ASSERT_FALSE(grammar.ok());
  EXPECT_THAT(grammar.status().message(), HasSubstr("no text has this form"));
}

TEST_F(GrammarTest, AFormThatTakesTooLongForATokenIsRefused) {
  compiler_ = make_grammar_compiler(all_, {.max_mask_seconds = 0});  // no mask is that quick
  const auto grammar = compile(FormKind::kRegex, "(a|aa)+");
  ASSERT_FALSE(grammar.ok());
  EXPECT_EQ(grammar.status().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(grammar.status().message(), StartsWith("the_field: is too ambiguous"));
  EXPECT_EQ(compiler_->find({FormKind::kRegex, "(a|aa)+", ""}), nullptr) << "what was refused is not kept";
}

TEST_F(GrammarTest, WhatWasCompiledLatelyIsKeptUpToItsBytes) {
  EXPECT_EQ(compiler_->find({FormKind::kRegex, "a+", ""}), nullptr);
  const auto first = compile(FormKind::kRegex, "a+");
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(compiler_->find({FormKind::kRegex, "a+", "another_field"}), *first);
  EXPECT_EQ(compiler_->find({FormKind::kGrammar, "a+", ""}), nullptr);

  compiler_ = make_grammar_compiler(all_, {.max_kept_bytes = 64 << 10});
  for (int i = 0; i < 200; ++i) ASSERT_TRUE(compile(FormKind::kRegex, fmt::format("a{{{}}}", i + 1)).ok());
  EXPECT_EQ(compiler_->find({FormKind::kRegex, "a{1}", ""}), nullptr);
  EXPECT_NE(compiler_->find({FormKind::kRegex, "a{200}", ""}), nullptr);
}

TEST_F(GrammarTest, TooManyThatWaitAreRefusedAndTheRestIsToldOfTheEnd) {
  compiler_ = make_grammar_compiler(all_, {.max_waiting = 2});
  std::promise<void> go;
  std::shared_future<void> gone = go.get_future().share();
  std::promise<void> started;
  ASSERT_TRUE(compiler_
                  ->compile({FormKind::kRegex, "a", "f"},
                            [&](auto) {
                              started.set_value();
                              gone.wait();
                            })
                  .ok());
  started.get_future().wait();  // the worker is busy in our call
  std::vector<StatusCode> ends;
  const auto done = [&](auto result) { ends.push_back(result.status().code()); };
  ASSERT_TRUE(compiler_->compile({FormKind::kRegex, "b", "f"}, done).ok());
  ASSERT_TRUE(compiler_->compile({FormKind::kRegex, "c", "f"}, done).ok());
  const Status full = compiler_->compile({FormKind::kRegex, "d", "f"}, done);
  EXPECT_EQ(full.code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(full.message(), StartsWith("f: 2 grammars wait"));
  std::thread destroyer([&] { compiler_.reset(); });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  go.set_value();
  destroyer.join();
  EXPECT_EQ(ends.size(), 2u);
}

}  // namespace
}  // namespace sluice
