// generation_config.json: what the model's makers recommend for drawing tokens. See config.h.
#include "model/config.h"
#include "model/json_fields.h"

namespace sluice {

namespace {

constexpr int64_t kMaxFileBytes = int64_t{1} << 20;
constexpr int64_t kInt32End = int64_t{1} << 31;

// The ranges of validate(SamplingParams), told in the words of this file.
constexpr NumberRange kTemperature{0, true, 100, true, "a number in [0, 100]"};
constexpr NumberRange kPenalty{0, false, 10, true, "a number in (0, 10]"};
constexpr NumberRange kTopP{0, false, 1, true, "a number in (0, 1]"};
constexpr NumberRange kMinP{0, true, 1, true, "a number in [0, 1]"};

void read_sampling(JsonFields& fields, SamplingParams& sampling) {
  const auto read = [&](const char* key, float& value, NumberRange range) {
    if (!fields.has(key)) return;
    value = static_cast<float>(fields.number(key, range));
    // A double above an open end may become the end itself as a float.
    if (!range.holds(value)) fields.refuse(StatusCode::kInvalidArgument, key, range.text);
  };
  read("temperature", sampling.temperature, kTemperature);
  read("top_p", sampling.top_p, kTopP);
  read("min_p", sampling.min_p, kMinP);
  read("repetition_penalty", sampling.repetition_penalty, kPenalty);
  sampling.top_k = fields.integer_or("top_k", sampling.top_k, {0, kInt32End});
  if (!fields.flag_or("do_sample", true)) sampling.temperature = 0;
}

}  // namespace

Status apply_generation_config(const std::string& directory, ModelInfo& info) {
  const std::string file = directory + "/generation_config.json";
  const Result<std::string> text = read_small_file(file, kMaxFileBytes);
  if (!text.ok()) return text.status().code() == StatusCode::kNotFound ? Status() : text.status();
  SLUICE_ASSIGN_OR_RETURN(const nlohmann::json object, parse_json_object(*text, file));
  JsonFields fields(object, file);
  ModelInfo changed = info;
  read_sampling(fields, changed.default_sampling);
  changed.default_max_tokens = fields.integer_or("max_new_tokens", info.default_max_tokens, {1, kInt32End});
  const std::vector<TokenId> eos = fields.integers_or_none("eos_token_id", {0, info.vocab_size});
  if (!eos.empty()) changed.eos_token_ids = eos;
  SLUICE_RETURN_IF_ERROR(fields.status());
  info = std::move(changed);
  return {};
}

}  // namespace sluice
