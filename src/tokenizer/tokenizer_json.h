// Reads a tokenizer.json into a TokenizerSpec. Accepts the byte-level BPE pipelines that Tokenizer runs and refuses
// every key and value that it does not know, by name: whatever is skipped could change ids. Any thread.
#pragma once

#include <string_view>

#include "sluice/status.h"

#include "tokenizer/json_field.h"
#include "tokenizer/tokenizer_spec.h"

namespace sluice {

Result<TokenizerSpec> parse_tokenizer_json(std::string_view text);

// The section "pre_tokenizer" as stages, in order; the closing ByteLevel's byte alphabet is implied.
Result<std::vector<PreTokenizerStage>> parse_pre_tokenizer(const JsonField& section);

}  // namespace sluice
