// Compiles forms into grammars for one vocabulary, with the library xgrammar. Owns one worker thread (a compilation
// takes 30 ms to seconds where the vocabulary has 129k tokens, and may neither hold up the loop nor a server thread), a
// bounded queue before it, and the grammars compiled lately, of so many bytes at most. Any thread may ask.
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
  // A grammar may be so ambiguous that one mask takes seconds, and it is the loop thread that waits for it: 30 rules that
  // double each other take 19 s. Usual ones take 5 to 100 us (129k tokens). So a form whose first mask takes longer than
  // this (CPU time) is refused, and an answer that meets such a place ends there.
  double max_mask_seconds = 0.05;
};

// Its destructor drops what waits: their callers are told UNAVAILABLE.
std::unique_ptr<GrammarCompiler> make_grammar_compiler(GrammarVocabulary vocabulary, GrammarLimits limits = {});

}  // namespace sluice
