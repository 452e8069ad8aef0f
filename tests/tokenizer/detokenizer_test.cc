// Incremental decoding: never half a character, U+FFFD for each maximal subpart, and the same text as decode().
#include "tests/tokenizer/golden.h"
#include "tokenizer/utf8.h"

namespace sluice {
namespace {

// Its vocabulary holds every byte, so that ids spell any bytes.
Tokenizer any_bytes() { return testing::v2_stages(); }

std::vector<TokenId> spelled(const Tokenizer& tokenizer, std::string_view bytes) {
  std::vector<TokenId> ids;
  for (const char byte : bytes) {
    for (TokenId id = 0; id < tokenizer.vocab_size(); ++id) {
      if (tokenizer.token_bytes(id) != std::string_view(&byte, 1)) continue;
      ids.push_back(id);
      break;
    }
  }
  EXPECT_EQ(ids.size(), bytes.size());
  return ids;
}

std::vector<std::string> pushed(const Tokenizer& tokenizer, std::string_view bytes) {
  Detokenizer detokenizer(tokenizer);
  std::vector<std::string> texts;
  for (const TokenId id : spelled(tokenizer, bytes)) texts.push_back(detokenizer.push(id));
  texts.push_back(detokenizer.flush());
  return texts;
}

using Texts = std::vector<std::string>;
const std::string kBad(kReplacementCharacter);

TEST(Detokenizer, HoldsBackHalfACharacter) {
  const Tokenizer tokenizer = any_bytes();
  EXPECT_EQ(pushed(tokenizer, "a\xC3\xA9z"), (Texts{"a", "", "é", "z", ""}));
  EXPECT_EQ(pushed(tokenizer, "\xF0\x9F\x98\x80"), (Texts{"", "", "", "😀", ""}));
}

TEST(Detokenizer, FlushShowsWhatNeverCame) {
  const Tokenizer tokenizer = any_bytes();
  EXPECT_EQ(pushed(tokenizer, "a\xF0\x9F\x98"), (Texts{"a", "", "", "", kBad}));
  EXPECT_EQ(pushed(tokenizer, "\xE4"), (Texts{"", kBad}));
}

TEST(Detokenizer, OneReplacementForEachMaximalSubpart) {
  const Tokenizer tokenizer = any_bytes();
  EXPECT_EQ(pushed(tokenizer, "\x80z"), (Texts{kBad, "z", ""}));
  EXPECT_EQ(pushed(tokenizer, "\xE4\xB8z"), (Texts{"", "", kBad + "z", ""}));
  EXPECT_EQ(pushed(tokenizer, "\xE4\xC3\xA9"), (Texts{"", kBad, "é", ""}));
  EXPECT_EQ(pushed(tokenizer, "\xED\xA0\x80"), (Texts{"", kBad + kBad, kBad, ""}));  // a surrogate
  EXPECT_EQ(pushed(tokenizer, "\xE0\x80\x80"), (Texts{"", kBad + kBad, kBad, ""}));  // overlong
  EXPECT_EQ(pushed(tokenizer, "\xF4\x90\x80"), (Texts{"", kBad + kBad, kBad, ""}));  // above U+10FFFF
  EXPECT_EQ(pushed(tokenizer, "\xF5\xFF"), (Texts{kBad, kBad, ""}));
}

TEST(Detokenizer, PiecesAddUpToDecode) {
  const Tokenizer tokenizer = any_bytes();
  const nlohmann::json recorded = testing::golden("cases_v2.json");
  for (const nlohmann::json& entry : recorded["decodes"]) {
    const auto ids = entry["ids"].get<std::vector<TokenId>>();
    for (const bool skip_special : {false, true}) {
      Detokenizer detokenizer(tokenizer, skip_special);
      std::string text;
      for (const TokenId id : ids) {
        text += detokenizer.push(id);
        EXPECT_EQ(valid_utf8_prefix(text), text.size());
      }
      EXPECT_EQ(text + detokenizer.flush(), *tokenizer.decode(ids, skip_special));
    }
  }
}

TEST(Detokenizer, SkipsSpecialTokensOnlyIfAsked) {
  const Tokenizer tokenizer = any_bytes();
  const TokenId eos = *tokenizer.id_of("<｜end▁of▁sentence｜>");
  const TokenId user = *tokenizer.id_of("<｜User｜>");  // added, but not marked special
  EXPECT_EQ(Detokenizer(tokenizer).push(eos), "");
  EXPECT_EQ(Detokenizer(tokenizer, false).push(eos), "<｜end▁of▁sentence｜>");
  EXPECT_EQ(Detokenizer(tokenizer).push(user), "<｜User｜>");
}

// The head has more rows than the tokenizer has tokens; such an id is no text, and does not end a character.
TEST(Detokenizer, IdsWithoutATokenAreEmpty) {
  const Tokenizer tokenizer = any_bytes();
  Detokenizer detokenizer(tokenizer);
  const std::vector<TokenId> halves = spelled(tokenizer, "\xC3\xA9");
  EXPECT_EQ(detokenizer.push(halves[0]), "");
  EXPECT_EQ(detokenizer.push(tokenizer.vocab_size() + 7), "");
  EXPECT_EQ(detokenizer.push(halves[1]), "é");
  EXPECT_EQ(detokenizer.push(-1), "");
}

}  // namespace
}  // namespace sluice
