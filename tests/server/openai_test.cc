// OpenAI's API without sockets: bodies to requests, answers to bodies and events.
#include <gmock/gmock.h>

#include <random>

#include "server/openai_answer.h"
#include "server/openai_request.h"
#include "tests/server/server_fixture.h"

namespace sluice {
namespace {

using json = Json;
using testing::HasSubstr;
using testing::StartsWith;

class OpenAiTest : public testing::Test {
 protected:
  Services services(ChatFormat format = ChatFormat::kDeepSeekV2) {
    return {.frontend = frontend_,
            .queue = queue_,
            .model = model_,
            .tokenizer = &demo_tokenizer(),
            .chat_format = format,
            .clock = clock_};
  }
  OpenAiRequest completion(const json& body) {
    Result<OpenAiRequest> read = read_completion(body.dump(), services(), 77);
    EXPECT_TRUE(read.ok()) << read.status().to_string();
    return std::move(read).value();
  }
  OpenAiRequest chat(const json& body) {
    Result<OpenAiRequest> read = read_chat_completion(body.dump(), services(), 77);
    EXPECT_TRUE(read.ok()) << read.status().to_string();
    return std::move(read).value();
  }
  void expect_error(bool is_chat, const std::string& body, StatusCode code, const std::string& start) {
    const auto read = is_chat ? read_chat_completion(body, services(), 77) : read_completion(body, services(), 77);
    ASSERT_FALSE(read.ok()) << body;
    EXPECT_EQ(read.status().code(), code) << body << ": " << read.status().to_string();
    EXPECT_THAT(read.status().message(), StartsWith(start)) << body;
  }

  static GenerationDelta delta(const std::string& text, FinishReason finish = FinishReason::kNone) {
    GenerationDelta result;
    result.text = text;
    result.token_ids = tokens_of_text(text);
    for (const TokenId token : result.token_ids)
      result.logprobs.push_back({TokenLogprob{token, -0.5f}, {{token, -0.5f}}});
    result.finish = finish;
    return result;
  }
  static GenerationEnd end_of(int32_t prompt, int32_t completion) {
    GenerationEnd end;
    end.usage = {.prompt_tokens = prompt, .cached_prompt_tokens = 1, .completion_tokens = completion};
    return end;
  }
  // The JSON of each event; the last one must be the mark of the end.
  static std::vector<json> events_of(const std::string& text, bool ended = true) {
    std::vector<json> events;
    size_t at = 0;
    while (at < text.size()) {
      const size_t stop = text.find("\n\n", at);
      EXPECT_NE(stop, std::string::npos) << text;
      EXPECT_EQ(text.substr(at, 6), "data: ");
      const std::string data = text.substr(at + 6, stop - at - 6);
      at = stop + 2;
      if (data == "[DONE]") {
        EXPECT_TRUE(ended && at == text.size());
        return events;
      }
      events.push_back(json::parse(data));
    }
    EXPECT_FALSE(ended) << "no end";
    return events;
  }

  SteadyClock clock_;
  RequestQueue queue_{QueueLimits{}};
  Frontend frontend_{queue_, &demo_tokenizer(), clock_};
  ModelInfo model_ = demo_model();
};

// ---- requests

TEST_F(OpenAiTest, FormsComeInOpenAisWordsAndInVllms) {
  Services with = services();
  with.has_grammars = true;
  const auto form_of = [&](const json& more) {
    json body = {{"messages", json::array({{{"role", "user"}, {"content", "Hi"}}})}};
    body.update(more);
    Result<OpenAiRequest> read = read_chat_completion(body.dump(), with, 77);
    EXPECT_TRUE(read.ok()) << read.status().to_string();
    return read.ok() ? read->checked.task.form.value_or(OutputForm{}) : OutputForm{};
  };
  const json schema = {{"type", "object"}};
  const OutputForm by_schema =
      form_of({{"response_format",
                {{"type", "json_schema"}, {"json_schema", {{"name", "x"}, {"strict", true}, {"schema", schema}}}}}});
  EXPECT_EQ(by_schema.kind, FormKind::kJsonSchema);
  EXPECT_EQ(by_schema.text, R"({"type":"object"})");
  EXPECT_EQ(by_schema.field, "response_format");
  EXPECT_EQ(form_of({{"response_format", {{"type", "json_object"}}}}).field, "response_format");
  EXPECT_EQ(form_of({{"response_format", {{"type", "text"}}}}).field, "");
  EXPECT_EQ(form_of({{"guided_json", schema}}).kind, FormKind::kJsonSchema);
  // The answer's keys come in the schema's order, which is the client's.
  const char* ordered = R"({"type":"object","properties":{"why":{},"answer":{}},"required":["why","answer"]})";
  EXPECT_EQ(form_of({{"guided_json", json::parse(ordered)}}).text, ordered);
  EXPECT_EQ(form_of({{"guided_json", R"({"a": 1})"}}).text, R"({"a": 1})");
  EXPECT_EQ(form_of({{"guided_regex", "a+"}}).kind, FormKind::kRegex);
  EXPECT_EQ(form_of({{"structured_outputs", {{"grammar", "root ::= \"a\""}}}}).field, "structured_outputs");
  const OutputForm choice = form_of({{"guided_choice", {"yes", "n\"o\n"}}});
  EXPECT_EQ(choice.kind, FormKind::kGrammar);
  EXPECT_EQ(choice.text, R"(root ::= "yes" | "n\"o\x0a")");
  EXPECT_EQ(choice.field, "guided_choice");

  const json body = {{"prompt", "a"}, {"response_format", {{"type", "json_object"}}}};
  expect_error(false, body.dump(), StatusCode::kFailedPrecondition,
               "response_format: this server was built without grammars");
  model_.eos_token_ids.clear();
  expect_error(false, body.dump(), StatusCode::kFailedPrecondition,
               "response_format: the model \"demo-moe\" names no end");
}

TEST_F(OpenAiTest, AThoughtComesBeforeTheForm) {
  Services with = services(ChatFormat::kDeepSeekR1);
  with.has_grammars = true;
  with.tokenizer = &tagged_tokenizer();
  const json body = {{"messages", json::array({{{"role", "user"}, {"content", "Hi"}}})}, {"guided_regex", "a"}};
  const Result<OpenAiRequest> read = read_chat_completion(body.dump(), with, 77);
  ASSERT_TRUE(read.ok()) << read.status().to_string();
  ASSERT_TRUE(read->checked.task.request.grammar_after.has_value());
  EXPECT_EQ(read->checked.task.request.grammar_after, tagged_tokenizer().id_of("</think>"));
  EXPECT_TRUE(read->thinks);
}

TEST_F(OpenAiTest, ToolsThatMustBeCalledAreAForm) {
  Services with = services(ChatFormat::kDeepSeekV31);
  with.has_grammars = true;
  with.tokenizer = &tagged_tokenizer();
  const auto tag_of = [&](const json& choice, bool strict, bool parallel = true) -> json {
    json function = {{"name", "f"},
                     {"parameters", {{"type", "object"}, {"properties", {{"x", {{"type", "integer"}}}}}}}};
    if (strict) function["strict"] = true;
    const json body = {{"messages", json::array({{{"role", "user"}, {"content", "Hi"}}})},
                       {"tools", json::array({{{"type", "function"}, {"function", function}},
                                              {{"type", "function"}, {"function", {{"name", "g"}}}}})},
                       {"parallel_tool_calls", parallel},
                       {"tool_choice", choice}};
    const Result<OpenAiRequest> read = read_chat_completion(body.dump(), with, 77);
    EXPECT_TRUE(read.ok()) << read.status().to_string();
    if (!read.ok() || !read->checked.task.form) return nullptr;
    return json::parse(read->checked.task.form->text)["format"];
  };
  EXPECT_EQ(tag_of("auto", false), nullptr);
  EXPECT_EQ(tag_of("none", true), nullptr);
  EXPECT_EQ(tag_of("auto", true)["type"], "token_triggered_tags");  // the tag is one token here
  const json required = tag_of("required", false);
  EXPECT_EQ(required["elements"][1]["type"], "plus");
  EXPECT_EQ(required["elements"][1]["content"]["elements"].size(), 2u);
  EXPECT_EQ(tag_of("required", false, false)["elements"][1]["type"], "or");
  const json named = tag_of({{"type", "function"}, {"function", {{"name", "f"}}}}, false);
  EXPECT_EQ(named["elements"][1]["elements"].size(), 1u);
  EXPECT_EQ(named["elements"][1]["elements"][0]["elements"][1]["value"], "f");
}

TEST_F(OpenAiTest, ANumberBeyondDoublesIsAnError) {
  for (const char* number : {"1e999", "22E2922222", "-1e400"})
    expect_error(false, fmt::format(R"({{"prompt": {}}})", number), StatusCode::kInvalidArgument,
                 "body: holds a number beyond the range of a double");
}

TEST_F(OpenAiTest, ACompletionIsReadWhole) {
  const OpenAiRequest read = completion({{"model", "demo-moe"},
                                         {"prompt", "Once"},
                                         {"max_tokens", 9},
                                         {"temperature", 0.5},
                                         {"top_p", 0.9},
                                         {"top_k", -1},
                                         {"n", 2},
                                         {"stop", {"a", "b"}},
                                         {"seed", 5},
                                         {"logit_bias", {{"7", -100}}},
                                         {"presence_penalty", 1},
                                         {"logprobs", 3},
                                         {"echo", true},
                                         {"stream", true},
                                         {"stream_options", {{"include_usage", true}}},
                                         {"user", "me"},
                                         {"best_of", 2},
                                         {"suffix", nullptr}});
  const Request& request = read.checked.task.request;
  EXPECT_EQ(request.stop.max_tokens, 9);
  EXPECT_FLOAT_EQ(request.sampling.temperature, 0.5f);
  EXPECT_FLOAT_EQ(request.sampling.top_p, 0.9f);
  EXPECT_EQ(request.sampling.top_k, 0);
  EXPECT_EQ(request.sampling.seed, 5u);
  EXPECT_EQ(request.sampling.logit_bias, (std::map<TokenId, float>{{7, -100.0f}}));
  EXPECT_EQ(request.num_choices, 2);
  EXPECT_EQ(request.num_logprobs, 3);
  EXPECT_EQ(request.num_prompt_logprobs, 3);
  EXPECT_EQ(read.checked.task.stop_strings, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(read.checked.prompt_text, "Once");
  EXPECT_TRUE(read.echo && read.stream && read.include_usage && read.logprobs);
}

TEST_F(OpenAiTest, DefaultsAreOpenAisOrTheModels) {
  const Request text = completion({{"prompt", "Once"}}).checked.task.request;
  EXPECT_EQ(text.stop.max_tokens, 16);
  EXPECT_FLOAT_EQ(text.sampling.temperature, model_.default_sampling.temperature);
  EXPECT_EQ(text.sampling.seed, 77u);
  const json messages = {{{"role", "user"}, {"content", "Hi"}}};
  EXPECT_EQ(chat({{"messages", messages}}).checked.task.request.stop.max_tokens, model_.default_max_tokens);
  EXPECT_EQ(chat({{"messages", messages}, {"max_tokens", 5}, {"max_completion_tokens", 6}})
                .checked.task.request.stop.max_tokens,
            6);
}

TEST_F(OpenAiTest, PromptsComeInManyForms) {
  const std::vector<TokenId> expected = completion({{"prompt", "Once"}}).checked.task.request.prompt;
  EXPECT_EQ(completion({{"prompt", json::array({"Once"})}}).checked.task.request.prompt, expected);
  EXPECT_EQ(completion({{"prompt", expected}}).checked.task.request.prompt, expected);
  EXPECT_EQ(completion({{"prompt", json::array({expected})}}).checked.task.request.prompt, expected);
  EXPECT_TRUE(completion({{"prompt", "Once"}, {"echo", true}, {"max_tokens", 0}}).only_prompt);
}

TEST_F(OpenAiTest, ContentMayComeInParts) {
  const json parts = {{{"type", "text"}, {"text", "Tell "}}, {{"type", "text"}, {"text", "me"}}};
  const auto one = chat({{"messages", {{{"role", "user"}, {"content", "Tell me"}}}}}).checked.task.request.prompt;
  const auto two = chat({{"messages", {{{"role", "user"}, {"content", parts}}}}}).checked.task.request.prompt;
  EXPECT_EQ(one, two);
  const json developer = {{{"role", "developer"}, {"content", "S"}}, {{"role", "user"}, {"content", "U"}}};
  const json system = {{{"role", "system"}, {"content", "S"}}, {{"role", "user"}, {"content", "U"}}};
  EXPECT_EQ(chat({{"messages", developer}}).checked.task.request.prompt,
            chat({{"messages", system}}).checked.task.request.prompt);
}

TEST_F(OpenAiTest, ErrorsNameTheFieldAsTheClientWroteIt) {
  const StatusCode invalid = StatusCode::kInvalidArgument, unsupported = StatusCode::kUnimplemented;
  expect_error(false, "", invalid, "body: is not valid JSON");
  expect_error(false, "[1]", invalid, "body: expected a JSON object, found an array");
  expect_error(false, "{\"prompt\": \"\xff\"}", invalid, "body: is not valid JSON");
  expect_error(false, std::string(100'000, '['), invalid, "body: is not valid JSON");
  expect_error(false, "{}", invalid, "prompt: must be given");
  expect_error(false, R"({"prompt": ""})", invalid, "prompt: must not be empty");
  expect_error(false, R"({"prompt": []})", invalid, "prompt: must not be empty");
  expect_error(false, R"({"prompt": {"a": 1}})", invalid, "prompt: expected a string or an array");
  expect_error(false, R"({"prompt": [1, -2]})", invalid, "prompt: expected token ids");
  expect_error(false, R"({"prompt": [5000]})", invalid, "prompt: token id must be in [0, 4096), got 5000");
  expect_error(false, R"({"prompt": ["a", "b"]})", unsupported, "prompt: expected one prompt a request, found 2");
  expect_error(false, R"({"prompt": "a", "max_token": 3})", invalid, "max_token: unknown field");
  expect_error(false, R"({"prompt": "a", "max_tokens": "3"})", invalid,
               "max_tokens: expected an integer, found a string");
  expect_error(false, R"({"prompt": "a", "max_tokens": 1.5})", invalid,
               "max_tokens: expected an integer, found a number with a fraction");
  expect_error(false, R"({"prompt": "a", "max_tokens": 0})", invalid, "max_tokens:");
  expect_error(false, R"({"prompt": "a", "max_tokens": 99999999999})", invalid, "max_tokens: 99999999999 is out");
  expect_error(false, R"({"prompt": "a", "seed": 18446744073709551615})", invalid, "seed: expected an integer");
  expect_error(false, R"({"prompt": "a", "temperature": -1})", invalid, "temperature:");
  expect_error(false, R"({"prompt": "a", "n": 17})", invalid, "n: must be in [1, 16], got 17");
  expect_error(false, R"({"prompt": "a", "stop": ["x", ""]})", invalid, "stop[1]: must have 1 to 256 bytes");
  expect_error(false, R"({"prompt": "a", "stop": 3})", invalid, "stop: expected a string or an array of strings");
  expect_error(false, R"({"prompt": "a", "logit_bias": {"x": 1}})", invalid, "logit_bias: expected token ids");
  expect_error(false, R"({"prompt": "a", "logit_bias": {"5000": 1}})", invalid, "logit_bias: token id must be");
  expect_error(false, R"({"prompt": "a", "logprobs": 21})", invalid, "logprobs: must be in [0, 20]");
  expect_error(false, R"({"prompt": "a", "best_of": 3})", unsupported, "best_of: must equal n");
  expect_error(false, R"({"prompt": "a", "suffix": "b"})", unsupported, "suffix: is not supported");
  expect_error(false, R"({"prompt": "a", "stream_options": {"x": 1}})", invalid, "stream_options.x: unknown field");
  expect_error(false, R"({"prompt": "a", "model": "other"})", StatusCode::kNotFound, "model: \"other\" is not served");
  expect_error(true, "{}", invalid, "messages: must be given");
  expect_error(true, R"({"messages": []})", invalid, "messages: expected at least one");
  expect_error(true, R"({"messages": [{"role": "robot"}]})", invalid, "messages[0].role: expected system");
  expect_error(true, R"({"messages": [{"role": "user", "content": 3}]})", invalid, "messages[0].content: expected");
  expect_error(true, R"({"messages": [{"role": "user", "content": "a", "kontent": 1}]})", invalid,
               "messages[0].kontent: unknown field");
  expect_error(true, R"({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})", unsupported,
               "messages[0].content[0].type: only");
  const std::string hi = R"("messages": [{"role": "user", "content": "Hi"}])";
  expect_error(true, "{" + hi + R"(, "top_logprobs": 2})", invalid, "top_logprobs: needs");
  const auto expect_format = [&](const std::string& field, const char* start) {
    expect_error(true, "{" + hi + ", " + field + "}", invalid, start);
  };
  expect_format(R"("response_format": "json")", "response_format: expected an object with a type, found a string");
  expect_format(R"("response_format": {"type": "yaml"})",
                "response_format.type: expected text, json_object, json_schema");
  expect_format(R"("response_format": {"type": "json_schema"})", "response_format.json_schema: expected an object");
  expect_format(R"("response_format": {"type": "json_schema", "json_schema": {"name": "x"}})",
                "response_format.json_schema.schema: expected a JSON schema");
  expect_format(R"("response_format": {"type": "json_object", "x": 1})", "response_format.x: unknown field");
  expect_format(R"("response_format": {"type": "json_object"}, "guided_regex": "a")",
                "guided_regex: response_format asks for a form already");
  expect_format(R"("guided_json": "{")", "guided_json: is not valid JSON from byte");
  expect_format(R"("guided_json": "[]")", "guided_json: expected a JSON object");
  expect_format(R"("guided_regex": 3)", "guided_regex: expected a string, found an integer");
  expect_format(R"("guided_regex": "")", "guided_regex: must have 1 to 65536 bytes, got 0");
  expect_format(R"("guided_choice": [])", "guided_choice: count: must be in [1, 1024], got 0");
  expect_format(R"("guided_choice": ["a", 3])", "guided_choice: expected a list of strings");
  expect_format(R"("structured_outputs": {"regex": "a", "json": {}})",
                "structured_outputs: expected one form, found two");
  expect_format(R"("structured_outputs": {"regexp": "a"})", "structured_outputs.regexp: unknown field");
  std::string deep;
  for (int i = 0; i < 40; ++i) deep += R"({"items": )";
  expect_format(R"("guided_json": )" + deep + "{}" + std::string(40, '}'), "guided_json: is nested more than 32 deep");
  expect_format(R"("tool_choice": "required")", "tool_choice: there are no tools");
  expect_format(R"("tool_choice": "perhaps")", "tool_choice: expected \"auto\"");
  expect_format(R"("tool_choice": {"type": "function", "function": {"name": "g"}})",
                "tool_choice.function.name: \"g\" is none of the tools");
  expect_error(true, "{" + hi + R"(, "tools": [{"type": "function", "function": {"name": "f"}}]})",
               StatusCode::kFailedPrecondition, "tools: the chat format deepseek-v2 has no layout for tools");
}

// Bodies with bytes changed, cut and doubled: whatever they mean now, there is a request or an error that says
// something.
TEST_F(OpenAiTest, MutatedBodiesAreReadOrRefused) {
  const std::vector<std::string> seeds = {
      R"({"model": "demo-moe", "prompt": ["Once"], "max_tokens": 9, "stop": ["a"], "logit_bias": {"7": -1.5}, "seed": 5})",
      R"({"prompt": [1, 2, 3], "n": 2, "logprobs": 3, "echo": true, "stream": true, "stream_options": {"include_usage": true}})",
      R"({"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
          "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}], "tool_choice": "none"})",
      R"({"messages": [{"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
          {"role": "tool", "content": "x"}], "top_logprobs": 3, "logprobs": true, "chat_template_kwargs": {"thinking": true}})"};
  std::mt19937 random(11);
  int num_read = 0;
  for (int round = 0; round < 4000; ++round) {
    std::string body = seeds[random() % seeds.size()];
    for (uint32_t edits = 1 + random() % 3; edits > 0 && !body.empty(); --edits) {
      const size_t at = random() % body.size(), length = random() % 12;
      switch (random() % 3) {
        case 0:
          body[at] = static_cast<char>(random());
          break;
        case 1:
          body.erase(at, length);
          break;
        case 2:
          body.insert(at, body.substr(random() % body.size(), length));
          break;
      }
    }
    for (const auto& read : {read_completion(body, services(), 1), read_chat_completion(body, services(), 1)}) {
      num_read += read.ok();
      const std::string error = openai_error(read.status()).dump(-1, ' ', false, json::error_handler_t::replace);
      EXPECT_TRUE(read.ok() || error.find("\"message\":\"\"") == std::string::npos) << body;
    }
  }
  EXPECT_GT(num_read, 100) << "nearly nothing got past the parser";
}

TEST_F(OpenAiTest, ToolsAreReadForFormatsThatHaveThem) {
  // The demo tokenizer lacks DeepSeek's tags, so the prompt cannot be made; what comes before that is checked here.
  const json body = {
      {"messages", {{{"role", "user"}, {"content", "Rain?"}}}},
      {"tools",
       {{{"type", "function"},
         {"function", {{"name", "f"}, {"parameters", {{"type", "object"}, {"properties", {{"a", {1, 2}}}}}}}}}}}};
  JsonBody fields(body);
  const auto tools = read_tools(fields);
  ASSERT_TRUE(tools.ok()) << tools.status().to_string();
  ASSERT_EQ(tools->tools.size(), 1u);
  EXPECT_EQ(tools->tools.front().parameters, R"({"type": "object", "properties": {"a": [1, 2]}})");
  const json turn = {
      {"messages",
       {{{"role", "assistant"},
         {"content", nullptr},
         {"tool_calls", {{{"id", "x"}, {"type", "function"}, {"function", {{"name", "f"}, {"arguments", "{}"}}}}}}},
        {{"role", "tool"}, {"tool_call_id", "x"}, {"content", "wet"}}}}};
  JsonBody turns(turn);
  const auto messages = read_messages(turns);
  ASSERT_TRUE(messages.ok()) << messages.status().to_string();
  EXPECT_EQ(messages->at(0).tool_calls.at(0).name, "f");
  EXPECT_EQ(messages->at(1).role, ChatRole::kTool);
  json deep = json::object();
  for (int i = 0; i < 100; ++i) deep = {{"x", deep}};
  json nested = body;
  nested["tools"][0]["function"]["parameters"] = deep;
  JsonBody too_deep(nested);
  EXPECT_THAT(read_tools(too_deep).status().message(), HasSubstr("nested more than 32 deep"));
}

// ---- answers

TEST_F(OpenAiTest, AWholeCompletion) {
  OpenAiAnswer answer(completion({{"prompt", "Once"}}), "id1", 1234, services());
  const json body = json::parse(answer.whole({{delta(" upon a time", FinishReason::kLength)}, end_of(5, 3)}));
  EXPECT_EQ(body["id"], "cmpl-id1");
  EXPECT_EQ(body["object"], "text_completion");
  EXPECT_EQ(body["created"], 1234);
  EXPECT_EQ(body["model"], "demo-moe");
  EXPECT_EQ(body["choices"][0]["text"], " upon a time");
  EXPECT_EQ(body["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(body["choices"][0]["logprobs"], nullptr);
  EXPECT_EQ(body["usage"]["prompt_tokens"], 5);
  EXPECT_EQ(body["usage"]["completion_tokens"], 3);
  EXPECT_EQ(body["usage"]["total_tokens"], 8);
  EXPECT_EQ(body["usage"]["prompt_tokens_details"]["cached_tokens"], 1);
}

TEST_F(OpenAiTest, EchoPutsThePromptInFrontOfTextAndLogprobs) {
  const OpenAiRequest request = completion({{"prompt", "Once ü"}, {"echo", true}, {"logprobs", 1}});
  const std::vector<TokenId>& prompt = request.checked.task.request.prompt;
  GenerationDelta generated = delta(" upon", FinishReason::kStop);
  for (size_t i = 0; i < prompt.size(); ++i) {
    PositionLogprobs position;
    if (i > 0) position = {TokenLogprob{prompt[i], -2.0f}, {{9, -std::numeric_limits<float>::infinity()}}};
    generated.prompt_logprobs.push_back(position);
  }
  const size_t num_generated = generated.token_ids.size();
  OpenAiAnswer answer(request, "x", 0, services());
  const json choice = json::parse(answer.whole({{generated}, end_of(5, 1)}))["choices"][0];
  EXPECT_EQ(choice["text"], "Once ü upon");
  const json& logprobs = choice["logprobs"];
  for (const char* list : {"tokens", "token_logprobs", "top_logprobs", "text_offset"})
    ASSERT_EQ(logprobs[list].size(), prompt.size() + num_generated) << list;
  EXPECT_EQ(logprobs["token_logprobs"][0], nullptr);
  EXPECT_EQ(logprobs["top_logprobs"][0], nullptr);
  EXPECT_EQ(logprobs["token_logprobs"][1], -2.0);
  EXPECT_EQ(logprobs["top_logprobs"][1].size(), 2u) << "the candidate, and the token itself";
  EXPECT_THAT(logprobs["top_logprobs"][1].dump(), HasSubstr("-9999"));
  EXPECT_EQ(logprobs["token_logprobs"].back(), -0.5);
}

TEST_F(OpenAiTest, OnlyThePromptIsShownForNoTokens) {
  const OpenAiRequest request = completion({{"prompt", "Once"}, {"echo", true}, {"logprobs", 0}, {"max_tokens", 0}});
  OpenAiAnswer answer(request, "x", 0, services());
  const json body = json::parse(answer.whole({{delta(" upon", FinishReason::kLength)}, end_of(5, 1)}));
  EXPECT_EQ(body["choices"][0]["text"], "Once");
  EXPECT_EQ(body["choices"][0]["logprobs"]["tokens"].size(), request.checked.task.request.prompt.size());
  EXPECT_EQ(body["usage"]["completion_tokens"], 0);
}

TEST_F(OpenAiTest, BytesThatAreNoTextAreEscaped) {
  const OpenAiRequest request = completion({{"prompt", "Once"}, {"logprobs", 0}});
  GenerationDelta half;
  half.token_ids = tokens_of_bytes("\xc3");
  half.logprobs = {{TokenLogprob{half.token_ids[0], -1}, {}}};
  half.finish = FinishReason::kLength;
  OpenAiAnswer answer(request, "x", 0, services());
  const json body = json::parse(answer.whole({{half}, end_of(1, 1)}));
  EXPECT_EQ(body["choices"][0]["logprobs"]["tokens"][0], "bytes:\\xc3");
}

TEST_F(OpenAiTest, AStreamOfTextEndsWithUsageAndItsMark) {
  OpenAiAnswer answer(completion({{"prompt", "x"}, {"stream", true}, {"stream_options", {{"include_usage", true}}}}),
                      "x", 0, services());
  std::vector<json> events = events_of(answer.events({{delta(" a")}, {}}), false);
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0]["choices"][0]["text"], " a");
  EXPECT_EQ(events[0]["choices"][0]["finish_reason"], nullptr);
  EXPECT_EQ(events[0]["usage"], nullptr);
  EXPECT_EQ(answer.events({{delta("")}, {}}), "") << "nothing to see";
  events = events_of(answer.events({{delta(" b", FinishReason::kStop)}, end_of(2, 4)}));
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0]["choices"][0]["finish_reason"], "stop");
  EXPECT_TRUE(events[1]["choices"].empty());
  EXPECT_EQ(events[1]["usage"]["completion_tokens"], 4);
}

TEST_F(OpenAiTest, AStreamThatFailsSaysWhy) {
  OpenAiAnswer answer(completion({{"prompt", "x"}, {"stream", true}}), "x", 0, services());
  answer.events({{delta(" a")}, {}});
  GenerationEnd end = end_of(1, 1);
  end.status = internal_error("the step failed");
  const std::vector<json> events = events_of(answer.events({{}, end}));
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0]["error"]["message"], "the step failed");
  EXPECT_EQ(events[0]["error"]["type"], "server_error");
}

TEST_F(OpenAiTest, AChatStreamBeginsWithTheRole) {
  const json messages = {{{"role", "user"}, {"content", "Hi"}}};
  OpenAiAnswer answer(chat({{"messages", messages}, {"stream", true}}), "x", 0, services());
  std::vector<json> events = events_of(answer.events({{delta("Hello")}, {}}), false);
  EXPECT_EQ(events[0]["object"], "chat.completion.chunk");
  EXPECT_EQ(events[0]["choices"][0]["delta"], (json{{"content", "Hello"}, {"role", "assistant"}}));
  events = events_of(answer.events({{delta(" you")}, {}}), false);
  EXPECT_EQ(events[0]["choices"][0]["delta"], (json{{"content", " you"}}));
  events = events_of(answer.events({{delta("", FinishReason::kStop)}, end_of(1, 3)}));
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0]["choices"][0]["delta"], json::object());
  EXPECT_EQ(events[0]["choices"][0]["finish_reason"], "stop");
}

TEST_F(OpenAiTest, ThoughtsAndCallsAreKeptApart) {
  OpenAiRequest request = chat({{"messages", {{{"role", "user"}, {"content", "Hi"}}}}});
  request.thinks = true;
  request.calls = CallLayout::kTags;
  const std::string text =
      "hm</think>Yes.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"a\": "
      "1}<｜tool▁call▁end｜><｜tool▁calls▁end｜>";
  GenerationDelta all;
  all.text = text;
  all.finish = FinishReason::kStop;
  OpenAiAnswer whole(request, "x", 0, services());
  const json choice = json::parse(whole.whole({{all}, end_of(1, 3)}))["choices"][0];
  EXPECT_EQ(choice["message"]["role"], "assistant");
  EXPECT_EQ(choice["message"]["reasoning_content"], "hm");
  EXPECT_EQ(choice["message"]["content"], "Yes.");
  ASSERT_EQ(choice["message"]["tool_calls"].size(), 1u);
  const json& call = choice["message"]["tool_calls"][0];
  EXPECT_EQ(call["type"], "function");
  EXPECT_THAT(call["id"], StartsWith("call_x_0_0"));
  EXPECT_EQ(call["function"], (json{{"arguments", "{\"a\": 1}"}, {"name", "f"}}));
  EXPECT_EQ(choice["finish_reason"], "tool_calls");

  request.stream = true;
  OpenAiAnswer stream(request, "x", 0, services());
  std::string reasoning, content, arguments, name;
  for (const char byte : text) {
    GenerationDelta piece;
    piece.text = byte;
    for (const json& event : events_of(stream.events({{piece}, {}}), false)) {
      const json& part = event["choices"][0]["delta"];
      reasoning += part.value("reasoning_content", "");
      content += part.value("content", "");
      for (const json& of_call : part.value("tool_calls", json::array())) {
        EXPECT_EQ(of_call["index"], 0);
        name += of_call["function"].value("name", "");
        arguments += of_call["function"]["arguments"].get<std::string>();
      }
    }
  }
  EXPECT_EQ(reasoning, "hm");
  EXPECT_EQ(content, "Yes.");
  EXPECT_EQ(name, "f");
  EXPECT_EQ(arguments, "{\"a\": 1}");
}

TEST_F(OpenAiTest, ChatLogprobsHaveBytes) {
  OpenAiRequest request =
      chat({{"messages", {{{"role", "user"}, {"content", "Hi"}}}}, {"logprobs", true}, {"top_logprobs", 1}});
  OpenAiAnswer answer(request, "x", 0, services());
  const json choice = json::parse(answer.whole({{delta("dog", FinishReason::kStop)}, end_of(1, 1)}))["choices"][0];
  std::string text;
  for (const json& entry : choice["logprobs"]["content"]) {
    EXPECT_EQ(entry["logprob"], -0.5);
    EXPECT_EQ(entry["top_logprobs"].size(), 1u);
    for (const json& byte : entry["bytes"]) text += static_cast<char>(byte.get<int>());
  }
  EXPECT_EQ(text, "dog");
}

TEST(OpenAiError, HasTheFieldAndTheKind) {
  const json error = openai_error(invalid_argument("messages[0].role: must be x"))["error"];
  EXPECT_EQ(error["param"], "messages[0].role");
  EXPECT_EQ(error["type"], "invalid_request_error");
  EXPECT_EQ(error["code"], nullptr);
  EXPECT_EQ(openai_error(not_found("model: \"x\" is not"))["error"]["code"], "model_not_found");
  EXPECT_EQ(openai_error(resource_exhausted("queue full: 3"))["error"]["param"], nullptr) << "no field has a space";
  EXPECT_EQ(openai_error(resource_exhausted("queue full: 3"))["error"]["type"], "rate_limit_error");
  EXPECT_EQ(http_status(resource_exhausted("x")), 429);
  EXPECT_EQ(http_status(unavailable("x")), 503);
  EXPECT_EQ(http_status(not_found("x")), 404);
  EXPECT_EQ(http_status(failed_precondition("x")), 400);
}

}  // namespace
}  // namespace sluice
