// Forms of answers, as far as a client can bring them: through the front door's checks into the grammar library, and a
// walk through what comes out. The first byte is the kind, the second the seed of the walk.
#include <future>
#include <random>

#include "grammar/grammar_compiler.h"
#include "server/output_form.h"
#include "tests/fuzz/fuzz_services.h"

namespace sluice {
namespace {

struct Fixture {
  Fixture() {
    const Tokenizer& tokenizer = *services.services().tokenizer;
    GrammarVocabulary vocabulary;
    for (TokenId id = 0; id < 4096; ++id) vocabulary.tokens.emplace_back(id < 2 ? "" : tokenizer.token_bytes(id));
    vocabulary.end_token_ids = {1};
    compiler = make_grammar_compiler(std::move(vocabulary), {.max_kept_bytes = 1});
  }
  FuzzServices services;
  std::unique_ptr<GrammarCompiler> compiler;
};

void walk(const Grammar& grammar, uint32_t seed) {
  const auto constraint = grammar.begin(std::nullopt);
  std::minstd_rand random(seed);
  std::vector<uint32_t> words(4096 / 32);
  int length = 0;
  for (int i = 0; i < 40 && !constraint->ended(); ++i) {
    if (!constraint->allowed(words)) return;
    TokenId token = static_cast<TokenId>(random() % 4096);
    while ((words[static_cast<size_t>(token) / 32] >> (token % 32) & 1) == 0) token = (token + 1) % 4096;
    SLUICE_CHECK(constraint->advance(token), "{} was allowed", token);
    ++length;
    if (random() % 8 == 0) {
      const auto back = static_cast<int32_t>(random() % static_cast<uint32_t>(length + 1));
      constraint->roll_back(back);
      length -= back;
    }
  }
}

}  // namespace
}  // namespace sluice

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static sluice::Fixture fixture;
  if (size < 3) return 0;
  const std::string text(reinterpret_cast<const char*>(data) + 2, size - 2);
  sluice::v1::Form form;
  switch (data[0] % 5) {
    case 0:
      form.set_json_schema(text);
      break;
    case 1:
      form.set_regex(text);
      break;
    case 2:
      form.set_grammar(text);
      break;
    case 3:
      form.mutable_choice()->add_values(text);
      break;
    default:
      form.set_structural_tag(text);
  }
  const auto checked = sluice::check_form(form, fixture.services.services());
  if (!checked.ok() || !*checked) return 0;
  std::promise<sluice::Result<std::shared_ptr<const sluice::Grammar>>> answer;
  const sluice::Status status =
      fixture.compiler->compile(**checked, [&](auto result) { answer.set_value(std::move(result)); });
  SLUICE_CHECK(status.ok(), "{}", status.to_string());
  const auto grammar = answer.get_future().get();
  if (grammar.ok()) sluice::walk(**grammar, data[1]);
  return 0;
}
