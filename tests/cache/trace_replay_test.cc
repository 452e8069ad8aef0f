// Replays two public request traces (Mooncake, FAST'25 release) through the cache alone and compares the token hit rate
// with that of an ideal LRU over blocks of the same capacity. Needs SLUICE_TEST_DATA/traces/mooncake_*.jsonl, from
// github.com/kvcache-ai/Mooncake, FAST25-release/traces. One block of the trace (512 tokens) plays one page.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "cache/activation_cache.h"

namespace sluice {
namespace {

struct TraceRequest {
  int64_t input_length = 0;        // tokens
  std::vector<int32_t> block_ids;  // of 512 tokens, the last one perhaps not full
};

std::vector<TraceRequest> read_trace(const std::filesystem::path& path) {
  std::vector<TraceRequest> requests;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    TraceRequest request;
    const size_t length = line.find("\"input_length\":"), ids = line.find("\"hash_ids\": [");
    if (length == std::string::npos || ids == std::string::npos) continue;
    request.input_length = std::atoll(line.c_str() + length + 15);
    const char* next = line.c_str() + ids + 13;
    for (char* end = nullptr; *next != ']' && *next != '\0'; next = *end == ',' ? end + 1 : end)
      request.block_ids.push_back(static_cast<int32_t>(std::strtol(next, &end, 10)));
    requests.push_back(std::move(request));
  }
  return requests;
}

// Percent of all input tokens that were found.
double replay(const std::vector<TraceRequest>& requests, int32_t capacity) {
  ActivationCache cache({.num_pages = capacity});
  int64_t hit_tokens = 0, all_tokens = 0;
  std::vector<TokenId> tokens;
  for (const TraceRequest& request : requests) {
    tokens.clear();
    for (const int32_t id : request.block_ids)
      for (int32_t i = 0; i < kPageTokens; ++i) tokens.push_back(id * 31 + i);
    const auto num_tokens = static_cast<int32_t>(tokens.size());
    tokens.push_back(0);  // the token that always stays to be computed
    MatchResult found = cache.match(tokens, num_tokens + 1, "", true);
    cache.record(found, num_tokens);
    hit_tokens += std::min<int64_t>(int64_t{found.num_tokens / kPageTokens} * 512, request.input_length);
    all_tokens += request.input_length;
    EXPECT_TRUE(cache.reserve(found.lease, num_tokens));
    cache.publish(found.lease, tokens, num_tokens, num_tokens + 1);
    cache.release(found.lease);
  }
  cache.check_invariants();
  return 100.0 * static_cast<double>(hit_tokens) / static_cast<double>(all_tokens);
}

struct Case {
  const char* file;
  std::vector<double> ideal_lru;  // percent at kCapacities, computed by an independent replay
};
const std::vector<int32_t> kCapacities = {1'000, 2'000, 5'000, 10'000, 30'000, 50'000, 100'000, 200'000};

class TraceReplay : public ::testing::TestWithParam<Case> {};

TEST_P(TraceReplay, HitsAtLeastAsOftenAsIdealLru) {
  const char* data = std::getenv("SLUICE_TEST_DATA");
  if (!data) GTEST_SKIP() << "SLUICE_TEST_DATA is not set: no request traces to replay";
  const auto path = std::filesystem::path(data) / "traces" / GetParam().file;
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "no file traces/" << GetParam().file << " in SLUICE_TEST_DATA";
  const std::vector<TraceRequest> requests = read_trace(path);
  ASSERT_GT(requests.size(), 3000u);
  for (size_t i = 0; i < kCapacities.size(); ++i) {
    const double found = replay(requests, kCapacities[i]), ideal = GetParam().ideal_lru[i];
    fmt::print("{} {:>7} pages: {:5.1f} % of tokens found, ideal LRU {:5.1f} %\n", GetParam().file, kCapacities[i],
               found, ideal);
    EXPECT_GE(found, ideal - 0.1);  // the table is rounded to 0.1
  }
}

INSTANTIATE_TEST_SUITE_P(
    Mooncake, TraceReplay,
    ::testing::Values(Case{"mooncake_conversation.jsonl", {4.5, 5.5, 11.3, 21.5, 33.2, 36.2, 37.1, 37.4}},
                      Case{"mooncake_synthetic.jsonl", {8.4, 14.7, 28.4, 43.1, 63.6, 65.1, 65.1, 65.1}}),
    [](const auto& entry) { return std::string(entry.index == 0 ? "Conversation" : "Synthetic"); });

}  // namespace
}  // namespace sluice
