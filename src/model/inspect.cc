#include "model/inspect.h"

#include <array>
#include <nlohmann/json.hpp>

namespace sluice {

namespace {

constexpr std::array kFormats = {WeightFormat::kF32,      WeightFormat::kBF16,     WeightFormat::kInt8,
                                 WeightFormat::kInt4G32,  WeightFormat::kInt4G64,  WeightFormat::kInt4G128,
                                 WeightFormat::kInt4G32Z, WeightFormat::kInt4G64Z, WeightFormat::kInt4G128Z};

// What the loader does with a tensor.
enum class Use { kEmbedding, kRouter, kVector, kExpert, kMatrix };

Use use_of(const TensorSpec& spec) {
  if (spec.shape.rank < 2) return Use::kVector;  // norms and the routers' biases
  if (spec.name == "model.embed_tokens.weight") return Use::kEmbedding;
  if (spec.name.ends_with(".mlp.gate.weight")) return Use::kRouter;
  if (spec.name.find(".mlp.experts.") != std::string::npos) return Use::kExpert;
  return Use::kMatrix;
}

bool is_quantizable(Use use) { return use == Use::kExpert || use == Use::kMatrix; }

int64_t bytes_in(WeightFormat format, const TensorSpec& spec) {
  if (is_quantizable(use_of(spec))) return weight_bytes(format, spec.shape[0], spec.shape[1]);
  return spec.shape.num_elements() * (format == WeightFormat::kF32 ? 4 : 2);
}

void count_parameters(const std::vector<TensorSpec>& specs, const ModelConfig& config, ModelReport& report) {
  int64_t experts = 0, embedding = 0, vectors = 0;
  for (const TensorSpec& spec : specs) {
    const int64_t elements = spec.shape.num_elements();
    const Use use = use_of(spec);
    report.parameters += elements;
    if (is_quantizable(use)) report.quantizable_parameters += elements;
    if (use == Use::kExpert) experts += elements;
    if (use == Use::kEmbedding) embedding += elements;
    if (use == Use::kVector) vectors += elements;
  }
  // All experts have one shape, so the division is exact.
  const int64_t active_experts = experts == 0 ? 0 : experts / config.n_routed_experts * config.num_experts_per_tok;
  report.active_parameters = report.parameters - experts + active_experts;
  report.active_parameters_without_embedding = report.active_parameters - embedding;
  // A tied head is the embedding used once more, as a matrix.
  const int64_t matrices = report.active_parameters - vectors - (config.tie_word_embeddings ? 0 : embedding);
  report.flop_per_token = 2 * matrices;
  report.flop_per_parameter = static_cast<double>(report.flop_per_token) / static_cast<double>(report.parameters);
}

FileReport report_files(const Checkpoint& checkpoint) {
  FileReport files;
  files.bytes = checkpoint.file_bytes();
  for (const std::string& tensor : checkpoint.names()) ++files.tensors_by_dtype[name(checkpoint.dtype(tensor))];
  return files;
}

// "15.71 B", "12.32 M", "640".
std::string short_count(double count) {
  if (count >= 1e9) return fmt::format("{:.2f} B", count / 1e9);
  if (count >= 1e6) return fmt::format("{:.2f} M", count / 1e6);
  return fmt::format("{:.0f}", count);
}

std::string short_bytes(double bytes) {
  if (bytes >= 1e9) return fmt::format("{:.2f} GB", bytes / 1e9);
  if (bytes >= 1e6) return fmt::format("{:.2f} MB", bytes / 1e6);
  return fmt::format("{:.0f} bytes", bytes);
}

std::string short_flop(double count) {
  return count >= 1e9 ? fmt::format("{:.2f} GFLOP", count / 1e9) : fmt::format("{:.2f} MFLOP", count / 1e6);
}

std::string line(const std::string& label, const std::string& value) { return fmt::format("{:<24}{}\n", label, value); }

std::string experts_text(const ModelReport& r) {
  if (r.num_moe_layers == 0) return "none";
  return fmt::format("{} of {} a token, {} shared", r.num_experts_per_token, r.num_routed_experts,
                     r.num_shared_experts);
}

}  // namespace

ModelReport inspect(const ModelConfig& config, const Checkpoint* checkpoint) {
  ModelReport report;
  report.architecture = config.model_type;
  report.num_layers = config.num_hidden_layers;
  for (int32_t layer = 0; layer < config.num_hidden_layers; ++layer)
    report.num_moe_layers += config.is_moe_layer(layer);
  report.num_routed_experts = config.n_routed_experts;
  report.num_shared_experts = config.n_shared_experts;
  report.num_experts_per_token = config.num_experts_per_tok;
  report.context_length = config.max_position_embeddings;

  const std::vector<TensorSpec> specs = required_tensors(config);
  count_parameters(specs, config, report);
  for (WeightFormat format : kFormats) {
    int64_t bytes = 0;
    for (const TensorSpec& spec : specs) bytes += bytes_in(format, spec);
    report.weights_bytes.emplace_back(format, bytes);
  }

  const int64_t layers = config.num_hidden_layers;
  report.cache_values_per_token = layers * config.latent_dim();
  report.cache_bytes_per_token_bf16 = report.cache_values_per_token * 2;
  report.cache_bytes_per_token_f32 = report.cache_values_per_token * 4;
  report.attention_flop_per_context_token =
      layers * config.num_attention_heads * int64_t{2} * (config.latent_dim() + config.kv_lora_rank);
  if (checkpoint != nullptr && !checkpoint->names().empty()) report.files = report_files(*checkpoint);
  return report;
}

std::string to_text(const ModelReport& r) {
  std::string text = line("architecture", r.architecture);
  text += line("layers", fmt::format("{}, {} of them mixtures of experts", r.num_layers, r.num_moe_layers));
  text += line("experts", experts_text(r));
  text += line("context", fmt::format("{} tokens", r.context_length));
  text += line("parameters", fmt::format("{} ({})", short_count(static_cast<double>(r.parameters)), r.parameters));
  text += line("active a token",
               fmt::format("{} ({} without the embedding)", short_count(static_cast<double>(r.active_parameters)),
                           short_count(static_cast<double>(r.active_parameters_without_embedding))));
  for (const auto& [format, bytes] : r.weights_bytes)
    text += line(fmt::format("weights {}", name(format)), short_bytes(static_cast<double>(bytes)));
  text += line("cache", fmt::format("{} bytes a token (bf16), {} (f32)", r.cache_bytes_per_token_bf16,
                                    r.cache_bytes_per_token_f32));
  text += line("arithmetic",
               fmt::format("{} a token, and {} a token of context", short_flop(static_cast<double>(r.flop_per_token)),
                           short_flop(static_cast<double>(r.attention_flop_per_context_token))));
  text += line("density", fmt::format("{:.3f} FLOP a parameter and token", r.flop_per_parameter));
  if (!r.files) return text;
  std::string dtypes;
  for (const auto& [dtype, count] : r.files->tensors_by_dtype) dtypes += fmt::format(", {} {}", count, dtype);
  return text + line("files", short_bytes(static_cast<double>(r.files->bytes)) + dtypes);
}

std::string to_json(const ModelReport& r) {
  nlohmann::ordered_json json = {
      {"architecture", r.architecture},
      {"parameters", r.parameters},
      {"active_parameters", r.active_parameters},
      {"active_parameters_without_embedding", r.active_parameters_without_embedding},
      {"quantizable_parameters", r.quantizable_parameters},
      {"cache_bytes_per_token", r.cache_bytes_per_token_bf16},
      {"cache_bytes_per_token_f32", r.cache_bytes_per_token_f32},
      {"weights_bytes", nlohmann::ordered_json::object()},
      {"flop_per_token", r.flop_per_token},
      {"attention_flop_per_context_token", r.attention_flop_per_context_token},
      {"flop_per_parameter", r.flop_per_parameter},
      {"layers", r.num_layers},
      {"moe_layers", r.num_moe_layers},
      {"routed_experts", r.num_routed_experts},
      {"shared_experts", r.num_shared_experts},
      {"experts_per_token", r.num_experts_per_token},
      {"context_length", r.context_length},
  };
  for (const auto& [format, bytes] : r.weights_bytes) json["weights_bytes"][name(format)] = bytes;
  if (r.files) {
    json["file_bytes"] = r.files->bytes;
    json["tensors_by_dtype"] = r.files->tensors_by_dtype;
  }
  return json.dump();
}

}  // namespace sluice
