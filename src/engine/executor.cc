#include "engine/executor.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "sluice/clock.h"

#include "engine/sampler.h"

namespace sluice {

namespace {

// Rows of logits made at once: bounds the buffer (32 x 129,280 x 4 = 16.5 MB) when a long prompt asks for logprobs, and
// is enough rows for the head's weights to be read once for a whole decode batch of usual size.
constexpr size_t kLogitsRows = 32;

class Stopwatch {
 public:
  explicit Stopwatch(double& total) : total_(total), begin_(std::chrono::steady_clock::now()) {}
  ~Stopwatch() { total_ += seconds(std::chrono::steady_clock::now() - begin_); }

 private:
  double& total_;
  TimePoint begin_;
};

uint64_t fnv1a(uint64_t hash, std::span<const float> values) {
  for (float value : values) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    hash = (hash ^ bits) * 0x100000001b3;
  }
  return hash;
}

}  // namespace

Executor::Executor(DeepSeekModel& model, OpContext context, int32_t num_pages)
    : model_(model), context_(context), kv_(model.kv_layout(), model.cache_dtype(), num_pages) {
  gathered_.resize(kLogitsRows * static_cast<size_t>(model.config().hidden_size));
  logits_.resize(kLogitsRows * static_cast<size_t>(model.config().vocab_size));
}

StepResult Executor::run(const StepPlan& plan) {
  StepResult result;
  result.results.resize(plan.work.size());
  for (const PageMove& move : plan.moves) kv_.move(move);
  for (const PageCopy& copy : plan.copies) kv_.copy(copy);
  {
    const Stopwatch watch(times_.forward);
    const StepBatch batch = builder_.build(plan, kv_.pages(), observer_);
    hidden_.resize(batch.output_rows.size() * static_cast<size_t>(model_.config().hidden_size));
    if (!batch.tokens.empty()) model_.forward(batch, hidden_.data(), context_);
  }
  std::vector<LogitsRow> rows;
  collect_rows(plan, rows);
  for (size_t begin = 0; begin < rows.size(); begin += kLogitsRows)
    answer(plan, std::span(rows).subspan(begin, std::min(kLogitsRows, rows.size() - begin)), result);

  const int32_t hidden_size = model_.config().hidden_size;
  for (size_t i = 0; i < plan.work.size(); ++i) {
    if (!plan.work[i].wants_hidden) continue;
    const int32_t last = builder_.first_output(i) + BatchBuilder::num_outputs(plan.work[i]) - 1;
    const float* hidden = hidden_.data() + int64_t{last} * hidden_size;
    result.results[i].hidden.assign(hidden, hidden + hidden_size);
  }
  return result;
}

void Executor::collect_rows(const StepPlan& plan, std::vector<LogitsRow>& rows) const {
  const int32_t hidden_size = model_.config().hidden_size;
  for (size_t i = 0; i < plan.work.size(); ++i) {
    const SequenceWork& work = plan.work[i];
    const int32_t outputs = BatchBuilder::num_outputs(work);
    const float* first = hidden_.data() + int64_t{builder_.first_output(i)} * hidden_size;
    if (work.num_prompt_logprobs >= 0) {
      // The row of position p says what it thought of token p + 1, as long as that one is prompt, too.
      const int32_t count = std::min(work.end, work.num_prompt_tokens - 1) - work.begin;
      for (int32_t index = 0; index < count; ++index) rows.push_back({i, first + int64_t{index} * hidden_size, index});
    }
    if (!work.samples) continue;
    SLUICE_CHECK(outputs > 0 || !work.cached_hidden.empty(), "sequence {} draws from nothing", value(work.sequence));
    rows.push_back({i, outputs > 0 ? first + int64_t{outputs - 1} * hidden_size : work.cached_hidden.data(), -1});
  }
}

void Executor::answer(const StepPlan& plan, std::span<const LogitsRow> rows, StepResult& result) {
  const auto hidden_size = static_cast<size_t>(model_.config().hidden_size);
  const auto vocab_size = static_cast<size_t>(model_.config().vocab_size);
  {
    const Stopwatch watch(times_.logits);
    for (size_t i = 0; i < rows.size(); ++i)
      std::copy_n(rows[i].hidden, hidden_size, gathered_.data() + i * hidden_size);
    model_.logits(gathered_.data(), static_cast<int64_t>(rows.size()), logits_.data(), context_);
  }
  const Stopwatch watch(times_.sample);
  for (size_t i = 0; i < rows.size(); ++i)
    answer_row(plan.work[rows[i].work_index], rows[i], std::span(logits_).subspan(i * vocab_size, vocab_size),
               result.results[rows[i].work_index]);
}

void Executor::answer_row(const SequenceWork& work, const LogitsRow& row, std::span<float> logits, WorkResult& result) {
  if (row.prompt_index >= 0) {
    const TokenId next = work.all_tokens[static_cast<size_t>(work.begin + row.prompt_index + 1)];
    result.prompt_logprobs.push_back(log_probabilities(logits, next, work.num_prompt_logprobs));
    return;
  }
  if (hashing_) logits_hash_ = fnv1a(logits_hash_, logits);
  // Logprobs are of the model's own distribution, so they come from the logits as they are before sample() changes
  // them.
  std::vector<float> raw;
  if (work.num_logprobs >= 0) raw.assign(logits.begin(), logits.end());
  const auto prompt_size = static_cast<size_t>(work.num_prompt_tokens);
  const TokenId token = sample(logits, {.params = work.sampling,
                                        .seed = work.seed,
                                        .prompt = work.all_tokens.first(prompt_size),
                                        .generated = work.all_tokens.subspan(prompt_size),
                                        .masked = work.masks_stop ? work.stop_ids : std::span<const TokenId>()});
  result.token = token;
  if (work.num_logprobs < 0) return;
  std::vector<TokenLogprob> logprobs = log_probabilities(raw, token, work.num_logprobs);
  result.logprob = logprobs[0].logprob;
  result.top_logprobs.assign(logprobs.begin() + 1, logprobs.end());
}

}  // namespace sluice
