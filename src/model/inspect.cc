#include "model/inspect.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "model/cache_layout.h"

namespace sluice {

namespace {

constexpr std::array kFormats = {WeightFormat::kF32,      WeightFormat::kBF16,     WeightFormat::kInt8,
                                 WeightFormat::kInt4G32,  WeightFormat::kInt4G64,  WeightFormat::kInt4G128,
                                 WeightFormat::kInt4G32Z, WeightFormat::kInt4G64Z, WeightFormat::kInt4G128Z};

// What the loader does with a tensor. kRouter: small matrices that decide, never quantised. kWide: F32 in every format
// (V4's hyper-connections multiply with theirs; an ape is only added). kTable: token ids to experts, no weights.
enum class Use { kEmbedding, kRouter, kVector, kExpert, kMatrix, kWideMatrix, kWideVector, kTable };

Use use_of(const TensorSpec& spec) {
  const std::string& name = spec.name;
  if (spec.shape.rank < 2) return Use::kVector;  // norms and the routers' biases
  if (spec.storage == Storage::kTokenIds) return Use::kTable;
  if (name == "model.embed_tokens.weight" || name == "embed.weight") return Use::kEmbedding;
  for (const char* router : {".mlp.gate.weight", ".ffn.gate.weight", ".indexer.weights_proj.weight"})
    if (name.ends_with(router)) return Use::kRouter;
  if (name.ends_with("_fn")) return Use::kWideMatrix;
  if (name.ends_with(".ape")) return Use::kWideVector;
  for (const char* experts : {".mlp.experts.", ".ffn.experts."})
    if (name.find(experts) != std::string::npos) return Use::kExpert;
  return Use::kMatrix;
}

bool is_quantizable(Use use) { return use == Use::kExpert || use == Use::kMatrix; }

int64_t bytes_in(WeightFormat format, const TensorSpec& spec) {
  const Use use = use_of(spec);
  if (is_quantizable(use)) return weight_bytes(format, spec.shape[0], spec.shape[1]);
  if (use == Use::kWideMatrix || use == Use::kWideVector || use == Use::kTable) return spec.shape.num_elements() * 4;
  return spec.shape.num_elements() * (format == WeightFormat::kF32 ? 4 : 2);
}

// The rows and columns of a matrix that a rank holds; what is padded is held, too.
Shape shape_of_part(const ModelConfig& config, const Partition& part, const TensorSpec& spec) {
  const std::string& name = spec.name;
  const int64_t rows = spec.shape[0], cols = spec.shape[1];
  if (name == "model.embed_tokens.weight" || name == "lm_head.weight") return {part.vocab.size(), cols};
  if (name.ends_with(".self_attn.o_proj.weight")) return {rows, part.heads.size() * config.v_head_dim};
  for (const char* by_heads : {".self_attn.q_proj.weight", ".self_attn.q_b_proj.weight", ".self_attn.kv_b_proj.weight"})
    if (name.ends_with(by_heads)) return {rows / config.num_attention_heads * part.heads.size(), cols};
  const size_t mlp = name.find(".mlp.");
  if (mlp == std::string::npos || name.ends_with(".mlp.gate.weight")) return spec.shape;
  int64_t width = part.dense_width.padded;
  if (name.find(".mlp.shared_experts.") != std::string::npos) width = part.shared_width.padded;
  constexpr std::string_view kExperts = ".mlp.experts.";
  if (const size_t at = name.find(kExperts); at != std::string::npos) {
    const int64_t expert = std::stoll(name.substr(at + kExperts.size()));
    width = expert >= part.experts.begin && expert < part.experts.end ? part.expert_width.padded : 0;
  }
  return name.ends_with(".down_proj.weight") ? Shape{rows, width} : Shape{width, cols};
}

void count_parameters(const std::vector<TensorSpec>& specs, const ModelConfig& config, ModelReport& report) {
  int64_t experts = 0, embedding = 0, vectors = 0;
  for (const TensorSpec& spec : specs) {
    const int64_t elements = spec.shape.num_elements();
    const Use use = use_of(spec);
    if (use == Use::kTable) continue;
    report.parameters += elements;
    if (is_quantizable(use)) report.quantizable_parameters += elements;
    if (use == Use::kExpert) experts += elements;
    if (use == Use::kEmbedding) embedding += elements;
    if (use == Use::kVector || use == Use::kWideVector) vectors += elements;
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

void count_cache(const ModelConfig& config, ModelReport& report) {
  const KvLayout narrow = cache_layout(config, DType::kBF16), wide = cache_layout(config, DType::kF32);
  for (size_t i = 0; i < narrow.groups.size(); ++i)
    report.cache_groups.push_back({narrow.groups[i].name, narrow.groups[i].bytes_per_page() / kPageTokens,
                                   wide.groups[i].bytes_per_page() / kPageTokens});
  report.cache_bytes_per_token_bf16 = narrow.bytes_per_token();
  report.cache_bytes_per_token_f32 = wide.bytes_per_token();
  if (check_cache_dtype(config, DType::kI8).ok())
    report.cache_bytes_per_token_int8 = cache_layout(config, DType::kI8).bytes_per_token();
}

// Attention over all positions, or what is chosen of them: latent, where it counts in its absorbed form, or grouped.
void count_full_attention(const ModelConfig& config, ModelReport& report) {
  const int64_t layers = config.num_hidden_layers;
  const int64_t key_dim = config.grouped ? config.grouped->head_dim : config.latent_dim();
  const int64_t value_dim = config.grouped ? config.grouped->head_dim : config.kv_lora_rank;
  report.attention_flop_per_context_token =
      layers * config.num_attention_heads * int64_t{2} * (key_dim + value_dim);
  report.attention_context_limit = config.index_topk;
  report.index_flop_per_context_token = layers * config.index_n_heads * int64_t{2} * config.index_head_dim;
  if (config.block_global) {
    report.attention_context_limit = config.block_global->pages * kPageTokens;
    report.attention_unlimited_layers = config.block_global->num_full(config.num_hidden_layers);
    report.index_flop_per_context_token = (layers - report.attention_unlimited_layers) * config.num_attention_heads *
                                          int64_t{2} * key_dim / kPageTokens;
  }
}

void count_hybrid_attention(const ModelConfig& config, ModelReport& report) {
  const HybridConfig& h = *config.hybrid;
  const KvLayout layout = cache_layout(config, DType::kBF16);
  const std::array ratios = {0, kSelectedRatio, kGlobalRatio};
  report.layer_types = {{.name = "window"}, {.name = "selected"}, {.name = "global"}};
  for (size_t i = 0; i < ratios.size(); ++i) {
    LayerTypeReport& type = report.layer_types[i];
    type.num_layers = static_cast<int32_t>(std::count(h.compress_ratios.begin(), h.compress_ratios.end(), ratios[i]));
    const auto first = std::find(h.compress_ratios.begin(), h.compress_ratios.end(), ratios[i]);
    const auto layer = static_cast<int32_t>(first - h.compress_ratios.begin());
    int64_t page_bytes = 0;
    for (const CacheGroup& group : layout.groups)
      if (std::find(group.layers.begin(), group.layers.end(), layer) != group.layers.end())
        page_bytes += group.bytes_per_layer();
    type.cache_bytes_per_token_bf16 = page_bytes / kPageTokens;
  }
  // In a long context only these two grow: windows are full, and a selected layer reads index_topk entries.
  report.attention_flop_per_context_token = int64_t{report.layer_types[2].num_layers} * config.num_attention_heads * 2 *
                                            (h.head_dim + h.head_dim) / kGlobalRatio;
  report.index_flop_per_context_token =
      int64_t{report.layer_types[1].num_layers} * config.index_n_heads * 2 * config.index_head_dim / kSelectedRatio;
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

// Of several groups, what each takes of the bf16 bytes: ": latent 70272, index 15616".
std::string groups_text(const ModelReport& r) {
  std::string text;
  for (const CacheGroupReport& group : r.cache_groups)
    text += fmt::format("{} {} {}", text.empty() ? ":" : ",", group.name, group.bytes_per_token_bf16);
  return r.cache_groups.size() < 2 ? "" : text;
}

std::string limit_text(const ModelReport& r) {
  const std::string index = short_flop(static_cast<double>(r.index_flop_per_context_token));
  if (!r.layer_types.empty()) return fmt::format(", and {} to choose entries", index);
  if (r.attention_context_limit == 0) return "";
  std::string limit = fmt::format(" (at most {}", r.attention_context_limit);
  if (r.attention_unlimited_layers > 0) limit += fmt::format(", but in {} layers", r.attention_unlimited_layers);
  return fmt::format("{}), and {} to choose them", limit, index);
}

// A line for each layer type: what one such layer keeps, in bf16.
std::string layer_types_text(const ModelReport& r) {
  std::string text;
  for (const LayerTypeReport& type : r.layer_types)
    text += line(fmt::format("{} layers", type.name),
                 fmt::format("{}, each {} bytes a token", type.num_layers, type.cache_bytes_per_token_bf16));
  return text;
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

  count_cache(config, report);
  if (config.hybrid) {
    count_hybrid_attention(config, report);
  } else {
    count_full_attention(config, report);
  }
  if (checkpoint != nullptr && !checkpoint->names().empty()) report.files = report_files(*checkpoint);
  return report;
}

int64_t rank_bytes(const ModelConfig& config, WeightFormat format, const Partition& partition) {
  int64_t bytes = 0;
  for (TensorSpec spec : required_tensors(config)) {
    if (spec.shape.rank == 2) spec.shape = shape_of_part(config, partition, spec);
    bytes += bytes_in(format, spec);
  }
  return bytes;
}

std::string MemoryReport::to_text() const {
  const auto text = [](int64_t bytes) { return short_bytes(static_cast<double>(bytes)); };
  const std::string parts =
      replicated == 0 ? "" : fmt::format(" (own part {}, on every rank {})", text(weights - replicated), text(replicated));
  return fmt::format("weights {}{} + cache {} + activations {} + kernels {} + process {} = {}", text(weights), parts,
                     text(cache), text(activations), text(kernels), text(process), text(total()));
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
  const std::string int8 = fmt::format(", {} (int8)", r.cache_bytes_per_token_int8);
  text += line("cache", fmt::format("{} bytes a token (bf16{}), {} (f32){}", r.cache_bytes_per_token_bf16,
                                    groups_text(r), r.cache_bytes_per_token_f32,
                                    r.cache_bytes_per_token_int8 > 0 ? int8 : ""));
  text += layer_types_text(r);
  text += line("arithmetic",
               fmt::format("{} a token, and {} a token of context{}", short_flop(static_cast<double>(r.flop_per_token)),
                           short_flop(static_cast<double>(r.attention_flop_per_context_token)), limit_text(r)));
  text += line("density", fmt::format("{:.3f} FLOP a parameter and token", r.flop_per_parameter));
  if (r.memory) text += line("memory", r.memory->to_text());
  for (size_t rank = 0; rank < r.memory_of_ranks.size(); ++rank)
    text += line(fmt::format("memory rank {}", rank), r.memory_of_ranks[rank].to_text());
  if (!r.files) return text;
  std::string dtypes;
  for (const auto& [dtype, count] : r.files->tensors_by_dtype) dtypes += fmt::format(", {} {}", count, dtype);
  return text + line("files", short_bytes(static_cast<double>(r.files->bytes)) + dtypes);
}

namespace {

nlohmann::ordered_json memory_json(const MemoryReport& memory) {
  return {{"weights", memory.weights}, {"cache", memory.cache},     {"activations", memory.activations},
          {"kernels", memory.kernels}, {"process", memory.process}, {"total", memory.total()}};
}

}  // namespace

std::string to_json(const ModelReport& r) {
  nlohmann::ordered_json json = {
      {"architecture", r.architecture},
      {"parameters", r.parameters},
      {"active_parameters", r.active_parameters},
      {"active_parameters_without_embedding", r.active_parameters_without_embedding},
      {"quantizable_parameters", r.quantizable_parameters},
      {"cache_bytes_per_token", r.cache_bytes_per_token_bf16},
      {"cache_bytes_per_token_f32", r.cache_bytes_per_token_f32},
      {"cache_bytes_per_token_int8", r.cache_bytes_per_token_int8},
      {"weights_bytes", nlohmann::ordered_json::object()},
      {"flop_per_token", r.flop_per_token},
      {"attention_flop_per_context_token", r.attention_flop_per_context_token},
      {"attention_context_limit", r.attention_context_limit},
      {"attention_unlimited_layers", r.attention_unlimited_layers},
      {"index_flop_per_context_token", r.index_flop_per_context_token},
      {"flop_per_parameter", r.flop_per_parameter},
      {"layers", r.num_layers},
      {"moe_layers", r.num_moe_layers},
      {"routed_experts", r.num_routed_experts},
      {"shared_experts", r.num_shared_experts},
      {"experts_per_token", r.num_experts_per_token},
      {"context_length", r.context_length},
  };
  for (const CacheGroupReport& group : r.cache_groups) json["cache_groups"][group.name] = group.bytes_per_token_bf16;
  for (const auto& [format, bytes] : r.weights_bytes) json["weights_bytes"][name(format)] = bytes;
  if (r.memory) json["memory"] = memory_json(*r.memory);
  for (const MemoryReport& memory : r.memory_of_ranks) {
    json["memory_of_ranks"].push_back(memory_json(memory));
    json["memory_of_ranks"].back()["replicated"] = memory.replicated;
  }
  if (r.files) {
    json["file_bytes"] = r.files->bytes;
    json["tensors_by_dtype"] = r.files->tensors_by_dtype;
  }
  return json.dump();
}

}  // namespace sluice
