#include "tests/support/scenario.h"

#include <fmt/format.h>

#include <map>
#include <memory>
#include <sstream>
#include <vector>

#include "scheduler/scheduler.h"
#include "tests/support/fake_engine.h"
#include "tests/support/manual_clock.h"

namespace sluice {

namespace {

constexpr TokenId kEos = 0;
constexpr int32_t kVocab = 1 << 20;
constexpr uint64_t kSeedStep = 1000;  // seed of request i is i * kSeedStep + choice: names a row's owner

using Words = std::vector<std::string>;

Words split(const std::string& text) {
  std::istringstream stream(text);
  Words words;
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}

std::string join(const Words& words, const char* between) { return fmt::format("{}", fmt::join(words, between)); }

// "A.1" -> A, 1
std::pair<std::string, int32_t> split_choice(const std::string& word) {
  const size_t dot = word.find('.');
  if (dot == std::string::npos) return {word, 0};
  return {word.substr(0, dot), std::atoi(word.c_str() + dot + 1)};
}

// The options of a directive: words with '=', flags, and "shares B[0,64)".
class Options {
 public:
  Options(const Words& words, size_t first) {
    for (size_t i = first; i < words.size(); ++i) {
      const size_t equals = words[i].find('=');
      const bool takes_word = words[i] == "shares" || words[i] == "same" || words[i] == "continues";
      if (equals != std::string::npos) {
        values_[words[i].substr(0, equals)] = words[i].substr(equals + 1);
      } else {
        values_[words[i]] = takes_word && i + 1 < words.size() ? words[i + 1] : "";
        if (takes_word) ++i;
      }
    }
  }
  bool has(const std::string& key) const { return values_.contains(key); }
  std::string text(const std::string& key, const std::string& otherwise = "") const {
    const auto place = values_.find(key);
    return place == values_.end() ? otherwise : place->second;
  }
  int32_t number(const std::string& key, int32_t otherwise) const {
    return has(key) ? std::atoi(text(key).c_str()) : otherwise;
  }
  const std::map<std::string, std::string>& all() const { return values_; }

 private:
  std::map<std::string, std::string> values_;
};

class Runner final : public TokenSink {
 public:
  std::string run(const std::string& name, const std::string& text) {
    std::istringstream lines(text);
    int number = 0;
    for (std::string line; std::getline(lines, line) && failure_.empty();) {
      ++number;
      Words words = split(line.substr(0, line.find('#')));
      if (!words.empty() && words[0].starts_with("t=")) {
        clock_.set(at(std::atoi(words[0].c_str() + 2)));
        words.erase(words.begin());
      }
      if (!words.empty()) directive(words);
      if (failure_.empty() && engine_ && !engine_->problems().empty()) failure_ = engine_->problems().front();
      if (!failure_.empty()) return fmt::format("{}:{}: {}", name, number, failure_);
    }
    return "";
  }

  void emit(TokenEvent event) override {
    const auto request = value(event.request);
    auto& answer = answers_[{request, event.choice}];
    if (event.token) answer.tokens.push_back(*event.token);
    if (event.finish != FinishReason::kNone) answer.last = std::move(event);
  }

 private:
  struct Known {
    std::string name;
    Request request;
    int32_t stops_at = 0;
  };
  struct Answer {
    std::vector<TokenId> tokens;
    TokenEvent last;
  };

  static TimePoint at(int64_t ms) { return TimePoint(std::chrono::hours(1) + std::chrono::milliseconds(ms)); }

  void directive(const Words& words) {
    const std::string& verb = words[0];
    if (verb == "pool") return pool(Options(words, 1));
    if (verb == "limits") return limits(Options(words, 1));
    start();
    if (verb == "submit") return submit(words);
    if (verb == "step") return expect_text(words, step());
    if (verb == "steps") return steps(std::atoi(words.at(1).c_str()));
    if (verb == "run") return steps(10'000);
    if (verb == "cancel") return scheduler_->cancel(find(words.at(1)).request.id);
    if (verb == "finish") return finish(words);
    if (verb == "expect") return expect(words);
    if (verb == "trace") return expect_text(words, std::exchange(trace_, {}));
    if (verb == "end") return expect_text(words, {});
    failure_ = fmt::format("unknown directive '{}'", verb);
  }

  void pool(const Options& options) {
    cache_options_.num_pages = options.number("pages", 8);
    cache_options_.enabled = options.text("cache") != "off";
    cache_options_.reuse_generated = options.text("reuse_generated") != "off";
    cache_options_.num_host_pages = options.number("host", 0);
    cache_options_.page_bytes = FakeEngine::kPageBytes;
  }

  void limits(const Options& options) {
    scheduler_options_.max_batch_tokens = options.number("tokens", 512);
    scheduler_options_.max_running = options.number("seqs", 16);
    scheduler_options_.context_length = options.number("context", 4096);
    scheduler_options_.static_batching = options.has("static");
    scheduler_options_.keep_finished_rows = options.has("keep_rows");
  }

  void start() {
    if (scheduler_) return;
    scheduler_options_.eos_token_ids = {kEos};
    cache_ = std::make_unique<ActivationCache>(cache_options_);
    SchedulerHooks hooks;
    hooks.trace = [this](const TraceEvent& event) {
      if (event.kind == TraceKind::kFinished) return;
      trace_.push_back(fmt::format("{} {} {} {}", sluice::name(event.kind), name_of(value(event.request), event.choice),
                                   event.amount, event.why));
    };
    scheduler_ = std::make_unique<Scheduler>(scheduler_options_, *cache_, *this, std::move(hooks));
    engine_ = std::make_unique<FakeEngine>(FakeEngineOptions{
        .num_pages = cache_options_.num_pages, .vocab_size = kVocab, .roles_matter = !cache_options_.reuse_generated});
    engine_->script = [this](const SequenceWork& work) { return scripted(work); };
  }

  // Answers never stop by chance: only where stops_at says so.
  std::optional<TokenId> scripted(const SequenceWork& work) {
    const Known& known = known_.at(work.seed / kSeedStep - 1);
    const auto drawn = static_cast<int32_t>(work.all_tokens.size()) - work.num_prompt_tokens + 1;
    if (known.stops_at > 0 && drawn >= known.stops_at && !work.masks_stop) return kEos;
    return static_cast<TokenId>(1 + (work.seed * 31 + static_cast<uint64_t>(drawn) * 7) % (kVocab - 1));
  }

  Known& find(const std::string& name) {
    for (Known& known : known_)
      if (known.name == name) return known;
    failure_ = fmt::format("no request is called '{}'", name);
    static Known nobody;
    return nobody;
  }

  std::string name_of(uint64_t request, int32_t choice) const {
    const std::string& name = known_.at(request - 1).name;
    return choice == 0 ? name : fmt::format("{}.{}", name, choice);
  }

  std::vector<TokenId> make_prompt(const Options& options, uint64_t number) {
    std::vector<TokenId> prompt;
    if (options.has("same")) return find(options.text("same")).request.prompt;
    if (options.has("continues")) {
      const Known& before = find(options.text("continues"));
      prompt = before.request.prompt;
      const auto& answer = answers_[{value(before.request.id), 0}].tokens;
      prompt.insert(prompt.end(), answer.begin(), answer.end());
    }
    if (options.has("shares")) {
      const std::string text = options.text("shares");  // B[0,64)
      const std::vector<TokenId>& other = find(text.substr(0, text.find('['))).request.prompt;
      const auto count = std::min<int64_t>(std::atoi(text.c_str() + text.find(',') + 1), std::ssize(other));
      prompt.assign(other.begin(), other.begin() + count);
    }
    const int32_t length = options.number("prompt", 0);
    for (auto i = static_cast<uint64_t>(prompt.size()); i < static_cast<uint64_t>(length); ++i)
      prompt.push_back(static_cast<TokenId>(1 + (number * 7919 + i * 104729) % (kVocab - 1)));
    return prompt;
  }

  void submit(const Words& words) {
    const Options options(words, 2);
    const uint64_t number = known_.size() + 1;
    Known known;
    known.name = words.at(1);
    known.stops_at = options.number("stops_at", 0);
    Request& request = known.request;
    request.id = RequestId{number};
    request.prompt = make_prompt(options, number);
    request.sampling.seed = number * kSeedStep;
    request.stop.max_tokens = options.number("new", 16);
    request.stop.min_tokens = options.number("min", 0);
    request.num_choices = options.number("n", 1);
    request.priority = options.number("priority", 0);
    request.cache_salt = options.text("salt");
    request.num_prompt_logprobs = options.has("prompt_logprobs") ? 0 : -1;
    request.arrival = clock_.now();
    if (options.has("deadline")) request.deadline = at(options.number("deadline", 0));
    known_.push_back(known);
    if (failure_.empty()) scheduler_->submit(known.request, clock_.now());
  }

  void finish(const Words& words) {
    const auto [name, choice] = split_choice(words.at(1));
    scheduler_->finish(find(name).request.id, choice, std::atoi(words.at(2).c_str()));
  }

  Words step() {
    const StepPlan& plan = scheduler_->plan(clock_.now());
    if (plan.empty()) return {"idle"};
    Words text;
    for (const SequenceWork& work : plan.work) text.push_back(describe(plan, work));
    engine_->poison_free(cache_->pool());
    StepResult result = engine_->run(plan);
    scheduler_->commit(std::move(result), clock_.now());
    scheduler_->check_invariants();
    return text;
  }

  std::string describe(const StepPlan& plan, const SequenceWork& work) const {
    const uint64_t request = work.seed / kSeedStep;
    const auto choice = static_cast<int32_t>(work.seed % kSeedStep);
    const std::string name = name_of(request, choice);
    const auto answer = answers_.find({request, choice});
    const bool ended = answer != answers_.end() && answer->second.last.finish != FinishReason::kNone;
    if (ended) return "again " + name;
    if (work.begin == work.end) {
      for (const PageCopy& copy : plan.copies)
        if (copy.to == work.pages.back()) return fmt::format("draw {} copy={}", name, copy.num_positions);
      return "draw " + name;
    }
    if (work.role == TokenRole::kPrompt) return fmt::format("prefill {}[{},{})", name, work.begin, work.end);
    if (work.samples && work.end == work.begin + 1) return "decode " + name;
    return fmt::format("recompute {}[{},{})", name, work.begin, work.end);
  }

  void steps(int count) {
    for (int i = 0; i < count && !scheduler_->idle(); ++i) step();
    if (count == 10'000 && !scheduler_->idle()) failure_ = "does not come to an end";
  }

  int64_t figure(const std::string& key) {
    const PagePool& pages = cache_->pool();
    const SchedulerStats& stats = scheduler_->stats();
    if (key == "free") return pages.num_free();
    if (key == "cached") return pages.num_cached();
    if (key == "used") return pages.num_used();
    if (key == "free+cached") return cache_->num_available();
    if (key == "running") return stats.running;
    if (key == "waiting") return stats.waiting;
    if (key == "preemptions") return stats.preemptions;
    if (key == "recomputed") return stats.recomputed_tokens;
    if (key == "evicted") return cache_->stats().evicted_pages;
    if (key == "hits") return cache_->stats().hit_tokens;
    if (key == "host") return cache_->tree().num_on_host();
    if (key == "host_hits") return cache_->stats().hit_tokens_host;
    failure_ = fmt::format("unknown figure '{}'", key);
    return 0;
  }

  void expect_figure(const std::string& word) {
    const size_t equals = word.find('=');
    const std::string key = word.substr(0, equals);
    const int64_t found = figure(key);
    if (failure_.empty() && std::atoll(word.c_str() + equals + 1) != found)
      failure_ = fmt::format("expected {}, found {}={}", word, key, found);
  }

  // "verb -> text   key=value ...": the text is compared part by part, figures by name.
  void expect_text(const Words& words, const Words& found) {
    if (words.size() < 2) return;
    Words text(words.begin() + 2, words.end()), figures;
    while (!text.empty() && text.back().find('=') != std::string::npos && !text.back().starts_with("copy=")) {
      figures.push_back(text.back());
      text.pop_back();
    }
    const std::string wanted = join(text, " ");
    if (wanted != join(found, " | "))
      failure_ = fmt::format("\n  expected  {}\n  found     {}", wanted, join(found, " | "));
    for (const std::string& word : figures)
      if (failure_.empty()) expect_figure(word);
  }

  void expect(const Words& words) {
    if (words.at(1).find('=') != std::string::npos) {
      for (size_t i = 1; i < words.size() && failure_.empty(); ++i) expect_figure(words[i]);
      return;
    }
    const auto [name, choice] = split_choice(words[1]);
    const Answer& answer = answers_[{value(find(name).request.id), choice}];
    const Usage& usage = answer.last.usage;
    const Options wanted_values(words, 2);
    for (const auto& [key, wanted] : wanted_values.all()) {
      std::string found = "?";
      if (key == "finish") found = sluice::name(answer.last.finish);
      if (key == "error") found = sluice::name(answer.last.error.code());
      if (key == "tokens") found = std::to_string(usage.completion_tokens);
      if (key == "said") found = std::to_string(answer.tokens.size());
      if (key == "cached") found = std::to_string(usage.cached_prompt_tokens);
      if (key == "queue") found = std::to_string(usage.queue_time / std::chrono::milliseconds(1));
      if (found != wanted) failure_ = fmt::format("{}: expected {}={}, found {}", words[1], key, wanted, found);
    }
  }

  ManualClock clock_;
  CacheOptions cache_options_{.num_pages = 8};
  SchedulerOptions scheduler_options_;
  std::unique_ptr<ActivationCache> cache_;
  std::unique_ptr<FakeEngine> engine_;
  std::vector<Known> known_;
  std::map<std::pair<uint64_t, int32_t>, Answer> answers_;
  Words trace_;
  std::string failure_;
  std::unique_ptr<Scheduler> scheduler_;  // last: it refers to the others
};

}  // namespace

std::string run_scenario(const std::string& name, const std::string& text) { return Runner().run(name, text); }

}  // namespace sluice
