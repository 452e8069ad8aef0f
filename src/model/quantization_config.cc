#include "model/quantization_config.h"

namespace sluice {

namespace {

constexpr IntegerRange kBits{1, 65};
constexpr IntegerRange kGroups{-1, 1 << 24};  // -1: one scale a row
constexpr IntegerRange kBlock{1, 1 << 16};

// The scheme's own word for "one scale a row" is -1.
void read_bits_and_group(JsonFields& fields, const char* bits_key, PackedScheme& scheme) {
  scheme.bits = fields.integer(bits_key, kBits);
  if (scheme.bits != 4 && scheme.bits != 8)
    fields.refuse(StatusCode::kFailedPrecondition, bits_key, "4 or 8 bits");
  const int32_t group = fields.integer_or("group_size", -1, kGroups);
  scheme.group = group > 0 ? group : 0;
}

// What is left after the layout: our groups are of 32, 64 or 128 inputs; whole multiples of them are taken apart.
Status check_formats(JsonFields& fields, const PackedScheme& scheme) {
  SLUICE_RETURN_IF_ERROR(fields.status());
  if (scheme.group != 32 && scheme.group != 64 && scheme.group % 128 != 0)
    fields.refuse(StatusCode::kFailedPrecondition, "group_size", "32, 64 or a multiple of 128");
  if (scheme.bits == 8 && !scheme.symmetric)
    fields.fail(failed_precondition("quantization_config: zero points are supported with 4 bits only, found 8"));
  return fields.status();
}

Status read_weight_group(const nlohmann::json& object, const std::string& where, PackedScheme& scheme) {
  JsonFields group(object, where);
  for (const char* key : {"input_activations", "output_activations"})
    if (group.has(key)) group.refuse(StatusCode::kFailedPrecondition, key, "null (weights alone are quantised)");
  const nlohmann::json* weights = group.object_or_null("weights");
  SLUICE_RETURN_IF_ERROR(group.status());
  if (weights == nullptr) return failed_precondition("{}: weights: expected an object, found none", where);
  JsonFields fields(*weights, where + ": weights");
  if (fields.text_or("type", "int") != "int") fields.refuse(StatusCode::kFailedPrecondition, "type", "\"int\"");
  const std::string strategy = fields.text_or("strategy", "group");
  if (strategy != "group" && strategy != "channel")
    fields.refuse(StatusCode::kFailedPrecondition, "strategy", "\"group\" or \"channel\"");
  const std::string order = fields.text_or("actorder", "");
  if (order == "group" || order == "dynamic")
    fields.refuse(StatusCode::kFailedPrecondition, "actorder", "null, \"weight\" or \"static\"");
  scheme.symmetric = fields.flag_or("symmetric", true);
  read_bits_and_group(fields, "num_bits", scheme);
  return check_formats(fields, scheme);
}

Status read_pack_quantized(JsonFields& fields, const std::string& where, ModelConfig& config) {
  if (fields.text_or("format", "") != "pack-quantized")
    fields.refuse(StatusCode::kFailedPrecondition, "format", "\"pack-quantized\"");
  const nlohmann::json* groups = fields.object_or_null("config_groups");
  SLUICE_RETURN_IF_ERROR(fields.status());
  if (groups == nullptr || groups->empty())
    return failed_precondition("{}: config_groups: expected at least one group, found none", where);
  for (const auto& [key, group] : groups->items()) {
    const std::string at = fmt::format("{}: config_groups: {}", where, in_quotes(key));
    if (!group.is_object()) return invalid_argument("{}: expected an object, found {}", at, group.type_name());
    PackedScheme scheme;
    SLUICE_RETURN_IF_ERROR(read_weight_group(group, at, scheme));
    if (config.packed && (config.packed->bits != scheme.bits || config.packed->symmetric != scheme.symmetric))
      return failed_precondition("{}: expected the bits and symmetry of the other groups, found others", at);
    // Matrices of one model may differ in their group; the shapes of their scales tell.
    if (config.packed && config.packed->group != 0)
      scheme.group = scheme.group == 0 ? 0 : std::max(scheme.group, config.packed->group);
    config.packed = scheme;
  }
  return {};
}

Status read_gptq(JsonFields& fields, ModelConfig& config) {
  PackedScheme scheme{.layout = PackedLayout::kGptq};
  read_bits_and_group(fields, "bits", scheme);
  scheme.symmetric = fields.flag_or("sym", true);
  if (fields.flag_or("desc_act", false))
    fields.refuse(StatusCode::kFailedPrecondition, "desc_act", "false (act-order is not supported)");
  const std::string version = fields.text_or("checkpoint_format", "gptq");
  if (version != "gptq" && version != "gptq_v2")
    fields.refuse(StatusCode::kFailedPrecondition, "checkpoint_format", "\"gptq\" or \"gptq_v2\"");
  scheme.zeros_less_one = version == "gptq";
  SLUICE_RETURN_IF_ERROR(check_formats(fields, scheme));
  config.packed = scheme;
  return {};
}

Status read_awq(JsonFields& fields, ModelConfig& config) {
  PackedScheme scheme{.layout = PackedLayout::kAwq, .symmetric = false};
  read_bits_and_group(fields, fields.has("w_bit") ? "w_bit" : "bits", scheme);
  if (fields.has("q_group_size")) scheme.group = fields.integer("q_group_size", {1, 1 << 24});
  if (scheme.bits != 4) fields.refuse(StatusCode::kFailedPrecondition, "bits", "4 with AWQ");
  if (!fields.flag_or("zero_point", true)) fields.refuse(StatusCode::kFailedPrecondition, "zero_point", "true");
  const std::string version = fields.text_or("version", "gemm");
  if (version != "gemm" && version != "GEMM") fields.refuse(StatusCode::kFailedPrecondition, "version", "\"gemm\"");
  if (scheme.group == 0) fields.refuse(StatusCode::kFailedPrecondition, "group_size", "32, 64 or a multiple of 128");
  SLUICE_RETURN_IF_ERROR(check_formats(fields, scheme));
  config.packed = scheme;
  return {};
}

Status read_fp8(JsonFields& fields, ModelConfig& config) {
  if (fields.text_or("fmt", "e4m3") != "e4m3") fields.refuse(StatusCode::kFailedPrecondition, "fmt", "\"e4m3\"");
  const std::vector<int32_t> block = fields.integers_or_none("weight_block_size", kBlock);
  if (block.size() != 2)
    fields.refuse(StatusCode::kFailedPrecondition, "weight_block_size", "[rows, columns] of a scale's block");
  SLUICE_RETURN_IF_ERROR(fields.status());
  config.weight_block_rows = block[0];
  config.weight_block_cols = block[1];
  return {};
}

}  // namespace

Status read_quantization(JsonFields& fields, const std::string& file, ModelConfig& config) {
  const nlohmann::json* object = fields.object_or_null("quantization_config");
  if (object == nullptr) return fields.status();
  const std::string where = file + ": quantization_config";
  JsonFields quantization(*object, where);
  const std::string method = quantization.text("quant_method");
  SLUICE_RETURN_IF_ERROR(quantization.status());
  if (method == "fp8") return read_fp8(quantization, config);
  if (method == "compressed-tensors") return read_pack_quantized(quantization, where, config);
  if (method == "gptq") return read_gptq(quantization, config);
  if (method == "awq") return read_awq(quantization, config);
  quantization.refuse(StatusCode::kFailedPrecondition, "quant_method",
                      "\"fp8\" with weight_block_size, \"compressed-tensors\", \"gptq\" or \"awq\" (or an unquantised"
                      " checkpoint)");
  return quantization.status();
}

}  // namespace sluice
