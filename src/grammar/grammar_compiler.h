// Compiles forms into grammars for one vocabulary, with the library xgrammar. Owns one worker thread (a compilation
// takes 30 ms to seconds where the vocabulary has 129k tokens, and may neither hold up the loop nor a server thread), a
// bounded queue before it, and the grammars compiled lately, of so many bytes at most. What is too
// ambiguous is refused (compiled_form.h). Any thread may ask.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "sluice/grammar.h"

namespace sluice {

struct GrammarVocabulary {
  std::vector<std::string> tokens;     // [size] bytes of each; empty: no text (special tokens, rows without a token)
  std::vector<TokenId> end_token_ids;  // may follow a complete form, and nothing else; not empty
};

struct GrammarLimits {
  int64_t max_kept_bytes = int64_t{256} << 20;
  size_t max_waiting = 64;  // compilations
};

// Its destructor drops what waits: their callers are told UNAVAILABLE.
std::unique_ptr<GrammarCompiler> make_grammar_compiler(GrammarVocabulary vocabulary, GrammarLimits limits = {});

}  // namespace sluice
