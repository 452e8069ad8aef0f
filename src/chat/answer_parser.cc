#include "chat/answer_parser.h"

#include <algorithm>
#include <utility>

namespace sluice {

namespace {

using namespace tool_tags;

constexpr std::string_view kThink = "<think>";
constexpr std::string_view kMarkupBegin = "<｜DSML｜tool_calls>";
constexpr std::string_view kMarkupEnd = "</｜DSML｜tool_calls>";
constexpr std::string_view kInvoke = "<｜DSML｜invoke name=\"";
constexpr std::string_view kEndInvoke = "</｜DSML｜invoke>";
constexpr std::string_view kParameter = "<｜DSML｜parameter name=\"";
constexpr std::string_view kEndParameter = "</｜DSML｜parameter>";
constexpr std::string_view kTagEnd = "\">";

constexpr std::string_view kAllTags[] = {kThink,     kEndOfThought, kCallsBegin,   kCallsEnd,  kCallBegin,
                                         kCallEnd,   kSeparator,    kMarkupBegin,  kMarkupEnd, kInvoke,
                                         kEndInvoke, kParameter,    kEndParameter, kTagEnd};

// Of the inside of a JSON string; bytes of UTF-8 stay.
std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += {'\\', c};
    } else if (c == '\n') {
      out += "\\n";
    } else if (static_cast<unsigned char>(c) < 0x20) {
      constexpr char kDigits[] = "0123456789abcdef";
      out += {'\\', 'u', '0', '0', kDigits[c >> 4], kDigits[c & 15]};
    } else {
      out += c;
    }
  }
  return out;
}

}  // namespace

AnswerParser::AnswerParser(bool thinks, CallLayout calls)
    : calls_(calls), place_(thinks ? Place::kThought : Place::kContent) {}

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
  begun_ = true;
  switch (place_) {
    case Place::kThought:
      parts->reasoning += text;
      break;
    case Place::kContent:
      parts->content += text;
      break;
    case Place::kName:
    case Place::kKey:
      name_ += text;
      break;
    case Place::kArguments:
    case Place::kValue:
      add_arguments(text, parts);
      break;
    case Place::kText:
      add_arguments(escaped(text), parts);
      break;
    case Place::kBetweenCalls:
    case Place::kBetweenParameters:
    case Place::kAfterCalls:
      // Line ends between the tags are layout; words there are none that the layout knows, so they are content.
      if (text.find_first_not_of(" \r\n\t") != std::string_view::npos) parts->content += text;
      break;
  }
}

void AnswerParser::begin_call(AnswerParts* parts) {
  parts->calls.push_back({num_calls_++, std::exchange(name_, {}), ""});
}

void AnswerParser::add_arguments(std::string_view text, AnswerParts* parts) {
  if (parts->calls.empty() || parts->calls.back().index != num_calls_ - 1)
    parts->calls.push_back({num_calls_ - 1, "", ""});
  parts->calls.back().arguments += text;
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
  const bool markup = calls_ == CallLayout::kMarkup;
  switch (place_) {
    case Place::kThought:
      look(kEndOfThought);
      if (!begun_ && held_.starts_with(kThink)) look(kThink);
      break;
    case Place::kContent:
      if (calls_ != CallLayout::kNone) look(markup ? kMarkupBegin : kCallsBegin);
      break;
    case Place::kBetweenCalls:
      look(markup ? kInvoke : kCallBegin);
      look(markup ? kMarkupEnd : kCallsEnd);
      break;
    case Place::kName:
      look(markup ? kTagEnd : kSeparator);
      if (!markup) look(kCallEnd);
      break;
    case Place::kBetweenParameters:
      look(kParameter);
      look(kEndInvoke);
      break;
    case Place::kKey:
      look(kTagEnd);
      break;
    case Place::kText:
    case Place::kValue:
      look(kEndParameter);
      break;
    case Place::kArguments:
      look(kCallEnd);
      break;
    case Place::kAfterCalls:
      break;
  }
  return *at != std::string::npos;
}

// All but the longest end that may be the beginning of any tag.
size_t AnswerParser::num_certain() const {
  const bool no_tags = place_ == Place::kAfterCalls || (place_ == Place::kContent && calls_ == CallLayout::kNone);
  if (no_tags) return held_.size();
  const std::string_view held = held_;
  constexpr size_t kLongest = std::max(kCallsBegin.size(), kParameter.size());
  for (size_t begin = held.size() - std::min(held.size(), kLongest); begin < held.size(); ++begin)
    for (const std::string_view tag : kAllTags)
      if (tag.starts_with(held.substr(begin))) return begin;
  return held.size();
}

void AnswerParser::pass(std::string_view tag, AnswerParts* parts) {
  begun_ = true;
  if (tag == kThink) return;
  if (tag == kEndOfThought) {
    place_ = Place::kContent;
  } else if (calls_ == CallLayout::kMarkup) {
    pass_markup(tag, parts);
  } else if (tag == kCallsBegin) {
    place_ = Place::kBetweenCalls;
  } else if (tag == kCallBegin) {
    place_ = Place::kName;
    name_.clear();
  } else if (tag == kSeparator) {
    place_ = Place::kArguments;
    begin_call(parts);
  } else if (tag == kCallEnd) {
    // A call without arguments has no separator.
    if (place_ == Place::kName) begin_call(parts);
    place_ = Place::kBetweenCalls;
  } else {
    place_ = Place::kAfterCalls;
  }
}

void AnswerParser::pass_markup(std::string_view tag, AnswerParts* parts) {
  if (tag == kMarkupBegin) {
    place_ = Place::kBetweenCalls;
  } else if (tag == kInvoke) {
    place_ = Place::kName;
    name_.clear();
  } else if (tag == kTagEnd && place_ == Place::kName) {
    place_ = Place::kBetweenParameters;
    begin_call(parts);
    has_parameters_ = false;
  } else if (tag == kParameter) {
    place_ = Place::kKey;
    name_.clear();
  } else if (tag == kTagEnd) {  // name_: {key}" string="true|false
    const std::string header = std::exchange(name_, {});
    place_ = header.ends_with("\" string=\"false") ? Place::kValue : Place::kText;
    const std::string key = escaped(std::string_view(header).substr(0, header.find("\" string=")));
    add_arguments(
        (std::exchange(has_parameters_, true) ? ", \"" : "{\"") + key + (place_ == Place::kText ? "\": \"" : "\": "),
        parts);
  } else if (tag == kEndParameter) {
    if (place_ == Place::kText) add_arguments("\"", parts);
    place_ = Place::kBetweenParameters;
  } else if (tag == kEndInvoke) {
    add_arguments(has_parameters_ ? "}" : "{}", parts);
    place_ = Place::kBetweenCalls;
  } else {
    place_ = Place::kAfterCalls;
  }
}

bool opens_thought(ChatFormat format, bool thinking) {
  return format == ChatFormat::kDeepSeekR1 ||
         (thinking &&
          (format == ChatFormat::kDeepSeekV31 || format == ChatFormat::kDeepSeekV4 || format == ChatFormat::kQwen3));
}

}  // namespace sluice
