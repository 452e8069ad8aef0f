// What a scrape says, against the strict reader, against known values, and, where it is installed, against promtool.
#include <gmock/gmock.h>

#include <cstdlib>
#include <fstream>

#include "server/metrics_text.h"
#include "tests/server/fake_loop.h"
#include "tests/server/prometheus_text.h"
#include "tests/server/server_fixture.h"

namespace sluice {
namespace {

TEST(Histogram, CountsValuesUpToAndIncludingABound) {
  Histogram histogram({1, 2, 5});
  for (const double value : {0.0, 1.0, 1.5, 2.0, 5.0, 5.1, 100.0}) histogram.observe(value);
  EXPECT_THAT(histogram.counts, testing::ElementsAre(2, 2, 1, 2));
  EXPECT_EQ(histogram.count(), 7u);
  EXPECT_DOUBLE_EQ(histogram.sum, 114.6);
}

TEST(RequestMetrics, RejectionsHaveReasons) {
  RequestMetrics metrics;
  metrics.rejected(resource_exhausted("full"));
  metrics.rejected(resource_exhausted("full"));
  metrics.rejected(unavailable("draining"));
  metrics.rejected(invalid_argument("n"));
  metrics.rejected(not_found("model"));
  metrics.rejected(failed_precondition("no tokenizer"));
  for (const Rejection why :
       {Rejection::kUnauthenticated, Rejection::kForbidden, Rejection::kClientLimit, Rejection::kRateLimit})
    metrics.rejected(why);
  GenerationEnd late;
  late.status = resource_exhausted("does not fit");
  metrics.ended(late, 0);
  EXPECT_EQ(metrics.rejections(), (std::map<std::string, int64_t>{{"client_limit", 1},
                                                                  {"draining", 1},
                                                                  {"forbidden", 1},
                                                                  {"internal", 0},
                                                                  {"invalid", 2},
                                                                  {"queue_full", 2},
                                                                  {"rate_limit", 1},
                                                                  {"too_large", 1},
                                                                  {"unauthenticated", 1},
                                                                  {"unsupported", 1}}));
  EXPECT_EQ(metrics.histograms().end_to_end.count(), 0u) << "nothing ran";
}

class MetricsTest : public testing::Test {
 protected:
  Services services() {
    return {.frontend = frontend_,
            .queue = queue_,
            .model = model_,
            .tokenizer = &demo_tokenizer(),
            .clock = clock_,
            .version = "1.2.3",
            .report =
                [] {
                  LoopReport report;
                  report.running_sequences = 3;
                  report.cache_pages_total = 200;
                  report.cache_pages_used = 50;
                  report.cache_pages_cached = 20;
                  report.generated_tokens = 12'345'678'901;
                  report.busy_seconds = 10;
                  report.step_seconds = {{"forward", 6}, {"logits", 2}, {"sample", 1}};
                  report.finished = {{"stop", 5}, {"length", 4}, {"cancelled", 3}, {"deadline", 2}, {"error", 1}};
                  report.cache_query_tokens = 1000;
                  report.tiers = {{"device", 200, 20, 300, 7}, {"host", 80, 8, 100, 1}};
                  report.batch_tokens = 128;
                  report.batch_tokens_limit = 512;
                  report.page_tokens = 64;
                  report.memory_bytes = {{"weights", 1024}};
                  return report;
                },
            .expert_load = [this] { return experts_; }};
  }

  std::string run_and_render(int32_t num_choices, int32_t max_tokens) {
    FakeLoop loop(queue_, frontend_, clock_, {kDemoEos}, [](const Request&, int32_t) { return tokens_of_text("dog"); });
    GenerationTask task;
    task.request.prompt = {0, 5, 6};
    task.request.num_choices = num_choices;
    task.request.stop.max_tokens = max_tokens;
    GatheringReader reader;
    auto stream = frontend_.submit(std::move(task), reader);
    EXPECT_TRUE(stream.ok());
    reader.begin(*stream);
    reader.wait();
    return render_metrics(services());
  }

  SteadyClock clock_;
  RequestQueue queue_{QueueLimits{.max_requests = 2}};
  Frontend frontend_{queue_, &demo_tokenizer(), clock_};
  ModelInfo model_ = demo_model();
  ExpertReport experts_{.layers = {1, 2}, .num_experts = 2, .rows = {30, 10, 20, 20}};
};

TEST_F(MetricsTest, EverythingIsWellFormedAndNamedByTheRules) {
  model_.name = "a \"model\" with \\ and\nnewline";
  const PrometheusText text(run_and_render(2, 3));
  int num_own = 0, num_vllm = 0;
  for (const auto& [name, family] : text.families()) {
    num_own += name.starts_with("sluice_");
    num_vllm += name.starts_with("vllm:");
    for (const char* unit : {"_ms", "_milliseconds", "_mib", "_percent"})
      EXPECT_FALSE(name.ends_with(unit)) << name << " has no base unit";
  }
  EXPECT_EQ(num_own + num_vllm, std::ssize(text.families()));
  EXPECT_GE(num_own, 35);
  EXPECT_TRUE(text.has(R"(vllm:num_requests_running{model_name="a \"model\" with \\ and\nnewline"})"));
}

// The families that existing boards, autoscalers and endpoint pickers read.
TEST_F(MetricsTest, VllmFamiliesAreComplete) {
  const PrometheusText text(run_and_render(1, 3));
  const std::map<std::string, std::string> expected = {{"vllm:num_requests_running", "gauge"},
                                                       {"vllm:num_requests_waiting", "gauge"},
                                                       {"vllm:kv_cache_usage_perc", "gauge"},
                                                       {"vllm:prefix_cache_queries_total", "counter"},
                                                       {"vllm:prefix_cache_hits_total", "counter"},
                                                       {"vllm:num_preemptions_total", "counter"},
                                                       {"vllm:prompt_tokens_total", "counter"},
                                                       {"vllm:generation_tokens_total", "counter"},
                                                       {"vllm:request_success_total", "counter"},
                                                       {"vllm:request_prompt_tokens", "histogram"},
                                                       {"vllm:request_generation_tokens", "histogram"},
                                                       {"vllm:request_max_num_generation_tokens", "histogram"},
                                                       {"vllm:time_to_first_token_seconds", "histogram"},
                                                       {"vllm:inter_token_latency_seconds", "histogram"},
                                                       {"vllm:e2e_request_latency_seconds", "histogram"},
                                                       {"vllm:request_queue_time_seconds", "histogram"},
                                                       {"vllm:request_prefill_time_seconds", "histogram"},
                                                       {"vllm:request_decode_time_seconds", "histogram"},
                                                       {"vllm:cache_config_info", "gauge"}};
  for (const auto& [name, type] : expected) {
    ASSERT_TRUE(text.families().contains(name)) << name;
    EXPECT_EQ(text.families().at(name).type, type) << name;
    for (const auto& [sample, value] : text.families().at(name).samples)
      EXPECT_NE(sample.find("model_name=\"demo-moe\""), std::string::npos) << sample;
  }
}

TEST_F(MetricsTest, ValuesAreThoseOfTheLoopAndTheFrontEnd) {
  const PrometheusText text(run_and_render(2, 3));
  EXPECT_EQ(text.value("sluice_running_sequences"), 3);
  EXPECT_EQ(text.value("sluice_generated_tokens_total"), 12'345'678'901);
  EXPECT_EQ(text.value("sluice_step_seconds_total{part=\"forward\"}"), 6);
  EXPECT_EQ(text.value("sluice_step_seconds_total{part=\"bookkeeping\"}"), 1);
  EXPECT_EQ(text.value("sluice_batch_occupancy_ratio{limit=\"tokens\"}"), 0.25);
  EXPECT_EQ(text.value("sluice_batch_occupancy_ratio{limit=\"sequences\"}"), 0) << "no limit is known";
  EXPECT_EQ(text.value("sluice_cache_hit_tokens_total{tier=\"host\"}"), 100);
  EXPECT_EQ(text.value("sluice_expert_rows_total{layer=\"2\",expert=\"1\"}"), 20);
  EXPECT_EQ(text.value("sluice_expert_imbalance_ratio{layer=\"1\"}"), 1.5);
  EXPECT_EQ(text.value("vllm:prefix_cache_hits_total{model_name=\"demo-moe\"}"), 400);
  EXPECT_EQ(text.value("vllm:kv_cache_usage_perc{model_name=\"demo-moe\"}"), 0.25);
  EXPECT_EQ(text.value("vllm:request_success_total{model_name=\"demo-moe\",finished_reason=\"abort\"}"), 5);
  EXPECT_EQ(text.value("vllm:cache_config_info{model_name=\"demo-moe\",block_size=\"64\",num_gpu_blocks=\"200\"}"), 1);
  // One request of two choices with three tokens each: one first token, two gaps in either choice.
  EXPECT_EQ(text.value("sluice_time_to_first_token_seconds_count"), 1);
  EXPECT_EQ(text.value("sluice_inter_token_seconds_count"), 4);
  EXPECT_EQ(text.value("sluice_request_seconds_count"), 1);
  EXPECT_EQ(text.value("sluice_request_generated_tokens_sum"), 6);
  EXPECT_EQ(text.value("vllm:request_max_num_generation_tokens_sum{model_name=\"demo-moe\"}"), 3);
  EXPECT_EQ(text.value("sluice_request_prompt_tokens_sum"), 3);
  EXPECT_DOUBLE_EQ(text.value("sluice_request_prefill_seconds_sum"), 0.002) << "what the loop measured";
  for (const char* own : {"sluice_time_to_first_token_seconds", "sluice_request_seconds"})
    EXPECT_GT(text.value(std::string(own) + "_sum"), 0) << own;
}

TEST_F(MetricsTest, AFullQueueIsCountedAsRefusal) {
  GatheringReader readers[3];
  std::vector<std::shared_ptr<AnswerStream>> open;
  for (GatheringReader& reader : readers) {
    GenerationTask task;
    task.request.prompt = {0, 5, 6};
    if (auto stream = frontend_.submit(std::move(task), reader); stream.ok()) open.push_back(*stream);
  }
  const PrometheusText text(render_metrics(services()));
  EXPECT_EQ(text.value("sluice_rejected_requests_total{reason=\"queue_full\"}"), 1);
  EXPECT_EQ(text.value("sluice_waiting_requests"), 2);
  EXPECT_EQ(text.value("sluice_waiting_tokens"), 6);
  EXPECT_EQ(text.value("sluice_open_answers"), 2);
  EXPECT_EQ(text.value("vllm:num_requests_waiting{model_name=\"demo-moe\"}"), 2);
}

TEST_F(MetricsTest, ManyExpertsAreSummedUp) {
  experts_ = {.layers = std::vector<int32_t>(58), .num_experts = 256, .rows = std::vector<int64_t>(58 * 256, 7)};
  for (int32_t i = 0; i < 58; ++i) experts_.layers[static_cast<size_t>(i)] = 3 + i;
  const PrometheusText text(render_metrics(services()));
  EXPECT_FALSE(text.families().contains("sluice_expert_rows_total"));
  EXPECT_EQ(text.value("sluice_expert_imbalance_ratio{layer=\"60\"}"), 1);
}

// promtool calls colons in names a mistake outside recording rules, so it sees our own families only.
TEST_F(MetricsTest, PromtoolHasNothingToSay) {
  if (std::system("command -v promtool >/dev/null") != 0)
    GTEST_SKIP() << "promtool is not installed (docker/packages-full.txt)";
  std::istringstream lines(run_and_render(2, 3));
  const std::string path = testing::TempDir() + "/sluice_metrics.txt";
  std::ofstream file(path);
  for (std::string line; std::getline(lines, line);)
    if (line.find("vllm:") == std::string::npos) file << line << "\n";
  file.close();
  EXPECT_EQ(std::system(("promtool check metrics <" + path).c_str()), 0);
}

}  // namespace
}  // namespace sluice
