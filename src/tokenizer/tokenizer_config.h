// The few keys of a tokenizer_config.json that the server acts on; the file holds many more, which are left alone.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "sluice/status.h"

namespace sluice {

struct TokenizerConfig {
  std::optional<bool> add_bos_token;
  std::optional<std::string> bos_token;  // texts of added tokens
  std::optional<std::string> eos_token;
  std::string chat_template;  // empty: none
};

// `text` may be empty: a checkpoint without the file. INVALID_ARGUMENT names the key.
Result<TokenizerConfig> parse_tokenizer_config(std::string_view text);

}  // namespace sluice
