#include "engine/executor.h"

#include <algorithm>
#include <chrono>

#include "sluice/clock.h"

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
    rows = wanted_logits(plan, builder_);
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
    const SequenceWork& work = plan.work[row.work_index];
    logits.push_back({row.output, needs_all_logits(work, row)});
    if (row.output < 0) step.hidden_states.push_back(hidden_of(work, row));
  }
  step.logits = logits;
  return send_message(model_.ranks(), encode(step));
}

const float* Executor::hidden_of(const SequenceWork& work, const LogitsRow& row) const {
  return row.output < 0 ? work.cached_hidden.data()
                        : hidden_.data() + int64_t{row.output} * model_.config().hidden_size;
}

// Whether the row needs more than its largest logit as it is; on one rank they are all here anyway.
bool Executor::needs_all_logits(const SequenceWork& work, const LogitsRow& row) const {
  if (model_.partition().num_ranks == 1 || row.prompt_index >= 0) return true;
  const SamplingParams& params = *work.sampling;
  return hashing_ || work.num_logprobs >= 0 || params.temperature != 0 || !params.logit_bias.empty() ||
         params.repetition_penalty != 1 || params.presence_penalty != 0 || params.frequency_penalty != 0 ||
         (work.masks_stop && !work.stop_ids.empty()) || work.constraint;
}

Status Executor::answer(const StepPlan& plan, std::span<const LogitsRow> rows, StepResult& result) {
  std::vector<uint8_t> whole;
  {
    const Stopwatch watch(times_.logits);
    std::vector<const float*> hidden;
    for (const LogitsRow& row : rows) {
      const SequenceWork& work = plan.work[row.work_index];
      hidden.push_back(hidden_of(work, row));
      whole.push_back(needs_all_logits(work, row));
    }
    SLUICE_RETURN_IF_ERROR(logits_.compute(hidden, whole, context_));
  }
  const Stopwatch watch(times_.sample);
  for (size_t i = 0; i < rows.size(); ++i) {
    WorkResult& answer = result.results[rows[i].work_index];
    if (!whole[i]) {
      answer.token = logits_.largest(i);
      continue;
    }
    const std::span<float> logits = logits_.row(i);
    if (hashing_ && rows[i].prompt_index < 0) logits_hash_ = hash_logits(logits_hash_, logits);
    answer_row(plan.work[rows[i].work_index], rows[i], logits, answer);
  }
  return {};
}

}  // namespace sluice
