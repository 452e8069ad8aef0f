// Messages between ranks: a random step arrives as it was sent; bytes that were cut or mixed up are a Status. Sent
// through a communicator that keeps what rank 0 says, so that the framing is part of it.
#include "engine/rank_message.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <limits>
#include <random>

#include "sluice/kv_layout.h"

namespace sluice {
namespace {

using testing::HasSubstr;

// A step and everything that it points into.
struct SentStep {
  std::vector<TokenId> tokens;
  std::vector<int32_t> positions, output_rows;
  std::deque<std::vector<PageId>> pages;  // of a span each
  std::vector<SequenceSpan> prompt_spans, generated_spans;
  std::vector<PageId> filled;
  std::vector<std::vector<std::byte>> contents;
  std::vector<PageCopy> copies;
  std::vector<LogitsWanted> logits;
  std::vector<std::vector<float>> hidden_states;
  int64_t bytes_per_page = 0, hidden_size = 0;

  std::vector<std::byte> encoded() const {
    const StepBatch batch{.tokens = tokens,
                          .positions = positions,
                          .prompt_spans = prompt_spans,
                          .generated_spans = generated_spans,
                          .output_rows = output_rows,
                          .kv = {.bytes_per_page = bytes_per_page}};
    StepToSend step{.batch = &batch, .filled = filled, .copies = copies, .logits = logits, .hidden_size = hidden_size};
    for (const std::vector<std::byte>& page : contents) step.contents.push_back(page.data());
    for (const std::vector<float>& hidden : hidden_states) step.hidden_states.push_back(hidden.data());
    return encode(step);
  }
};

class RandomSteps {
 public:
  explicit RandomSteps(uint32_t seed) : random_(seed) {}

  int32_t below(int32_t end) { return static_cast<int32_t>(random_() % static_cast<uint32_t>(end)); }

  PageId page_id(int32_t end) { return static_cast<PageId>(below(end)); }

  SentStep next() {
    SentStep step;
    step.bytes_per_page = 1 + below(300);
    step.hidden_size = 1 + below(40);
    for (int32_t span = below(4); span > 0; --span) add_span(step, step.prompt_spans, 1 + below(200));
    for (int32_t span = below(6); span > 0; --span) add_span(step, step.generated_spans, 1);
    for (int32_t row = 0; row < std::ssize(step.tokens); ++row)
      if (below(3) == 0) step.output_rows.push_back(row);
    for (int32_t page = below(3); page > 0; --page) {
      step.filled.push_back(page_id(1000));
      std::vector<std::byte>& content = step.contents.emplace_back(step.bytes_per_page);
      for (std::byte& byte : content) byte = static_cast<std::byte>(random_());
    }
    for (int32_t copy = below(3); copy > 0; --copy)
      step.copies.push_back({.from = page_id(1000), .to = page_id(1000), .num_positions = 1 + below(kPageTokens)});
    for (int32_t wanted = below(5); wanted > 0; --wanted) {
      const bool of_hidden = step.output_rows.empty() || below(4) == 0;
      step.logits.push_back(
          {.output = of_hidden ? -1 : below(static_cast<int32_t>(step.output_rows.size())), .whole = below(2) == 0});
      if (!of_hidden) continue;
      std::vector<float>& hidden = step.hidden_states.emplace_back(step.hidden_size);
      for (float& value : hidden) value = static_cast<float>(below(2000) - 1000) / 64;
    }
    return step;
  }

 private:
  void add_span(SentStep& step, std::vector<SequenceSpan>& spans, int32_t rows) {
    const int32_t begin = below(3) == 0 ? 0 : below(2000), end = begin + rows;
    std::vector<PageId>& pages = step.pages.emplace_back((end + kPageTokens - 1) / kPageTokens);
    for (PageId& page : pages) page = page_id(100'000);
    spans.push_back({static_cast<int32_t>(step.tokens.size()), begin, end, pages.data()});
    for (int32_t position = begin; position < end; ++position) {
      step.tokens.push_back(below(129'280));
      step.positions.push_back(position);
    }
  }

  std::mt19937 random_;
};

bool same(const PageCopy& a, const PageCopy& b) {
  return a.from == b.from && a.to == b.to && a.num_positions == b.num_positions;
}
bool same(const LogitsWanted& a, const LogitsWanted& b) { return a.output == b.output && a.whole == b.whole; }

template <typename T>
void expect_same(const std::vector<T>& got, const std::vector<T>& sent) {
  ASSERT_EQ(got.size(), sent.size());
  for (size_t i = 0; i < sent.size(); ++i) EXPECT_TRUE(same(got[i], sent[i])) << i;
}

void expect_same_spans(std::span<const SequenceSpan> got, const std::vector<SequenceSpan>& sent) {
  ASSERT_EQ(got.size(), sent.size());
  for (size_t i = 0; i < sent.size(); ++i) {
    EXPECT_EQ(got[i].row_begin, sent[i].row_begin);
    EXPECT_EQ(got[i].position_begin, sent[i].position_begin);
    ASSERT_EQ(got[i].position_end, sent[i].position_end);
    for (int32_t page = 0; page * kPageTokens < sent[i].position_end; ++page)
      ASSERT_EQ(got[i].pages[page], sent[i].pages[page]) << "span " << i << ", page " << page;
  }
}

template <typename T>
std::vector<T> joined(const std::vector<std::vector<T>>& parts) {
  std::vector<T> all;
  for (const std::vector<T>& part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}

void expect_same_step(const ReceivedStep& got, const SentStep& sent) {
  EXPECT_EQ(got.tokens, sent.tokens);
  EXPECT_EQ(got.positions, sent.positions);
  EXPECT_EQ(got.output_rows, sent.output_rows);
  EXPECT_EQ(got.filled, sent.filled);
  EXPECT_EQ(got.contents, joined(sent.contents));
  EXPECT_EQ(got.hidden_states, joined(sent.hidden_states));
  expect_same(got.copies, sent.copies);
  expect_same(got.logits, sent.logits);
  const StepBatch batch = got.batch({});
  expect_same_spans(batch.prompt_spans, sent.prompt_spans);
  expect_same_spans(batch.generated_spans, sent.generated_spans);
}

TEST(RankMessage, RandomStepsArriveAsTheyWereSent) {
  RandomSteps steps(1);
  for (int i = 0; i < 500; ++i) {
    const SentStep sent = steps.next();
    const std::vector<std::byte> message = sent.encoded();
    EXPECT_EQ(kind_of(message).value(), RankMessage::kStep);
    const Result<ReceivedStep> got = decode_step(message);
    ASSERT_TRUE(got.ok()) << got.status().to_string();
    expect_same_step(*got, sent);
    if (HasFailure()) FAIL() << "step " << i;
  }
}

TEST(RankMessage, TheOtherKindsAreOneByte) {
  for (const RankMessage kind : {RankMessage::kSignOfLife, RankMessage::kEnd}) {
    const std::vector<std::byte> message = encode(kind);
    EXPECT_EQ(message.size(), 1u);
    EXPECT_EQ(kind_of(message).value(), kind);
  }
}

TEST(RankMessage, WhatIsNoneIsAStatus) {
  const std::byte unknown{77};
  for (const std::span<const std::byte> message : {std::span<const std::byte>(), std::span(&unknown, 1)}) {
    EXPECT_EQ(kind_of(message).status().code(), StatusCode::kInternal);
    EXPECT_EQ(decode_step(message).status().code(), StatusCode::kInternal);
  }
}

TEST(RankMessage, EveryCutIsAStatus) {
  RandomSteps steps(2);
  for (int i = 0; i < 20; ++i) {
    const std::vector<std::byte> message = steps.next().encoded();
    for (size_t length = 0; length < message.size(); ++length) {
      // Of its own, so that reading beyond the end is seen.
      const std::vector<std::byte> cut(message.begin(), message.begin() + static_cast<std::ptrdiff_t>(length));
      const Result<ReceivedStep> got = decode_step(cut);
      ASSERT_FALSE(got.ok()) << length << " of " << message.size() << " bytes";
      ASSERT_THAT(got.status().message(), HasSubstr("does not hold together"));
    }
    std::vector<std::byte> longer = message;
    longer.push_back(std::byte{0});
    EXPECT_FALSE(decode_step(longer).ok());
  }
}

// Whose pages, counted in 32 bits, would be a negative number of them.
TEST(RankMessage, ASpanAtTheEndOfAllPositionsIsAStatus) {
  constexpr int32_t kLast = std::numeric_limits<int32_t>::max();
  PageId page{7};
  SentStep sent{.tokens = {1}, .positions = {50}, .generated_spans = {{0, 50, 51, &page}}, .bytes_per_page = 1};
  std::vector<std::byte> message = sent.encoded();
  ASSERT_TRUE(decode_step(message).ok());
  const int32_t on_the_wire[] = {0, 50, 51, 0}, moved[] = {0, kLast - 1, kLast, 0};
  const auto pattern = std::as_bytes(std::span(on_the_wire));
  const auto found = std::search(message.begin(), message.end(), pattern.begin(), pattern.end());
  ASSERT_NE(found, message.end());
  std::memcpy(&*found, moved, sizeof(moved));
  EXPECT_THAT(decode_step(message).status().message(), HasSubstr("does not hold together"));
}

// Whatever the bytes say, what was decoded stays inside what came: spans inside the rows and the pages.
TEST(RankMessage, MixedUpBytesNeverLeadOutside) {
  RandomSteps steps(3);
  int refused = 0;
  for (int i = 0; i < 5000; ++i) {
    std::vector<std::byte> message = steps.next().encoded();
    for (int flip = 0; flip < 3; ++flip) {
      const auto place = static_cast<size_t>(steps.below(static_cast<int32_t>(std::min<size_t>(message.size(), 4000))));
      message[place] = flip == 0 ? std::byte{0xFF} : static_cast<std::byte>(steps.below(256));
    }
    const Result<ReceivedStep> got = decode_step(message);
    if (!got.ok()) {
      ++refused;
      continue;
    }
    EXPECT_EQ(got->positions.size(), got->tokens.size());
    for (const auto* spans : {&got->prompt_spans, &got->generated_spans})
      for (const SequenceSpan& span : *spans) {
        ASSERT_GE(span.row_begin, 0);
        ASSERT_LE(int64_t{span.row_begin} + span.position_end - span.position_begin, std::ssize(got->tokens));
        const int64_t pages = (int64_t{span.position_end} + kPageTokens - 1) / kPageTokens;
        ASSERT_GE(span.pages, got->pages.data());
        ASSERT_LE(span.pages + pages, got->pages.data() + got->pages.size());
      }
  }
  EXPECT_GT(refused, 1000);
}

// The wire: what rank 0 says is kept, and a second communicator hears it.
class Wire final : public Communicator {
 public:
  Wire(int rank, std::deque<std::vector<std::byte>>& said) : Communicator(rank, 2), said_(said) {}

  void set_timeout(Duration) override {}
  Status all_reduce_sum(std::span<float>) override { return internal_error("not of messages"); }
  Status all_gather(std::span<const std::byte>, std::span<std::byte>) override {
    return internal_error("not of messages");
  }
  Status gather(std::span<const std::byte>, std::span<std::byte>) override { return internal_error("not of messages"); }
  Status broadcast(std::span<std::byte> bytes) override {
    if (rank() == 0) {
      said_.emplace_back(bytes.begin(), bytes.end());
      return {};
    }
    if (said_.empty()) return unavailable("rank 0 has gone");
    EXPECT_EQ(said_.front().size(), bytes.size()) << "ranks out of step";
    std::memcpy(bytes.data(), said_.front().data(), std::min(bytes.size(), said_.front().size()));
    said_.pop_front();
    return {};
  }

 private:
  std::deque<std::vector<std::byte>>& said_;
};

TEST(RankMessage, GoesInOneBroadcastOrTwo) {
  std::deque<std::vector<std::byte>> said;
  Wire first(0, said), second(1, said);
  constexpr size_t kFits = (8 << 10) - sizeof(uint64_t);
  for (const size_t length : {size_t{1}, kFits - 1, kFits, kFits + 1, size_t{100'000}}) {
    std::vector<std::byte> message(length);
    for (size_t i = 0; i < length; ++i) message[i] = static_cast<std::byte>(i * 7 + i / 251);
    ASSERT_TRUE(send_message(first, message).ok());
    EXPECT_EQ(said.size(), length <= kFits ? 1u : 2u);
    const auto received = receive_message(second);
    ASSERT_TRUE(received.ok());
    EXPECT_EQ(*received, message);
    EXPECT_TRUE(said.empty());
  }
}

TEST(RankMessage, ARankZeroThatGoesBetweenTheTwoIsAStatus) {
  std::deque<std::vector<std::byte>> said;
  Wire first(0, said), second(1, said);
  ASSERT_TRUE(send_message(first, std::vector<std::byte>(100'000)).ok());
  said.pop_back();
  EXPECT_EQ(receive_message(second).status().code(), StatusCode::kUnavailable);
}

// No message is of a length that memory does not hold: another build's bytes, or none of a message.
TEST(RankMessage, ALengthBeyondReasonIsAStatus) {
  std::deque<std::vector<std::byte>> said;
  Wire second(1, said);
  said.emplace_back(8 << 10, std::byte{0xFF});
  const Status status = receive_message(second).status();
  EXPECT_EQ(status.code(), StatusCode::kInternal);
  EXPECT_THAT(status.message(), HasSubstr("18446744073709551615 bytes"));
}

}  // namespace
}  // namespace sluice
