#include "app/bench/workload.h"

#include <gtest/gtest.h>

#include <set>

namespace sluice {
namespace {

WorkloadOptions options() {
  return {.requests = 50,
          .prompt = LengthDistribution::parse("uniform:5:20").value(),
          .output = LengthDistribution::parse("uniform:2:9").value(),
          .prefixes = 3,
          .prefix_tokens = 40,
          .turns = 4,
          .vocab_size = 100,
          .seed = 2};
}

int64_t num_turns(const std::vector<Session>& sessions) {
  int64_t count = 0;
  for (const Session& session : sessions) count += std::ssize(session.turns);
  return count;
}

TEST(Workload, MixedSharesNothing) {
  const auto sessions = make_workload("mixed", options()).value();
  ASSERT_EQ(sessions.size(), 50u);
  std::set<std::vector<TokenId>> beginnings;
  for (const Session& session : sessions) {
    ASSERT_EQ(session.turns.size(), 1u);
    const Turn& turn = session.turns[0];
    EXPECT_TRUE(turn.tokens.size() >= 5 && turn.tokens.size() <= 20);
    EXPECT_TRUE(turn.output_tokens >= 2 && turn.output_tokens <= 9);
    for (TokenId token : turn.tokens) ASSERT_TRUE(token >= 0 && token < 100);
    beginnings.insert({turn.tokens.begin(), turn.tokens.begin() + 5});
  }
  EXPECT_EQ(beginnings.size(), 50u);
}

TEST(Workload, SharedPrefixBeginsWithOneOfAFew) {
  const auto sessions = make_workload("shared-prefix", options()).value();
  ASSERT_EQ(sessions.size(), 50u);
  std::set<std::vector<TokenId>> prefixes;
  for (const Session& session : sessions) {
    ASSERT_GT(session.turns[0].tokens.size(), 40u);
    prefixes.insert({session.turns[0].tokens.begin(), session.turns[0].tokens.begin() + 40});
  }
  EXPECT_EQ(prefixes.size(), 3u);
}

TEST(Workload, ChatHasTurnsUpToTheWantedNumberOfRequests) {
  const auto sessions = make_workload("chat", options()).value();
  EXPECT_EQ(num_turns(sessions), 50);
  ASSERT_EQ(sessions.size(), 13u);
  EXPECT_EQ(sessions[0].turns.size(), 4u);
  EXPECT_EQ(sessions[12].turns.size(), 2u);
  int64_t tokens = 0;
  for (const Turn& turn : sessions[0].turns) tokens += std::ssize(turn.tokens) + turn.output_tokens;
  EXPECT_EQ(sessions[0].num_tokens(), tokens);
}

TEST(Workload, RefusesUnknownKinds) {
  EXPECT_EQ(make_workload("chatty", options()).status().to_string(),
            "INVALID_ARGUMENT: workload: expected mixed, shared-prefix, chat or trace:FILE, found 'chatty'");
}

}  // namespace
}  // namespace sluice
