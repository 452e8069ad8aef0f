// One compiled form, and the constraint that follows one answer through it. Owns the meeting of our seam with
// xgrammar's matcher: bits, ends, rolling back, time. Immutable (the form); loop thread (the constraint).
#pragma once

#include <xgrammar/xgrammar.h>

#include <memory>
#include <utility>

#include "sluice/grammar.h"

namespace sluice {

// A grammar may be so ambiguous that one mask takes seconds, and it is the loop thread that waits for it: 30 rules that
// double each other take 19 s. Usual ones take 5 to 100 us (129k tokens). So a form whose first mask takes longer than
// this is refused, and an answer that meets such a place ends there.
constexpr double kMaxMaskSeconds = 0.05;

class CompiledForm final : public Grammar {
 public:
  explicit CompiledForm(xgrammar::CompiledGrammar grammar) : grammar_(std::move(grammar)) {}

  std::unique_ptr<TokenConstraint> begin(std::optional<TokenId> after) const override;
  int64_t num_bytes() const { return static_cast<int64_t>(grammar_.MemorySizeBytes()); }
  // INVALID_ARGUMENT where nothing can be written, or the first mask takes too long.
  Status check() const;

 private:
  const xgrammar::CompiledGrammar grammar_;
};

}  // namespace sluice
