#include "grammar/grammar_compiler.h"

#include <condition_variable>
#include <deque>
#include <list>
#include <map>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <utility>

#include "sluice/check.h"
#include "sluice/clock.h"
#include "sluice/log.h"

#include "grammar/compiled_form.h"

// The library's errors and warnings come here (XGRAMMAR_LOG_CUSTOMIZE): what it refuses is an exception, as it expects.
namespace xgrammar {
[[noreturn]] void LogFatalImpl(const std::string& file, int lineno, const std::string& message);
void LogMessageImpl(const std::string& file, int lineno, int level, const std::string& message);

void LogFatalImpl(const std::string&, int, const std::string& message) { throw std::runtime_error(message); }
void LogMessageImpl(const std::string&, int, int, const std::string& message) {
  sluice::log_debug("grammar: {}", message);
}
}  // namespace xgrammar

namespace sluice {

namespace {

// Between two parts of a JSON text. Models indent by 2 or 4 and nest a few levels; without a bound a small one may
// write spaces until its tokens are used up. Costs 0.3 MB of a typical schema's grammar per character (129k tokens).
constexpr int kMaxWhitespace = 16;

using Key = std::pair<FormKind, std::string>;

xgrammar::CompiledGrammar compile_with(xgrammar::GrammarCompiler& library, const OutputForm& form) {
  const auto json_schema = [&library](const std::string& schema, bool strict) {
    return library.CompileJSONSchema(schema, true, std::nullopt, std::nullopt, strict, kMaxWhitespace);
  };
  switch (form.kind) {
    case FormKind::kJsonSchema:
      return json_schema(form.text, true);
    case FormKind::kJsonObject:
      return json_schema(R"({"type": "object"})", false);
    case FormKind::kRegex:
      return library.CompileRegex(form.text);
    case FormKind::kGrammar:
      return library.CompileGrammar(form.text);
    case FormKind::kStructuralTag:
      return library.CompileStructuralTag(form.text);
  }
  throw std::runtime_error("unknown kind of form");
}

class Compiler final : public GrammarCompiler {
 public:
  Compiler(GrammarVocabulary vocabulary, GrammarLimits limits)
      : vocabulary_(std::move(vocabulary)), limits_(limits), thread_([this] { run(); }) {}

  ~Compiler() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    came_.notify_one();
    thread_.join();
    for (Job& job : jobs_) job.done(unavailable("the server is shutting down"));
  }

  std::shared_ptr<const Grammar> find(const OutputForm& form) override {
    const std::lock_guard lock(mutex_);
    const auto place = kept_.find({form.kind, form.text});
    if (place == kept_.end()) return nullptr;
    recent_.splice(recent_.begin(), recent_, place->second.place);
    return place->second.form;
  }

  Status compile(OutputForm form, Done done) override {
    {
      const std::lock_guard lock(mutex_);
      if (jobs_.size() >= limits_.max_waiting)
        return resource_exhausted("{}: {} grammars wait to be compiled (limit {})", form.field, jobs_.size(),
                                  limits_.max_waiting);
      jobs_.push_back({std::move(form), std::move(done)});
    }
    came_.notify_one();
    return {};
  }

 private:
  struct Job {
    OutputForm form;
    Done done;
  };
  struct Kept {
    std::shared_ptr<const CompiledForm> form;
    std::list<Key>::iterator place;  // in recent_
  };

  void run() {
    std::unique_lock lock(mutex_);
    while (true) {
      came_.wait(lock, [this] { return stopping_ || !jobs_.empty(); });
      if (stopping_) return;
      Job job = std::move(jobs_.front());
      jobs_.pop_front();
      lock.unlock();
      job.done(answer(job.form));
      job = {};
      lock.lock();
    }
  }

  Result<std::shared_ptr<const Grammar>> answer(const OutputForm& form) {
    // Somebody may have waited for the same one.
    if (std::shared_ptr<const Grammar> known = find(form)) return known;
    try {
      const TimePoint begin = std::chrono::steady_clock::now();
      auto compiled = std::make_shared<const CompiledForm>(compile_with(library(), form), limits_.max_mask_seconds);
      SLUICE_RETURN_IF_ERROR(compiled->check().with_context(form.field));
      log_debug("grammar: compiled in {:.3f} s, {} bytes", seconds(std::chrono::steady_clock::now() - begin),
                compiled->num_bytes());
      keep({form.kind, form.text}, compiled);
      return std::shared_ptr<const Grammar>(std::move(compiled));
    } catch (const std::exception& error) {
      std::string reason = error.what();
      while (!reason.empty() && (reason.back() == '\n' || reason.back() == ' ')) reason.pop_back();
      return invalid_argument("{}: {}", form.field, reason.substr(0, 400));
    }
  }

  // Half a second where there are 129k tokens, so only when somebody asks.
  xgrammar::GrammarCompiler& library() {
    if (library_) return *library_;
    const xgrammar::TokenizerInfo info(vocabulary_.tokens, xgrammar::VocabType::RAW, std::nullopt,
                                       vocabulary_.end_token_ids);
    vocabulary_ = {};
    return library_.emplace(info, 1, false);
  }

  void keep(Key key, std::shared_ptr<const CompiledForm> form) {
    const std::lock_guard lock(mutex_);
    kept_bytes_ += form->num_bytes();
    recent_.push_front(key);
    kept_.emplace(std::move(key), Kept{std::move(form), recent_.begin()});
    while (kept_bytes_ > limits_.max_kept_bytes && !recent_.empty()) {
      const auto last = kept_.find(recent_.back());
      kept_bytes_ -= last->second.form->num_bytes();
      kept_.erase(last);
      recent_.pop_back();
    }
  }

  GrammarVocabulary vocabulary_;                      // worker; empty once the library has it
  std::optional<xgrammar::GrammarCompiler> library_;  // worker
  const GrammarLimits limits_;

  std::mutex mutex_;
  std::condition_variable came_;
  std::deque<Job> jobs_;
  std::map<Key, Kept> kept_;
  std::list<Key> recent_;  // of what is kept, lately asked for first
  int64_t kept_bytes_ = 0;
  bool stopping_ = false;
  std::thread thread_;  // last: starts when everything else is there
};

}  // namespace

std::unique_ptr<GrammarCompiler> make_grammar_compiler(GrammarVocabulary vocabulary, GrammarLimits limits) {
  SLUICE_CHECK(!vocabulary.end_token_ids.empty(), "a form without an end of sequence never ends");
  return std::make_unique<Compiler>(std::move(vocabulary), limits);
}

}  // namespace sluice
