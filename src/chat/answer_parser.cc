#include "chat/answer_parser.h"

#include <algorithm>
#include <utility>

namespace sluice {

AnswerParser::AnswerParser(bool thinks, bool tools)
    : tools_(tools), place_(thinks ? Place::kThought : Place::kContent) {}

AnswerParts AnswerParser::push(std::string_view text) {
  held_ += text;
  AnswerParts parts;
  size_t at = 0;
  std::string_view tag;
  while (find_tag(&at, &tag)) {
    put(std::string_view(held_).substr(0, at), &parts);
    held_.erase(0, at + tag.size());
    pass(tag, &parts);
  }
  const size_t certain = num_certain();
  put(std::string_view(held_).substr(0, certain), &parts);
  held_.erase(0, certain);
  return parts;
}

AnswerParts AnswerParser::flush() {
  AnswerParts parts;
  put(std::exchange(held_, {}), &parts);
  if (place_ == Place::kName) parts.content += std::exchange(name_, {});  // half a name calls nobody
  return parts;
}

void AnswerParser::put(std::string_view text, AnswerParts* parts) {
  if (text.empty()) return;
  switch (place_) {
    case Place::kThought:
      parts->reasoning += text;
      break;
    case Place::kContent:
      parts->content += text;
      break;
    case Place::kName:
      name_ += text;
      break;
    case Place::kArguments:
      if (parts->calls.empty() || parts->calls.back().index != num_calls_ - 1)
        parts->calls.push_back({num_calls_ - 1, "", ""});
      parts->calls.back().arguments += text;
      break;
    case Place::kBetweenCalls:
    case Place::kAfterCalls:
      // Line ends between the tags are layout; words there are none that the layout knows, so they are content.
      if (text.find_first_not_of(" \r\n\t") != std::string_view::npos) parts->content += text;
      break;
  }
}

// The tag that ends the place we are in, if it is whole.
bool AnswerParser::find_tag(size_t* at, std::string_view* tag) const {
  *at = std::string::npos;
  const auto look = [&](std::string_view candidate) {
    const size_t found = held_.find(candidate);
    if (found < *at) {
      *at = found;
      *tag = candidate;
    }
  };
  switch (place_) {
    case Place::kThought:
      look(kEndOfThought);
      break;
    case Place::kContent:
      if (tools_) look(tool_tags::kCallsBegin);
      break;
    case Place::kBetweenCalls:
      look(tool_tags::kCallBegin);
      look(tool_tags::kCallsEnd);
      break;
    case Place::kName:
      look(tool_tags::kSeparator);
      look(tool_tags::kCallEnd);
      break;
    case Place::kArguments:
      look(tool_tags::kCallEnd);
      break;
    case Place::kAfterCalls:
      break;
  }
  return *at != std::string::npos;
}

// All but the longest end that may be the beginning of any tag.
size_t AnswerParser::num_certain() const {
  const bool no_tags = place_ == Place::kAfterCalls || (place_ == Place::kContent && !tools_);
  if (no_tags) return held_.size();
  const std::string_view held = held_;
  for (size_t begin = held.size() - std::min(held.size(), tool_tags::kCallsBegin.size()); begin < held.size(); ++begin)
    for (const std::string_view tag : {kEndOfThought, tool_tags::kCallsBegin, tool_tags::kCallsEnd,
                                       tool_tags::kCallBegin, tool_tags::kCallEnd, tool_tags::kSeparator})
      if (tag.starts_with(held.substr(begin))) return begin;
  return held.size();
}

void AnswerParser::pass(std::string_view tag, AnswerParts* parts) {
  if (tag == kEndOfThought) {
    place_ = Place::kContent;
  } else if (tag == tool_tags::kCallsBegin) {
    place_ = Place::kBetweenCalls;
  } else if (tag == tool_tags::kCallBegin) {
    place_ = Place::kName;
    name_.clear();
  } else if (tag == tool_tags::kSeparator) {
    place_ = Place::kArguments;
    parts->calls.push_back({num_calls_++, std::exchange(name_, {}), ""});
  } else if (tag == tool_tags::kCallEnd) {
    // A call without arguments has no separator.
    if (place_ == Place::kName) parts->calls.push_back({num_calls_++, std::exchange(name_, {}), ""});
    place_ = Place::kBetweenCalls;
  } else {
    place_ = Place::kAfterCalls;
  }
}

bool opens_thought(ChatFormat format, bool thinking) {
  return format == ChatFormat::kDeepSeekR1 ||
         ((format == ChatFormat::kDeepSeekV31 || format == ChatFormat::kDeepSeekV4) && thinking);
}

}  // namespace sluice
