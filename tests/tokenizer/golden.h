// Goldens of this room: files under tests/golden/tokenizer and the tokenizers that they were recorded with.
#pragma once

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tokenizer/tokenizer.h"
#include "tests/support/source_file.h"

namespace sluice::testing {

inline std::string read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

inline std::string golden_text(const std::string& name) {
  return read_text(source_file("tests/golden/tokenizer/" + name));
}

inline nlohmann::json golden(const std::string& name) {
  return nlohmann::json::parse(golden_text(name));
}

// A tokenizer that must load; aborts the test program with the reason otherwise.
inline Tokenizer parsed(const std::string& tokenizer_json, const std::string& config_json = "") {
  Result<Tokenizer> tokenizer = Tokenizer::parse(tokenizer_json, config_json);
  if (!tokenizer.ok()) ADD_FAILURE() << tokenizer.status().to_string();
  return std::move(tokenizer).value();
}

inline Tokenizer v2_stages() {
  return parsed(golden_text("v2_stages.json"));
}

inline std::vector<TokenId> ids_of(const Tokenizer& tokenizer, const std::string& text,
                                   SpecialTokens special = SpecialTokens::kParse) {
  Result<std::vector<TokenId>> ids = tokenizer.encode(text, false, special);
  EXPECT_TRUE(ids.ok()) << ids.status().to_string();
  return ids.ok() ? *ids : std::vector<TokenId>{};
}

}  // namespace sluice::testing
