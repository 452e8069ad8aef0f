#include "model/config.h"

#include <array>
#include <span>

#include "model/config_qwen3.h"
#include "model/config_ranges.h"
#include "model/config_v4.h"
#include "model/quantization_config.h"

namespace sluice {

namespace {

constexpr int64_t kMaxConfigBytes = int64_t{1} << 20;

constexpr NumberRange kYarnFactor{1, true, 1e6, true, "a number in [1, 1e6]"};

struct ArchitectureName {
  const char* model_type;
  Architecture architecture;
};
constexpr std::array kArchitectures = {ArchitectureName{"deepseek_v2", Architecture::kDeepSeekV2},
                                       ArchitectureName{"deepseek_v3", Architecture::kDeepSeekV3},
                                       ArchitectureName{"deepseek_v32", Architecture::kDeepSeekV32},
                                       ArchitectureName{"deepseek_v4", Architecture::kDeepSeekV4},
                                       ArchitectureName{"qwen3_moe", Architecture::kQwen3Moe}};

// One value of a text field and what it stands for.
template <typename Enum>
struct Choice {
  const char* text;
  Enum value;
};
constexpr std::array kTopkV2 = {Choice<TopkMethod>{"greedy", TopkMethod::kGreedy},
                                Choice<TopkMethod>{"group_limited_greedy", TopkMethod::kGroupLimitedGreedy}};
constexpr std::array kTopkV3 = {Choice<TopkMethod>{"noaux_tc", TopkMethod::kNoauxTc}};
constexpr std::array kScoringV2 = {Choice<ScoringFunc>{"softmax", ScoringFunc::kSoftmax}};
constexpr std::array kScoringV3 = {Choice<ScoringFunc>{"sigmoid", ScoringFunc::kSigmoid}};

// Missing or null: the first choice.
template <typename Enum>
Enum read_choice(JsonFields& fields, const char* key, std::span<const Choice<Enum>> choices,
                 const std::string& model_type) {
  const std::string text = fields.text_or(key, choices.front().text);
  std::string known;
  for (const Choice<Enum>& choice : choices) {
    if (text == choice.text) return choice.value;
    known += fmt::format("{}\"{}\"", known.empty() ? "" : " or ", choice.text);
  }
  fields.refuse(StatusCode::kFailedPrecondition, key, fmt::format("{} with {}", known, model_type));
  return choices.front().value;
}

void read_architecture(JsonFields& fields, ModelConfig& config) {
  config.model_type = fields.text("model_type");
  std::string known;
  for (const ArchitectureName& entry : kArchitectures) {
    if (config.model_type == entry.model_type) {
      config.architecture = entry.architecture;
      return;
    }
    known += fmt::format("{}{}", known.empty() ? "" : ", ", entry.model_type);
  }
  fields.refuse(StatusCode::kFailedPrecondition, "model_type", "one of " + known);
}

void read_sizes(JsonFields& fields, ModelConfig& config) {
  config.vocab_size = fields.integer("vocab_size", {1, kVocabEnd});
  config.hidden_size = fields.integer("hidden_size", {1, kWidthEnd});
  config.num_hidden_layers = fields.integer("num_hidden_layers", {1, kLayersEnd});
  // V4 has no dense layers.
  if (config.architecture != Architecture::kDeepSeekV4)
    config.intermediate_size = fields.integer("intermediate_size", {1, kWidthEnd});
  config.max_position_embeddings = fields.integer("max_position_embeddings", {1, kPositionsEnd});
  config.rms_norm_eps = fields.number_or("rms_norm_eps", config.rms_norm_eps, kEpsilon);
  config.tie_word_embeddings = fields.flag_or("tie_word_embeddings", false);
  if (fields.text_or("hidden_act", "silu") != "silu")
    fields.refuse(StatusCode::kFailedPrecondition, "hidden_act", "\"silu\"");
  for (const char* bias : {"attention_bias", "mlp_bias"})
    if (fields.flag_or(bias, false)) fields.refuse(StatusCode::kFailedPrecondition, bias, "false");
}

void read_attention(JsonFields& fields, ModelConfig& config) {
  config.num_attention_heads = fields.integer("num_attention_heads", {1, kHeadsEnd});
  // Latent attention expands one latent for every head, so there is no grouping of key heads.
  if (fields.integer_or("num_key_value_heads", config.num_attention_heads, {1, kHeadsEnd}) !=
      config.num_attention_heads)
    fields.refuse(StatusCode::kFailedPrecondition, "num_key_value_heads",
                  fmt::format("num_attention_heads ({})", config.num_attention_heads));
  config.q_lora_rank = fields.integer_or("q_lora_rank", 0, {1, kWidthEnd});
  config.kv_lora_rank = fields.integer("kv_lora_rank", {1, kWidthEnd});
  config.qk_nope_head_dim = fields.integer("qk_nope_head_dim", {1, kHeadDimEnd});
  config.qk_rope_head_dim = fields.integer("qk_rope_head_dim", {1, kHeadDimEnd});
  config.v_head_dim = fields.integer("v_head_dim", {1, kHeadDimEnd});
  if (config.qk_rope_head_dim % 2 != 0)
    fields.refuse(StatusCode::kInvalidArgument, "qk_rope_head_dim", "an even integer");
  if (!config.is_v2()) config.rope_interleave = fields.flag_or("rope_interleave", true);
}

// V3.2. Its queries come from the main queries' latent, so there must be one.
void read_indexer(JsonFields& fields, ModelConfig& config) {
  if (config.architecture != Architecture::kDeepSeekV32) return;
  config.index_n_heads = fields.integer("index_n_heads", {1, kHeadsEnd});
  config.index_head_dim = fields.integer("index_head_dim", {1, kIndexDimEnd});
  config.index_topk = fields.integer("index_topk", {1, kPositionsEnd});
  if (config.index_head_dim < config.qk_rope_head_dim)
    fields.refuse(StatusCode::kInvalidArgument, "index_head_dim",
                  fmt::format("at least qk_rope_head_dim ({})", config.qk_rope_head_dim));
  if (config.q_lora_rank == 0)
    fields.refuse(StatusCode::kInvalidArgument, "q_lora_rank", "a positive integer with " + config.model_type);
  if (!config.rope_interleave)
    fields.refuse(StatusCode::kFailedPrecondition, "rope_interleave", "true with " + config.model_type);
}

YarnConfig read_yarn(JsonFields& rope, const ModelConfig& config) {
  YarnConfig yarn;
  yarn.original_max_position_embeddings =
      rope.integer_or("original_max_position_embeddings", config.max_position_embeddings, {1, kPositionsEnd});
  const double stretch = static_cast<double>(config.max_position_embeddings) / yarn.original_max_position_embeddings;
  yarn.factor = rope.number_or("factor", std::max(stretch, 1.0), kYarnFactor);
  yarn.beta_fast = rope.number_or("beta_fast", yarn.beta_fast, kPositiveNumber);
  yarn.beta_slow = rope.number_or("beta_slow", yarn.beta_slow, kPositiveNumber);
  if (yarn.beta_fast < yarn.beta_slow)
    rope.refuse(StatusCode::kInvalidArgument, "beta_fast", fmt::format("at least beta_slow ({})", yarn.beta_slow));
  yarn.mscale = rope.number_or("mscale", 0, kNonNegativeNumber);
  yarn.mscale_all_dim = rope.number_or("mscale_all_dim", 0, kNonNegativeNumber);
  if (rope.has("attention_factor")) yarn.attention_factor = rope.number("attention_factor", kPositiveNumber);
  yarn.truncate = rope.flag_or("truncate", true);
  return yarn;
}

// The position encoding stands in rope_theta and rope_scaling {type, ...}; newer files name the type rope_type, or put
// everything into rope_parameters {rope_type, rope_theta, ...}. A file may have both objects if they agree.
Status read_rope(JsonFields& fields, const std::string& file, ModelConfig& config) {
  config.rope_theta = fields.number_or("rope_theta", config.rope_theta, kRopeBase);
  bool seen = false;
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const nlohmann::json* object = fields.object_or_null(key);
    SLUICE_RETURN_IF_ERROR(fields.status());
    if (object == nullptr) continue;
    JsonFields rope(*object, file + ": " + key);
    config.rope_theta = rope.number_or("rope_theta", config.rope_theta, kRopeBase);
    const char* type_key = rope.has("rope_type") ? "rope_type" : "type";
    const std::string type = rope.text(type_key);
    if (type != "yarn" && type != "default")
      rope.refuse(StatusCode::kFailedPrecondition, type_key, "\"yarn\" or \"default\"");
    std::optional<YarnConfig> yarn;
    if (type == "yarn") yarn = read_yarn(rope, config);
    SLUICE_RETURN_IF_ERROR(rope.status());
    if (seen && yarn != config.yarn)
      return invalid_argument("{}: {}: expected the same values as in rope_scaling, found others", file, key);
    config.yarn = yarn;
    seen = true;
  }
  return fields.status();
}

// Which experts a token may reach must be enough for num_experts_per_tok.
void check_groups(JsonFields& fields, const ModelConfig& config) {
  const auto refuse = [&](const char* key, const std::string& expected) {
    fields.refuse(StatusCode::kInvalidArgument, key, expected);
  };
  if (config.n_routed_experts % config.n_group != 0) {
    refuse("n_group", fmt::format("a divisor of n_routed_experts ({})", config.n_routed_experts));
    return;
  }
  const int32_t experts_per_group = config.n_routed_experts / config.n_group;
  if (config.topk_group > config.n_group) refuse("topk_group", fmt::format("at most n_group ({})", config.n_group));
  if (config.topk_method == TopkMethod::kNoauxTc && experts_per_group < 2)
    refuse("n_group", fmt::format("at least 2 of the {} experts in each group", config.n_routed_experts));
  const bool grouped = config.topk_method != TopkMethod::kGreedy;
  const int32_t reachable = grouped ? config.topk_group * experts_per_group : config.n_routed_experts;
  if (config.num_experts_per_tok > reachable)
    refuse("num_experts_per_tok", fmt::format("at most {}, the experts that a token can reach", reachable));
}

// V2's own code normalises or scales, never both, and does not normalise a single expert's weight. (transformers
// ignores norm_topk_prob with V2; all released models have false.)
void settle_v2_weights(ModelConfig& config) {
  if (!config.norm_topk_prob) return;
  if (config.num_experts_per_tok > 1) {
    config.routed_scaling_factor = 1;
  } else {
    config.norm_topk_prob = false;
  }
}

void read_experts(JsonFields& fields, ModelConfig& config) {
  const bool v3 = !config.is_v2();
  // Null says "no experts", a missing key says nothing.
  if (fields.is_null("n_routed_experts")) return;
  config.n_routed_experts = fields.integer("n_routed_experts", {1, kExpertsEnd});
  config.n_shared_experts = fields.integer_or("n_shared_experts", 0, {0, kSharedExpertsEnd});
  config.num_experts_per_tok = fields.integer("num_experts_per_tok", {1, kExpertsEnd});
  config.moe_intermediate_size = fields.integer("moe_intermediate_size", {1, kWidthEnd});
  config.first_k_dense_replace = fields.integer("first_k_dense_replace", {0, kLayersEnd});
  if (config.first_k_dense_replace > config.num_hidden_layers)
    fields.refuse(StatusCode::kInvalidArgument, "first_k_dense_replace",
                  fmt::format("at most num_hidden_layers ({})", config.num_hidden_layers));
  config.moe_layer_freq = fields.integer_or("moe_layer_freq", 1, {1, kLayersEnd});
  config.topk_method = read_choice<TopkMethod>(
      fields, "topk_method", v3 ? std::span<const Choice<TopkMethod>>(kTopkV3) : kTopkV2, config.model_type);
  config.scoring_func = read_choice<ScoringFunc>(
      fields, "scoring_func", v3 ? std::span<const Choice<ScoringFunc>>(kScoringV3) : kScoringV2, config.model_type);
  // Where the families' own defaults differ from plain routing, a missing key must not decide what is computed.
  config.n_group = v3 ? fields.integer("n_group", {1, kExpertsEnd}) : fields.integer_or("n_group", 1, {1, kExpertsEnd});
  config.topk_group =
      v3 ? fields.integer("topk_group", {1, kExpertsEnd}) : fields.integer_or("topk_group", 1, {1, kExpertsEnd});
  config.norm_topk_prob = v3 ? fields.flag("norm_topk_prob") : fields.flag_or("norm_topk_prob", false);
  config.routed_scaling_factor = v3 ? fields.number("routed_scaling_factor", kPositiveNumber)
                                    : fields.number_or("routed_scaling_factor", 1.0, kPositiveNumber);
  if (!v3) settle_v2_weights(config);
  check_groups(fields, config);
}

void read_special_tokens(JsonFields& fields, ModelConfig& config) {
  if (fields.has("bos_token_id")) config.bos_token_id = fields.integer("bos_token_id", {0, config.vocab_size});
  config.eos_token_ids = fields.integers_or_none("eos_token_id", {0, config.vocab_size});
}

}  // namespace

Result<ModelConfig> ModelConfig::parse(std::string_view json, const std::string& file) {
  SLUICE_ASSIGN_OR_RETURN(const nlohmann::json object, parse_json_object(json, file));
  JsonFields fields(object, file);
  ModelConfig config;
  read_architecture(fields, config);
  SLUICE_RETURN_IF_ERROR(fields.status());  // of another architecture nothing else means anything
  read_sizes(fields, config);
  if (config.architecture == Architecture::kDeepSeekV4) {
    read_v4(fields, config);
  } else if (config.architecture == Architecture::kQwen3Moe) {
    read_qwen3_moe(fields, config);
  } else {
    read_attention(fields, config);
    read_indexer(fields, config);
    read_experts(fields, config);
  }
  read_special_tokens(fields, config);
  SLUICE_RETURN_IF_ERROR(fields.status());
  SLUICE_RETURN_IF_ERROR(read_rope(fields, file, config));
  SLUICE_RETURN_IF_ERROR(read_quantization(fields, file, config));
  return config;
}

Result<ModelConfig> ModelConfig::load(const std::string& directory) {
  const std::string file = directory + "/config.json";
  SLUICE_ASSIGN_OR_RETURN(const std::string text, read_small_file(file, kMaxConfigBytes));
  return parse(text, file);
}

}  // namespace sluice
