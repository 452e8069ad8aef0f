// The forward pass on the device against the CPU's, teacher-forced: the same tokens, every position's logits.
//
// What may differ: the CPU keeps rows in f32, the device rounds to bf16 between kernels. A rounding to bf16 is off by at
// most 2^-8 of the value, uniformly, which is 2^-8 / sqrt(3) * ln 2 = 0.0016 of it in the mean square over a binade. On its
// way through a layer a row is rounded 13 times (norm, query, absorbed query, entry, softmax, mixed latents, values,
// output, sum; norm, gate-up, activation, expert, with the last sum folded in), and once more before the head. Errors of
// different roundings are independent, so the relative distance of a row of logits is about 0.0016 * sqrt(13 layers + 1):
// twice that is allowed to a row, and four times its root mean square to a single logit.
#include "gpu/model.h"

#include <grid.h>
#include <gtest/gtest.h>

#include <cmath>

#include "model/quantize_checkpoint.h"
#include "tests/gpu/gpu_runner.h"
#include "tests/support/model_runner.h"

namespace sluice {
namespace {

constexpr double kBf16Rms = 0.0016;

// "Once upon a time..." to the demo's tokenizer would do as well: any ids will.
std::vector<TokenId> tokens_of(int32_t count) {
  std::vector<TokenId> tokens{0};
  while (static_cast<int32_t>(tokens.size()) < count)
    tokens.push_back(static_cast<TokenId>((tokens.size() * 2654435761u >> 7) % 4096));
  return tokens;
}

// Compares rows of logits; counts rows, and those whose best token is certain.
struct Comparison {
  int32_t rows = 0, rerouted = 0, certain = 0;
  double worst = 0;  // distance of a row over the allowed one

  void add(std::span<const float> got, std::span<const float> want, bool same_experts, int32_t layers,
           const std::string& what) {
    ++rows;
    if (!same_experts) {  // a near tie of the router: the row computes something else from there on
      ++rerouted;
      return;
    }
    const auto count = static_cast<double>(want.size());
    double mean = 0, norm = 0, difference = 0, largest = 0;
    for (const float value : want) mean += value / count;
    for (size_t i = 0; i < want.size(); ++i) {
      const double d = double{got[i]} - want[i];
      norm += (want[i] - mean) * (want[i] - mean);
      difference += d * d;
      largest = std::max(largest, std::abs(d));
    }
    const double allowed = 2 * kBf16Rms * std::sqrt(13.0 * layers + 1), single = 4 * allowed * std::sqrt(norm / count);
    worst = std::max(worst, std::sqrt(difference / norm) / allowed);
    EXPECT_LE(std::sqrt(difference / norm), allowed) << what;
    EXPECT_LE(largest, single) << what;
    EXPECT_FALSE(std::isnan(difference)) << what;

    const auto best = std::max_element(want.begin(), want.end()) - want.begin();
    float second = -INFINITY;
    for (int64_t i = 0; i < static_cast<int64_t>(want.size()); ++i)
      if (i != best) second = std::max(second, want[static_cast<size_t>(i)]);
    if (want[static_cast<size_t>(best)] - second <= 2 * single) return;
    ++certain;
    EXPECT_EQ(std::max_element(got.begin(), got.end()) - got.begin(), best) << what;
  }
};

// Runs both in the same steps. `reference` holds f32 weights of the very values that the device multiplies.
Comparison compare(GpuRunner& gpu, ModelRunner& cpu, const std::vector<TokenId>& tokens,
                   const std::vector<std::pair<int32_t, TokenRole>>& steps) {
  Comparison comparison;
  const auto vocab = static_cast<size_t>(cpu.config().vocab_size);
  const int32_t top_k = cpu.config().num_experts_per_tok;
  int32_t begin = 0;
  for (const auto& [end, role] : steps) {
    std::vector<int32_t> experts;
    const ForwardObserver observer{[&](int32_t, int64_t rows, int32_t k, const int32_t* chosen, const float*) {
                                     experts.insert(experts.end(), chosen, chosen + rows * k);
                                   },
                                   {}};
    const std::vector<float> want = cpu.compute(tokens, begin, end, role, &observer);
    const std::vector<float> got = gpu.compute(tokens, begin, end, role);
    const int32_t rows = end - begin;
    EXPECT_EQ(gpu.experts().size(), experts.size());
    for (int32_t row = 0; row < rows; ++row) {
      bool same = true;
      for (int32_t layer = 0; layer < moe_layers(cpu.config()); ++layer) {
        const auto at = static_cast<std::ptrdiff_t>((layer * rows + row) * top_k);
        std::vector<int32_t> a(experts.begin() + at, experts.begin() + at + top_k),
            b(gpu.experts().begin() + at, gpu.experts().begin() + at + top_k);
        std::sort(a.begin(), a.end());
        std::sort(b.begin(), b.end());
        same &= a == b;
      }
      const auto first = static_cast<size_t>(row) * vocab;
      comparison.add(std::span(got).subspan(first, vocab), std::span(want).subspan(first, vocab), same,
                     cpu.config().num_hidden_layers, fmt::format("position {}", begin + row));
    }
    begin = end;
  }
  EXPECT_LE(comparison.rerouted * 10, comparison.rows) << "rows that went to other experts";
  return comparison;
}

std::unique_ptr<ModelRunner> cpu_runner(const std::string& directory) {
  auto runner = ModelRunner::open(directory, {.weights = WeightFormat::kF32, .cache_dtype = DType::kBF16});
  SLUICE_CHECK(runner.ok(), "{}", runner.status().to_string());
  return std::move(*runner);
}

// A prompt in two chunks that ends behind a page's border, then tokens one by one.
TEST(GpuModelCompare, Bf16MatchesTheCpu) {
  const auto directory = demo_of_layers(3);
  GpuRunner gpu(directory->path(), {});
  const auto cpu = cpu_runner(directory->path());
  const Comparison result = compare(gpu, *cpu, tokens_of(70),
                                    {{32, TokenRole::kPrompt},
                                     {64, TokenRole::kPrompt},
                                     {67, TokenRole::kPrompt},
                                     {68, TokenRole::kGenerated},
                                     {69, TokenRole::kGenerated}});
  EXPECT_EQ(result.rows, 69);
  EXPECT_GE(result.certain, 7) << "too few rows whose best token is certain: the comparison says little";
  RecordProperty("worst_of_allowed", std::to_string(result.worst));
  fmt::print("bf16: {} rows, {} rerouted, {} certain, worst {:.2f} of the allowed distance\n", result.rows,
             result.rerouted, result.certain, result.worst);
}

// The experts of the last layer, then of both that have some, computed by the host's kernels from the same weights: the
// rows that go there are bf16 already, and what comes back is rounded once, as an expert's output on the device is.
TEST(GpuModelCompare, ExpertsOfTheHostMatchTheCpu) {
  const auto directory = demo_of_layers(3);
  for (const int32_t host_layers : {1, 2}) {
    GpuRunner gpu(directory->path(), {.seed = static_cast<uint64_t>(host_layers), .host_layers = host_layers});
    EXPECT_GT(gpu.model().host_weight_bytes(), 0);
    const auto cpu = cpu_runner(directory->path());
    const Comparison result =
        compare(gpu, *cpu, tokens_of(24), {{22, TokenRole::kPrompt}, {23, TokenRole::kGenerated}});
    EXPECT_GE(result.certain, 2);
    fmt::print("experts of {} layers with the host: {} rows, {} rerouted, {} certain, worst {:.2f} of the allowed distance\n",
               host_layers, result.rows, result.rerouted, result.certain, result.worst);
  }
}

// The device multiplies 4-bit codes by bf16 rows; the CPU gets the same weights as f32.
TEST(GpuModelCompare, Int4MatchesTheCpuOnTheSameWeights) {
  const auto directory = demo_of_layers(2);
  const TempDirectory quantized;
  {
    const ModelConfig config = ModelConfig::load(directory->path()).value();
    const Checkpoint source = Checkpoint::open(directory->path(), config).value();
    std::ifstream file(directory->file("config.json"));
    const std::string json((std::istreambuf_iterator<char>(file)), {});
    ThreadTeam team(2);
    const auto report = quantize_checkpoint(source, config, json, quantized.path(), team, {});
    ASSERT_TRUE(report.ok()) << report.status().to_string();
  }
  GpuRunner gpu(quantized.path(), {.max_batch_tokens = 16});
  EXPECT_EQ(gpu.model().weights(), WeightFormat::kInt4G32);
  const auto cpu = cpu_runner(quantized.path());
  const Comparison result =
      compare(gpu, *cpu, tokens_of(20), {{13, TokenRole::kPrompt}, {14, TokenRole::kGenerated}});
  EXPECT_GE(result.certain, 2);
  fmt::print("int4: {} rows, {} rerouted, {} certain, worst {:.2f} of the allowed distance\n", result.rows,
             result.rerouted, result.certain, result.worst);
}

// Chunks, neighbours and the order of threads and blocks do not show in a row's bits.
TEST(GpuModelCompare, ARowsBitsDependOnItsOwnSequenceAlone) {
  const auto directory = demo_of_layers(2);
  const std::vector<TokenId> tokens = tokens_of(12);
  std::vector<std::vector<float>> runs;
  for (const auto& ends : std::vector<std::vector<int32_t>>{{12}, {5, 12}, {1, 2, 11, 12}}) {
    grid::configure({.seed = ends.size() + 10});
    GpuRunner gpu(directory->path(), {.seed = ends.size(), .multiprocessors = 64});
    std::vector<float> logits;
    int32_t begin = 0;
    for (const int32_t end : ends) {
      const std::vector<float> part = gpu.compute(tokens, begin, end, TokenRole::kPrompt);
      logits.insert(logits.end(), part.begin(), part.end());
      begin = end;
    }
    runs.push_back(std::move(logits));
  }
  for (const std::vector<float>& run : runs) EXPECT_EQ(run, runs[0]);
}

}  // namespace
}  // namespace sluice
