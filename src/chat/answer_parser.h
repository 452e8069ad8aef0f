// Takes a chat answer apart while it comes: what the model thought, what it says, which tools it asks for. Owns the
// part of a tag that may still become one; knows no JSON and no wire format. One per choice, one thread at a time.
//
//   R1, V3.1 thinking   {thought}</think>{content}
//   V3.1 with tools
//   {content}<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{arguments}<｜tool▁call▁end｜>
//                       <｜tool▁call▁begin｜>...<｜tool▁calls▁end｜>
//
// Text that keeps to no layout is given as what it stands in: nothing the model wrote is lost but the tags.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "chat/chat_format.h"

namespace sluice {

namespace tool_tags {
constexpr std::string_view kCallsBegin = "<｜tool▁calls▁begin｜>";
constexpr std::string_view kCallsEnd = "<｜tool▁calls▁end｜>";
constexpr std::string_view kCallBegin = "<｜tool▁call▁begin｜>";
constexpr std::string_view kCallEnd = "<｜tool▁call▁end｜>";
constexpr std::string_view kSeparator = "<｜tool▁sep｜>";
}  // namespace tool_tags

constexpr std::string_view kEndOfThought = "</think>";

// What came since the push before.
struct AnswerParts {
  struct CallPart {
    int32_t index = 0;      // of the call, from 0
    std::string name;       // whole, in the first part of a call; else empty
    std::string arguments;  // what is new of them
  };
  std::string reasoning;
  std::string content;
  std::vector<CallPart> calls;

  bool empty() const { return reasoning.empty() && content.empty() && calls.empty(); }
};

class AnswerParser {
 public:
  // `thinks`: the prompt opened a thought (R1 always; V3.1 if asked). `tools`: the request offered some.
  AnswerParser(bool thinks, bool tools);

  AnswerParts push(std::string_view text);
  AnswerParts flush();  // the answer ended: what was held back is ordinary text

  int32_t num_calls() const { return num_calls_; }

 private:
  enum class Place : uint8_t { kThought, kContent, kBetweenCalls, kName, kArguments, kAfterCalls };

  void put(std::string_view text, AnswerParts* parts);
  bool find_tag(size_t* at, std::string_view* tag) const;
  size_t num_certain() const;
  void pass(std::string_view tag, AnswerParts* parts);

  bool tools_;
  Place place_;
  std::string held_;  // not yet given out
  std::string name_;  // of the call that begins
  int32_t num_calls_ = 0;
};

// Whether the prompt of this format opens a thought.
bool opens_thought(ChatFormat format, bool thinking);

}  // namespace sluice
