#include "app/calibration.h"

#include <algorithm>
#include <optional>

#include "engine/batch_builder.h"
#include "kernels/registry.h"
#include "model/compensation.h"

namespace sluice {

namespace {

// Tokens that see each other, as in `sluice perplexity`; with the begin-of-sequence token before them.
constexpr size_t kWindow = 256;

// "model.layers.3." of a layer's tensor, "" of any other.
std::string stage_of(const std::string& tensor) {
  if (!tensor.starts_with("model.layers.")) return "";
  return tensor.substr(0, tensor.find('.', std::string_view("model.layers.").size()) + 1);
}

}  // namespace

struct Calibration::Context : OpContext {
  Context(ThreadTeam& threads, Scratch& memory, const Backend& inner) : OpContext{threads, memory}, backend(inner) {}

  // gram += x^T x over the given rows, j >= i. Threads share i, so the order of a sum is that of the rows.
  void watch(const Weight& weight, const float* x, int64_t x_stride, const int32_t* row_ids, int64_t begin,
             int64_t end) {
    const auto found = grams.find(weight.data);
    if (found == grams.end() || begin == end) return;
    const int64_t cols = weight.cols;
    std::vector<double>& gram = found->second;
    gram.resize(static_cast<size_t>(cols * cols));
    team.parallel_for(cols, 16, [&](int64_t first, int64_t last, int) {
      for (int64_t row = begin; row < end; ++row) {
        const float* values = x + (row_ids ? row_ids[row] : row) * x_stride;
        for (int64_t i = first; i < last; ++i) {
          const double value = values[i];
          if (value == 0) continue;
          double* sums = gram.data() + i * cols;
          for (int64_t j = i; j < cols; ++j) sums[j] += value * values[j];
        }
      }
    });
  }

  static void matmul(const MatmulArgs& args, OpContext& context) {
    auto& self = static_cast<Context&>(context);
    self.watch(args.weight, args.x, args.x_stride, nullptr, 0, args.rows);
    self.backend.matmul(args, context);
  }

  static void grouped_matmul(const GroupedMatmulArgs& args, OpContext& context) {
    auto& self = static_cast<Context&>(context);
    for (size_t expert = 0; expert < args.weights.size(); ++expert)
      self.watch(args.weights[expert], args.x, args.x_stride, args.row_ids, args.offsets[expert],
                 args.offsets[expert + 1]);
    self.backend.grouped_matmul(args, context);
  }

  const Backend& backend;
  std::map<std::string, const std::byte*> packed;            // tensor -> the matrix that it is part of
  std::map<const std::byte*, std::vector<double>> grams;  // of the matrices of this stage, [cols, cols] once used
};

Calibration::Calibration(const Backend& backend, ThreadTeam& team)
    : context_(std::make_unique<Context>(team, scratch_, backend)), watching_(backend), stage_("none yet") {
  watching_.matmul = Context::matmul;
  watching_.grouped_matmul = Context::grouped_matmul;
}

Calibration::~Calibration() = default;

Result<std::unique_ptr<Calibration>> Calibration::open(const std::string& directory, const ModelConfig& config,
                                                       const Checkpoint& checkpoint, const std::string& device,
                                                       ThreadTeam& team, const std::string& text) {
  SLUICE_ASSIGN_OR_RETURN(const Backend* backend, find_backend(device));
  SLUICE_ASSIGN_OR_RETURN(const Tokenizer tokenizer, Tokenizer::load(directory));
  SLUICE_ASSIGN_OR_RETURN(const std::vector<TokenId> ids, tokenizer.encode(text, false, SpecialTokens::kAsText));
  const std::optional<TokenId> bos = tokenizer.bos();
  if (ids.empty() || !bos)
    return failed_precondition("calibrate: expected a text and a tokenizer with a begin-of-sequence token, found {}",
                               bos ? "an empty text" : "no such token");
  std::unique_ptr<Calibration> self(new Calibration(*backend, team));
  for (size_t begin = 0; begin < ids.size(); begin += kWindow) {
    const auto first = ids.begin() + static_cast<std::ptrdiff_t>(begin);
    std::vector<TokenId> window(first, first + static_cast<std::ptrdiff_t>(std::min(kWindow, ids.size() - begin)));
    window.insert(window.begin(), *bos);
    self->windows_.push_back(std::move(window));
  }
  const auto remember = [&](const std::vector<std::string>& tensors, const Weight& packed) {
    for (const std::string& tensor : tensors) self->context_->packed[tensor] = packed.data;
  };
  SLUICE_ASSIGN_OR_RETURN(self->model_, DeepSeekModel::load(config, checkpoint, self->watching_, *self->context_,
                                                            {.weights = checkpoint.native_format(),
                                                             .max_batch_tokens = kWindow + 1,
                                                             .observer = remember}));
  constexpr int32_t kPages = (kWindow + 1 + kPageTokens - 1) / kPageTokens;
  self->cache_ = std::make_unique<KvMemory>(self->model_->kv_layout(), self->model_->cache_dtype(), kPages);
  return self;
}

void Calibration::run_text() {
  BatchBuilder builder;
  std::vector<PageId> pages;
  for (int32_t page = 0; page < cache_->num_pages(); ++page) pages.push_back(PageId{page});
  const ModelConfig& config = model_->config();
  std::vector<float> hidden, logits;
  for (const std::vector<TokenId>& window : windows_) {
    const auto size = static_cast<int32_t>(window.size());
    StepPlan plan;
    plan.work.push_back({.begin = 0,
                         .end = size,
                         .role = TokenRole::kPrompt,
                         .all_tokens = window,
                         .num_prompt_tokens = size,
                         .pages = pages,
                         .cached_hidden = {},
                         .stop_ids = {},
                         .num_prompt_logprobs = 0});
    const StepBatch batch = builder.build(plan, cache_->pages(), nullptr);
    hidden.resize(batch.output_rows.size() * static_cast<size_t>(config.hidden_size));
    const Status status = model_->forward(batch, hidden.data(), *context_);
    SLUICE_CHECK(status.ok(), "one rank: {}", status.to_string());
    if (!stage_.empty()) continue;
    logits.resize(batch.output_rows.size() * static_cast<size_t>(config.vocab_size));
    model_->logits(hidden.data(), static_cast<int64_t>(batch.output_rows.size()), logits.data(), *context_);
  }
}

std::vector<float> Calibration::factor(const std::string& tensor, int64_t cols) {
  if (stage_of(tensor) != stage_) {
    stage_ = stage_of(tensor);
    context_->grams.clear();
    for (const auto& [name, data] : context_->packed)
      if (stage_of(name) == stage_) context_->grams[data];
    run_text();
  }
  const auto packed = context_->packed.find(tensor);
  SLUICE_CHECK(packed != context_->packed.end(), "{} was never packed", tensor);
  const std::vector<double>& gram = context_->grams.at(packed->second);
  return gram.empty() ? std::vector<float>() : compensation_factor(gram, cols);
}

}  // namespace sluice
