// An engine without a model, for tests of scheduler and cache: a page slot holds a number that is a hash chain over
// all tokens (and roles) up to its position, computed from what the page before it *really* holds. The next token is
// a hash of the last number. So a wrong page, a missing copy, a stale or foreign row changes the answer, and is also
// found at once, because every slot read is compared with what it should hold. Owns page contents; verifies plans.
//
//   slot(p) = mix(slot(p - 1) as read from the pages, token p, role p)      next token = f(slot(length - 1), seed)
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "sluice/kv_layout.h"
#include "sluice/plan.h"

#include "cache/page_pool.h"

namespace sluice {

struct FakeEngineOptions {
  int32_t num_pages = 0;
  int32_t vocab_size = 1000;
  // The bits of a row depend on its role, as in the real engine. Off where pages of generated tokens are reused.
  bool roles_matter = true;
};

class FakeEngine {
 public:
  explicit FakeEngine(FakeEngineOptions options);

  StepResult run(const StepPlan& plan);
  // What nobody holds is overwritten, so that stale reads show.
  void poison_free(const PagePool& pool);

  // The answer of a request that is alone in the world.
  std::vector<TokenId> solo(const Request& request, int32_t choice, std::span<const TokenId> eos_ids,
                            int32_t max_length) const;

  // Overrides what is drawn, for scenarios: work -> token.
  std::function<std::optional<TokenId>(const SequenceWork&)> script;
  // What was wrong with the plans so far, at most a few. Tests expect it to stay empty.
  const std::vector<std::string>& problems() const { return problems_; }

  static constexpr int64_t kPageBytes = sizeof(uint64_t) * kPageTokens;

 private:
  struct Slot {
    uint64_t value = kPoison;
  };
  static constexpr uint64_t kPoison = 0xDEADBEEFDEADBEEF;
  static constexpr uint64_t kStart = 0x9E3779B97F4A7C15;

  uint64_t next_value(uint64_t before, TokenId token, TokenRole role) const;
  TokenId draw(uint64_t value, uint64_t seed, bool masks_stop, std::span<const TokenId> stop_ids) const;
  Slot& slot(std::span<const PageId> pages, int32_t position);
  void perform_moves(const StepPlan& plan);
  void perform_copies(const StepPlan& plan);
  uint64_t read_before(const SequenceWork& work);
  void check_shape(const SequenceWork& work);
  WorkResult compute(const SequenceWork& work);
  void problem(std::string text);

  const FakeEngineOptions options_;
  std::vector<Slot> slots_;  // [num_pages, kPageTokens]
  std::vector<std::string> problems_;
};

}  // namespace sluice
