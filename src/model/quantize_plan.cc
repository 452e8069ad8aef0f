#include "model/quantize_plan.h"

#include <map>
#include <nlohmann/json.hpp>

#include "sluice/quantize.h"

#include "model/json_fields.h"

namespace sluice {

namespace {

constexpr const char* kHead = "lm_head.weight";
constexpr int32_t kWordBits = 32;

bool stays_wide(const TensorSpec& spec, bool keep_head) {
  return spec.shape.rank < 2 || spec.name == "model.embed_tokens.weight" || spec.name.ends_with(".mlp.gate.weight") ||
         spec.name.ends_with(".kv_b_proj.weight") || (keep_head && spec.name == kHead);
}

// A router's bias decides between near ties: rounding it would choose other experts.
bool is_bias(const TensorSpec& spec) { return spec.name.ends_with("e_score_correction_bias"); }

nlohmann::ordered_json weight_arguments(WeightFormat weights, int32_t group) {
  return {{"num_bits", code_bits(weights)},
          {"type", "int"},
          {"symmetric", !has_zero_points(weights)},
          {"strategy", "group"},
          {"group_size", group},
          {"dynamic", false},
          {"actorder", nullptr},
          {"block_structure", nullptr},
          {"observer", "minmax"},
          {"observer_kwargs", nlohmann::ordered_json::object()}};
}

nlohmann::ordered_json config_group(WeightFormat weights, int32_t group, const std::vector<std::string>& targets) {
  return {{"targets", targets},
          {"weights", weight_arguments(weights, group)},
          {"input_activations", nullptr},
          {"output_activations", nullptr}};
}

nlohmann::ordered_json quantization_config(const std::vector<PlannedShard>& shards, WeightFormat weights) {
  const int32_t usual = group_size(weights, 128);
  std::map<int32_t, std::vector<std::string>> unusual;  // group -> modules
  std::vector<std::string> ignore;
  for (const PlannedShard& shard : shards) {
    for (const PlannedTensor& tensor : shard) {
      if (tensor.spec.shape.rank < 2 || tensor.spec.name == "model.embed_tokens.weight") continue;  // no linear layer
      if (!is_quantized(tensor.format)) {
        ignore.push_back(tensor.module());
      } else if (const int32_t group = group_size(weights, tensor.spec.shape[1]); group != usual) {
        unusual[group].push_back(tensor.module());
      }
    }
  }
  nlohmann::ordered_json groups;
  groups["group_0"] = config_group(weights, usual, {"Linear"});
  for (const auto& [group, modules] : unusual)  // a module's name goes before its class
    groups[fmt::format("group_{}", groups.size())] = config_group(weights, group, modules);
  return {{"quant_method", "compressed-tensors"},
          {"format", "pack-quantized"},
          {"quantization_status", "compressed"},
          {"config_groups", groups},
          {"ignore", ignore},
          {"kv_cache_scheme", nullptr},
          {"global_compression_ratio", nullptr}};
}

}  // namespace

std::string PlannedTensor::module() const {
  return spec.name.substr(0, spec.name.size() - std::string_view(".weight").size());
}

std::vector<ShardTensor> PlannedTensor::parts() const {
  if (!is_quantized(format)) return {{spec.name, format == WeightFormat::kF32 ? DType::kF32 : DType::kBF16, spec.shape}};
  const int64_t rows = spec.shape[0], cols = spec.shape[1];
  const int64_t groups = cols / group_size(format, cols), codes_per_word = kWordBits / code_bits(format);
  std::vector<ShardTensor> parts = {{module() + ".weight_shape", DType::kI64, {2}},
                                    {module() + ".weight_packed", DType::kI32, {rows, cols / codes_per_word}},
                                    {module() + ".weight_scale", DType::kBF16, {rows, groups}}};
  if (has_zero_points(format))
    parts.push_back(
        {module() + ".weight_zero_point", DType::kI32, {(rows + codes_per_word - 1) / codes_per_word, groups}});
  return parts;
}

std::vector<PlannedShard> plan_shards(const Checkpoint& source, const ModelConfig& config, WeightFormat weights,
                                      bool keep_head, int64_t shard_bytes) {
  std::vector<PlannedShard> shards(1);
  int64_t bytes = 0;
  for (TensorSpec& spec : required_tensors(config)) {
    PlannedTensor tensor{std::move(spec), WeightFormat::kBF16};
    if (!stays_wide(tensor.spec, keep_head)) tensor.format = storage_format(weights, tensor.spec.shape[1]);
    if (is_bias(tensor.spec) && source.dtype(tensor.spec.name) == DType::kF32) tensor.format = WeightFormat::kF32;
    int64_t more = 0;
    for (const ShardTensor& part : tensor.parts()) more += part.bytes();
    if (bytes > 0 && bytes + more > shard_bytes) {
      shards.emplace_back();
      bytes = 0;
    }
    bytes += more;
    shards.back().push_back(std::move(tensor));
  }
  return shards;
}

std::string shard_file(size_t index, size_t count) {
  return count == 1 ? "model.safetensors" : fmt::format("model-{:05}-of-{:05}.safetensors", index + 1, count);
}

PackedScheme written_scheme(WeightFormat weights) {
  return {.layout = PackedLayout::kPackQuantized,
          .bits = code_bits(weights),
          .group = group_size(weights, 128),
          .symmetric = !has_zero_points(weights)};
}

Result<std::string> quantized_config(const std::string& config_json, const std::vector<PlannedShard>& shards,
                                     WeightFormat weights) {
  nlohmann::ordered_json config = nlohmann::ordered_json::parse(config_json, nullptr, false);
  if (!config.is_object()) return invalid_argument("config.json: expected a JSON object");
  if (config.contains("num_nextn_predict_layers")) config["num_nextn_predict_layers"] = 0;
  if (config.contains("dtype")) config["dtype"] = "bfloat16";
  if (config.contains("torch_dtype") || !config.contains("dtype")) config["torch_dtype"] = "bfloat16";
  config["quantization_config"] = quantization_config(shards, weights);
  return config.dump(2) + "\n";
}

std::string shard_index(const std::vector<PlannedShard>& shards) {
  nlohmann::ordered_json index = {{"metadata", {{"total_size", 0}}}, {"weight_map", nlohmann::ordered_json::object()}};
  int64_t total_bytes = 0;
  for (size_t i = 0; i < shards.size(); ++i) {
    for (const PlannedTensor& tensor : shards[i]) {
      for (const ShardTensor& part : tensor.parts()) {
        index["weight_map"][part.name] = shard_file(i, shards.size());
        total_bytes += part.bytes();
      }
    }
  }
  index["metadata"]["total_size"] = total_bytes;
  return index.dump(2) + "\n";
}

}  // namespace sluice
