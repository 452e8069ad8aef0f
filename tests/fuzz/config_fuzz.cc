// config.json from the outside world: no input may crash or overflow, and what is accepted must satisfy what the
// forward pass relies on. An input is taken twice: as the file itself, and as a list of changes to a right file, three
// bytes each (key, kind, value), because random text almost never passes the first fields.
#include <array>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "sluice/check.h"

#include "model/config.h"
#include "model/inspect.h"
#include "tests/model/test_configs.h"

namespace sluice {
namespace {

using nlohmann::json;

constexpr StatusCode kInvalid = StatusCode::kInvalidArgument, kUnsupported = StatusCode::kFailedPrecondition;

void check_accepted(const ModelConfig& c) {
  SLUICE_CHECK(c.vocab_size > 0 && c.hidden_size > 0 && c.num_hidden_layers > 0 && c.num_attention_heads > 0);
  SLUICE_CHECK(c.qk_rope_head_dim > 0 && c.qk_rope_head_dim % 2 == 0, "{}", c.qk_rope_head_dim);
  SLUICE_CHECK(c.rope_theta > 1 && c.rms_norm_eps > 0, "{} {}", c.rope_theta, c.rms_norm_eps);
  SLUICE_CHECK(!c.yarn || (c.yarn->factor >= 1 && c.yarn->original_max_position_embeddings > 0));
  if (c.n_routed_experts > 0) {
    SLUICE_CHECK(c.n_group > 0 && c.n_routed_experts % c.n_group == 0, "{} {}", c.n_routed_experts, c.n_group);
    const int32_t reachable = c.topk_method == TopkMethod::kGreedy
                                  ? c.n_routed_experts
                                  : c.n_routed_experts / c.n_group * std::min(c.topk_group, c.n_group);
    SLUICE_CHECK(c.num_experts_per_tok > 0 && c.num_experts_per_tok <= reachable);
    SLUICE_CHECK(c.moe_layer_freq > 0 && c.moe_intermediate_size > 0);
    SLUICE_CHECK(c.first_k_dense_replace >= 0 && c.first_k_dense_replace <= c.num_hidden_layers);
  }
  SLUICE_CHECK(c.index_topk == 0 ||
               (c.index_n_heads > 0 && c.index_head_dim >= c.qk_rope_head_dim && c.q_lora_rank > 0));
  if (c.hybrid) {
    SLUICE_CHECK(c.num_attention_heads % c.hybrid->o_groups == 0 && c.hybrid->head_dim >= c.qk_rope_head_dim);
    SLUICE_CHECK(std::ssize(c.hybrid->compress_ratios) == c.num_hidden_layers);
  }
  for (TokenId token : c.eos_token_ids) SLUICE_CHECK(token >= 0 && token < c.vocab_size, "{}", token);
  // Millions of tensors would only make the fuzzer slow.
  if (int64_t{c.num_hidden_layers} * (c.n_routed_experts + 1) > 2000) return;
  const ModelReport report = inspect(c);
  SLUICE_CHECK(report.parameters > 0 && report.active_parameters <= report.parameters);
  SLUICE_CHECK(report.flop_per_token > 0 && report.cache_bytes_per_token_bf16 >= (c.hybrid ? 0 : 1));
  SLUICE_CHECK(json::parse(to_json(report)).is_object() && !to_text(report).empty());
}

void check_text(const std::string& text) {
  const Result<ModelConfig> config = ModelConfig::parse(text, "fuzz");
  if (config.ok()) return check_accepted(*config);
  const Status status = config.status();
  SLUICE_CHECK(status.code() == kInvalid || status.code() == kUnsupported, "{}", status.to_string());
  SLUICE_CHECK(status.message().starts_with("fuzz: "), "{}", status.message());
  SLUICE_CHECK(status.message().size() < 512 && status.message().find('\n') == std::string::npos, "{}",
               status.message());
}

json value_of(uint8_t kind, uint8_t value) {
  switch (kind % 12) {
    case 0:
      return nullptr;
    case 1:
      return value;
    case 2:
      return -static_cast<int>(value);
    case 3:
      return int64_t{1} << (value % 63);
    case 4:
      return ~uint64_t{0} >> (value % 64);
    case 5:
      return value / 16.0;
    case 6:
      return value % 2 == 0 ? 1e300 : 1e-300;
    case 7:
      return value % 2 == 0;
    case 8:
      return json::array({value, value});
    case 9:
      return json::object();
    case 10: {
      constexpr std::array kWords = {"yarn",     "default",     "linear",      "greedy", "group_limited_greedy",
                                     "noaux_tc", "softmax",     "sigmoid",     "fp8",    "e4m3",
                                     "silu",     "deepseek_v2", "deepseek_v3", "deepseek_v32", "deepseek_v4",
                                     "fp4",      "sqrtsoftplus", ""};
      return kWords[value % kWords.size()];
    }
    default:
      return {{"rope_type", value % 2 == 0 ? "yarn" : "default"}, {"factor", value}};
  }
}

// Keys at the top, then those of rope_scaling and quantization_config.
void change(json& object, uint8_t key, uint8_t kind, uint8_t value) {
  json* place = &object;
  if (key >= 160 && key < 208) place = &object["rope_scaling"];
  if (key >= 208) place = &object["quantization_config"];
  if (!place->is_object() || place->empty()) *place = json::object({{"quant_method", "fp8"}, {"type", "yarn"}});
  auto field = place->begin();
  std::advance(field, key % place->size());
  if (kind >= 240) {
    place->erase(field);
  } else {
    *field = value_of(kind, value);
  }
}

}  // namespace
}  // namespace sluice

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  sluice::check_text(std::string(reinterpret_cast<const char*>(data), size));
  if (size == 0) return 0;
  nlohmann::json object = data[0] % 5 == 0   ? sluice::tiny_json()
                          : data[0] % 5 == 1 ? sluice::v3_json()
                          : data[0] % 5 == 2 ? sluice::v2_json()
                          : data[0] % 5 == 3 ? sluice::v32_json()
                                             : sluice::tiny_v4_json();
  for (size_t i = 1; i + 2 < size && i < 24; i += 3) sluice::change(object, data[i], data[i + 1], data[i + 2]);
  sluice::check_text(object.dump());
  return 0;
}
