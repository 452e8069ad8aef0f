#include "server/validate.h"

#include <gmock/gmock.h>

#include <cmath>
#include <functional>
#include <limits>

#include "tests/server/server_fixture.h"

namespace sluice {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

constexpr uint64_t kSeed = 42;

class ValidateTest : public testing::Test {
 protected:
  Services services(bool with_tokenizer = true) {
    return {.frontend = frontend_,
            .queue = queue_,
            .model = model_,
            .tokenizer = with_tokenizer ? &demo_tokenizer() : nullptr,
            .chat_format = ChatFormat::kDeepSeekV2,
            .clock = clock_};
  }
  Result<CheckedRequest> check(const v1::GenerateRequest& request) {
    return check_generate(request, services(), kSeed);
  }
  Result<CheckedRequest> check(const v1::ChatRequest& request) { return check_chat(request, services(), kSeed); }

  static v1::GenerateRequest text(const std::string& prompt = "Once upon a time") {
    v1::GenerateRequest request;
    request.set_text(prompt);
    return request;
  }
  static v1::ChatRequest chat() {
    v1::ChatRequest request;
    v1::Message& message = *request.add_messages();
    message.set_role(v1::ROLE_USER);
    message.set_content("Hello");
    return request;
  }

  SteadyClock clock_;
  RequestQueue queue_{QueueLimits{}};
  ModelInfo model_ = demo_model();
  Frontend frontend_{queue_, nullptr, clock_};
};

TEST_F(ValidateTest, AbsentFieldsTakeTheModelsDefaults) {
  const auto checked = check(text());
  ASSERT_TRUE(checked.ok()) << checked.status().to_string();
  const Request& request = checked->task.request;
  EXPECT_EQ(request.prompt, demo_tokenizer().encode("Once upon a time", true).value());
  EXPECT_EQ(request.prompt[0], 0) << "begin of sequence";
  EXPECT_FLOAT_EQ(request.sampling.temperature, 0.7f);
  EXPECT_FLOAT_EQ(request.sampling.top_p, 0.95f);
  EXPECT_EQ(request.sampling.seed, kSeed);
  EXPECT_EQ(request.stop.max_tokens, 256);
  EXPECT_EQ(request.num_choices, 1);
  EXPECT_EQ(request.num_logprobs, -1);
  EXPECT_EQ(request.num_prompt_logprobs, -1);
  EXPECT_EQ(request.priority, 0);
  EXPECT_EQ(request.deadline, kNever);
  EXPECT_FALSE(checked->echo);
}

TEST_F(ValidateTest, GivenFieldsWinEvenWhenZero) {
  v1::GenerateRequest request = text();
  v1::Sampling& sampling = *request.mutable_sampling();
  sampling.set_temperature(0);
  sampling.set_top_k(5);
  sampling.set_top_p(1);
  sampling.set_min_p(0.5f);
  sampling.set_repetition_penalty(1.5f);
  sampling.set_presence_penalty(-2);
  sampling.set_frequency_penalty(2);
  (*sampling.mutable_logit_bias())[7] = -100;
  sampling.set_seed(-1);
  v1::Stopping& stopping = *request.mutable_stopping();
  stopping.set_max_tokens(9);
  stopping.set_min_tokens(3);
  stopping.add_stop_strings("\n\n");
  stopping.add_stop_token_ids(4095);
  stopping.set_ignore_eos(true);
  request.mutable_output()->set_logprobs(20);
  request.mutable_output()->set_prompt_logprobs(0);
  request.mutable_output()->set_echo(true);
  request.set_n(16);
  request.set_priority(-3);
  request.set_cache_salt("tenant");
  request.set_request_id("mine-1");
  request.set_model("demo-moe");
  const auto checked = check(request);
  ASSERT_TRUE(checked.ok()) << checked.status().to_string();
  const Request& out = checked->task.request;
  EXPECT_EQ(out.sampling.temperature, 0);
  EXPECT_EQ(out.sampling.top_k, 5);
  EXPECT_EQ(out.sampling.top_p, 1);
  EXPECT_EQ(out.sampling.min_p, 0.5f);
  EXPECT_EQ(out.sampling.repetition_penalty, 1.5f);
  EXPECT_EQ(out.sampling.presence_penalty, -2);
  EXPECT_EQ(out.sampling.frequency_penalty, 2);
  EXPECT_EQ(out.sampling.logit_bias.at(7), -100);
  EXPECT_EQ(out.sampling.seed, std::numeric_limits<uint64_t>::max());
  EXPECT_EQ(out.stop.max_tokens, 9);
  EXPECT_EQ(out.stop.min_tokens, 3);
  EXPECT_TRUE(out.stop.ignore_eos);
  EXPECT_THAT(out.stop.stop_token_ids, ElementsAre(4095));
  EXPECT_THAT(checked->task.stop_strings, ElementsAre("\n\n"));
  EXPECT_EQ(out.num_logprobs, 20);
  EXPECT_EQ(out.num_prompt_logprobs, 0);
  EXPECT_EQ(out.num_choices, 16);
  EXPECT_EQ(out.priority, -3);
  EXPECT_EQ(out.cache_salt, "tenant");
  EXPECT_EQ(checked->task.client_id, "mine-1");
  EXPECT_TRUE(checked->echo);
  EXPECT_EQ(checked->prompt_text, "Once upon a time");
}

// Every value out of range is refused with the name of its field in front.
TEST_F(ValidateTest, RefusesValuesOutOfRangeByName) {
  const float nan = std::nanf(""), infinity = std::numeric_limits<float>::infinity();
  struct Case {
    const char* message_start;
    std::function<void(v1::GenerateRequest&)> spoil;
  };
  const auto sampling = [](auto set) {
    return [set](v1::GenerateRequest& request) { set(*request.mutable_sampling()); };
  };
  const auto stopping = [](auto set) {
    return [set](v1::GenerateRequest& request) { set(*request.mutable_stopping()); };
  };
  const std::vector<Case> cases = {
      {"temperature:", sampling([](v1::Sampling& s) { s.set_temperature(-0.1f); })},
      {"temperature:", sampling([=](v1::Sampling& s) { s.set_temperature(nan); })},
      {"temperature:", sampling([=](v1::Sampling& s) { s.set_temperature(infinity); })},
      {"top_k:", sampling([](v1::Sampling& s) { s.set_top_k(-1); })},
      {"top_p:", sampling([](v1::Sampling& s) { s.set_top_p(0); })},
      {"top_p:", sampling([](v1::Sampling& s) { s.set_top_p(1.01f); })},
      {"top_p:", sampling([=](v1::Sampling& s) { s.set_top_p(nan); })},
      {"min_p:", sampling([](v1::Sampling& s) { s.set_min_p(-0.5f); })},
      {"repetition_penalty:", sampling([](v1::Sampling& s) { s.set_repetition_penalty(0); })},
      {"presence_penalty:", sampling([](v1::Sampling& s) { s.set_presence_penalty(2.5f); })},
      {"frequency_penalty:", sampling([=](v1::Sampling& s) { s.set_frequency_penalty(-infinity); })},
      {"logit_bias:", sampling([](v1::Sampling& s) { (*s.mutable_logit_bias())[4096] = 1; })},
      {"logit_bias:", sampling([=](v1::Sampling& s) { (*s.mutable_logit_bias())[1] = nan; })},
      {"max_tokens:", stopping([](v1::Stopping& s) { s.set_max_tokens(0); })},
      {"max_tokens:", stopping([](v1::Stopping& s) { s.set_max_tokens(-5); })},
      {"min_tokens:", stopping([](v1::Stopping& s) { s.set_min_tokens(-1); })},
      {"min_tokens:", stopping([](v1::Stopping& s) { s.set_max_tokens(2), s.set_min_tokens(3); })},
      {"stop_token_ids:", stopping([](v1::Stopping& s) { s.add_stop_token_ids(4096); })},
      {"stop_token_ids:", stopping([](v1::Stopping& s) { s.add_stop_token_ids(0xFFFFFFFF); })},
      {"stop_token_ids:", stopping([](v1::Stopping& s) { s.mutable_stop_token_ids()->Resize(65, 1); })},
      {"stop_strings[0]:", stopping([](v1::Stopping& s) { s.add_stop_strings(""); })},
      {"stop_strings[1]:",
       stopping([](v1::Stopping& s) { s.add_stop_strings("a"), s.add_stop_strings(std::string(257, 'a')); })},
      {"stop_strings[0]:", stopping([](v1::Stopping& s) { s.add_stop_strings("\xC3"); })},
      {"stop_strings:", stopping([](v1::Stopping& s) {
         for (int i = 0; i < 17; ++i) s.add_stop_strings("a");
       })},
      {"logprobs:", [](v1::GenerateRequest& r) { r.mutable_output()->set_logprobs(21); }},
      {"logprobs:", [](v1::GenerateRequest& r) { r.mutable_output()->set_logprobs(-1); }},
      {"prompt_logprobs:", [](v1::GenerateRequest& r) { r.mutable_output()->set_prompt_logprobs(-1); }},
      {"n:", [](v1::GenerateRequest& r) { r.set_n(0); }},
      {"n:", [](v1::GenerateRequest& r) { r.set_n(17); }},
      {"cache_salt:", [](v1::GenerateRequest& r) { r.set_cache_salt(std::string(257, 's')); }},
      {"request_id:", [](v1::GenerateRequest& r) { r.set_request_id("two words"); }},
      {"request_id:", [](v1::GenerateRequest& r) { r.set_request_id(std::string(129, 'r')); }},
      {"prompt:", [](v1::GenerateRequest& r) { r.clear_prompt(); }},
      {"text:", [](v1::GenerateRequest& r) { r.set_text(""); }},
      {"text:", [](v1::GenerateRequest& r) { r.set_text("caf\xE9"); }},
      {"token_ids:", [](v1::GenerateRequest& r) { r.mutable_token_ids(); }},
      {"token_ids:", [](v1::GenerateRequest& r) { r.mutable_token_ids()->add_ids(4096); }},
  };
  for (const Case& item : cases) {
    v1::GenerateRequest request = text();
    item.spoil(request);
    const Status status = check(request).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << item.message_start << " " << status.to_string();
    EXPECT_THAT(status.message(), StartsWith(item.message_start));
  }
}

TEST_F(ValidateTest, APromptLongerThanTheContextIsRefusedWithBothNumbers) {
  v1::GenerateRequest request;
  request.mutable_token_ids()->mutable_ids()->Resize(2047, 5);
  EXPECT_TRUE(check(request).ok());
  request.mutable_token_ids()->add_ids(5);
  const Status status = check(request).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(),
              testing::AllOf(StartsWith("token_ids:"), HasSubstr("2048 tokens"), HasSubstr("holds 2048")));

  std::string words;
  for (int i = 0; i < 3000; ++i) words += "dog ";
  EXPECT_THAT(check(text(words)).status().message(), testing::AllOf(StartsWith("text:"), HasSubstr("holds 2048")));
}

TEST_F(ValidateTest, UnknownModelsAreNotFound) {
  v1::GenerateRequest request = text();
  request.set_model("gpt-17");
  const Status status = check(request).status();
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  EXPECT_THAT(status.message(), testing::AllOf(StartsWith("model:"), HasSubstr("gpt-17"), HasSubstr("demo-moe")));
}

TEST_F(ValidateTest, TextOptionsReachTheTokenizer) {
  v1::GenerateRequest request = text("<\uFF5Cend\u2581of\u2581sentence\uFF5C>");
  request.set_add_bos(false);
  EXPECT_THAT(check(request)->task.request.prompt, ElementsAre(kDemoEos));
  request.set_parse_special(false);
  EXPECT_GT(check(request)->task.request.prompt.size(), 1u);
}

TEST_F(ValidateTest, TokenIdsAreTakenAsTheyAreAndEchoedAsText) {
  v1::GenerateRequest request;
  for (TokenId id : tokens_of_text("Hello dog")) request.mutable_token_ids()->add_ids(static_cast<uint32_t>(id));
  request.mutable_output()->set_echo(true);
  const auto checked = check(request);
  ASSERT_TRUE(checked.ok());
  EXPECT_EQ(checked->task.request.prompt, tokens_of_text("Hello dog"));
  EXPECT_EQ(checked->prompt_text, "Hello dog");
}

TEST_F(ValidateTest, WithoutATokenizerOnlyIdsAreServed) {
  const Services bare = services(false);
  EXPECT_EQ(check_generate(text(), bare, kSeed).status().code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(check_chat(chat(), bare, kSeed).status().code(), StatusCode::kFailedPrecondition);
  v1::GenerateRequest ids;
  ids.mutable_token_ids()->add_ids(3);
  EXPECT_TRUE(check_generate(ids, bare, kSeed).ok());
  ids.mutable_stopping()->add_stop_strings("x");
  const Status status = check_generate(ids, bare, kSeed).status();
  EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), StartsWith("stop_strings:"));
  EXPECT_EQ(check_tokenize({}, bare).status().code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(check_detokenize({}, bare).status().code(), StatusCode::kFailedPrecondition);
}

TEST_F(ValidateTest, RendersChats) {
  v1::ChatRequest request = chat();
  request.mutable_output()->set_echo(true);
  const auto checked = check(request);
  ASSERT_TRUE(checked.ok()) << checked.status().to_string();
  const auto pieces = render_chat(ChatFormat::kDeepSeekV2, {{ChatRole::kUser, "Hello"}}, {});
  EXPECT_EQ(checked->task.request.prompt, demo_tokenizer().encode(*pieces).value());
  EXPECT_THAT(checked->prompt_text, HasSubstr("User: Hello"));
  EXPECT_TRUE(checked->task.strip_leading_space);
}

TEST_F(ValidateTest, RefusesBadChats) {
  v1::ChatRequest no_role = chat();
  no_role.mutable_messages(0)->clear_role();
  EXPECT_THAT(check(no_role).status().message(), StartsWith("messages[0].role:"));
  EXPECT_EQ(check(no_role).status().code(), StatusCode::kInvalidArgument);

  EXPECT_THAT(check(v1::ChatRequest()).status().message(), StartsWith("messages:"));

  v1::ChatRequest answered = chat();
  answered.add_messages()->set_role(v1::ROLE_ASSISTANT);
  EXPECT_THAT(check(answered).status().message(), StartsWith("messages[1].role:"));

  v1::ChatRequest format = chat();
  format.set_chat_format("llama");
  EXPECT_EQ(check(format).status().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(check(format).status().message(), testing::AllOf(StartsWith("chat_format:"), HasSubstr("deepseek-v3.1")));

  v1::ChatRequest invalid = chat();
  invalid.mutable_messages(0)->set_content("\xFF");
  EXPECT_THAT(check(invalid).status().message(), StartsWith("messages[0].content:"));

  v1::ChatRequest endless = chat();
  std::string words;
  for (int i = 0; i < 3000; ++i) words += "dog ";
  endless.mutable_messages(0)->set_content(words);
  EXPECT_THAT(check(endless).status().message(), testing::AllOf(StartsWith("messages:"), HasSubstr("2048")));
}

TEST_F(ValidateTest, AModelWithoutAKnownChatFormatRefusesChatUnlessOneIsNamed) {
  Services unknown = services();
  unknown.chat_format.reset();
  unknown.chat_status = failed_precondition("chat_template: known formats are deepseek-v2");
  v1::ChatRequest request = chat();
  const Status status = check_chat(request, unknown, kSeed).status();
  EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr("deepseek-v2"));
  unknown.chat_status = Status();
  EXPECT_EQ(check_chat(request, unknown, kSeed).status().code(), StatusCode::kFailedPrecondition);
  request.set_chat_format("deepseek-v2");
  EXPECT_TRUE(check_chat(request, unknown, kSeed).ok());
}

TEST_F(ValidateTest, TokenizesAndDetokenizes) {
  v1::TokenizeRequest request;
  request.set_text("Hello dog");
  request.set_add_bos(false);
  EXPECT_EQ(check_tokenize(request, services()).value(), tokens_of_text("Hello dog"));
  v1::DetokenizeRequest back;
  for (TokenId id : tokens_of_text("Hello dog")) back.add_token_ids(static_cast<uint32_t>(id));
  back.add_token_ids(kDemoEos);
  back.set_skip_special(true);
  EXPECT_EQ(check_detokenize(back, services()).value(), "Hello dog");
  back.add_token_ids(1u << 31);
  const Status status = check_detokenize(back, services()).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), StartsWith("token_ids:"));
}

}  // namespace
}  // namespace sluice
