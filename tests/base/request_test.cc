// Ranges of requests, and the door they come through.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <thread>

#include "base/request_queue.h"

namespace sluice {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

constexpr int32_t kVocab = 100;
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

TEST(Validate, DefaultsAreValid) {
  EXPECT_TRUE(validate(SamplingParams{}, kVocab).ok());
  EXPECT_TRUE(validate(StopParams{}, kVocab).ok());
}

TEST(Validate, NamesTheFieldAndTheRange) {
  const std::pair<const char*, SamplingParams> bad[] = {
      {"temperature", {.temperature = -0.1f}},
      {"temperature", {.temperature = kNaN}},
      {"temperature", {.temperature = kInf}},
      {"top_k", {.top_k = -1}},
      {"top_p", {.top_p = 0}},
      {"top_p", {.top_p = 1.5f}},
      {"top_p", {.top_p = kNaN}},
      {"min_p", {.min_p = -0.5f}},
      {"min_p", {.min_p = kNaN}},
      {"repetition_penalty", {.repetition_penalty = 0}},
      {"presence_penalty", {.presence_penalty = 2.5f}},
      {"frequency_penalty", {.frequency_penalty = -kInf}},
      {"logit_bias", {.logit_bias = {{kVocab, 1.0f}}}},
      {"logit_bias", {.logit_bias = {{1, kNaN}}}},
  };
  for (const auto& [field, params] : bad) {
    const Status status = validate(params, kVocab);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << field;
    EXPECT_THAT(status.message(), StartsWith(std::string(field) + ": "));
  }
  EXPECT_THAT(validate(StopParams{.max_tokens = 0}, kVocab).message(), StartsWith("max_tokens: "));
  EXPECT_THAT(validate(StopParams{.max_tokens = 4, .min_tokens = 5}, kVocab).message(), StartsWith("min_tokens: "));
  EXPECT_THAT(validate(StopParams{.stop_token_ids = {-1}}, kVocab).message(), HasSubstr("[0, 100), got -1"));
}

Request request(RequestQueue& queue, size_t num_tokens) {
  Request made;
  made.id = queue.next_id();
  made.prompt.assign(num_tokens, 1);
  return made;
}

TEST(RequestQueue, RefusesBeyondEitherLimitAndTakesAgainAfterRelease) {
  RequestQueue queue({.max_requests = 2, .max_tokens = 100});
  EXPECT_TRUE(queue.submit(request(queue, 60)).ok());
  const Status tokens = queue.submit(request(queue, 41));
  EXPECT_EQ(tokens.code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(tokens.message(), HasSubstr("60 prompt tokens wait, 41 more do not fit (limit 100)"));
  EXPECT_TRUE(queue.submit(request(queue, 40)).ok());
  EXPECT_THAT(queue.submit(request(queue, 0)).message(), HasSubstr("2 requests wait (limit 2)"));
  EXPECT_EQ(queue.drain({}).size(), 2u);
  EXPECT_EQ(queue.load().waiting_tokens, 100) << "picked up is not yet running";
  queue.release(60);
  EXPECT_EQ(queue.load().waiting_requests, 1);
  EXPECT_TRUE(queue.submit(request(queue, 60)).ok());
}

TEST(RequestQueue, OneHugeRequestIsNeverLockedOut) {
  RequestQueue queue({.max_requests = 2, .max_tokens = 10});
  EXPECT_TRUE(queue.submit(request(queue, 1000)).ok());
}

TEST(RequestQueue, KeepsTheOrderOfCommandsAndRefusesWhenClosed) {
  RequestQueue queue({});
  Request first = request(queue, 3);
  const RequestId id = first.id;
  ASSERT_TRUE(queue.submit(std::move(first)).ok());
  queue.finish(id, 0, 7);
  queue.cancel(id);
  queue.close();
  EXPECT_EQ(queue.submit(request(queue, 1)).code(), StatusCode::kUnavailable);
  const auto commands = queue.drain({});
  ASSERT_EQ(commands.size(), 3u);
  EXPECT_EQ(std::get<Request>(commands[0]).id, id);
  EXPECT_EQ(std::get<FinishCommand>(commands[1]).num_tokens, 7);
  EXPECT_EQ(std::get<CancelCommand>(commands[2]).request, id);
}

TEST(RequestQueue, WakesTheLoop) {
  RequestQueue queue({});
  std::thread client([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    EXPECT_TRUE(queue.submit(request(queue, 1)).ok());
  });
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(queue.drain(std::chrono::seconds(20)).size(), 1u);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(10));
  client.join();
}

}  // namespace
}  // namespace sluice
