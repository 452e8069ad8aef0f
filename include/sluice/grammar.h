// Output of a given form: what a client may ask for, and the seam behind which a grammar says which tokens may come
// next. A front end asks the compiler, off the loop thread; the scheduler keeps one TokenConstraint per choice in step
// with its tokens; the engine draws from what that allows. Knows no grammar library.
//
//   OutputForm --GrammarCompiler--> Grammar (shared, kept) --begin()--> TokenConstraint (of one choice)
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "sluice/status.h"
#include "sluice/types.h"

namespace sluice {

enum class FormKind : uint8_t {
  kJsonSchema,     // text: the schema
  kJsonObject,     // any JSON object; no text
  kRegex,          // text: of the whole answer
  kGrammar,        // text: EBNF with the rule `root`
  kStructuralTag,  // text: xgrammar's JSON of tags and schemas between them
};

struct OutputForm {
  FormKind kind = FormKind::kJsonObject;
  std::string text;
  std::string field;  // as the client knows it, for complaints: "response_format"
};

// Of one choice. Loop thread only.
class TokenConstraint {
 public:
  virtual ~TokenConstraint() = default;
  // Bit t % 32 of words[t / 32] becomes 1 if token t may come next, else 0. Not behind the end.
  // False: nothing may, the form cannot be completed with this vocabulary.
  virtual bool allowed(std::span<uint32_t> words) = 0;  // [ceil(vocab / 32)]
  // The token that was drawn. False if it was not allowed: then nothing has changed.
  virtual bool advance(TokenId token) = 0;
  // The last `num_tokens` tokens never came.
  virtual void roll_back(int32_t num_tokens) = 0;
  // The form is complete and an end-of-sequence token has closed it: nothing may follow.
  virtual bool ended() const = 0;
};

// A form made ready for one vocabulary. Immutable, any thread; the compiler may be gone.
class Grammar {
 public:
  virtual ~Grammar() = default;
  // With `after`, everything is allowed until that token has come (the end of a thought), and the form holds behind it.
  virtual std::unique_ptr<TokenConstraint> begin(std::optional<TokenId> after) const = 0;
};

// Any thread.
class GrammarCompiler {
 public:
  using Done = std::function<void(Result<std::shared_ptr<const Grammar>>)>;

  virtual ~GrammarCompiler() = default;
  // Null if it must be compiled first. Takes no time.
  virtual std::shared_ptr<const Grammar> find(const OutputForm& form) = 0;
  // Calls `done` once, from a thread of its own: INVALID_ARGUMENT names the form's field. RESOURCE_EXHAUSTED at once,
  // without a call, when too many wait.
  virtual Status compile(OutputForm form, Done done) = 0;
};

}  // namespace sluice
