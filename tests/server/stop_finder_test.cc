#include "server/stop_finder.h"

#include <gtest/gtest.h>

#include <random>

namespace sluice {
namespace {

struct Outcome {
  std::string text;
  std::optional<size_t> stop;
  bool operator==(const Outcome&) const = default;
};

Outcome feed(const std::vector<std::string>& stops, const std::vector<std::string>& pieces) {
  StopFinder finder(stops);
  Outcome outcome;
  for (const std::string& piece : pieces) {
    outcome.stop = finder.push(piece, &outcome.text);
    if (outcome.stop) return outcome;
  }
  finder.flush(&outcome.text);
  return outcome;
}

// The rule itself, slowly: the first end of any stop string, the longest of those that end there.
Outcome oracle(const std::vector<std::string>& stops, const std::string& text) {
  for (size_t end = 1; end <= text.size(); ++end) {
    std::optional<size_t> best;
    for (size_t i = 0; i < stops.size(); ++i)
      if (text.substr(0, end).ends_with(stops[i]) && (!best || stops[i].size() > stops[*best].size())) best = i;
    if (best) return {text.substr(0, end - stops[*best].size()), best};
  }
  return {text, std::nullopt};
}

TEST(StopFinder, PassesTextWithoutStops) {
  EXPECT_EQ(feed({}, {"Once ", "upon"}), (Outcome{"Once upon", std::nullopt}));
}

TEST(StopFinder, FindsAcrossPieces) {
  EXPECT_EQ(feed({"time"}, {"Once upon a t", "i", "me, there"}), (Outcome{"Once upon a ", 0}));
}

TEST(StopFinder, HoldsBackOnlyWhatMayBecomeAStop) {
  StopFinder finder({"time"});
  std::string text;
  EXPECT_FALSE(finder.push("a ti", &text));
  EXPECT_EQ(text, "a ");
  EXPECT_FALSE(finder.push("ger", &text));
  EXPECT_EQ(text, "a tiger");
  EXPECT_FALSE(finder.push(" tim", &text));
  EXPECT_EQ(text, "a tiger ");
  finder.flush(&text);
  EXPECT_EQ(text, "a tiger tim");
}

TEST(StopFinder, FallsBackInsideACandidate) {
  EXPECT_EQ(feed({"aab"}, {"aa", "aab"}), (Outcome{"aa", 0}));
  EXPECT_EQ(feed({"\n\n"}, {"one\n", "two\n", "\n"}), (Outcome{"one\ntwo", 0}));
}

TEST(StopFinder, TheFirstToBeCompleteCounts) {
  EXPECT_EQ(feed({"abcd", "bc"}, {"xabcd"}), (Outcome{"xa", 1}));
  EXPECT_EQ(feed({"abcd", "bc"}, {"x", "a", "b", "c", "d"}), (Outcome{"xa", 1}));
}

TEST(StopFinder, TheLongestOfThoseThatEndTogetherCounts) {
  EXPECT_EQ(feed({"c", "abc", "bc"}, {"xabc"}), (Outcome{"x", 1}));
}

TEST(StopFinder, MatchesCharactersOfSeveralBytes) {
  EXPECT_EQ(feed({"\u00e9t\u00e9"}, {"l'\u00e9", "t\u00e9 dernier"}), (Outcome{"l'", 0}));
  // A character that begins with the same byte is no candidate once it is whole.
  StopFinder finder({"\u00e9"});
  std::string text;
  EXPECT_FALSE(finder.push("\u00e8", &text));
  EXPECT_EQ(text, "\u00e8");
}

TEST(StopFinder, AgreesWithTheRuleHoweverTheTextIsCut) {
  std::mt19937 random(7);
  for (int round = 0; round < 20000; ++round) {
    const auto word = [&](size_t max) {
      std::string text;
      for (size_t n = 1 + random() % max; n > 0; --n) text += static_cast<char>('a' + random() % 2);
      return text;
    };
    std::vector<std::string> stops;
    for (size_t n = random() % 4; n > 0; --n) stops.push_back(word(6));
    const std::string text = word(24);
    std::vector<std::string> pieces;
    for (size_t begin = 0; begin < text.size();) {
      const size_t length = 1 + random() % 5;
      pieces.push_back(text.substr(begin, length));
      begin += length;
    }
    // Equal stop strings have equal answers.
    Outcome found = feed(stops, pieces), wanted = oracle(stops, text);
    EXPECT_EQ(found.text, wanted.text) << text;
    ASSERT_EQ(found.stop.has_value(), wanted.stop.has_value()) << text;
    if (found.stop) {
      EXPECT_EQ(stops[*found.stop], stops[*wanted.stop]) << text;
    }
  }
}

}  // namespace
}  // namespace sluice
