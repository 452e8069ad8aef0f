#include "gpu/executor.h"

#include <algorithm>
#include <chrono>
#include <iterator>

#include "sluice/clock.h"
#include "sluice/log.h"

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

// Rows that a decode step is padded to: products take tiles of 8, 16, 32 and 64 tokens, so that beyond 8 a multiple of
// 8 costs no tile more than the step itself.
int32_t padded_rows(int32_t rows) {
  if (rows <= 2) return rows;
  if (rows <= 4) return 4;
  if (rows <= 64) return (rows + 7) / 8 * 8;
  return (rows + 31) / 32 * 32;
}

// A token of every sequence, each of which wants its hidden state: a step that looks like the next.
bool is_decode(const StepBatch& batch) {
  const auto single = [](const SequenceSpan& span) { return span.position_end - span.position_begin == 1; };
  return batch.prompt_spans.empty() && batch.output_rows.size() == batch.tokens.size() &&
         std::all_of(batch.generated_spans.begin(), batch.generated_spans.end(), single);
}

}  // namespace

Result<std::unique_ptr<GpuExecutor>> GpuExecutor::create(GpuModel& model, Device& device,
                                                         const GpuExecutorOptions& options) {
  std::unique_ptr<GpuExecutor> executor(new GpuExecutor(model, device, options));
  SLUICE_RETURN_IF_ERROR(executor->allocate());
  return executor;
}

GpuExecutor::GpuExecutor(GpuModel& model, Device& device, const GpuExecutorOptions& options)
    : model_(model), device_(device), options_(options), page_bytes_(model.kv_layout().bytes_per_page()) {}

Status GpuExecutor::allocate() {
  const ModelConfig& c = model_.config();
  const int64_t rows = model_.max_batch_tokens(), hidden = c.hidden_size;
  SLUICE_ASSIGN_OR_RETURN(pages_, DeviceBuffer::allocate(device_, page_bytes_ * options_.num_pages));
  SLUICE_ASSIGN_OR_RETURN(gathered_, DeviceBuffer::allocate(device_, planned_bytes(c)));
  SLUICE_ASSIGN_OR_RETURN(cached_hidden_, PinnedBuffer::allocate(device_, kGpuLogitsRows * hidden * 2));
  SLUICE_ASSIGN_OR_RETURN(logits_, PinnedBuffer::allocate(device_, int64_t{kGpuLogitsRows} * c.vocab_size * 4));
  SLUICE_ASSIGN_OR_RETURN(hidden_, PinnedBuffer::allocate(device_, rows * hidden * 2));
  const int64_t routed = moe_layers(c) * rows * c.num_experts_per_tok;
  SLUICE_ASSIGN_OR_RETURN(routed_, PinnedBuffer::allocate(device_, std::max<int64_t>(1, 2 * routed * 4)));
  return {};
}

GpuExecutor::~GpuExecutor() {
  if (const Status status = device_.wait(); !status.ok()) log_error("{}", status.message());
  for (const auto& [shape, entry] : graphs_)
    if (entry.graph) device_.release(*entry.graph);
}

std::byte* GpuExecutor::page(PageId id) const {
  SLUICE_CHECK(value(id) >= 0 && value(id) < options_.num_pages, "page={} of {}", value(id), options_.num_pages);
  return pages_.data() + value(id) * page_bytes_;
}

StepResult GpuExecutor::run(const StepPlan& plan) {
  StepResult result;
  result.results.resize(plan.work.size());
  result.status = lost_.ok() ? run_plan(plan, result) : lost_;
  if (result.status.ok()) return result;
  (void)device_.wait();  // no copy may be under way in memory that others now reuse
  if (result.status.code() == StatusCode::kInternal) lost_ = result.status;
  return result;
}

Status GpuExecutor::run_plan(const StepPlan& plan, StepResult& result) {
  SLUICE_RETURN_IF_ERROR(device_.enter());  // the loop thread has not opened it
  SLUICE_RETURN_IF_ERROR(move_pages(plan));
  const StepBatch batch = builder_.build(plan, {}, observer_);
  batch_rows_ = static_cast<int32_t>(batch.tokens.size());
  if (batch_rows_ > 0) SLUICE_RETURN_IF_ERROR(forward(batch));
  SLUICE_RETURN_IF_ERROR(copy_out_extras(plan));
  const std::vector<LogitsRow> rows = wanted_logits(plan, builder_);
  for (size_t begin = 0; begin < rows.size(); begin += kGpuLogitsRows)
    SLUICE_RETURN_IF_ERROR(
        answer(plan, std::span(rows).subspan(begin, std::min<size_t>(kGpuLogitsRows, rows.size() - begin)), result));
  if (rows.empty()) {  // else the last answer has waited
    const Stopwatch watch(times_.forward);
    SLUICE_RETURN_IF_ERROR(device_.wait());
  }
  hand_out_extras(plan, result);
  return {};
}

Status GpuExecutor::move_pages(const StepPlan& plan) {
  for (const PageMove& move : plan.moves) {
    SLUICE_RETURN_IF_ERROR(move.to_host ? device_.copy_out(move.host, page(move.page), page_bytes_)
                                        : device_.copy_in(page(move.page), move.host, page_bytes_));
  }
  // The whole page: the positions beyond num_positions are written before they are read.
  for (const PageCopy& copy : plan.copies)
    SLUICE_RETURN_IF_ERROR(device_.copy(page(copy.to), page(copy.from), page_bytes_));
  return {};
}

Status GpuExecutor::forward(const StepBatch& batch) {
  const Stopwatch watch(times_.forward);
  const int32_t padded = padded_rows(batch_rows_);
  const bool replays = options_.graphs && is_decode(batch) && padded <= model_.max_batch_tokens();
  SLUICE_ASSIGN_OR_RETURN(const GpuStep step, model_.stage(batch, replays ? padded : 0));
  step_rows_ = step.rows;
  if (replays) return replay(step);
  return model_.forward(step, pages_.data());
}

Status GpuExecutor::replay(const GpuStep& step) {
  const auto [found, first] = graphs_.try_emplace({step.rows, step.max_pages});
  found->second.last_use = ++graph_steps_;
  if (first) {
    if (std::ssize(graphs_) > options_.max_graphs) drop_oldest_graph();
    return model_.forward(step, pages_.data());
  }
  GraphOfShape& entry = found->second;
  if (!entry.graph) {
    SLUICE_RETURN_IF_ERROR(device_.begin_capture());
    const Status written = model_.forward(step, pages_.data());
    // In any case: a capture that is left open would take all that follows.
    SLUICE_ASSIGN_OR_RETURN(const Device::Graph graph, device_.end_capture());
    if (!written.ok()) {
      device_.release(graph);
      return written;
    }
    entry.graph = graph;
    ++graphs_captured_;
  }
  return device_.replay(*entry.graph);
}

// No step is under way: the last one ended with a wait.
void GpuExecutor::drop_oldest_graph() {
  const auto older = [](const auto& a, const auto& b) { return a.second.last_use < b.second.last_use; };
  const auto oldest = std::min_element(graphs_.begin(), graphs_.end(), older);
  if (oldest->second.graph) device_.release(*oldest->second.graph);
  graphs_.erase(oldest);
}

Result<const cuda::bf16*> GpuExecutor::gather_hidden(const StepPlan& plan, std::span<const LogitsRow> rows) {
  const int64_t hidden_size = model_.config().hidden_size, row_bytes = hidden_size * 2;
  bool side_by_side = true;
  for (size_t i = 0; i < rows.size(); ++i)
    side_by_side &= rows[i].output >= 0 && rows[i].output == rows[0].output + static_cast<int32_t>(i);
  if (side_by_side) return model_.hidden() + rows[0].output * hidden_size;
  for (size_t i = 0; i < rows.size(); ++i) {
    std::byte* target = gathered_.data() + static_cast<int64_t>(i) * row_bytes;
    if (rows[i].output >= 0) {
      SLUICE_RETURN_IF_ERROR(device_.copy(target, bytes_of(model_.hidden() + rows[i].output * hidden_size), row_bytes));
      continue;
    }
    // What came from the device as bf16 goes back as the same bits.
    const std::span<const float> cached = plan.work[rows[i].work_index].cached_hidden;
    auto* staged = cached_hidden_.as<uint16_t>() + static_cast<int64_t>(i) * hidden_size;
    std::transform(cached.begin(), cached.end(), staged, f32_to_bf16);
    SLUICE_RETURN_IF_ERROR(device_.copy_in(target, bytes_of(staged), row_bytes));
  }
  return gathered_.as<const cuda::bf16>();
}

Status GpuExecutor::answer(const StepPlan& plan, std::span<const LogitsRow> rows, StepResult& result) {
  const auto vocab_size = static_cast<size_t>(model_.config().vocab_size);
  {
    const Stopwatch watch(times_.forward);  // the device's time: all of the step ends at this wait
    SLUICE_ASSIGN_OR_RETURN(const cuda::bf16* hidden, gather_hidden(plan, rows));
    model_.compute_logits(hidden, static_cast<int32_t>(rows.size()));
    SLUICE_RETURN_IF_ERROR(device_.copy_out(logits_.data(), bytes_of(model_.logits()),
                                            static_cast<int64_t>(rows.size() * vocab_size) * 4));
    SLUICE_RETURN_IF_ERROR(device_.wait());
  }
  const Stopwatch watch(times_.sample);
  for (size_t i = 0; i < rows.size(); ++i) {
    const std::span<float> logits(logits_.as<float>() + i * vocab_size, vocab_size);
    if (hashing_ && rows[i].prompt_index < 0) logits_hash_ = hash_logits(logits_hash_, logits);
    answer_row(plan.work[rows[i].work_index], rows[i], logits, result.results[rows[i].work_index]);
  }
  return {};
}

Status GpuExecutor::copy_out_extras(const StepPlan& plan) {
  if (batch_rows_ == 0) return {};
  const ModelConfig& c = model_.config();
  const int64_t routed = int64_t{moe_layers(c)} * step_rows_ * c.num_experts_per_tok;
  if (observer_ && observer_->routed && routed > 0) {
    SLUICE_RETURN_IF_ERROR(device_.copy_out(routed_.data(), bytes_of(model_.routed_experts()), routed * 4));
    SLUICE_RETURN_IF_ERROR(
        device_.copy_out(routed_.data() + routed * 4, bytes_of(model_.routed_weights()), routed * 4));
  }
  const int64_t row_bytes = int64_t{c.hidden_size} * 2;
  for (size_t i = 0; i < plan.work.size(); ++i) {
    if (!plan.work[i].wants_hidden) continue;
    const int64_t last = builder_.first_output(i) + BatchBuilder::num_outputs(plan.work[i]) - 1;
    SLUICE_RETURN_IF_ERROR(device_.copy_out(hidden_.data() + last * row_bytes,
                                            bytes_of(model_.hidden()) + last * row_bytes, row_bytes));
  }
  return {};
}

void GpuExecutor::hand_out_extras(const StepPlan& plan, StepResult& result) const {
  if (batch_rows_ == 0) return;
  const ModelConfig& c = model_.config();
  if (observer_ && observer_->routed) {
    const int64_t of_layer = int64_t{step_rows_} * c.num_experts_per_tok;
    const int32_t* experts = routed_.as<const int32_t>();
    const float* weights = routed_.as<const float>() + moe_layers(c) * of_layer;
    for (int32_t layer = 0; layer < c.num_hidden_layers; ++layer) {
      if (!c.is_moe_layer(layer)) continue;
      observer_->routed(layer, batch_rows_, c.num_experts_per_tok, experts, weights);
      experts += of_layer;
      weights += of_layer;
    }
  }
  for (size_t i = 0; i < plan.work.size(); ++i) {
    if (!plan.work[i].wants_hidden) continue;
    const int64_t last = builder_.first_output(i) + BatchBuilder::num_outputs(plan.work[i]) - 1;
    const uint16_t* hidden = hidden_.as<const uint16_t>() + last * c.hidden_size;
    std::transform(hidden, hidden + c.hidden_size, std::back_inserter(result.results[i].hidden), bf16_to_f32);
  }
}

}  // namespace sluice
