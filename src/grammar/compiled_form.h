// One compiled form, and the constraint that follows one answer through it. Owns the meeting of our seam with
// xgrammar's matcher: bits, ends, rolling back, time. Immutable (the form); loop thread (the constraint).
#pragma once

#include <xgrammar/xgrammar.h>

#include <memory>
#include <utility>

#include "sluice/grammar.h"

namespace sluice {

class CompiledForm final : public Grammar {
 public:
  CompiledForm(xgrammar::CompiledGrammar grammar, double max_mask_seconds)
      : grammar_(std::move(grammar)), max_mask_seconds_(max_mask_seconds) {}

  std::unique_ptr<TokenConstraint> begin(std::optional<TokenId> after) const override;
  int64_t num_bytes() const { return static_cast<int64_t>(grammar_.MemorySizeBytes()); }
  // INVALID_ARGUMENT where nothing can be written, or the first mask takes too long.
  Status check() const;

 private:
  const xgrammar::CompiledGrammar grammar_;
  const double max_mask_seconds_;  // GrammarLimits
};

}  // namespace sluice
