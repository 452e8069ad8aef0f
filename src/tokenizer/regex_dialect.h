// Rewrites the split patterns of a tokenizer.json, which are written for Oniguruma's Ruby syntax, into PCRE2 patterns
// that match exactly the same. Knows the part of the syntax that split patterns use and refuses the rest by name: a
// pattern that merely compiles could silently change token ids. Compiles nothing. Any thread.
//
// Where the two engines differ (each checked against the oracle over all of Unicode, see the tests):
//   \s     PCRE2 adds U+180E; written out as the 25 White_Space characters
//   \p{X}  PCRE2 10.42 knows Unicode 14, Oniguruma 16; the additions are written out
//   $      Oniguruma's is the end of a line: PCRE2_MULTILINE
//   \v     vertical tab there, a class here; refused, like \d, \w, \b, which no known split uses
#pragma once

#include <string>
#include <string_view>

#include "sluice/status.h"

namespace sluice {

// `path` names the pattern in errors. FAILED_PRECONDITION for syntax outside the common part.
Result<std::string> regex_to_pcre2(std::string_view pattern, const std::string& path);

// A pattern that matches `text` literally.
std::string literal_to_pcre2(std::string_view text);

}  // namespace sluice
