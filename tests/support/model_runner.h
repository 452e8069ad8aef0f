// Runs a model token by token or chunk by chunk without a scheduler, for goldens: pages handed out in order, one sequence.
// Owns the model and everything it needs.
#pragma once

#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "engine/batch_builder.h"
#include "engine/kv_memory.h"
#include "kernels/registry.h"
#include "model/deepseek.h"

namespace sluice {

class ModelRunner {
 public:
  struct Options {
    std::string backend = "auto";
    WeightFormat weights = WeightFormat::kF32;
    DType cache_dtype = DType::kF32;
    int threads = 2;
    int32_t max_tokens = 1024;
    Communicator* ranks = nullptr;  // null: one rank holds the whole model
    ExpertSplit experts = ExpertSplit::kSliced;
    std::optional<BlockGlobalConfig> block_global = {};
  };

  static Result<std::unique_ptr<ModelRunner>> open(const std::string& directory, const Options& options) {
    auto runner = std::unique_ptr<ModelRunner>(new ModelRunner(options));
    SLUICE_ASSIGN_OR_RETURN(ModelConfig config, ModelConfig::load(directory));
    config.block_global = options.block_global;
    SLUICE_ASSIGN_OR_RETURN(const Checkpoint checkpoint, Checkpoint::open(directory, config));
    SLUICE_ASSIGN_OR_RETURN(const Backend* backend, find_backend(options.backend));
    SLUICE_ASSIGN_OR_RETURN(
        runner->model_,
        DeepSeekModel::load(config, checkpoint, *backend, runner->context_,
                            {.weights = options.weights,
                             .cache_dtype = options.cache_dtype,
                             .max_batch_tokens = 1024,
                             .progress = {},
                             .rank = options.ranks ? options.ranks->rank() : 0,
                             .num_ranks = options.ranks ? options.ranks->size() : 1,
                             .experts = options.experts}));
    if (options.ranks) runner->model_->join(*options.ranks);
    const int32_t pages = options.max_tokens / kPageTokens + 1;
    runner->kv_ = std::make_unique<KvMemory>(runner->model_->kv_layout(), options.cache_dtype, pages);
    // Pages in falling order, so that a mix-up of page id and position shows.
    for (int32_t page = pages - 1; page >= 0; --page) runner->pages_.push_back(PageId{page});
    return runner;
  }

  // Computes tokens[begin, end) and returns the logits of all of these positions: [end - begin, vocab], of which a rank
  // among others has its own.
  std::vector<float> compute(const std::vector<TokenId>& tokens, int32_t begin, int32_t end, TokenRole role,
                             const ForwardObserver* observer = nullptr) {
    StepPlan plan;
    plan.work.push_back({.begin = begin, .end = end, .role = role, .all_tokens = tokens, .num_prompt_tokens = end,
                         .pages = pages_, .cached_hidden = {}, .stop_ids = {}, .num_prompt_logprobs = 0});
    const StepBatch batch = builder_.build(plan, kv_->pages(), observer);
    hidden_.resize(static_cast<size_t>((end - begin) * config().hidden_size));
    const Status status = model_->forward(batch, hidden_.data(), context_);
    SLUICE_CHECK(status.ok(), "{}", status.to_string());
    std::vector<float> logits(static_cast<size_t>((end - begin) * model_->partition().vocab.size()));
    model_->logits(hidden_.data(), end - begin, logits.data(), context_);
    return logits;
  }

  // Prompt in one chunk, then greedy tokens one by one in the generated role.
  std::vector<TokenId> greedy(std::vector<TokenId> tokens, int32_t count) {
    std::vector<TokenId> answer;
    const auto size = static_cast<int32_t>(tokens.size());
    std::vector<float> logits = compute(tokens, 0, size, TokenRole::kPrompt);
    for (int32_t i = 0; i < count; ++i) {
      const auto last = logits.end() - config().vocab_size;
      answer.push_back(static_cast<TokenId>(std::max_element(last, logits.end()) - last));
      tokens.push_back(answer.back());
      logits = compute(tokens, size + i, size + i + 1, TokenRole::kGenerated);
    }
    return answer;
  }

  const ModelConfig& config() const { return model_->config(); }
  DeepSeekModel& model() { return *model_; }
  OpContext& context() { return context_; }
  KvMemory& kv() { return *kv_; }
  std::vector<PageId>& pages() { return pages_; }               // of the one sequence, in the order of its positions
  const std::vector<float>& hidden() const { return hidden_; }  // of the last compute(), before the final norm

 private:
  explicit ModelRunner(const Options& options) : team_(options.threads), context_{team_, scratch_} {}

  ThreadTeam team_;
  Scratch scratch_;
  OpContext context_;
  std::unique_ptr<DeepSeekModel> model_;
  std::unique_ptr<KvMemory> kv_;
  BatchBuilder builder_;
  std::vector<PageId> pages_;
  std::vector<float> hidden_;
};

}  // namespace sluice
