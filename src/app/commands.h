// The subcommands. Each adds itself to the command line and runs when it was chosen; the returned Status becomes the
// exit code and the one line of error.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "sluice/request.h"
#include "sluice/status.h"

#include "config/options.h"

namespace sluice {

using Action = std::function<Status()>;

// Gathers the values of flags as they were written; resolve() lays them over defaults, --config file and environment.
class OptionFlags {
 public:
  // Adds --config and the flags of the given keys (all of the table if empty).
  void add_to(CLI::App& app, const std::vector<std::string>& keys = {});
  Result<Options> resolve() const;
  // As they were written, for another process of this binary.
  std::vector<std::string> arguments() const;
  const std::string& config_file() const { return config_file_; }  // empty: none

 private:
  std::string config_file_;
  std::map<std::string, std::string> given_;  // key -> value
};

// Keys that say what a token attends to.
const std::vector<std::string>& attention_keys();

// Keys that make sense for a command that loads a model and exits.
const std::vector<std::string>& offline_keys();
// The same for one that may run on several ranks.
const std::vector<std::string>& rank_keys();

// Flags of one request: --max-tokens, --temperature, ... Absent ones keep the model's defaults.
class RequestFlags {
 public:
  void add_to(CLI::App& app);
  // Fills sampling, stop, num_logprobs from the model's defaults and the flags; validated.
  Status apply(const ModelInfo& info, Request& request) const;

  // The same as messages of the native service: only the given flags are set.
  template <typename Sampling, typename Stopping>
  void fill(Sampling& sampling, Stopping& stopping) const {
    if (temperature_) sampling.set_temperature(*temperature_);
    if (top_k_) sampling.set_top_k(*top_k_);
    if (top_p_) sampling.set_top_p(*top_p_);
    if (min_p_) sampling.set_min_p(*min_p_);
    if (repetition_penalty_) sampling.set_repetition_penalty(*repetition_penalty_);
    if (presence_penalty_) sampling.set_presence_penalty(*presence_penalty_);
    if (frequency_penalty_) sampling.set_frequency_penalty(*frequency_penalty_);
    if (seed_) sampling.set_seed(static_cast<int64_t>(*seed_));
    if (max_tokens_) stopping.set_max_tokens(*max_tokens_);
    if (min_tokens_) stopping.set_min_tokens(*min_tokens_);
    if (ignore_eos_) stopping.set_ignore_eos(true);
  }

 private:
  std::optional<int32_t> max_tokens_, top_k_, min_tokens_;
  std::optional<float> temperature_, top_p_, min_p_, repetition_penalty_, presence_penalty_, frequency_penalty_;
  std::optional<uint64_t> seed_;
  bool ignore_eos_ = false;
};

Action add_serve(CLI::App& app);
Action add_generate(CLI::App& app);
Action add_chat(CLI::App& app);
Action add_client(CLI::App& app);
Action add_token(CLI::App& app);
Action add_doctor(CLI::App& app);
Action add_perplexity(CLI::App& app);
Action add_tokenize(CLI::App& app);
Action add_inspect(CLI::App& app);
Action add_quantize(CLI::App& app);
Action add_bench(CLI::App& app);

}  // namespace sluice
