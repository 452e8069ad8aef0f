// Tokenizer throughput on one core: bytes of text per second for ordinary texts and for the inputs that make naive
// tokenizers quadratic. Each text must survive encode and decode before it is timed.
//
//   [SLUICE_TEST_DATA=FOLDER] tokenizer_bench [--benchmark_filter=...]
//
// Tokenizers: the demo model, the small one with DeepSeek-V2's stages, and, where the folder has it, the real V3.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>

#include "tokenizer/tokenizer.h"

namespace sluice {
namespace {

constexpr size_t kTextBytes = 1'000'000;

std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string repeated(const std::string& unit) {
  std::string text;
  while (text.size() < kTextBytes) text += unit;
  return text;
}

// This program's own sources, in a fixed order.
std::string source_code() {
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(SLUICE_SOURCE_DIR "/src/tokenizer"))
    if (entry.path().extension() == ".cc") paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  std::string text;
  for (const std::filesystem::path& path : paths) text += read_file(path);
  return text;
}

struct Text {
  std::string name;
  std::string content;
};

std::vector<Text> texts() {
  return {
      {"english", repeated(read_file(SLUICE_SOURCE_DIR "/configs/demo-moe/MODEL_CARD.md") +
                           read_file(SLUICE_SOURCE_DIR "/tests/golden/demo-moe/heldout.txt"))},
      {"code", repeated(source_code())},
      {"cjk", repeated("服务器收到请求，先查缓存，再安排计算。キャッシュを調べてから計算します。")},
      {"one_letter", repeated("a")},
      {"spaces", repeated(" ")},
      {"spaces_then_word", repeated(" ") + "中"},
      {"newlines", repeated("\n")},
      {"digits", repeated("7")},
      {"one_ideograph", repeated("中")},
      {"emoji", repeated("😀")},
      {"punctuation", repeated("!")},
      {"half_special", repeated("<｜")},
  };
}

void encode(benchmark::State& state, const Tokenizer& tokenizer, const std::string& text) {
  size_t num_tokens = 0;
  for (auto _ : state) {
    const Result<std::vector<TokenId>> ids = tokenizer.encode(text, false);
    num_tokens = ids.value().size();
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * text.size()));
  state.counters["bytes/token"] = static_cast<double>(text.size()) / static_cast<double>(num_tokens);
}

void decode(benchmark::State& state, const Tokenizer& tokenizer, const std::string& text) {
  const std::vector<TokenId> ids = tokenizer.encode(text, false).value();
  for (auto _ : state) benchmark::DoNotOptimize(tokenizer.decode(ids));
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * text.size()));
}

bool survives(const Tokenizer& tokenizer, const Text& text) {
  const Result<std::vector<TokenId>> ids = tokenizer.encode(text.content, false);
  if (ids.ok() && tokenizer.decode(*ids).value() == text.content) return true;
  std::cerr << text.name << ": does not survive encode and decode\n";
  return false;
}

// False if something is wrong; the benchmarks borrow `tokenizer` and `all_texts`.
bool register_all(const std::string& name, const Tokenizer& tokenizer, const std::vector<Text>& all_texts) {
  for (const Text& text : all_texts) {
    if (!survives(tokenizer, text)) return false;
    benchmark::RegisterBenchmark((name + "/encode/" + text.name).c_str(), [&](benchmark::State& state) {
      encode(state, tokenizer, text.content);
    })->Unit(benchmark::kMillisecond);
  }
  benchmark::RegisterBenchmark((name + "/decode/english").c_str(), [&](benchmark::State& state) {
    decode(state, tokenizer, all_texts[0].content);
  })->Unit(benchmark::kMillisecond);
  return true;
}

// Null, and the reason printed, if it does not load.
std::unique_ptr<Tokenizer> loaded(Result<Tokenizer> tokenizer) {
  if (tokenizer.ok()) return std::make_unique<Tokenizer>(std::move(tokenizer).value());
  std::cerr << tokenizer.status().to_string() << '\n';
  return nullptr;
}

int run(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  const std::vector<Text> all_texts = texts();
  const auto demo = loaded(Tokenizer::load(SLUICE_SOURCE_DIR "/configs/demo-moe"));
  const auto v2 = loaded(Tokenizer::parse(read_file(SLUICE_SOURCE_DIR "/tests/golden/tokenizer/v2_stages.json"), ""));
  if (demo == nullptr || v2 == nullptr) return 1;
  if (!register_all("demo", *demo, all_texts) || !register_all("v2_stages", *v2, all_texts)) return 1;
  const char* data = std::getenv("SLUICE_TEST_DATA");
  std::unique_ptr<Tokenizer> v3;
  if (data == nullptr) {
    std::cerr << "deepseek-v3: left out, SLUICE_TEST_DATA is not set\n";
  } else {
    v3 = loaded(Tokenizer::load(std::string(data) + "/deepseek-v3-tokenizer"));
    if (v3 == nullptr || !register_all("deepseek-v3", *v3, all_texts)) return 1;
  }
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

}  // namespace
}  // namespace sluice

int main(int argc, char** argv) {
  return sluice::run(argc, argv);
}
