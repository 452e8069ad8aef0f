// `sluice generate`: one prompt, one answer, no server.
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>

#include "app/commands.h"
#include "app/files.h"
#include "app/offline.h"
#include "app/rank_processes.h"

namespace sluice {

namespace {

struct GenerateCommand {
  OptionFlags options;
  RequestFlags request;
  std::string prompt, prompt_file;
  std::vector<TokenId> prompt_ids;
  bool json = false;

  Status run();
  Result<std::vector<TokenId>> prompt_tokens(const LoadedModel& loaded) const;
  static void print_json(const LoadedModel& loaded, const Request& request, const std::vector<TokenId>& ids,
                         const TokenEvent& last, uint64_t hash, const std::string& text);
};

Result<std::vector<TokenId>> GenerateCommand::prompt_tokens(const LoadedModel& loaded) const {
  if (!prompt_ids.empty()) {
    for (TokenId id : prompt_ids)
      if (id < 0 || id >= loaded.config.vocab_size)
        return invalid_argument("prompt-ids: token id must be in [0, {}), got {}", loaded.config.vocab_size, id);
    return prompt_ids;
  }
  std::string text = prompt;
  if (!prompt_file.empty()) {
    SLUICE_ASSIGN_OR_RETURN(text, read_file(prompt_file));
  }
  SLUICE_ASSIGN_OR_RETURN(std::vector<TokenId> tokens, loaded.encode_prompt(text));
  if (tokens.empty()) return invalid_argument("prompt: is empty, and the model has no begin-of-sequence token");
  return tokens;
}

void GenerateCommand::print_json(const LoadedModel&, const Request& request, const std::vector<TokenId>& ids,
                                 const TokenEvent& last, uint64_t hash, const std::string& text) {
  const nlohmann::ordered_json answer = {
      {"text", text},
      {"token_ids", ids},
      {"prompt_token_ids", request.prompt},
      {"finish_reason", name(last.finish)},
      {"usage",
       {{"prompt_tokens", last.usage.prompt_tokens},
        {"cached_prompt_tokens", last.usage.cached_prompt_tokens},
        {"completion_tokens", last.usage.completion_tokens}}},
      {"timings",
       {{"prefill_seconds", seconds(last.usage.prefill_time)}, {"decode_seconds", seconds(last.usage.decode_time)}}},
      {"logits_hash", fmt::format("{:016x}", hash)}};
  std::cout << answer.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) << std::endl;
}

Status GenerateCommand::run() {
  SLUICE_ASSIGN_OR_RETURN(Options resolved, options.resolve());
  SLUICE_ASSIGN_OR_RETURN(const Launch launch, read_launch(resolved.tp));
  if (!launch.is_rank) return run_rank_processes(launch, false);
  SLUICE_ASSIGN_OR_RETURN(const auto loaded, LoadedModel::load(resolved));
  if (!loaded->leads()) return follow(*loaded, resolved);
  Request one;
  SLUICE_ASSIGN_OR_RETURN(one.prompt, prompt_tokens(*loaded));
  SLUICE_RETURN_IF_ERROR(request.apply(loaded->info, one));
  if (static_cast<int64_t>(one.prompt.size()) >= loaded->info.context_length)
    return invalid_argument("prompt: {} tokens leave no room for an answer in a context of {}", one.prompt.size(),
                            loaded->info.context_length);
  OfflineRunner runner(*loaded, resolved);
  runner.core().executor().set_hashing(json);
  std::optional<Detokenizer> detokenizer;
  if (loaded->tokenizer) detokenizer.emplace(*loaded->tokenizer);
  std::vector<TokenId> ids;
  std::string text;
  TokenEvent last;
  const auto put = [&](const std::string& piece) {
    text += piece;
    if (json) return;
    std::fwrite(piece.data(), 1, piece.size(), stdout);
    std::fflush(stdout);
  };
  catch_interrupts();
  runner.run(
      one,
      [&](const TokenEvent& event) {
        if (event.token) {
          ids.push_back(*event.token);
          put(detokenizer ? detokenizer->push(*event.token) : fmt::format("{} ", *event.token));
        }
        if (event.finish != FinishReason::kNone) last = event;
      },
      interrupted);
  if (detokenizer) put(detokenizer->flush());
  if (!last.error.ok() && last.finish != FinishReason::kCancelled) return last.error;
  if (json) {
    print_json(*loaded, one, ids, last, runner.core().executor().logits_hash(), text);
  } else {
    std::printf("\n");
    std::fflush(stdout);
    std::fprintf(stderr, "[%d prompt tokens in %.3f s, %d tokens in %.3f s, %s]\n", last.usage.prompt_tokens,
                 seconds(last.usage.prefill_time), last.usage.completion_tokens, seconds(last.usage.decode_time),
                 name(last.finish));
  }
  return {};
}

}  // namespace

Action add_generate(CLI::App& app) {
  auto command = std::make_shared<GenerateCommand>();
  command->options.add_to(app, rank_keys());
  command->request.add_to(app);
  app.add_option("--prompt,-p", command->prompt, "the text to continue");
  app.add_option("--prompt-file", command->prompt_file, "read the prompt from a file, - for standard input");
  app.add_option("--prompt-ids", command->prompt_ids, "the prompt as token ids, separated by commas")->delimiter(',');
  app.add_flag("--json", command->json, "print one JSON object instead of streaming the text");
  return [command] { return command->run(); };
}

}  // namespace sluice
