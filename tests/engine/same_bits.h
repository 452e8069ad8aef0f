// What the tests of the rule of same bits share: prompts, models, and comparisons of logits to the bit.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tests/support/model_runner.h"
#include "tests/support/source_file.h"

namespace sluice {

// Instrumented code is some ten times slower; fewer chunk sizes show the same mistakes.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int32_t kChunkStep = 37;
#else
constexpr int32_t kChunkStep = 1;
#endif

inline std::string golden(const char* name) { return source_file(std::string("tests/golden/transformers/") + name); }

inline std::vector<TokenId> tokens_of(int32_t count, int32_t seed, int32_t vocab) {
  std::vector<TokenId> tokens;
  for (int32_t i = 0; i < count; ++i) tokens.push_back((i * i * 31 + i * 7 + seed * 101 + 3) % vocab);
  return tokens;
}

inline std::unique_ptr<ModelRunner> open(const std::string& directory, const ModelRunner::Options& options) {
  auto runner = ModelRunner::open(directory, options);
  EXPECT_TRUE(runner.ok()) << runner.status().to_string();
  return std::move(runner).value();
}

inline void expect_same(std::span<const float> got, std::span<const float> want, const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  EXPECT_EQ(std::memcmp(got.data(), want.data(), got.size_bytes()), 0) << what;
}

// Logits of all tokens, computed `chunk` at a time.
inline std::vector<float> in_chunks(ModelRunner& runner, const std::vector<TokenId>& tokens, int32_t chunk,
                                    TokenRole role = TokenRole::kPrompt) {
  std::vector<float> logits;
  const auto size = static_cast<int32_t>(tokens.size());
  for (int32_t begin = 0; begin < size; begin += chunk) {
    const std::vector<float> part = runner.compute(tokens, begin, std::min(size, begin + chunk), role);
    logits.insert(logits.end(), part.begin(), part.end());
  }
  return logits;
}

// The first `hit` positions go to host memory and come back elsewhere, a half-filled last page is copied, and what they
// left behind is overwritten.
inline void move_pages(ModelRunner& runner, int32_t hit) {
  std::vector<PageId>& pages = runner.pages();
  std::vector<std::byte> host(static_cast<size_t>(runner.kv().layout().bytes_per_page()));
  for (int32_t page = 0; page * kPageTokens < hit; ++page) {
    PageId& from = pages[static_cast<size_t>(page)];
    PageId& to = pages[pages.size() - 1 - static_cast<size_t>(page)];
    if ((page + 1) * kPageTokens <= hit) {
      runner.kv().move({.page = from, .host = host.data(), .to_host = true});
      runner.kv().move({.page = to, .host = host.data(), .to_host = false});
    } else {
      runner.kv().copy({.from = from, .to = to, .num_positions = hit % kPageTokens});
    }
    std::swap(from, to);
    std::fill(host.begin(), host.end(), std::byte{0xFF});
    runner.kv().move({.page = to, .host = host.data(), .to_host = false});
  }
}

// Logits to be equal to, by instruction set: AMX sums bf16 in an order of its own (kernels/cpu/pair_amx.h), all others
// give the same bits, and AMX too where no bf16 is summed.
class WantedBits {
 public:
  explicit WantedBits(bool sums_bf16) : sums_bf16_(sums_bf16) {}

  // Those of the backend's class; make() -> logits, of the class' first backend.
  template <typename Make>
  const std::vector<float>& of(const Backend& backend, Make&& make) {
    std::vector<float>& want = sums_bf16_ && std::string_view(backend.name) == "cpu-amx" ? on_amx_ : elsewhere_;
    if (want.empty()) want = make();
    return want;
  }

 private:
  const bool sums_bf16_;
  std::vector<float> elsewhere_, on_amx_;
};

}  // namespace sluice
