// Both forms of latent attention over a bf16 or int8 cache of seeded random latents, one layer: a prompt chunk of 512 rows
// (expanded) and one generated row of each of 1 or 8 sequences (absorbed), at depth 512 and 4096.
#include <algorithm>
#include <cmath>
#include <deque>

#include "sluice/latent_codes.h"

#include "benchmarks/kernels/kernel_bench.h"

namespace sluice {
namespace {

struct Shape {
  int32_t kv_lora_rank, rope_dim, nope_dim, v_dim, heads;
  int64_t width() const { return kv_lora_rank + rope_dim; }
  int64_t q_dim() const { return nope_dim + rope_dim; }
};
constexpr Shape kLite{512, 64, 128, 128, 16};
constexpr Shape kMini{256, 32, 64, 64, 16};
constexpr int32_t kChunk = 512;

// Sequences of `depth` positions each, with the weights of all heads.
class World {
 public:
  World(const Shape& shape, int32_t depth, int32_t num_sequences, int32_t num_rows, DType cache)
      : shape_(shape), cache_(cache) {
    const int32_t pages_each = depth / kPageTokens;
    fill_pool(num_sequences * pages_each);
    for (int32_t i = 0; i < num_sequences * pages_each; ++i) pages_.push_back(PageId{i});
    std::reverse(pages_.begin(), pages_.end());
    for (int32_t i = 0; i < num_sequences; ++i)
      spans_.push_back({i * num_rows, depth - num_rows, depth, pages_.data() + i * pages_each});
    q_ = bench_values(num_sequences * num_rows * shape.heads * shape.q_dim(), 4, 1);
    out_.resize(static_cast<size_t>(num_sequences * num_rows * shape.heads * shape.v_dim));
    for (int32_t head = 0; head < shape.heads; ++head) pack_head(head);
  }

  LatentAttentionArgs args() {
    return {.q = q_.data(),
            .out = out_.data(),
            .sequences = spans_,
            .cache = {pool_.data(), page_bytes(), cache_},
            .heads = shape_.heads,
            .nope_dim = shape_.nope_dim,
            .rope_dim = shape_.rope_dim,
            .v_dim = shape_.v_dim,
            .kv_lora_rank = shape_.kv_lora_rank,
            .scale = 1 / std::sqrt(static_cast<float>(shape_.q_dim())),
            .k_up = k_up_,
            .k_up_t = k_up_t_,
            .v_up = v_up_};
  }

  int64_t entry_bytes() const { return cache_ == DType::kI8 ? codes().entry_bytes() : shape_.width() * 2; }

  // The two forms must agree on the last row of the last sequence, as closely as operands of bf16 or bytes allow
  // (latent_attention_test.cc: sqrt(2) * 2 * 0.41 * 2^-8 = 0.005 of its norm; int8: sqrt(2) * 0.009).
  bool forms_agree(OpContext& context) {
    LatentAttentionArgs one = args();
    SequenceSpan last = spans_.back();
    last.row_begin += last.position_end - last.position_begin - 1;
    last.position_begin = last.position_end - 1;
    one.sequences = {&last, 1};
    const auto row = static_cast<size_t>(shape_.heads * shape_.v_dim);
    bench_backend().latent_attention_expanded(one, context);
    const std::vector<float> expanded(out_.end() - static_cast<ptrdiff_t>(row), out_.end());
    bench_backend().latent_attention_absorbed(one, context);
    double difference = 0, norm = 0;
    for (size_t i = 0; i < row; ++i) {
      difference += std::pow(expanded[i] - out_[out_.size() - row + i], 2);
      norm += std::pow(expanded[i], 2);
    }
    return std::sqrt(difference) < (cache_ == DType::kI8 ? 0.013 : 0.005) * std::sqrt(norm);
  }

 private:
  LatentCodes codes() const { return {shape_.kv_lora_rank, shape_.rope_dim}; }
  int64_t page_bytes() const { return kPageTokens * entry_bytes(); }
  void fill_pool(int64_t num_pages) {
    pool_ = Buffer(static_cast<size_t>(num_pages * page_bytes()));
    const int64_t values = kPageTokens * shape_.width();
    const std::vector<float> latents = bench_values(num_pages * values, 3, 1);
    if (cache_ == DType::kBF16) {
      std::transform(latents.begin(), latents.end(), pool_.as<uint16_t>(), f32_to_bf16);
      return;
    }
    for (int64_t page = 0; page < num_pages; ++page) {
      std::byte* slice = pool_.data() + page * page_bytes();
      for (int64_t i = 0; i < values; ++i)
        slice[i] = static_cast<std::byte>(LatentCodes::kExcess + std::lround(latents[static_cast<size_t>(page * values + i)] * 127));
      std::fill_n(reinterpret_cast<float*>(slice + values), int64_t{kPageTokens} * codes().num_groups(), 1.0f / 127);
    }
  }
  void pack_head(int32_t head) {
    const auto seed = static_cast<uint64_t>(head);
    const float amplitude = std::sqrt(3.0f / static_cast<float>(shape_.kv_lora_rank));
    const std::vector<float> k = bench_values(int64_t{shape_.nope_dim} * shape_.kv_lora_rank, 100 + seed, amplitude);
    std::vector<float> transposed(k.size());
    for (int32_t i = 0; i < shape_.nope_dim; ++i)
      for (int32_t j = 0; j < shape_.kv_lora_rank; ++j)
        transposed[static_cast<size_t>(j * shape_.nope_dim + i)] = k[static_cast<size_t>(i * shape_.kv_lora_rank + j)];
    add(k_up_, shape_.nope_dim, shape_.kv_lora_rank, k);
    add(k_up_t_, shape_.kv_lora_rank, shape_.nope_dim, transposed);
    add(v_up_, shape_.v_dim, shape_.kv_lora_rank,
        bench_values(int64_t{shape_.v_dim} * shape_.kv_lora_rank, 200 + seed, amplitude));
  }
  void add(std::vector<Weight>& into, int64_t rows, int64_t cols, const std::vector<float>& source) {
    constexpr WeightFormat kFormat = WeightFormat::kBF16;
    const Backend& backend = bench_backend();
    packed_.emplace_back(static_cast<size_t>(backend.packed_bytes(kFormat, rows, cols)));
    into.push_back({kFormat, rows, cols, packed_.back().data()});
    backend.pack(into.back(), 0, rows, source.data(), packed_.back().data());
  }

  Shape shape_;
  DType cache_;
  Buffer pool_;
  std::vector<PageId> pages_;
  std::vector<SequenceSpan> spans_;
  std::vector<float> q_, out_;
  std::deque<Buffer> packed_;
  std::vector<Weight> k_up_, k_up_t_, v_up_;
};

// Work that the formula asks for: keys and values of every position once per head, then the causal products.
void expanded_bench(benchmark::State& state, const Shape& shape, DType cache) {
  const auto depth = static_cast<int32_t>(state.range(0));
  const auto threads = static_cast<int>(state.range(1));
  World world(shape, depth, 1, kChunk, cache);
  BenchContext context(threads);
  if (!world.forms_agree(context.op)) {
    state.SkipWithError("expanded and absorbed differ");
    return;
  }
  const LatentAttentionArgs args = world.args();
  const Meter meter;
  for (auto _ : state) {
    bench_backend().latent_attention_expanded(args, context.op);
    benchmark::ClobberMemory();
  }
  const double expand = 2.0 * depth * shape.kv_lora_rank * (shape.nope_dim + shape.v_dim);
  const double pairs = kChunk * (depth - kChunk / 2.0);
  const double attend = 2.0 * pairs * static_cast<double>(shape.q_dim() + shape.v_dim);
  meter.report(state, threads, static_cast<double>(depth * world.entry_bytes()), shape.heads * (expand + attend),
               bf16_rate, "bf16");
}

void absorbed_bench(benchmark::State& state, const Shape& shape, DType cache) {
  const auto depth = static_cast<int32_t>(state.range(0));
  const auto sequences = static_cast<int32_t>(state.range(1));
  const auto threads = static_cast<int>(state.range(2));
  World world(shape, depth, sequences, 1, cache);
  BenchContext context(threads);
  if (!world.forms_agree(context.op)) {
    state.SkipWithError("expanded and absorbed differ");
    return;
  }
  const LatentAttentionArgs args = world.args();
  const Meter meter;
  for (auto _ : state) {
    bench_backend().latent_attention_absorbed(args, context.op);
    benchmark::ClobberMemory();
  }
  const double up = 2.0 * shape.kv_lora_rank * (shape.nope_dim + shape.v_dim);
  const double attend = 2.0 * depth * static_cast<double>(shape.width() + shape.kv_lora_rank);
  const bool int8 = cache == DType::kI8;
  meter.report(state, threads, static_cast<double>(sequences) * depth * static_cast<double>(world.entry_bytes()),
               sequences * shape.heads * (up + attend), int8 ? int8_rate : bf16_rate, int8 ? "int8" : "bf16");
}

void depths(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"depth", "threads"})->Unit(benchmark::kMillisecond)->UseRealTime();
  for (int threads : {1, 2})
    for (int depth : {512, 4096}) bench->Args({depth, threads});
}
void depths_and_sequences(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"depth", "sequences", "threads"})->Unit(benchmark::kMicrosecond)->UseRealTime();
  for (int threads : {1, 2})
    for (int sequences : {1, 8})
      for (int depth : {512, 4096}) bench->Args({depth, sequences, threads});
}

BENCHMARK_CAPTURE(expanded_bench, lite, kLite, DType::kBF16)->Name("expanded512/lite")->Apply(depths);
BENCHMARK_CAPTURE(expanded_bench, mini, kMini, DType::kBF16)->Name("expanded512/mini")->Apply(depths);
BENCHMARK_CAPTURE(expanded_bench, lite_int8, kLite, DType::kI8)->Name("expanded512/lite_int8")->Apply(depths);
BENCHMARK_CAPTURE(absorbed_bench, lite, kLite, DType::kBF16)->Name("absorbed/lite")->Apply(depths_and_sequences);
BENCHMARK_CAPTURE(absorbed_bench, mini, kMini, DType::kBF16)->Name("absorbed/mini")->Apply(depths_and_sequences);
BENCHMARK_CAPTURE(absorbed_bench, lite_int8, kLite, DType::kI8)
    ->Name("absorbed/lite_int8")
    ->Apply(depths_and_sequences);
BENCHMARK_CAPTURE(absorbed_bench, mini_int8, kMini, DType::kI8)
    ->Name("absorbed/mini_int8")
    ->Apply(depths_and_sequences);

}  // namespace
}  // namespace sluice
