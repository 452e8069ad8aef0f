// What the tests of this room share: the bundled model's tokenizer and description, and a reader that gathers an
// answer.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <fstream>
#include <iterator>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "server/answer_stream.h"
#include "server/frontend.h"
#include "server/services.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/utf8.h"
#include "tests/support/source_file.h"

namespace sluice {

inline const Tokenizer& demo_tokenizer() {
  static const Tokenizer tokenizer = [] {
    Result<Tokenizer> loaded = Tokenizer::load(source_file("configs/demo-moe"));
    EXPECT_TRUE(loaded.ok()) << loaded.status().to_string();
    return std::move(loaded).value();
  }();
  return tokenizer;
}

inline std::vector<TokenId> tokens_of_text(const std::string& text) {
  return demo_tokenizer().encode(text, false).value();
}

// The same with the tags of chats and tool calls that DeepSeek's vocabularies have and the bundled one lacks.
inline const Tokenizer& tagged_tokenizer() {
  static const Tokenizer tokenizer = [] {
    const auto text_of = [](const char* file) {
      std::ifstream in(source_file(std::string("configs/demo-moe/") + file));
      return std::string(std::istreambuf_iterator<char>(in), {});
    };
    auto fields = nlohmann::json::parse(text_of("tokenizer.json"));
    int id = 4096;
    for (const char* tag : {"<｜User｜>", "<｜Assistant｜>", "<think>", "</think>", "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>",
                            "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>", "<｜tool▁outputs▁begin｜>",
                            "<｜tool▁outputs▁end｜>", "<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>"}) {
      auto added = fields["added_tokens"][0];
      added["id"] = id++;
      added["content"] = tag;
      fields["added_tokens"].push_back(added);
    }
    Result<Tokenizer> parsed = Tokenizer::parse(fields.dump(), text_of("tokenizer_config.json"));
    EXPECT_TRUE(parsed.ok()) << parsed.status().to_string();
    return std::move(parsed).value();
  }();
  return tokenizer;
}

// One token per byte: the vocabulary holds every single byte.
inline std::vector<TokenId> tokens_of_bytes(const std::string& bytes) {
  std::vector<TokenId> ids;
  for (char byte : bytes) ids.push_back(demo_tokenizer().id_of(std::string_view(&byte, 1)).value());
  return ids;
}

constexpr TokenId kDemoEos = 1;

// A clock that stands still until a test moves it, read by several threads.
class SharedManualClock final : public Clock {
 public:
  TimePoint now() const override { return TimePoint(Duration(now_.load())); }
  void advance(Duration duration) { now_ += duration.count(); }

 private:
  std::atomic<int64_t> now_{Duration(std::chrono::hours(1)).count()};
};

inline ModelInfo demo_model() {
  ModelInfo info;
  info.name = "demo-moe";
  info.architecture = "deepseek_v2";
  info.weights = "bf16";
  info.device = "cpu (test)";
  info.vocab_size = 4096;
  info.context_length = 2048;
  info.num_parameters = 1000;
  info.num_active_parameters = 100;
  info.eos_token_ids = {kDemoEos};
  info.bos_token_id = 0;
  info.default_sampling.temperature = 0.7f;
  info.default_sampling.top_p = 0.95f;
  info.default_max_tokens = 256;
  return info;
}

// Takes whatever comes, as a client that always reads.
class GatheringReader final : public AnswerReader {
 public:
  void begin(std::shared_ptr<AnswerStream> stream) {
    stream_ = std::move(stream);
    on_ready();
  }

  void on_ready() override {
    while (true) {
      AnswerStream::Batch batch = stream_->take();
      if (batch.empty()) return;
      std::lock_guard lock(mutex_);
      for (GenerationDelta& delta : batch.deltas) add(delta);
      if (!batch.end) continue;
      end_ = std::move(batch.end);
      ended_.notify_all();
      return;
    }
  }

  void on_stalled() override { ADD_FAILURE() << "a reader that reads was dropped"; }

  GenerationEnd wait() {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(ended_.wait_for(lock, std::chrono::seconds(20), [this] { return end_.has_value(); }));
    return end_.value_or(GenerationEnd{});
  }

  // Joined over all deltas; after wait().
  GenerationDelta choice(int32_t index = 0) {
    std::lock_guard lock(mutex_);
    return choices_[index];
  }
  int num_deltas() {
    std::lock_guard lock(mutex_);
    return num_deltas_;
  }

 private:
  void add(GenerationDelta& delta) {
    ++num_deltas_;
    GenerationDelta& whole = choices_[delta.choice];
    EXPECT_EQ(whole.finish, FinishReason::kNone) << "a delta after the choice's end";
    EXPECT_EQ(valid_utf8_prefix(delta.text), delta.text.size()) << "half a character";
    whole.choice = delta.choice;
    whole.text += delta.text;
    whole.token_ids.insert(whole.token_ids.end(), delta.token_ids.begin(), delta.token_ids.end());
    whole.logprobs.insert(whole.logprobs.end(), delta.logprobs.begin(), delta.logprobs.end());
    whole.prompt_logprobs.insert(whole.prompt_logprobs.end(), delta.prompt_logprobs.begin(),
                                 delta.prompt_logprobs.end());
    whole.finish = delta.finish;
    whole.matched_stop = delta.matched_stop;
    whole.matched_token = delta.matched_token;
  }

  std::shared_ptr<AnswerStream> stream_;
  std::mutex mutex_;
  std::condition_variable ended_;
  std::map<int32_t, GenerationDelta> choices_;
  int num_deltas_ = 0;
  std::optional<GenerationEnd> end_;
};

}  // namespace sluice
