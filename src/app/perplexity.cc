// `sluice perplexity`.
#include "app/perplexity.h"

#include <iostream>
#include <nlohmann/json.hpp>

#include "app/commands.h"
#include "app/files.h"
#include "app/offline.h"
#include "app/rank_processes.h"

namespace sluice {

namespace {

struct PerplexityCommand {
  OptionFlags options;
  std::string file;
  int32_t window = 256;
  bool json = false;

  Status run();
};

Status PerplexityCommand::run() {
  SLUICE_ASSIGN_OR_RETURN(Options resolved, options.resolve());
  SLUICE_ASSIGN_OR_RETURN(const Launch launch, read_launch(resolved.tp));
  if (!launch.is_rank) return run_rank_processes(launch, false);
  SLUICE_ASSIGN_OR_RETURN(const std::string text, read_file(file));
  resolved.cache_enabled = false;
  SLUICE_ASSIGN_OR_RETURN(const auto loaded, LoadedModel::load(resolved));
  if (!loaded->leads()) return follow(*loaded, resolved);
  SLUICE_ASSIGN_OR_RETURN(const PredictedText predicted, predict_text(*loaded, resolved, text, window));
  const double mean = predicted.mean();
  const int64_t tokens = predicted.tokens;
  if (json) {
    const nlohmann::ordered_json answer = {
        {"perplexity", std::exp(mean)}, {"nll", mean}, {"tokens", tokens}, {"weights", loaded->info.weights}};
    std::cout << answer.dump() << std::endl;
  } else {
    std::cout << fmt::format("perplexity {:.4f}  (mean negative log-likelihood {:.6f} over {} tokens, weights {})",
                             std::exp(mean), mean, tokens, loaded->info.weights)
              << std::endl;
  }
  return {};
}

}  // namespace

Result<PredictedText> predict_text(LoadedModel& loaded, const Options& options, const std::string& text,
                                   int32_t window) {
  if (!loaded.tokenizer) return loaded.chat_status;
  SLUICE_ASSIGN_OR_RETURN(const std::vector<TokenId> ids,
                          loaded.tokenizer->encode(text, false, SpecialTokens::kAsText));
  const std::optional<TokenId> bos = loaded.tokenizer->bos();
  if (!bos)
    return failed_precondition(
        "perplexity: the tokenizer has no begin-of-sequence token to predict the first token from");
  if (window >= loaded.info.context_length)
    return invalid_argument("window: {} tokens and a begin-of-sequence token do not fit into a context of {}", window,
                            loaded.info.context_length);
  if (ids.empty()) return invalid_argument("the text is empty");

  OfflineRunner runner(loaded, options);
  PredictedText predicted;
  Status failure;
  for (size_t begin = 0; begin < ids.size() && failure.ok(); begin += static_cast<size_t>(window)) {
    const size_t end = std::min(ids.size(), begin + static_cast<size_t>(window));
    Request request;
    request.prompt = {*bos};
    request.prompt.insert(request.prompt.end(), ids.begin() + static_cast<std::ptrdiff_t>(begin),
                          ids.begin() + static_cast<std::ptrdiff_t>(end));
    request.sampling.temperature = 0;
    request.stop.max_tokens = 1;
    request.num_prompt_logprobs = 0;
    runner.run(request, [&](const TokenEvent& event) {
      if (!event.error.ok()) failure = event.error;
      for (const auto& entry : event.prompt_logprobs) {
        if (entry.empty()) continue;  // the first token has nothing before it
        predicted.nll -= entry[0].logprob;
        predicted.tokens += 1;
      }
    });
  }
  SLUICE_RETURN_IF_ERROR(failure);
  return predicted;
}

Action add_perplexity(CLI::App& app) {
  auto command = std::make_shared<PerplexityCommand>();
  command->options.add_to(app, rank_keys());
  app.add_option("--file,-f", command->file, "the text, - for standard input")->required();
  app.add_option("--window", command->window, "tokens predicted from one beginning [256]")
      ->check(CLI::Range(1, 1 << 20));
  app.add_flag("--json", command->json, "print one JSON object");
  return [command] { return command->run(); };
}

}  // namespace sluice
