// Any bytes as a tokenizer.json: Tokenizer::parse must answer with a tokenizer or an error, and a tokenizer that it
// accepts must encode and decode without crashing, hanging or growing. The seed has a small vocabulary and one of every
// kind of stage.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "tokenizer/tokenizer.h"

namespace {

// Something for every stage: letters, digits, spaces at line ends, scripts, an added token's text, bytes above ASCII.
constexpr std::string_view kText =
    "The 12345 quick  \n\n brown's\t<｜User｜> übergröße 中文カナ한글 😀 e\u0301 ... "
    "<｜end▁of▁sentence｜>aaaaaaaaaaaaaaaa  ";

void use(const sluice::Tokenizer& tokenizer) {
  for (const sluice::SpecialTokens special : {sluice::SpecialTokens::kParse, sluice::SpecialTokens::kAsText}) {
    const auto ids = tokenizer.encode(kText, true, special);
    if (!ids.ok()) continue;  // a hostile pattern ran out of steps
    const auto text = tokenizer.decode(*ids);
    if (!text.ok()) std::abort();  // every id that encode gives has a token
    sluice::Detokenizer detokenizer(tokenizer, false);
    std::string pieces;
    for (const sluice::TokenId id : *ids) pieces += detokenizer.push(id);
    if (pieces + detokenizer.flush() != *text) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view file(reinterpret_cast<const char*>(data), size);
  const sluice::Result<sluice::Tokenizer> tokenizer = sluice::Tokenizer::parse(file, "");
  if (tokenizer.ok()) use(*tokenizer);
  return 0;
}
