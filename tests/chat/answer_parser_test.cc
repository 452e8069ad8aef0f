// Answers taken apart the same way however they are cut into pieces.
#include "chat/answer_parser.h"

#include <gtest/gtest.h>

#include <random>

namespace sluice {
namespace {

// All parts of an answer, joined as a client joins them.
struct Whole {
  std::string reasoning, content;
  std::vector<ToolCall> calls;

  void add(const AnswerParts& parts) {
    reasoning += parts.reasoning;
    content += parts.content;
    for (const AnswerParts::CallPart& part : parts.calls) {
      EXPECT_LE(part.index, std::ssize(calls)) << "a call was left out";
      EXPECT_EQ(part.index == std::ssize(calls), !part.name.empty()) << "the name opens a call, once";
      if (part.index == std::ssize(calls)) calls.push_back({part.name, ""});
      calls[static_cast<size_t>(part.index)].arguments += part.arguments;
    }
  }
  std::string to_string() const {
    std::string text = "reasoning=" + reasoning + " content=" + content;
    for (const ToolCall& call : calls) text += " " + call.name + "(" + call.arguments + ")";
    return text;
  }
};

Whole parse(std::string_view text, bool thinks, CallLayout tools, const std::vector<size_t>& cuts) {
  AnswerParser parser(thinks, tools);
  Whole whole;
  size_t begin = 0;
  for (const size_t cut : cuts) {
    whole.add(parser.push(text.substr(begin, cut - begin)));
    begin = cut;
  }
  whole.add(parser.push(text.substr(begin)));
  whole.add(parser.flush());
  return whole;
}

// At once, byte by byte, and cut at random.
void expect_parsed(std::string_view text, bool thinks, CallLayout tools, const std::string& expected) {
  std::vector<size_t> every;
  for (size_t i = 1; i < text.size(); ++i) every.push_back(i);
  EXPECT_EQ(parse(text, thinks, tools, {}).to_string(), expected);
  EXPECT_EQ(parse(text, thinks, tools, every).to_string(), expected);
  std::mt19937 random(7);
  for (int round = 0; round < 50; ++round) {
    std::vector<size_t> cuts;
    for (size_t i = 1; i < text.size(); ++i)
      if (random() % 5 == 0) cuts.push_back(i);
    EXPECT_EQ(parse(text, thinks, tools, cuts).to_string(), expected);
  }
}

TEST(AnswerParser, PlainAnswersStayAsTheyAre) {
  expect_parsed("a </think> b <｜tool▁calls▁begin｜> c", false, CallLayout::kNone,
                "reasoning= content=a </think> b <｜tool▁calls▁begin｜> c");
}

TEST(AnswerParser, TheThoughtEndsAtItsFirstTag) {
  expect_parsed("hmm < </thin </think>\n\nYes </think>.", true, CallLayout::kNone,
                "reasoning=hmm < </thin  content=\n\nYes </think>.");
  expect_parsed("a thought without an end </thi", true, CallLayout::kNone,
                "reasoning=a thought without an end </thi content=");
}

TEST(AnswerParser, CallsHaveNamesAndArguments) {
  expect_parsed(
      "Let me see.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{\"city\": \"Rome < Paris\"}"
      "<｜tool▁call▁end｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
      false, CallLayout::kTags, "reasoning= content=Let me see. weather({\"city\": \"Rome < Paris\"}) now({})");
  expect_parsed(
      "first</think><｜tool▁calls▁begin｜>\n<｜tool▁call▁begin｜>f<｜tool▁call▁end｜>\n<｜tool▁calls▁end｜>\n", true,
      CallLayout::kTags, "reasoning=first content= f()");
}

TEST(AnswerParser, WhatKeepsToNoLayoutIsNotLost) {
  // Cut off at max_tokens inside the arguments, inside a name, inside a tag.
  expect_parsed("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"a\"", false, CallLayout::kTags,
                "reasoning= content= f({\"a\")");
  expect_parsed("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>wea", false, CallLayout::kTags, "reasoning= content=wea");
  expect_parsed("so <｜tool▁ca", false, CallLayout::kTags, "reasoning= content=so <｜tool▁ca");
  expect_parsed("<｜tool▁calls▁begin｜>words<｜tool▁calls▁end｜>more", false, CallLayout::kTags,
                "reasoning= content=wordsmore");
}

TEST(AnswerParser, TextGoesOutAsSoonAsItIsCertain) {
  AnswerParser parser(true, CallLayout::kNone);
  EXPECT_EQ(parser.push("thinking").reasoning, "thinking");
  EXPECT_EQ(parser.push(" on</").reasoning, " on");
  const AnswerParts parts = parser.push("think>Hi");
  EXPECT_EQ(parts.reasoning, "");
  EXPECT_EQ(parts.content, "Hi");
}

TEST(AnswerParser, FormatsThatThink) {
  EXPECT_TRUE(opens_thought(ChatFormat::kDeepSeekR1, false));
  EXPECT_TRUE(opens_thought(ChatFormat::kDeepSeekV31, true));
  EXPECT_FALSE(opens_thought(ChatFormat::kDeepSeekV31, false));
  EXPECT_TRUE(opens_thought(ChatFormat::kDeepSeekV4, true));
  EXPECT_FALSE(opens_thought(ChatFormat::kDeepSeekV4, false));
  EXPECT_FALSE(opens_thought(ChatFormat::kDeepSeekV3, true));
}

// Qwen3 opens its thought itself; the same tag later on is its own words.
TEST(AnswerParser, AThoughtThatTheModelOpens) {
  expect_parsed("<think>\nhm <think>\n</think>\n\nYes.", true, CallLayout::kNone,
                "reasoning=\nhm <think>\n content=\n\nYes.");
  expect_parsed("hm</think><think>", true, CallLayout::kNone, "reasoning=hm content=<think>");
  expect_parsed("<thin", true, CallLayout::kNone, "reasoning=<thin content=");
}

// V4's markup becomes a JSON object: strings as they are, escaped; other values as they stand.
TEST(AnswerParser, MarkupCalls) {
  expect_parsed(
      "hm</think>Let me see.\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"weather\">\n"
      "<｜DSML｜parameter name=\"city\" string=\"true\">\"Rome\"\n</x></｜DSML｜parameter>\n"
      "<｜DSML｜parameter name=\"days\" string=\"false\">[1, 2]</｜DSML｜parameter>\n</｜DSML｜invoke>\n"
      "<｜DSML｜invoke name=\"now\">\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>",
      true, CallLayout::kMarkup,
      "reasoning=hm content=Let me see.\n\n weather({\"city\": \"\\\"Rome\\\"\\n</x>\", \"days\": [1, 2]}) now({})");
  // Cut off inside a value.
  expect_parsed(
      "<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter name=\"a\" string=\"true\">x</｜DSML",
      false, CallLayout::kMarkup, "reasoning= content= f({\"a\": \"x</｜DSML)");
  expect_parsed("a <｜DSML｜tool_calls> b", false, CallLayout::kNone, "reasoning= content=a <｜DSML｜tool_calls> b");
}

}  // namespace
}  // namespace sluice
