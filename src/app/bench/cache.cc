// `sluice bench cache`: what the activation cache saves on questions about a few documents, with the cache off and on,
// and what it costs where nothing ever repeats. One request at a time unless told otherwise, so that the time to the
// first token is the request's own.
#include "app/bench/bench.h"
#include "app/bench/core_run.h"
#include "app/bench/noise.h"
#include "app/bench/output.h"
#include "app/bench/questions.h"
#include "app/bench/statistics.h"
#include "app/commands.h"

namespace sluice {

namespace {

struct CacheBench {
  OptionFlags options;
  BenchOutput output{{"workload", "cache", "seconds", "never_computed_percent", "ttft_first_ms", "ttft_known_ms",
                      "ttft_repeat_ms", "decode_step_ms", "host_percent", "answers", "foreign_cpus"}};
  QuestionOptions questions;
  int32_t answer_tokens = 32, in_flight = 1;

  Status run();
  Status compare(const char* workload, const std::vector<Question>& asked, LoadedModel& loaded);
  std::vector<Question> strangers() const;
  CoreRunResult ask(const std::vector<Question>& asked, bool cache_enabled, LoadedModel& loaded) const;
  void report(const char* workload, const std::vector<Question>& asked, const CoreRunResult& run, bool cache_enabled,
              const char* answers, double foreign_cpus);
};

CoreRunResult CacheBench::ask(const std::vector<Question>& asked, bool cache_enabled, LoadedModel& loaded) const {
  std::vector<Request> requests(asked.size());
  for (size_t i = 0; i < asked.size(); ++i) {
    requests[i].prompt = asked[i].prompt;
    requests[i].sampling.temperature = 0;
    requests[i].stop.max_tokens = answer_tokens;
    requests[i].stop.ignore_eos = true;
  }
  CoreRun core(
      loaded,
      {.max_batch_tokens = static_cast<int32_t>(loaded.model->max_batch_tokens()),
       .context_length = loaded.info.context_length},
      {.num_pages = loaded.num_pages, .enabled = cache_enabled, .rewindable = loaded.model->kv_layout().rewindable()});
  return core.run(std::move(requests), static_cast<size_t>(in_flight));
}

void CacheBench::report(const char* workload, const std::vector<Question>& asked, const CoreRunResult& run,
                        bool cache_enabled, const char* answers, double foreign_cpus) {
  const auto first_token_ms = [&](QuestionKind kind) -> nlohmann::ordered_json {
    std::vector<double> values;
    for (size_t i = 0; i < asked.size(); ++i)
      if (asked[i].kind == kind) values.push_back(1e3 * run.answers[i].first_token_seconds);
    return values.empty() ? nlohmann::ordered_json() : nlohmann::ordered_json(median(values));
  };
  const SchedulerStats& stats = run.scheduler;
  output.row(
      {{"workload", workload},
       {"cache", cache_enabled ? "on" : "off"},
       {"seconds", run.wall_seconds},
       {"never_computed_percent",
        100 * static_cast<double>(stats.cached_prompt_tokens) / static_cast<double>(stats.prompt_tokens)},
       {"ttft_first_ms", first_token_ms(QuestionKind::kFirst)},
       {"ttft_known_ms", first_token_ms(QuestionKind::kKnownDocument)},
       {"ttft_repeat_ms", first_token_ms(QuestionKind::kRepeat)},
       {"decode_step_ms", 1e3 * run.decode_seconds / static_cast<double>(std::max<int64_t>(1, run.decode_steps))},
       {"host_percent", 100 * (run.wall_seconds - run.model_seconds) / run.wall_seconds},
       {"answers", answers},
       {"foreign_cpus", foreign_cpus},
       {"requests", asked.size()},
       {"prompt_tokens", stats.prompt_tokens},
       {"cached_prompt_tokens", stats.cached_prompt_tokens},
       {"in_flight", in_flight}});
}

// Off, then on. The answers must be the same ones.
Status CacheBench::compare(const char* workload, const std::vector<Question>& asked, LoadedModel& loaded) {
  std::vector<CoreAnswer> expected;
  for (const bool cache_enabled : {false, true}) {
    const NoiseMeter noise;
    const CoreRunResult run = ask(asked, cache_enabled, loaded);
    for (size_t i = 0; i < asked.size(); ++i) {
      SLUICE_RETURN_IF_ERROR(run.answers[i].error.with_context(fmt::format("request {}", i)));
      if (cache_enabled && run.answers[i].tokens != expected[i].tokens)
        return internal_error("{}: the answer to request {} differs between the cache off and on", workload, i);
    }
    report(workload, asked, run, cache_enabled, cache_enabled ? "identical" : "-", noise.foreign_cpus());
    expected = run.answers;
  }
  return {};
}

// One question about each of many documents: no page is ever found. A quarter of the requests tells the cost.
std::vector<Question> CacheBench::strangers() const {
  std::vector<Question> result;
  for (int32_t i = 0; i < std::max(1, questions.requests / 4); ++i) {
    QuestionOptions one = questions;
    one.documents = one.requests = 1;
    one.seed = questions.seed + 1 + static_cast<uint64_t>(i);
    result.push_back(make_questions(one).front());
  }
  return result;
}

Status CacheBench::run() {
  SLUICE_ASSIGN_OR_RETURN(const Options resolved, options.resolve());
  SLUICE_RETURN_IF_ERROR(output.open());
  SLUICE_ASSIGN_OR_RETURN(const auto loaded, LoadedModel::load(resolved));
  SLUICE_RETURN_IF_ERROR(loaded->expect_cpu("bench cache"));
  questions.vocab_size = loaded->info.vocab_size;
  const int32_t longest = questions.document_tokens / 8 * 9 + 8 + questions.question_tokens + answer_tokens;
  if (longest > loaded->info.context_length)
    return invalid_argument("document-tokens: prompts of up to {} tokens with their answers exceed the context of {}",
                            longest, loaded->info.context_length);
  const std::vector<Question> asked = make_questions(questions);
  ask({asked.front()}, false, *loaded);  // warm-up
  SLUICE_RETURN_IF_ERROR(compare("questions", asked, *loaded));
  return compare("nothing repeats", strangers(), *loaded);
}

}  // namespace

Action add_bench_cache(CLI::App& app) {
  auto command = std::make_shared<CacheBench>();
  command->options.add_to(app, offline_keys());
  const auto count = [&](const char* flag, int32_t& target, const char* help) {
    app.add_option(flag, target, help)->check(CLI::Range(1, 1'000'000))->capture_default_str();
  };
  count("--documents", command->questions.documents, "documents");
  count("--document-tokens", command->questions.document_tokens, "of each document, on average");
  count("--question-tokens", command->questions.question_tokens, "of each question");
  count("--requests", command->questions.requests, "questions, one after the other");
  count("--answer-tokens", command->answer_tokens, "of each answer");
  count("--in-flight", command->in_flight, "requests at once");
  app.add_option("--zipf", command->questions.zipf_exponent, "exponent of the documents' popularity")
      ->check(CLI::Range(0.0, 10.0))
      ->capture_default_str();
  app.add_option("--repeats", command->questions.repeat_share, "share of exact repeats")
      ->check(CLI::Range(0.0, 0.99))
      ->capture_default_str();
  app.add_option("--seed", command->questions.seed, "of documents and questions")->capture_default_str();
  command->output.add_to(app);
  return [command] { return command->run(); };
}

}  // namespace sluice
