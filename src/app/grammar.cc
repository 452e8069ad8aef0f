#include "app/grammar.h"

#ifdef SLUICE_GRAMMAR
#include "grammar/grammar_compiler.h"
#endif

namespace sluice {

#ifdef SLUICE_GRAMMAR

std::unique_ptr<GrammarCompiler> make_compiler(const LoadedModel& loaded, const Options& options) {
  if (!loaded.tokenizer || loaded.info.eos_token_ids.empty()) return nullptr;
  GrammarVocabulary vocabulary;
  vocabulary.end_token_ids = loaded.info.eos_token_ids;
  for (TokenId id = 0; id < loaded.info.vocab_size; ++id)
    vocabulary.tokens.emplace_back(loaded.tokenizer->is_special(id) ? "" : loaded.tokenizer->token_bytes(id));
  return make_grammar_compiler(std::move(vocabulary), {.max_kept_bytes = options.grammar_cache_mib << 20});
}

#else

std::unique_ptr<GrammarCompiler> make_compiler(const LoadedModel&, const Options&) { return nullptr; }

#endif

}  // namespace sluice
