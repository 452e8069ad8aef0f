#include "engine/executor.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "sluice/clock.h"

#include "engine/sampler.h"

namespace sluice {

namespace {

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
    : model_(model), context_(context), kv_(model.kv_layout(), model.cache_dtype(), num_pages), logits_(model) {}

StepResult Executor::run(const StepPlan& plan) {
  StepResult result;
  result.results.resize(plan.work.size());
  result.status = group_status_.ok() ? compute(plan, result) : group_status_;
  group_status_ = result.status;
  return result;
}

Status Executor::compute(const StepPlan& plan, StepResult& result) {
  for (const PageMove& move : plan.moves) kv_.move(move);
  std::vector<LogitsRow> rows;
  {
    const Stopwatch watch(times_.forward);
    const StepBatch batch = builder_.build(plan, kv_.pages(), observer_);
    hidden_.resize(batch.output_rows.size() * static_cast<size_t>(model_.config().hidden_size));
    collect_rows(plan, rows);
    if (model_.partition().num_ranks > 1) SLUICE_RETURN_IF_ERROR(tell_ranks(plan, batch, rows));
    for (const PageCopy& copy : plan.copies) kv_.copy(copy);
    if (!batch.tokens.empty()) SLUICE_RETURN_IF_ERROR(model_.forward(batch, hidden_.data(), context_));
  }
  for (size_t begin = 0; begin < rows.size(); begin += VocabLogits::kRows)
    SLUICE_RETURN_IF_ERROR(
        answer(plan, std::span(rows).subspan(begin, std::min(VocabLogits::kRows, rows.size() - begin)), result));

  const int32_t hidden_size = model_.config().hidden_size;
  for (size_t i = 0; i < plan.work.size(); ++i) {
    if (!plan.work[i].wants_hidden) continue;
    const int32_t last = builder_.first_output(i) + BatchBuilder::num_outputs(plan.work[i]) - 1;
    const float* hidden = hidden_.data() + int64_t{last} * hidden_size;
    result.results[i].hidden.assign(hidden, hidden + hidden_size);
  }
  return {};
}

Status Executor::give_sign_of_life() {
  if (model_.partition().num_ranks == 1 || !group_status_.ok()) return group_status_;
  group_status_ = send_message(model_.ranks(), encode(RankMessage::kSignOfLife));
  float alive = 1;
  if (group_status_.ok()) group_status_ = model_.ranks().all_reduce_sum({&alive, 1});
  return group_status_;
}

// The others have the same pages but no lower tiers: what came from there travels along.
Status Executor::tell_ranks(const StepPlan& plan, const StepBatch& batch, std::span<const LogitsRow> rows) {
  std::vector<PageId> filled;
  StepToSend step{.batch = &batch,
                  .filled = {},
                  .contents = {},
                  .copies = plan.copies,
                  .logits = {},
                  .hidden_states = {},
                  .hidden_size = model_.config().hidden_size};
  for (const PageMove& move : plan.moves) {
    if (move.to_host) continue;
    filled.push_back(move.page);
    step.contents.push_back(kv_.page(move.page));
  }
  step.filled = filled;
  std::vector<LogitsWanted> logits;
  for (const LogitsRow& row : rows) {
    logits.push_back(row.wanted);
    if (row.wanted.output < 0) step.hidden_states.push_back(row.hidden);
  }
  step.logits = logits;
  return send_message(model_.ranks(), encode(step));
}

// Whether a draw needs more than the largest logit as it is.
bool Executor::needs_all_logits(const SequenceWork& work) const {
  const SamplingParams& params = *work.sampling;
  return hashing_ || work.num_logprobs >= 0 || params.temperature != 0 || !params.logit_bias.empty() ||
         params.repetition_penalty != 1 || params.presence_penalty != 0 || params.frequency_penalty != 0 ||
         (work.masks_stop && !work.stop_ids.empty());
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
      for (int32_t index = 0; index < count; ++index)
        rows.push_back({i, first + int64_t{index} * hidden_size, index, {builder_.first_output(i) + index, true}});
    }
    if (!work.samples) continue;
    SLUICE_CHECK(outputs > 0 || !work.cached_hidden.empty(), "sequence {} draws from nothing", value(work.sequence));
    const bool all = model_.partition().num_ranks == 1 || needs_all_logits(work);
    if (outputs > 0) {
      rows.push_back(
          {i, first + int64_t{outputs - 1} * hidden_size, -1, {builder_.first_output(i) + outputs - 1, all}});
    } else {
      rows.push_back({i, work.cached_hidden.data(), -1, {-1, all}});
    }
  }
}

Status Executor::answer(const StepPlan& plan, std::span<const LogitsRow> rows, StepResult& result) {
  {
    const Stopwatch watch(times_.logits);
    std::vector<const float*> hidden;
    std::vector<uint8_t> whole;
    for (const LogitsRow& row : rows) {
      hidden.push_back(row.hidden);
      whole.push_back(row.wanted.whole);
    }
    SLUICE_RETURN_IF_ERROR(logits_.compute(hidden, whole, context_));
  }
  const Stopwatch watch(times_.sample);
  for (size_t i = 0; i < rows.size(); ++i)
    answer_row(plan.work[rows[i].work_index], rows[i], i, result.results[rows[i].work_index]);
  return {};
}

void Executor::answer_row(const SequenceWork& work, const LogitsRow& row, size_t place, WorkResult& result) {
  if (!row.wanted.whole) {
    result.token = logits_.largest(place);
    return;
  }
  const std::span<float> logits = logits_.row(place);
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
