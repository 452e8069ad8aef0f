// What a well-behaved client library never sends, and what it sends in more than one way.
#include "server/kserve_request.h"

#include <gmock/gmock.h>

#include "server/kserve_answer.h"
#include "server/kserve_tensors.h"
#include "tests/server/server_fixture.h"

namespace sluice {
namespace {

using inference::ModelInferRequest;
using testing::HasSubstr;
using testing::StartsWith;

class KServeRequestTest : public testing::Test {
 protected:
  Services services() {
    return {.frontend = frontend_, .queue = queue_, .model = model_, .tokenizer = &demo_tokenizer(), .clock = clock_};
  }
  Status check(const ModelInferRequest& request) { return check_infer(request, services(), 42).status(); }

  static std::string element(const std::string& bytes) {
    const auto length = static_cast<uint32_t>(bytes.size());
    return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + bytes;
  }
  static void add_raw(ModelInferRequest* request, const std::string& name, const std::string& datatype,
                      const std::string& raw) {
    auto& tensor = *request->add_inputs();
    tensor.set_name(name);
    tensor.set_datatype(datatype);
    tensor.add_shape(1);
    request->add_raw_input_contents(raw);
  }
  static ModelInferRequest text() {
    ModelInferRequest request;
    add_raw(&request, "text_input", "BYTES", element("Hello"));
    return request;
  }
  void expect_invalid(const ModelInferRequest& request, const std::string& message) {
    const Status status = check(request);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << status.to_string();
    EXPECT_THAT(status.message(), HasSubstr(message));
  }

  SteadyClock clock_;
  RequestQueue queue_{QueueLimits{}};
  ModelInfo model_ = demo_model();
  Frontend frontend_{queue_, nullptr, clock_};
};

TEST_F(KServeRequestTest, RawContentsMustBeWhatTheirTensorSays) {
  EXPECT_TRUE(check(text()).ok());
  for (const std::string& raw : {std::string(), std::string("\x05\0\0", 3), element("Hello").substr(0, 8),
                                 element("Hello") + "x", std::string("\xFF\xFF\xFF\xFF", 4)}) {
    ModelInferRequest request;
    add_raw(&request, "text_input", "BYTES", raw);
    expect_invalid(request, "text_input: expected one element behind its length in 4 bytes, found ");
  }
  ModelInferRequest flag = text();
  add_raw(&flag, "stream", "BOOL", "12");
  expect_invalid(flag, "stream: expected 1 bytes of BOOL [1], found 2");
  ModelInferRequest number = text();
  add_raw(&number, "max_tokens", "INT32", "12");
  expect_invalid(number, "max_tokens: expected 4 bytes of INT32 [1], found 2");
  ModelInferRequest wide = text();
  add_raw(&wide, "max_tokens", "INT64", std::string("\0\0\0\0\1\0\0\0", 8));
  expect_invalid(wide, "max_tokens: must fit 32 bits, got 4294967296");
  ModelInferRequest unsigned_wide = text();
  add_raw(&unsigned_wide, "max_tokens", "UINT64", std::string(8, '\xFF'));
  expect_invalid(unsigned_wide, "max_tokens: expected a smaller number, found 18446744073709551615");
}

TEST_F(KServeRequestTest, ContentsAreCounted) {
  ModelInferRequest missing = text();
  missing.clear_raw_input_contents();
  expect_invalid(missing, "text_input: expected 1 BYTES element in its contents, found 0");
  ModelInferRequest more = text();
  more.add_raw_input_contents("x");
  expect_invalid(more, "raw_input_contents: expected one for each of 1 inputs, found 2");
  ModelInferRequest both = text();
  both.mutable_inputs(0)->mutable_contents()->add_bytes_contents("x");
  expect_invalid(both, "text_input: has typed contents, but the request has raw_input_contents too");
}

TEST_F(KServeRequestTest, ShapesHoldOneElement) {
  ModelInferRequest request = text();
  request.mutable_inputs(0)->add_shape(1);
  EXPECT_TRUE(check(request).ok()) << "[1, 1] is what clients with batches send";
  request.mutable_inputs(0)->set_shape(1, -1);
  expect_invalid(request, "text_input: expected shape [1], found [1, -1]");
  request.mutable_inputs(0)->clear_shape();
  expect_invalid(request, "text_input: expected shape [1], found []");
}

TEST_F(KServeRequestTest, SharedMemoryIsUnimplemented) {
  ModelInferRequest request = text();
  (*request.mutable_inputs(0)->mutable_parameters())["shared_memory_region"].set_string_param("r");
  const Status status = check(request);
  EXPECT_EQ(status.code(), StatusCode::kUnimplemented);
  EXPECT_THAT(status.message(), StartsWith("text_input: shared memory"));
}

TEST_F(KServeRequestTest, ParametersAreChecked) {
  ModelInferRequest request = text();
  auto& parameters = *request.mutable_parameters();
  parameters["timeout"].set_int64_param(-1);
  expect_invalid(request, "parameters: timeout: expected a whole number in [0, ");
  parameters["timeout"].set_string_param("1");
  expect_invalid(request, "found \"1\"");
  parameters.erase("timeout");
  parameters["stream"].set_int64_param(1);
  expect_invalid(request, "parameters: stream: expected a bool");
  parameters.erase("stream");
  parameters["temperature"].set_double_param(0.5);
  parameters["max_tokens"].set_uint64_param(9);
  parameters["priority"].set_uint64_param(3);
  const auto checked = check_infer(request, services(), 42);
  ASSERT_TRUE(checked.ok()) << checked.status().to_string();
  EXPECT_FLOAT_EQ(checked->checked.task.request.sampling.temperature, 0.5f);
  EXPECT_EQ(checked->checked.task.request.stop.max_tokens, 9);
  EXPECT_EQ(checked->checked.task.request.priority, 3);
  add_raw(&request, "sampling_parameters", "BYTES", element("{}"));
  expect_invalid(request, "is not known beside the tensor sampling_parameters");
}

TEST_F(KServeRequestTest, EverySamplingParameterArrives) {
  ModelInferRequest request = text();
  add_raw(&request, "sampling_parameters", "BYTES",
          element(R"({"temperature": "0.5", "top_k": -1, "top_p": 0.9, "min_p": "0.1", "repetition_penalty": 1.1,
                      "presence_penalty": 0.2, "frequency_penalty": "-0.3", "seed": "-7", "max_tokens": 30,
                      "min_tokens": "2", "stop": ["x", "y"], "stop_token_ids": [5, 6], "ignore_eos": "true",
                      "logit_bias": {"7": 1.5}, "n": 2, "skip_special_tokens": true, "best_of": null})"));
  const auto checked = check_infer(request, services(), 42);
  ASSERT_TRUE(checked.ok()) << checked.status().to_string();
  const Request& out = checked->checked.task.request;
  EXPECT_FLOAT_EQ(out.sampling.temperature, 0.5f);
  EXPECT_EQ(out.sampling.top_k, 0);
  EXPECT_FLOAT_EQ(out.sampling.top_p, 0.9f);
  EXPECT_FLOAT_EQ(out.sampling.min_p, 0.1f);
  EXPECT_FLOAT_EQ(out.sampling.repetition_penalty, 1.1f);
  EXPECT_FLOAT_EQ(out.sampling.presence_penalty, 0.2f);
  EXPECT_FLOAT_EQ(out.sampling.frequency_penalty, -0.3f);
  EXPECT_EQ(static_cast<int64_t>(out.sampling.seed), -7);
  EXPECT_EQ(out.stop.max_tokens, 30);
  EXPECT_EQ(out.stop.min_tokens, 2);
  EXPECT_TRUE(out.stop.ignore_eos);
  EXPECT_THAT(out.stop.stop_token_ids, testing::ElementsAre(5, 6));
  EXPECT_THAT(checked->checked.task.stop_strings, testing::ElementsAre("x", "y"));
  EXPECT_THAT(out.sampling.logit_bias, testing::ElementsAre(testing::Pair(7, 1.5f)));
  EXPECT_EQ(out.num_choices, 2);
}

// The end of an answer may come after its last delta: the delta waits, so that some response with output is the final
// one.
TEST_F(KServeRequestTest, TheLastPieceWaitsForTheEnd) {
  InferCounts counts;
  auto infer = check_infer(text(), services(), 42);
  ASSERT_TRUE(infer.ok());
  infer->options.prepend_input = false;
  InferRenderer renderer(infer->options, infer->checked, services(), counts);
  GenerationDelta delta;
  delta.text = "one";
  delta.token_ids = {5};
  const auto first = renderer.response({.deltas = {delta}, .end = {}});
  ASSERT_TRUE(first.has_value());
  EXPECT_FALSE(first->parameters().at("triton_final_response").bool_param());
  delta.text = " two";
  delta.finish = FinishReason::kStop;
  EXPECT_FALSE(renderer.response({.deltas = {delta}, .end = {}}).has_value());
  const GenerationEnd end;
  EXPECT_TRUE(renderer.close(end).ok());
  const auto last = renderer.response({.deltas = {}, .end = end});
  ASSERT_TRUE(last.has_value());
  EXPECT_TRUE(last->parameters().at("triton_final_response").bool_param());
  EXPECT_EQ(last->raw_output_contents(0), element(" two"));
}

}  // namespace
}  // namespace sluice
