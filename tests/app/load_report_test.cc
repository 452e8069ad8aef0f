#include "app/bench/load_report.h"

#include <gtest/gtest.h>

namespace sluice {
namespace {

TurnRecord record(double sent, double first, std::vector<double> gaps, int32_t cached = 0) {
  TurnRecord result;
  result.sent = sent;
  result.first_token = result.last_token = first;
  for (double gap : gaps) result.last_token += gap;
  result.prompt_tokens = 10;
  result.cached_prompt_tokens = cached;
  result.completion_tokens = 1 + static_cast<int32_t>(gaps.size());
  result.gaps = std::move(gaps);
  return result;
}

TEST(LoadReport, CountsAndRanksWhatTheClientsSaw) {
  std::vector<TurnRecord> records = {
      record(0, 0.2, {0.05, 0.07}),   // good
      record(1, 1.6, {0.02}),         // first token too late
      record(1, 1.1, {0.3, 0.1}, 8),  // gaps too long on average
      record(2, 2.3, {}),             // good: no gap at all
  };
  records.emplace_back();
  records.back().status = resource_exhausted("full");
  const auto report = load_report(records, {.ttft_ms = 500, .itl_ms = 100}, 4, 0.75);
  EXPECT_EQ(report["requests"], 5);
  EXPECT_EQ(report["errors"], 1);
  EXPECT_DOUBLE_EQ(report["requests_per_second"], 1);
  EXPECT_DOUBLE_EQ(report["goodput"], 0.5);
  EXPECT_EQ(report["output_tokens"], 3 + 2 + 3 + 1);
  EXPECT_DOUBLE_EQ(report["output_tokens_per_second"], 9 / 4.0);
  EXPECT_NEAR(report["ttft_ms"]["p50"], 250, 1e-9);               // of 100, 200, 300, 600
  EXPECT_NEAR(report["ttft_ms"]["p90"], 300 + 0.7 * 300, 1e-9);   // rank 2.7
  EXPECT_NEAR(report["itl_ms"]["p50"], 70, 1e-9);                 // of 20, 50, 70, 100, 300
  EXPECT_NEAR(report["e2e_ms"]["p50"], (320 + 500) / 2.0, 1e-9);  // of 300, 320, 500, 620
  EXPECT_EQ(report["prompt_tokens"], 40);
  EXPECT_EQ(report["cached_prompt_tokens"], 8);
  EXPECT_DOUBLE_EQ(report["utilization"], 0.75);
}

TEST(LoadReport, OfNothingButErrorsHasNoPercentiles) {
  std::vector<TurnRecord> records(2);
  for (TurnRecord& one : records) one.status = unavailable("gone");
  const auto report = load_report(records, {}, 1, 0);
  EXPECT_EQ(report["errors"], 2);
  EXPECT_TRUE(report["ttft_ms"]["p50"].is_null());
  EXPECT_EQ(report["goodput"], 0);
}

}  // namespace
}  // namespace sluice
