// Latent decode attention, and routing from logits to sorted tokens.
#include <numeric>

#include "benchmarks/cuda/cells.h"
#include "kernels/cuda/attention/mla.h"
#include "kernels/cuda/moe/moe.h"

namespace sluice {

namespace {

void bench_mla(CudaBench& bench, int32_t batch, int32_t length, int32_t heads, int32_t latent, int32_t rope) {
  const int32_t pages = length / kPageTokens, width = latent + rope;
  const int64_t page_values = int64_t{kPageTokens} * width;
  const DeviceBuffer cache = bench.random(int64_t{batch} * pages * page_values * 2);
  std::vector<int32_t> page_ids(static_cast<size_t>(batch) * static_cast<size_t>(pages)), begins;
  std::iota(page_ids.begin(), page_ids.end(), 0);
  for (int32_t i = 0; i <= batch; ++i) begins.push_back(i);
  const DeviceBuffer ids = bench.upload(page_ids), query_begin = bench.upload(begins),
                     lengths = bench.upload(std::vector<int32_t>(static_cast<size_t>(batch), length));
  const DeviceBuffer q = bench.random(int64_t{batch} * heads * width * 2),
                     out = bench.zeros(int64_t{batch} * heads * latent * 2);
  cuda::MlaDecodeParams params{.q = q.as<cuda::bf16>(),
                               .cache = cache.as<cuda::bf16>(),
                               .page_stride = page_values,
                               .pages = ids.as<int32_t>(),
                               .lengths = lengths.as<int32_t>(),
                               .query_begin = query_begin.as<int32_t>(),
                               .out = out.as<cuda::bf16>(),
                               .sequences = batch,
                               .heads = heads,
                               .latent = latent,
                               .rope = rope,
                               .max_pages = pages,
                               .max_queries = 1,
                               .scale = 0.01f};
  const cuda::MlaConfig config =
      cuda::choose_mla_config(heads, 1, bench.device().properties().shared_bytes_of_block);
  const int64_t splits = cuda::max_splits(params, config);
  const DeviceBuffer partial = bench.zeros(int64_t{batch} * heads * splits * latent * 4),
                     lse = bench.zeros(int64_t{batch} * heads * splits * 4);
  params.partial = partial.as<float>();
  params.partial_lse = lse.as<float>();
  const double seconds = bench.time(4, [&](int) { cuda::mla_decode(params, config, bench.device().stream()); });
  const double positions = double{1} * batch * length;
  bench.report({"mla_decode", fmt::format("batch {} length {} heads {} latent {}", batch, length, heads, latent), "bf16",
                positions * width * 2, positions * heads * 2 * (width + latent), seconds});
}

void bench_routing(CudaBench& bench, int32_t rows, int32_t experts, int32_t top_k, int32_t groups) {
  const int32_t pairs = rows * top_k, tile_rows = 64;
  std::vector<float> logits(static_cast<size_t>(rows) * static_cast<size_t>(experts));
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = static_cast<float>(i * 2654435761u % 1000) * 0.004f - 2;
  const DeviceBuffer scores = bench.upload(logits), chosen = bench.zeros(pairs * 4), weights = bench.zeros(pairs * 4),
                     offsets = bench.zeros((experts + 1) * 4), row_ids = bench.zeros(pairs * 4),
                     places = bench.zeros(pairs * 4), num_tiles = bench.zeros(4),
                     tiles = bench.zeros(cuda::max_tiles(pairs, experts, tile_rows) *
                                         static_cast<int64_t>(sizeof(cuda::ExpertTile)));
  const double seconds = bench.time(16, [&](int) {
    cuda::route({.logits = scores.as<float>(),
                 .rows = rows,
                 .num_experts = experts,
                 .num_groups = groups,
                 .top_groups = std::max(1, groups / 2),
                 .top_k = top_k,
                 .scoring = ScoringFunc::kSigmoid,
                 .experts = chosen.as<int32_t>(),
                 .weights = weights.as<float>()},
                bench.device().stream());
    cuda::permute({.experts = chosen.as<int32_t>(),
                   .rows = rows,
                   .top_k = top_k,
                   .num_experts = experts,
                   .tile_rows = tile_rows,
                   .offsets = offsets.as<int32_t>(),
                   .row_ids = row_ids.as<int32_t>(),
                   .places = places.as<int32_t>(),
                   .tiles = tiles.as<cuda::ExpertTile>(),
                   .num_tiles = num_tiles.as<int32_t>()},
                  bench.device().stream());
  });
  bench.report({"route_and_permute", fmt::format("rows {} experts {} top {}", rows, experts, top_k), "f32",
                double{4} * rows * experts, 0, seconds});
}

}  // namespace

void bench_attention(CudaBench& bench) {
  for (const auto& [batch, length] : {std::pair{1, 4096}, {1, 32768}, {64, 4096}})
    for (const int32_t heads : {16, 128}) bench_mla(bench, batch, length, heads, 512, 64);
  bench_mla(bench, 64, 4096, 16, 256, 32);
  for (const int32_t rows : {1, 64, 4096}) {
    bench_routing(bench, rows, 64, 6, 1);
    bench_routing(bench, rows, 256, 8, 8);
  }
}

}  // namespace sluice
