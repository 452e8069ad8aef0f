#include <algorithm>
#include <random>

#include "app/commands.h"

namespace sluice {

const std::vector<std::string>& attention_keys() {
  static const std::vector<std::string> keys = {"attention", "block_global.pages", "block_global.sink_pages",
                                                "block_global.window_pages", "block_global.full_every"};
  return keys;
}

const std::vector<std::string>& offline_keys() {
  static const std::vector<std::string> keys = [] {
    std::vector<std::string> all = {
        "model",       "weights", "device",      "experts_on",       "threads",   "random_weights", "weights_cache",
        "chat_format", "context", "cache.dtype", "cache.memory_mib", "scheduler.max_batch_tokens",
        "log_level"};
    all.insert(all.end(), attention_keys().begin(), attention_keys().end());
    return all;
  }();
  return keys;
}

const std::vector<std::string>& rank_keys() {
  static const std::vector<std::string> keys = [] {
    std::vector<std::string> all = offline_keys();
    for (const char* key :
         {"tp", "parallel.experts", "parallel.timeout", "parallel.start_timeout", "parallel.address"})
      all.emplace_back(key);
    return all;
  }();
  return keys;
}

void OptionFlags::add_to(CLI::App& app, const std::vector<std::string>& keys) {
  app.add_option("--config", config_file_, "YAML file with options; flags win over it")->type_name("FILE");
  const Options defaults;
  for (const OptionSpec& spec : option_table()) {
    if (!keys.empty() && std::find(keys.begin(), keys.end(), spec.key) == keys.end()) continue;
    CLI::Option* option = app.add_option_function<std::string>(
        spec.flag(), [this, key = std::string(spec.key)](const std::string& value) { given_[key] = value; },
        fmt::format("{} [{}]", spec.help, spec.get(defaults)));
    option->type_name("");
    // A bare --insecure is --insecure true.
    if (std::string_view(spec.key) == "insecure") option->expected(0, 1)->default_str("true");
  }
}

Result<Options> OptionFlags::resolve() const {
  Options options;
  if (!config_file_.empty()) SLUICE_RETURN_IF_ERROR(apply_yaml(config_file_, options));
  SLUICE_RETURN_IF_ERROR(apply_environment(options));
  for (const OptionSpec& spec : option_table())
    if (const auto found = given_.find(spec.key); found != given_.end())
      SLUICE_RETURN_IF_ERROR(spec.set(options, found->second).with_context(spec.flag()));
  return options;
}

std::vector<std::string> OptionFlags::arguments() const {
  std::vector<std::string> words;
  if (!config_file_.empty()) words = {"--config", config_file_};
  for (const OptionSpec& spec : option_table())
    if (const auto found = given_.find(spec.key); found != given_.end())
      words.insert(words.end(), {spec.flag(), found->second});
  return words;
}

void RequestFlags::add_to(CLI::App& app) {
  app.add_option("--max-tokens", max_tokens_, "tokens to generate at most");
  app.add_option("--min-tokens", min_tokens_, "tokens to generate before the model may end");
  app.add_option("--temperature", temperature_, "0 is greedy");
  app.add_option("--top-k", top_k_, "draw among the k most likely tokens; 0 keeps all");
  app.add_option("--top-p", top_p_, "draw among the most likely tokens that hold this probability");
  app.add_option("--min-p", min_p_, "leave out tokens below this share of the most likely one");
  app.add_option("--repetition-penalty", repetition_penalty_, "divides logits of tokens seen before; 1 is off");
  app.add_option("--presence-penalty", presence_penalty_, "subtracted once from tokens generated before");
  app.add_option("--frequency-penalty", frequency_penalty_, "subtracted per occurrence of tokens generated before");
  app.add_option("--seed", seed_, "same seed, same answer; default: a random one");
  app.add_flag("--ignore-eos", ignore_eos_, "go on to --max-tokens whatever the model says");
}

Status RequestFlags::apply(const ModelInfo& info, Request& request) const {
  SamplingParams& sampling = request.sampling = info.default_sampling;
  const auto set = [](auto& target, const auto& given) {
    if (given) target = *given;
  };
  set(sampling.temperature, temperature_);
  set(sampling.top_k, top_k_);
  set(sampling.top_p, top_p_);
  set(sampling.min_p, min_p_);
  set(sampling.repetition_penalty, repetition_penalty_);
  set(sampling.presence_penalty, presence_penalty_);
  set(sampling.frequency_penalty, frequency_penalty_);
  sampling.seed = seed_ ? *seed_ : (uint64_t{std::random_device{}()} << 32) | std::random_device{}();
  request.stop.max_tokens = max_tokens_.value_or(info.default_max_tokens);
  request.stop.min_tokens = min_tokens_.value_or(0);
  request.stop.ignore_eos = ignore_eos_;
  SLUICE_RETURN_IF_ERROR(validate(sampling, info.vocab_size));
  return validate(request.stop, info.vocab_size);
}

}  // namespace sluice
