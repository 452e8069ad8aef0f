// Unicode's normal form C, as the library `tokenizers` computes it: some tokenizers (Qwen's) put a text into it before
// they split it. Pure functions, any thread.
#pragma once

#include <string>
#include <string_view>

namespace sluice {

// Whether the text has nothing that normal form C could change; may say no of a text that is in it already.
bool surely_nfc(std::string_view utf8);

// `utf8` is well-formed.
std::string to_nfc(std::string_view utf8);

}  // namespace sluice
