#include "grammar/compiled_form.h"

#include <algorithm>
#include <ctime>
#include <utility>
#include <vector>

#include "sluice/check.h"
#include "sluice/log.h"

namespace sluice {

namespace {

// Of this thread: others on the same core do not count.
double cpu_seconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

class Constraint final : public TokenConstraint {
 public:
  Constraint(const xgrammar::CompiledGrammar& grammar, double max_mask_seconds, std::optional<TokenId> after)
      : vocab_(grammar.GetTokenizerInfo().GetVocabSize()),
        max_mask_seconds_(max_mask_seconds),
        matcher_(grammar),
        after_(after),
        begun_(!after) {}

  bool allowed(std::span<uint32_t> words) override {
    SLUICE_CHECK(!ended(), "nothing follows the end of a form");
    std::ranges::fill(words, begun_ ? 0 : ~0u);
    if (!begun_) return true;
    const double start = cpu_seconds();
    fill(words);
    seconds_ = cpu_seconds() - start;
    if (seconds_ > max_mask_seconds_)
      log_warn("a grammar took {:.0f} ms for the tokens that may come next", seconds_ * 1e3);
    return seconds_ <= max_mask_seconds_ && std::ranges::any_of(words, [](uint32_t word) { return word != 0; });
  }

  bool advance(TokenId token) override {
    if (!begun_) {
      ++num_before_;
      begun_ = token == after_;
      return true;
    }
    if (ended() || !matcher_.AcceptToken(token)) return false;
    ++num_inside_;
    return true;
  }

  void roll_back(int32_t num_tokens) override {
    const int32_t inside = std::min(num_tokens, num_inside_);
    if (inside > 0) matcher_.Rollback(inside);
    num_inside_ -= inside;
    num_tokens -= inside;
    SLUICE_CHECK(num_tokens <= num_before_, "{} tokens more than came", num_tokens - num_before_);
    if (num_tokens == 0) return;
    num_before_ -= num_tokens;
    begun_ = false;  // the token behind which the form begins was the last one before it
  }

  bool ended() const override { return matcher_.IsTerminated(); }
  double seconds() const { return seconds_; }  // of the last mask

 private:
  void fill(std::span<uint32_t> words) {
    int64_t size = xgrammar::GetBitmaskSize(vocab_);
    SLUICE_CHECK(std::cmp_equal(words.size(), size), "{} words for {} tokens", words.size(), vocab_);
    DLTensor tensor{};
    tensor.data = words.data();
    tensor.device = {kDLCPU, 0};
    tensor.ndim = 1;
    tensor.dtype = xgrammar::GetBitmaskDLType();
    tensor.shape = &size;
    matcher_.FillNextTokenBitmask(&tensor);
    if (vocab_ % 32 != 0) words.back() &= (1u << (vocab_ % 32)) - 1;
  }

  const int vocab_;
  const double max_mask_seconds_;
  xgrammar::GrammarMatcher matcher_;
  const std::optional<TokenId> after_;
  bool begun_;
  int32_t num_before_ = 0, num_inside_ = 0;  // tokens, by the side of `after` they came on
  double seconds_ = 0;
};

}  // namespace

std::unique_ptr<TokenConstraint> CompiledForm::begin(std::optional<TokenId> after) const {
  return std::make_unique<Constraint>(grammar_, max_mask_seconds_, after);
}

Status CompiledForm::check() const {
  Constraint trial(grammar_, max_mask_seconds_, std::nullopt);
  std::vector<uint32_t> words((static_cast<size_t>(grammar_.GetTokenizerInfo().GetVocabSize()) + 31) / 32);
  if (trial.allowed(words)) return {};
  if (trial.seconds() > max_mask_seconds_)
    return invalid_argument("is too ambiguous: finding the first token took {:.0f} ms (limit {:.0f} ms)",
                            trial.seconds() * 1e3, max_mask_seconds_ * 1e3);
  return invalid_argument("no text has this form");
}

}  // namespace sluice
