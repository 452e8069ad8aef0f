#include "gpu/model.h"

#include "kernels/cuda/attention/mla.h"
#include "kernels/cuda/elementwise/elementwise.h"
#include "model/cache_layout.h"

namespace sluice {

namespace {

// The inner norms of V2 and V3 use their class default, not the config's rms_norm_eps.
constexpr float kInnerNormEps = 1e-6f;

}  // namespace

Result<std::unique_ptr<GpuModel>> GpuModel::load(const ModelConfig& config, const Checkpoint& checkpoint,
                                                 Device& device, OpContext& context, const GpuModelOptions& options) {
  SLUICE_RETURN_IF_ERROR(check_supported(config));
  for (const TensorSpec& spec : required_tensors(config)) {
    SLUICE_RETURN_IF_ERROR(checkpoint.expect(spec));
    if (options.weights == WeightFormat::kAuto && spec.shape.rank == 2)
      SLUICE_RETURN_IF_ERROR(checkpoint.expect_exact(spec.name, spec.shape[1]));
  }
  int64_t on_device = 0, with_host = 0;  // packed so far
  const auto progress_of = [&](int64_t& part) -> LoadProgress {
    if (!options.progress) return {};
    return [&](int64_t bytes) {
      part = bytes;
      options.progress(on_device + with_host);
    };
  };
  const LoadProgress host_progress = progress_of(with_host);
  WeightLoader loader(checkpoint, cuda_packing(), options.weights, context, progress_of(on_device), {},
                      options.packed_cache);
  SLUICE_RETURN_IF_ERROR(check_weights(loader.format()));
  const DeviceProperties& found = device.properties();
  std::unique_ptr<GpuModel> model(new GpuModel(config, device, loader.format(),
                                               {.max_rows = options.max_batch_tokens,
                                                .context_length = options.context_length,
                                                .multiprocessors = found.multiprocessors,
                                                .shared_bytes_of_block = found.shared_bytes_of_block}));
  SLUICE_RETURN_IF_ERROR(model->allocate());
  DeviceLoader device_loader(loader, device);
  std::optional<WeightLoader> host_loader;
  if (options.host_layers > 0) {
    SLUICE_RETURN_IF_ERROR(model->keep_with_host(options, context));
    host_loader.emplace(checkpoint, packing_of(*options.host_backend), options.weights, context, host_progress);
  }
  model->load_weights(device_loader, host_loader ? &*host_loader : nullptr);
  SLUICE_RETURN_IF_ERROR(device_loader.status());
  model->weight_bytes_ = device_loader.bytes();
  if (options.packed_cache) options.packed_cache->finish();
  return model;
}

GpuModel::GpuModel(const ModelConfig& config, Device& device, WeightFormat weights, const StepLimits& limits)
    : config_(config),
      device_(device),
      weights_(weights),
      limits_(limits),
      scale_(softmax_scale(config)),
      layout_(config.rope_interleave ? RopeLayout::kPair : RopeLayout::kHalf),
      kv_(page_layout(config)) {}

int64_t GpuModel::planned_workspace_bytes(const ModelConfig& config, WeightFormat weights, const StepLimits& limits) {
  DeviceCarver carver;
  const Workspace work(config, weights, limits, carver);
  return carver.used() + StepStager::device_bytes(config, limits);
}

int64_t GpuModel::workspace_bytes() const {
  return block_.bytes() + StepStager::device_bytes(config_, limits_) +
         (host_experts_ ? HostExperts::device_bytes(limits_.max_rows) : 0);
}

Status GpuModel::keep_with_host(const GpuModelOptions& options, OpContext& context) {
  host_layers_ = options.host_layers;
  SLUICE_ASSIGN_OR_RETURN(
      host_experts_, HostExperts::create(device_, config_, *options.host_backend, context, limits_.max_rows));
  return {};
}

Result<GpuStep> GpuModel::stage(const StepBatch& batch, int32_t padded_rows) {
  SLUICE_ASSIGN_OR_RETURN(GpuStep step, stager_->stage(batch, *work_, padded_rows));
  if (host_experts_) host_experts_->set_rows(static_cast<int32_t>(batch.tokens.size()), step.rows);
  return step;
}

Status GpuModel::allocate() {
  DeviceCarver plan;
  Workspace(config_, weights_, limits_, plan);
  SLUICE_ASSIGN_OR_RETURN(block_, DeviceBuffer::allocate(device_, plan.used()));
  DeviceCarver carver(block_.data());
  work_.emplace(config_, weights_, limits_, carver);
  SLUICE_ASSIGN_OR_RETURN(stager_, StepStager::create(device_, config_, limits_));
  products_ = Products(limits_.multiprocessors, work_->products, work_->partial_sums, work_->counters, device_.stream());
  if (work_->products.counters == 0) return {};
  return device_.fill(reinterpret_cast<std::byte*>(work_->counters), 0, work_->products.counters * 4);
}

void GpuModel::norm(const DeviceBuffer& weight, int32_t rows, bool add_delta) {
  cuda::rms_norm({.x = add_delta ? work_->delta : work_->x,
                  .residual = add_delta ? work_->x : nullptr,
                  .weight = weight.as<float>(),
                  .y = work_->normed,
                  .rows = rows,
                  .cols = config_.hidden_size,
                  .x_stride = config_.hidden_size,
                  .eps = static_cast<float>(config_.rms_norm_eps)},
                 device_.stream());
}

Status GpuModel::forward(const GpuStep& step, std::byte* pages) {
  cuda::gather_rows({.table = embedding_.as<cuda::bf16>(),
                     .ids = step.tokens,
                     .y = work_->x,
                     .rows = step.rows,
                     .cols = config_.hidden_size},
                    device_.stream());
  bool pending = false;  // delta waits to be added to x
  int32_t moe_index = 0;
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    norm(layer.input_norm, step.rows, pending);
    project(layer.attention, step);
    attend(layer.attention, step, static_cast<int32_t>(i), pages);
    norm(layer.ffn_norm, step.rows, true);
    if (layer.is_moe) {
      SLUICE_RETURN_IF_ERROR(run_experts(layer.moe, moe_index++, step.rows));
    } else {
      run_feed_forward(layer.dense, step.rows, work_->delta);
    }
    pending = !layer.is_moe;
  }
  if (pending) norm(final_norm_, step.rows, true);  // for the sum alone
  cuda::gather_rows({.table = work_->x,
                     .ids = step.output_rows,
                     .y = work_->outputs,
                     .rows = step.outputs,
                     .cols = config_.hidden_size},
                    device_.stream());
  return {};
}

void GpuModel::compute_logits(const cuda::bf16* hidden, int32_t rows) {
  SLUICE_CHECK(rows <= kGpuLogitsRows, "rows={}", rows);
  cuda::rms_norm({.x = hidden,
                  .weight = final_norm_.as<float>(),
                  .y = work_->hidden_normed,
                  .rows = rows,
                  .cols = config_.hidden_size,
                  .x_stride = config_.hidden_size,
                  .eps = static_cast<float>(config_.rms_norm_eps)},
                 device_.stream());
  products_.dense_f32(work_->hidden_normed, config_.hidden_size, rows, head_, work_->logits);
}

// Queries and latents of the rows; the queries' rope part goes rotated beside their absorbed part.
void GpuModel::project(const Attention& attention, const GpuStep& step) {
  const ModelConfig& c = config_;
  const cuda::bf16* source = work_->normed;
  int32_t source_stride = c.hidden_size;
  if (c.q_lora_rank > 0) {
    products_.dense(work_->normed, c.hidden_size, step.rows, attention.q_a, work_->query_latent);
    cuda::rms_norm({.x = work_->query_latent,
                    .weight = attention.q_a_norm.as<float>(),
                    .y = work_->query_latent,
                    .rows = step.rows,
                    .cols = c.q_lora_rank,
                    .x_stride = c.q_lora_rank,
                    .eps = kInnerNormEps},
                   device_.stream());
    source = work_->query_latent;
    source_stride = c.q_lora_rank;
  }
  products_.dense(source, source_stride, step.rows, attention.q, work_->query);
  products_.by_heads(work_->query, c.qk_head_dim(), step.rows, attention.k_up_t, work_->absorbed, c.latent_dim());
  cuda::rope({.x = work_->query,
              .y = work_->absorbed,
              .cos_sin = step.cos_sin,
              .rows = step.rows,
              .heads = c.num_attention_heads,
              .head_dim = c.qk_head_dim(),
              .offset = c.qk_nope_head_dim,
              .dim = c.qk_rope_head_dim,
              .y_head_dim = c.latent_dim(),
              .y_offset = c.kv_lora_rank,
              .layout = layout_},
             device_.stream());
  products_.dense(work_->normed, c.hidden_size, step.rows, attention.kv_a, work_->kv_latent);
}

// Writes the rows' cache entries, attends over the latents, and leaves what the block adds in delta.
void GpuModel::attend(const Attention& attention, const GpuStep& step, int32_t layer, std::byte* pages) {
  const ModelConfig& c = config_;
  auto* cache = reinterpret_cast<cuda::bf16*>(pages + kv_.offset_of(kLatentGroup, layer));
  const int64_t page_stride = kv_.bytes_per_page() / 2;
  cuda::latent_write({.z = work_->kv_latent,
                      .norm_weight = attention.kv_a_norm.as<float>(),
                      .cos_sin = step.cos_sin,
                      .slots = step.slots,
                      .cache = cache,
                      .page_stride = page_stride,
                      .rows = step.rows,
                      .z_stride = c.latent_dim(),
                      .kv_lora_rank = c.kv_lora_rank,
                      .rope_dim = c.qk_rope_head_dim,
                      .eps = kInnerNormEps,
                      .layout = layout_},
                     device_.stream());
  for (const AttentionChunk& chunk : step.chunks) {
    const int64_t first = int64_t{chunk.first_row} * c.num_attention_heads;
    cuda::mla_decode({.q = work_->absorbed + first * c.latent_dim(),
                      .cache = cache,
                      .page_stride = page_stride,
                      .pages = step.pages + int64_t{chunk.first_piece} * step.max_pages,
                      .lengths = step.lengths + chunk.first_piece,
                      .query_begin = step.query_begin + chunk.begins,
                      .out = work_->mixed + first * c.kv_lora_rank,
                      .partial = work_->partial,
                      .partial_lse = work_->partial_lse,
                      .sequences = chunk.num_pieces,
                      .heads = c.num_attention_heads,
                      .latent = c.kv_lora_rank,
                      .rope = c.qk_rope_head_dim,
                      .max_pages = step.max_pages,
                      .max_queries = step.max_queries,
                      .scale = scale_},
                     work_->mla, device_.stream());
  }
  products_.by_heads(work_->mixed, c.kv_lora_rank, step.rows, attention.v_up, work_->attended, c.v_head_dim);
  products_.dense(work_->attended, c.num_attention_heads * c.v_head_dim, step.rows, attention.out, work_->delta);
}

void GpuModel::run_feed_forward(const FeedForward& block, int32_t rows, cuda::bf16* y) {
  const int32_t width = block.gate_up.n / 2;
  products_.dense(work_->normed, config_.hidden_size, rows, block.gate_up, work_->gate_up);
  cuda::silu_mul({.gate_up = work_->gate_up, .y = work_->activated, .rows = rows, .width = width}, device_.stream());
  products_.dense(work_->activated, width, rows, block.down, y);
}

// The stages of MixtureOfExperts::forward. Sizes that routing decides stay on the device.
Status GpuModel::run_experts(const Experts& experts, int32_t moe_index, int32_t rows) {
  const ModelConfig& c = config_;
  const int32_t num_experts = c.n_routed_experts, top_k = c.num_experts_per_tok;
  // route
  const int64_t begin = int64_t{moe_index} * rows * top_k;
  int32_t* chosen = work_->experts + begin;
  float* expert_weights = work_->expert_weights + begin;
  products_.dense_f32(work_->normed, c.hidden_size, rows, experts.router, work_->router_logits);
  const bool grouped = c.topk_method != TopkMethod::kGreedy;
  cuda::route({.logits = work_->router_logits,
               .bias = experts.bias.as<float>(),
               .rows = rows,
               .num_experts = num_experts,
               .num_groups = grouped ? c.n_group : 1,
               .top_groups = grouped ? c.topk_group : 1,
               .top_k = top_k,
               .scoring = c.scoring_func,
               .normalize = c.norm_topk_prob,
               .scale = static_cast<float>(c.routed_scaling_factor),
               .experts = chosen,
               .weights = expert_weights},
              device_.stream());
  if (experts.host_index >= 0) return run_host_experts(experts, chosen, expert_weights, rows);
  run_device_experts(experts, chosen, expert_weights, rows);
  return {};
}

Status GpuModel::run_host_experts(const Experts& experts, const int32_t* chosen, const float* expert_weights,
                                  int32_t rows) {
  SLUICE_RETURN_IF_ERROR(host_experts_->fork(
      experts.host_index, {.normed = work_->normed, .experts = chosen, .weights = expert_weights, .rows = rows}));
  const bool shared = config_.n_shared_experts > 0;
  if (shared) run_feed_forward(experts.shared, rows, work_->delta);
  SLUICE_RETURN_IF_ERROR(host_experts_->join(work_->expert_out, rows));
  cuda::combine({.y = work_->expert_out,
                 .places = host_experts_->places(),
                 .weights = host_experts_->ones(),
                 .shared = shared ? work_->delta : nullptr,
                 .x = work_->x,
                 .rows = rows,
                 .hidden = config_.hidden_size,
                 .top_k = 1},
                device_.stream());
  return {};
}

void GpuModel::run_device_experts(const Experts& experts, const int32_t* chosen, const float* expert_weights,
                                  int32_t rows) {
  const ModelConfig& c = config_;
  const int32_t num_experts = c.n_routed_experts, top_k = c.num_experts_per_tok, width = c.moe_intermediate_size;
  const bool shared = c.n_shared_experts > 0;
  if (shared) run_feed_forward(experts.shared, rows, work_->delta);
  // permute
  const int32_t pairs = rows * top_k;
  ExpertRows sorted{.row_ids = work_->row_ids,
                    .tiles = work_->tiles,
                    .num_tiles = work_->num_tiles,
                    .pairs = pairs,
                    .tile_rows = Products::grouped_tile_rows(pairs, num_experts),
                    .top_k = top_k};
  sorted.max_tiles = static_cast<int32_t>(cuda::max_tiles(pairs, num_experts, sorted.tile_rows));
  cuda::permute({.experts = chosen,
                 .rows = rows,
                 .top_k = top_k,
                 .num_experts = num_experts,
                 .tile_rows = sorted.tile_rows,
                 .offsets = work_->offsets,
                 .row_ids = work_->row_ids,
                 .places = work_->places,
                 .tiles = work_->tiles,
                 .num_tiles = work_->num_tiles},
                device_.stream());
  // grouped gate and up, activation, grouped down
  products_.grouped(work_->normed, c.hidden_size, sorted, experts.gate_up, work_->gate_up);
  cuda::silu_mul({.gate_up = work_->gate_up, .y = work_->activated, .rows = pairs, .width = width}, device_.stream());
  sorted.row_ids = nullptr;
  products_.grouped(work_->activated, width, sorted, experts.down, work_->expert_out);
  // combine
  cuda::combine({.y = work_->expert_out,
                 .places = work_->places,
                 .weights = expert_weights,
                 .shared = shared ? work_->delta : nullptr,
                 .x = work_->x,
                 .rows = rows,
                 .hidden = c.hidden_size,
                 .top_k = top_k},
                device_.stream());
}

}  // namespace sluice
