// Takes a chat answer apart while it comes: what the model thought, what it says, which tools it asks for. Owns the
// part of a tag that may still become one; knows no JSON and no wire format. One per choice, one thread at a time.
//
//   R1, V3.1 thinking   {thought}</think>{content}, and Qwen3, which opens with <think> itself
//   V3.1 with tools
//   {content}<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{arguments}<｜tool▁call▁end｜>
//                       <｜tool▁call▁begin｜>...<｜tool▁calls▁end｜>
//   V4 with tools; the arguments become a JSON object
//   {content}<｜DSML｜tool_calls>  <｜DSML｜invoke name="{name}">
//                         <｜DSML｜parameter name="{key}" string="true|false">{value}</｜DSML｜parameter>...
//                       </｜DSML｜invoke>...  </｜DSML｜tool_calls>
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
  // `thinks`: the prompt opened a thought (R1 always; V3.1 if asked). `calls`: how they look where the request offered
  // tools, else kNone.
  AnswerParser(bool thinks, CallLayout calls);

  AnswerParts push(std::string_view text);
  AnswerParts flush();  // the answer ended: what was held back is ordinary text

  int32_t num_calls() const { return num_calls_; }

 private:
  enum class Place : uint8_t {
    kThought,
    kContent,
    kBetweenCalls,
    kName,
    kArguments,
    kAfterCalls,
    kBetweenParameters,
    kKey,
    kText,
    kValue  // of markup; kText: a value that is a string
  };

  void put(std::string_view text, AnswerParts* parts);
  bool find_tag(size_t* at, std::string_view* tag) const;
  size_t num_certain() const;
  void pass(std::string_view tag, AnswerParts* parts);
  void pass_markup(std::string_view tag, AnswerParts* parts);
  void begin_call(AnswerParts* parts);
  void add_arguments(std::string_view text, AnswerParts* parts);

  CallLayout calls_;
  Place place_;
  bool begun_ = false;  // something came: a <think> from here on is the thought's own
  std::string held_;    // not yet given out
  std::string name_;    // of the call that begins, or of the parameter, with what stands behind it in its tag
  bool has_parameters_ = false;
  int32_t num_calls_ = 0;
};

// Whether an answer to the prompt of this format begins with a thought.
bool opens_thought(ChatFormat format, bool thinking);

}  // namespace sluice
